"""Tells glibc when to keep the pages of freed memory, so that large temporaries need not fault them in anew."""

import ctypes
import sys

# From malloc.h; a larger threshold than mallopt takes as an int is none that matters.
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8
_NEVER = 2**31 - 1


def keep_pages() -> bool:
    """Makes the process keep what it frees; does nothing where the allocator is not glibc's.

    A convolution by Winograd, whose temporaries are of tens of megabytes, takes up to half the time after it. Memory
    once taken is reused, not returned to the system. It acts on what is allocated afterwards, for the whole process.

    Returns:
        Whether the allocator took it.
    """
    library = _glibc()
    if library is None:
        return False
    # Arenas of threads are mapped 64 MB at a time and given back: what is larger must come from the one main arena.
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_ARENA_MAX, 1))
    taken = [library.mallopt(option, value) for option, value in options]
    return all(taken)


def return_pages() -> bool:
    """Returns to the system what is free now, of which the next allocations may be of other sizes.

    It takes about 3 ms for each 100 MB, and where they are soon taken anew about 4 more.

    Returns:
        Whether there was anything; False where the allocator is not glibc's.
    """
    library = _glibc()
    return library is not None and bool(library.malloc_trim(0))


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None  # musl has neither
