"""How much memory there is, and how many images' handed-over values it holds."""

from collections.abc import Sequence
from pathlib import Path

import jax

_GIB = 2**30
_SHARE = 0.5  # of what is free, where no budget is given
LEAST = 2**28  # bytes that a study is given at least

PROGRAMS = 2**28  # bytes of compiled programs and of what they need beside while they run

# An image is held as it was read until it is on the device; the next block is read while one is used.
_COPIES, _COPIES_AHEAD = 2, 1
_SHARE_OF_BLOCKS = 0.5  # of the bytes that hold images and what is handed over of them


def budget(memory_gb: float | int | None, reserved: int) -> int:
    """Returns the bytes that may hold images and handed-over values.

    Args:
        memory_gb: what the process (on an accelerator: the device) may take, in GiB; None for half of what is free.
        reserved: bytes that weights, masks and temporary values take beside.
    """
    if memory_gb is None:
        return max(LEAST, int(_SHARE * free_bytes()) - reserved)
    return max(LEAST, int(memory_gb * _GIB) - used_bytes() - reserved)


def block(batch_size: int, images: int, of_image: int, tile: int, room: int) -> int:
    """Returns the images of a block: those asked for, or as many whole tiles as memory holds, at least one.

    Args:
        batch_size: asked for.
        images: of the study.
        of_image: bytes of one.
        tile: images of a tile.
        room: bytes for blocks and what is handed over.
    """
    asked = min(batch_size, images)
    if of_block(asked, images, of_image) <= _SHARE_OF_BLOCKS * room:
        return batch_size
    fitting = int(_SHARE_OF_BLOCKS * room) // of_block(1, images, of_image)
    return max(tile, fitting // tile * tile)


def of_block(size: int, images: int, of_image: int) -> int:
    """Returns the bytes that blocks of some size take, of which the next is read while one is used."""
    copies = _COPIES + (_COPIES_AHEAD if size < images else 0)
    return copies * min(size, images) * of_image


def copies(devices: Sequence[jax.Device]) -> int:
    """Returns how often handed-over values are held in one memory when devices share the work."""
    if len(devices) <= 1:
        return 1
    return 2 if devices[0].platform != "cpu" else 1 + len(devices)


def free_bytes() -> int:
    """Returns the free memory of the first device; on a CPU, what the machine and the control group leave."""
    stats = _device_stats()
    if stats:
        return int(stats["bytes_limit"]) - int(stats["bytes_in_use"])
    return min(_machine_leaves(), _control_group_leaves())


def used_bytes() -> int:
    """Returns what is in use: of the first device, or on a CPU of this process."""
    stats = _device_stats()
    if stats:
        return int(stats["bytes_in_use"])
    for line in _lines(Path("/proc/self/status")):
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    return 0


def _device_stats() -> dict[str, int] | None:
    device = jax.local_devices()[0]
    return None if device.platform == "cpu" else device.memory_stats()


def _machine_leaves() -> int:
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 8 * _GIB  # no such file, as on macOS


def _control_group_leaves() -> int:
    most, used = (_lines(Path("/sys/fs/cgroup") / name) for name in ("memory.max", "memory.current"))
    if most and used and most[0].isdigit() and used[0].isdigit():
        return max(0, int(most[0]) - int(used[0]))
    return 2**62


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
