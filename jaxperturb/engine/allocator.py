"""Tells glibc to keep the pages of freed memory, rather than to have each large temporary fault them in anew."""

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
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl has neither
        return False
    # Arenas of threads are mapped 64 MB at a time and given back: what is larger must come from the one main arena.
    options = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, _NEVER), (_ARENA_MAX, 1))
    taken = [library.mallopt(option, value) for option, value in options]
    return all(taken)
