"""The same work on many images at once: threads, since Pillow lets go of the interpreter while it decodes."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def cores() -> int:
    """Returns how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def each(work: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None) -> list[Result]:
    """Returns ``work(item)`` for each item, in their order; the first error in this order is raised.

    Args:
        work: is called from several threads at once.
        items: what it is called with.
        workers: number of threads, by default one for each processor.
    """
    workers = min(workers or cores(), len(items))
    if workers <= 1:
        return [work(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        try:
            return list(pool.map(work, items))
        except BaseException:
            # Ctrl-C, too, shall not wait for all that is still to be done.
            pool.shutdown(cancel_futures=True)
            raise
