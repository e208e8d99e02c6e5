"""Which device computes, and what there is to say about it."""

import importlib.metadata
import os
import platform
import sys
import warnings
from typing import Any

from jaxperturb.errors import DeviceError

PACKAGES = ("jaxperturb", "jax", "jaxlib", "flax", "optax", "numpy", "absl-py")
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"


def select_device(name: str | None) -> None:
    """Makes JAX use a platform; to be called before JAX computes anything.

    Args:
        name: ``cpu``, ``gpu`` (``cuda``), ``tpu``, or None for JAX's own choice.

    Raises:
        DeviceError: JAX has no such device here.
    """
    import jax

    if name is None:
        return
    jax.config.update("jax_platforms", {"gpu": "cuda"}.get(name, name))
    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:  # JAX asserts that a platform that it knows is there
        jax.config.update("jax_platforms", None)
        reason = next(iter(str(error).splitlines()), "there is none")
        raise DeviceError(f"device {name!r} cannot be used here: {reason}; try --device=cpu") from None


def local_devices(limit: int | None = None) -> tuple[Any, ...]:
    """Returns the devices of this machine that compute: all of JAX's platform, or the first of them.

    Args:
        limit: how many at most, None for all.

    Raises:
        DeviceError: there are not so many.
    """
    import jax

    found = tuple(jax.local_devices())
    if limit is not None and not 1 <= limit <= len(found):
        there = "1 device" if len(found) == 1 else f"1 to {len(found)} devices"
        raise DeviceError(f"expected {there}, as this machine has, got {limit}")
    return found[:limit]


def describe() -> dict[str, Any]:
    """Returns what computes: platform, device, number of devices, threads, flags and versions."""
    import jax

    device = jax.devices()[0]
    return {
        "platform": device.platform,
        "device": device.device_kind,
        "devices": jax.local_device_count(),
        "threads": os.cpu_count(),
        "host": platform.node(),
        "system": platform.platform(),
        "python": sys.version.split()[0],
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def warn_if_not_deterministic() -> None:
    """Warns where the same study on this GPU may give other counts."""
    import jax

    if jax.default_backend() == "gpu" and DETERMINISTIC not in os.environ.get("XLA_FLAGS", ""):
        message = f"counts may differ from run to run on this GPU; set XLA_FLAGS={DETERMINISTIC} before JAX starts"
        warnings.warn(message, stacklevel=2)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
