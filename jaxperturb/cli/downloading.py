"""The bar of a download on standard error: how much is there, how fast it comes, how long it takes."""

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

_SECONDS_BETWEEN_STEPS = 10.0  # where standard error is a file, to which every step adds


@contextmanager
def download_bar(name: str, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """Gives what a download tells its progress: bytes that are there, and bytes that will be (None: nobody knows).

    The bar appears with the first word of a download; one that is not needed shows none.

    Args:
        name: what to call the file.
        quiet: shows none at all.
    """
    from tqdm import tqdm

    watched = sys.stderr.isatty()
    with ExitStack() as stack:
        bars: list[tqdm] = []

        def told(done: int, total: int | None) -> None:
            if not bars:
                bar = tqdm(
                    desc=name,
                    total=total,
                    initial=done,
                    unit="B",
                    unit_scale=True,
                    unit_divisor=1024,
                    mininterval=0.1 if watched else _SECONDS_BETWEEN_STEPS,
                    file=sys.stderr,
                    disable=quiet,
                )
                bars.append(stack.enter_context(bar))
            bars[0].total = total
            bars[0].update(done - bars[0].n)

        yield told
