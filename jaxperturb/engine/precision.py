"""In which numbers a network computes, and which of them a device is good at."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxperturb.errors import DeviceError, StudyError, did_you_mean
from jaxperturb.types import AnyArray, Apply, Images, Logits, Params

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")

_AMPERE, _VOLTA = 8.0, 7.0  # compute capabilities of NVIDIA's
_LEAST_CAPABILITY = {"tf32": _AMPERE, "bfloat16": _AMPERE, "float16": _VOLTA}
_OF_TPUS = ("float32", "bfloat16")
_SLOWER_ON_CPU = 1.4  # measured: see `check_precision`

# Of the largest logit: how far the cut network may be from the plain one. Fewer digits, and sums in another order.
_TOLERANCE, _TOLERANCE_OF_SHORT = 1e-4, 1e-2


@dataclass(frozen=True)
class _Short:
    """A network in another precision; equal ones are equal, so that programs compiled for one serve the other."""

    apply: Apply
    precision: str

    def __call__(self, params: Params, images: Images) -> Logits:
        if self.precision == "tf32":
            with jax.default_matmul_precision("tensorfloat32"):
                return self.apply(params, images)
        short = functools.partial(_rounded, dtype=jnp.dtype(self.precision))
        with jax.default_matmul_precision("default"):  # of short numbers: they are multiplied as they are
            return self.apply(jax.tree.map(short, params), short(images)).astype(jnp.float32)


def in_precision(apply: Apply, precision: str) -> Apply:
    """Returns a network's function in a precision; weights, images and logits are float32 in all of them.

    A lesion acts on the float32 weights, which are rounded afterwards. In ``bfloat16`` and ``float16`` the whole
    network computes in these, as far as it takes its types from its weights and images.

    Args:
        apply: the network.
        precision: one of `PRECISIONS`; float32 returns it as it is.
    """
    return apply if precision == "float32" else _Short(apply, precision)


def tolerance(precision: str) -> float:
    """Returns how far logits of two programs of one network may differ, as a share of the largest."""
    return _TOLERANCE if precision == "float32" else _TOLERANCE_OF_SHORT


def precisions_of(device: Any) -> tuple[str, ...]:
    """Returns the precisions in which a device is at least as fast as in float32.

    A CPU has float32 alone: see `check_precision`.

    Args:
        device: of `jax.devices`.
    """
    if device.platform == "tpu":
        return _OF_TPUS
    if device.platform != "gpu":
        return ("float32",)
    capability = _capability(device)
    return tuple(name for name in PRECISIONS if capability >= _LEAST_CAPABILITY.get(name, 0.0))


def check_precision(precision: str, device: Any) -> None:
    """Refuses a precision that a device lacks, or that is no gain on it.

    On a CPU only float32 is taken: it has no tf32, and XLA's programs in shorter numbers are slower. AlexNet of width 1
    on 32 images took 0.45 s of processor time in bfloat16 and 0.44 s in float16 against 0.32 s in float32, on cores
    with AVX-512, under JAX 0.10.2 and 0.12.0 alike; and Winograd's convolutions are in float32 alone.

    Args:
        precision: asked.
        device: of `jax.devices`.

    Raises:
        StudyError: an unknown precision.
        DeviceError: the message names the one to take.
    """
    check_known(precision)
    known = precisions_of(device)
    if precision in known:
        return
    if device.platform == "cpu":
        why = (
            "which a CPU does not have" if precision == "tf32" else f"which takes {_SLOWER_ON_CPU} times as long there"
        )
        raise DeviceError(f"expected precision float32 on a CPU, got {precision}, {why}; take float32")
    best = known[-1] if len(known) > 1 else "float32"
    raise DeviceError(f"expected precision {' or '.join(known)} on {_named(device)}, got {precision}; take {best}")


def check_known(precision: str) -> None:
    """Raises a `StudyError` for what is none of `PRECISIONS`."""
    if precision not in PRECISIONS:
        near = did_you_mean(str(precision), PRECISIONS)
        raise StudyError(f"expected precision of {', '.join(PRECISIONS)}, got {precision!r}{near}")


def _rounded(leaf: AnyArray, dtype: Any) -> AnyArray:
    return leaf.astype(dtype) if leaf.dtype == jnp.float32 else leaf


def _capability(device: Any) -> float:
    """NVIDIA's compute capability; that of others is not a number, and they have all precisions."""
    try:
        return float(device.compute_capability)
    except (AttributeError, ValueError):
        return float("inf")


def _named(device: Any) -> str:
    capability = getattr(device, "compute_capability", None)
    return f"{device.device_kind} (compute capability {capability})" if capability else str(device.device_kind)
