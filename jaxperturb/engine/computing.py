"""How a study is computed, as its user asks for it."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from jaxperturb.engine import run as engine
from jaxperturb.engine.devices import local_devices
from jaxperturb.engine.precision import check_precision
from jaxperturb.engine.rewrite import check_convolutions
from jaxperturb.engine.tiling import Tiling, tiling
from jaxperturb.errors import StudyError
from jaxperturb.networks.network import ImageShape, Network


@dataclass(frozen=True)
class Computing:
    """How a study is computed. The first three may change counts in the last digit, and are part of its identity.

    Attributes:
        precision: "float32", "tf32", "bfloat16" or "float16"; what the device lacks is refused.
        convolutions: "auto" (the fastest here), "xla" or "winograd".
        masks_per_call: lesions at a time; 0 for what suits the device, which is one after another on a CPU.
        memory_gb: GiB that the process, or on an accelerator the device, may take; None for half of what is free.
        devices: how many of this machine's are used at most; None for all.
    """

    precision: str = "float32"
    convolutions: str = "auto"
    masks_per_call: int = 0
    memory_gb: float | int | None = None
    devices: int | None = None

    def check(self) -> None:
        """Refuses what is no such thing, or not to be had on this machine.

        Raises:
            StudyError: a value out of its range.
            DeviceError: a precision that the device lacks, more devices than there are.
        """
        check_convolutions(self.convolutions)
        if not _is_number(self.masks_per_call, Integral) or self.masks_per_call < 0:
            raise StudyError(f"expected masks_per_call of 0 or more, got {self.masks_per_call!r}")
        if self.memory_gb is not None and not (_is_number(self.memory_gb, Real) and 0 < self.memory_gb < float("inf")):
            raise StudyError(f"expected memory_gb above 0, got {self.memory_gb!r}")
        check_precision(self.precision, local_devices(self.devices)[0])

    def tile(self, network: Network, image_shape: ImageShape) -> Tiling:
        """Returns the tile of the network's programs."""
        return tiling(network, image_shape, convolutions=self.convolutions, masks_per_call=self.masks_per_call or None)

    def run(self, tile: Tiling, run: Callable[..., Any] = engine.run) -> Callable[..., Any]:
        """Returns `jaxperturb.engine.run.run`, or what stands in for it, with these options."""
        return functools.partial(
            run, tile=tile, precision=self.precision, memory_gb=self.memory_gb, devices=self.devices
        )

    def evaluate(self, tile: Tiling, evaluate: Callable[..., Any] = engine.evaluate_network) -> Callable[..., Any]:
        """Returns `jaxperturb.engine.run.evaluate_network`, or what stands in for it, with these options."""
        return functools.partial(evaluate, tile=tile, precision=self.precision, memory_gb=self.memory_gb)


def _is_number(value: object, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)
