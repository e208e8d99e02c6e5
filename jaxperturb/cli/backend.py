"""What must be said to JAX before it starts: the platform, exact sums on a GPU, a cache of compiled programs."""

import os
from pathlib import Path

_EXACT = "--xla_gpu_deterministic_ops"


def start(device: str | None) -> None:
    """Sets JAX up for a command that computes; to be called before anything else uses JAX.

    Args:
        device: ``"cpu"``, ``"gpu"``, ``"tpu"``, or None for the best that is there.

    Raises:
        DeviceError: this machine does not have the device.
    """
    if device in (None, "gpu"):
        _ask_for_exact_sums()
    from jaxperturb.engine.allocator import keep_pages

    keep_pages()  # before threads have memory of their own
    from jaxperturb.engine.devices import select_device

    _keep_compiled_programs()
    select_device(device)


def share_gpu() -> None:
    """Takes no memory of a GPU before it is needed: beside this process, a worker computes on it."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")


def _ask_for_exact_sums() -> None:
    """Makes a GPU add in one order, so that counts repeat; a user's own word on it stands."""
    flags = os.environ.get("XLA_FLAGS", "")
    if _EXACT not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_EXACT}=true".strip()


def cache_folder() -> Path:
    """Returns the folder of compiled programs, in the user's cache."""
    from jaxperturb.checkpoints.cache import cache_folder as users

    return users() / "xla"


def _keep_compiled_programs() -> None:
    """Turns JAX's persistent compilation cache on, unless the user set one or its folder cannot be written."""
    import jax

    folder = cache_folder()
    chosen = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]  # an attribute made at run time
    if chosen is not None or not _is_writable(folder):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)


def _is_writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)
