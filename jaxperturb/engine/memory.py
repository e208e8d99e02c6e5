"""How much memory there is, and how many images' handed-over values it holds."""

from pathlib import Path

import jax

_GIB = 2**30
_SHARE = 0.5  # of what is free, where no budget is given
_LEAST = 2**28  # what a study is given at least


def budget(memory_gb: float | None, reserved: int) -> int:
    """Returns the bytes that may hold images and handed-over values.

    Args:
        memory_gb: what the process (on an accelerator: the device) may take, in GiB; None for half of what is free.
        reserved: bytes that weights, masks and temporary values take beside.
    """
    if memory_gb is None:
        return max(_LEAST, int(_SHARE * free_bytes()) - reserved)
    return max(_LEAST, int(memory_gb * _GIB) - used_bytes() - reserved)


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
