"""One process at a time: a lock that the system takes back when its holder dies."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxperturb.checkpoints.cache import VARIABLE
from jaxperturb.errors import OutputError

SECONDS_BETWEEN_LOOKS = 0.1


@contextlib.contextmanager
def exclusive(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds the lock of a file while the block runs; the empty file stays.

    Args:
        path: the file to lock; folders above it are made.
        waiting: called again and again while another process holds it.

    Raises:
        OutputError: the file cannot be made, or its file system knows no locks.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Never removed: another process might be about to lock it, and a third would then make and lock its own.
            handle = stack.enter_context(path.open("ab")).fileno()
            taken = _take(handle)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"cannot write into {path.parent} ({reason}); set {VARIABLE} to another folder") from None
        while not taken:
            waiting()
            time.sleep(SECONDS_BETWEEN_LOOKS)
            taken = _take(handle)
        yield


if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> bool:
        try:
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
        return True

else:
    import fcntl

    def _take(handle: int) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
