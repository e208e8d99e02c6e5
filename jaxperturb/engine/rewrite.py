"""Equations of a network's program replaced by equal ones that are faster on the backend at hand.

Which ones is a fixed rule by backend and shapes, so that the same study always gives the same counts.
A convolution comes in steps: what it needs of the images alone, of the kernel alone, and the rest. The engine takes the
first once for all masks and the second once for all images.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from jaxperturb.engine.folding import Folded, folded_size
from jaxperturb.engine.pooling import MaximumOfSlices
from jaxperturb.engine.winograd import SIZES, TILE, Transformed, Winograd
from jaxperturb.errors import StudyError
from jaxperturb.types import AnyArray

CONVOLUTIONS = ("auto", "xla", "winograd")

_CHANNELS, _UNITS = 48, 48  # least of both for which Winograd is faster
_OUTPUTS = 7  # least height and width of the outputs for it
_WINDOWS = 8  # most entries of a pooling window along an axis


@dataclass(frozen=True)
class Rewrites:
    """What is replaced.

    Attributes:
        winograd: convolutions by Winograd: none, those that it makes faster, or all that it can compute.
        slices: maximum pooling by shifted slices.
    """

    winograd: Literal["none", "faster", "all"] = "none"
    slices: bool = False

    @property
    def name(self) -> str:
        """What is replaced, in short: it stands in a study's tile."""
        names = {"winograd": self.winograd == "faster", "winograd_all": self.winograd == "all", "slices": self.slices}
        return "+".join(name for name, used in names.items() if used) or "xla"


def rewrites(backend: str, convolutions: str = "auto") -> Rewrites:
    """Returns what is replaced on a backend.

    Args:
        backend: "cpu", "gpu" or "tpu", whose own convolutions stay.
        convolutions: "auto" takes what is faster there, "xla" nothing, "winograd" all that it can compute, anywhere.

    Raises:
        StudyError: another word.
    """
    check_convolutions(convolutions)
    cpu = backend == "cpu"
    if convolutions == "xla":
        return Rewrites()
    if convolutions == "winograd":
        return Rewrites("all", slices=cpu)
    return Rewrites("faster" if cpu else "none", slices=cpu)


def check_convolutions(name: str) -> None:
    """Raises a `StudyError` for what is none of `CONVOLUTIONS`."""
    if name not in CONVOLUTIONS:
        raise StudyError(f"expected convolutions of {', '.join(CONVOLUTIONS)}, got {name!r}")


@dataclass(frozen=True)
class Convolution:
    """A convolution by another algorithm, in the layout of the equation that it replaces.

    Attributes:
        algorithm: for images (n, h, w, c) and kernels (r, r, c, k).
        images: the axes of the equation's images that these are.
        kernel: the axes of its kernel that these are.
        outputs: the axes of the result, (n, h, w, k), in the order of the equation's output.
    """

    algorithm: Winograd | Folded
    images: tuple[int, ...]
    kernel: tuple[int, ...]
    outputs: tuple[int, ...]

    def __call__(self, images: AnyArray, kernel: AnyArray) -> list[jax.Array]:
        """Returns the equation's output."""
        return self.finish(self.share(images), kernel)

    def share(self, images: AnyArray) -> Transformed | AnyArray:
        """Returns what all kernels need of the images."""
        return self.algorithm.share(jax.lax.transpose(images, self.images))

    def transform(self, kernel: AnyArray) -> AnyArray:
        """Returns what all images need of the kernel."""
        return self.algorithm.transform(jax.lax.transpose(kernel, self.kernel))

    def join(self, shared: Transformed | AnyArray, transformed: AnyArray) -> list[jax.Array]:
        """Returns the equation's output, from what `share` and `transform` gave."""
        return [jax.lax.transpose(self.algorithm.join(shared, transformed), self.outputs)]

    def finish(self, shared: Transformed | AnyArray, kernel: AnyArray) -> list[jax.Array]:
        """Returns the equation's output, from what `share` gave and the kernel."""
        return self.join(shared, self.transform(kernel))


@dataclass(frozen=True)
class Pooling:
    """Maximum pooling by another algorithm."""

    algorithm: MaximumOfSlices

    def __call__(self, x: AnyArray) -> list[jax.Array]:
        """Returns the equation's output."""
        return [self.algorithm(x)]


def replacement(equation: Any, rewrites: Rewrites, tile: int = TILE) -> Callable[..., list[jax.Array]] | None:
    """Returns a function of an equation's inputs that gives its outputs, faster; None where it stays.

    That of a convolution is a `Convolution`, whose steps can be taken apart; it takes any number of images.

    Args:
        equation: of a program.
        rewrites: what is replaced.
        tile: images that convolutions are given at a time.
    """
    name = equation.primitive.name
    if name == "conv_general_dilated" and rewrites.winograd != "none":
        return _convolution(equation, rewrites.winograd == "all", tile)
    if name == "reduce_window_max" and rewrites.slices:
        return _pooling(equation)
    return None


def _convolution(equation: Any, everything: bool, tile: int) -> Convolution | None:
    if not _is_plain(equation):
        return None
    (n, c, h, w), (unit, channel, *window), (n_out, unit_out, *sides) = equation.params["dimension_numbers"]
    images, kernel, outputs = (n, h, w, c), (*window, channel, unit), (n_out, *sides, unit_out)
    shape_of_images, shape_of_kernel = (
        tuple(v.aval.shape[axis] for axis in axes) for v, axes in zip(equation.invars, (images, kernel), strict=True)
    )
    algorithm = _algorithm(shape_of_images[1:], shape_of_kernel, equation.params, tile)
    lengths = tuple(equation.outvars[0].aval.shape[axis] for axis in sides)
    if algorithm is None or not (everything or _is_faster(algorithm, lengths, shape_of_kernel)):
        return None
    return Convolution(algorithm, images, kernel, tuple(outputs.index(axis) for axis in range(4)))


def _is_plain(equation: Any) -> bool:
    """Whether it is a float32 convolution in two dimensions, without groups, dilation or cropping."""
    params = equation.params
    types = {v.aval.dtype for v in (*equation.invars, *equation.outvars)}
    dilations = (*params["lhs_dilation"], *params["rhs_dilation"])
    return (
        types == {np.dtype(np.float32)}
        and len(params["window_strides"]) == 2
        and params["feature_group_count"] == params["batch_group_count"] == 1
        and all(dilation == 1 for dilation in dilations)
        and min(side for pair in params["padding"] for side in pair) >= 0
        and all(side > 0 for v in (*equation.invars, *equation.outvars) for side in v.aval.shape)
    )


def _algorithm(images: Any, kernel: Any, params: Mapping[str, Any], tile: int) -> Winograd | Folded | None:
    (down, across), padding = params["window_strides"], tuple(params["padding"])
    if kernel[0] != kernel[1] or down != across:
        return None
    if down == 1:
        return Winograd.of(images, kernel, padding, tile) if kernel[0] in SIZES else None
    return Folded.of(images, kernel, down, padding, tile) if folded_size(kernel[0], down) in SIZES else None


def _is_faster(algorithm: Winograd | Folded, outputs: tuple[int, ...], kernel: tuple[int, ...]) -> bool:
    _, _, channels, units = kernel
    if isinstance(algorithm, Folded):
        channels *= algorithm.stride**2
    return channels >= _CHANNELS and units >= _UNITS and min(outputs) >= _OUTPUTS


def _pooling(equation: Any) -> Pooling | None:
    params = equation.params
    windows = params["window_dimensions"]
    dilated = any(dilation != 1 for dilation in (*params["base_dilation"], *params["window_dilation"]))
    if dilated or max(windows) > _WINDOWS or not np.issubdtype(equation.invars[0].aval.dtype, np.floating):
        return None
    return Pooling(MaximumOfSlices(windows, params["window_strides"], tuple(params["padding"])))
