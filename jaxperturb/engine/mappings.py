"""Room for compiled programs: each takes dozens of memory mappings, and beyond 65,530 of them compilers crash."""

import gc
from pathlib import Path

import jax
from absl import logging

_MAPPINGS, _LIMIT = Path("/proc/self/maps"), Path("/proc/sys/vm/max_map_count")
_SHARE = 0.6  # of the limit; one target's programs take less than what is left


def make_room() -> bool:
    """Forgets all compiled programs where the process has used most of its mappings; returns whether it did.

    They are compiled again, or read from JAX's cache on the disk, when they are next called.
    """
    try:
        most = int(_LIMIT.read_text(encoding="ascii"))
        with _MAPPINGS.open("rb") as file:
            used = sum(1 for _ in file)
    except (OSError, ValueError):  # another system, which has no such limit
        return False
    if used < _SHARE * most:
        return False
    logging.info("%d of %d memory mappings are used: compiled programs are dropped", used, most)
    jax.clear_caches()
    gc.collect()
    return True
