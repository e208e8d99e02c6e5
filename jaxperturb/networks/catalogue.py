"""The architectures that can be built by name: one literal table."""

import dataclasses
import math
import typing
from collections.abc import Callable, Mapping

import flax.linen as nn

from jaxperturb.errors import NetworkError, did_you_mean
from jaxperturb.networks import alexnet


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        name: the word for it, as in `build`.
        summary: one line for lists.
        module: makes the Linen module from options.
        image_size: side in pixels that the published network takes.
        min_image_size: smallest side in pixels that it can take.
    """

    name: str
    summary: str
    module: Callable[..., nn.Module]
    image_size: int
    min_image_size: int

    @property
    def options(self) -> Mapping[str, object]:
        """Names of the options with their defaults."""
        fields = dataclasses.fields(typing.cast(typing.Any, self.module))
        return {field.name: field.default for field in fields if field.name not in ("parent", "name")}


ARCHITECTURES: Mapping[str, Architecture] = {
    "alexnet": Architecture(
        name="alexnet",
        summary="AlexNet (torchvision's): 5 convolutions, 3 dense layers",
        module=alexnet.AlexNet,
        image_size=224,
        min_image_size=alexnet.MIN_IMAGE_SIZE,
    ),
}


def build(name: str, options: Mapping[str, object] | None = None) -> nn.Module:
    """Makes the module of an architecture.

    Args:
        name: a key of `ARCHITECTURES`.
        options: some of `Architecture.options`, such as ``{"classes": 10, "width": 0.25}``.

    Raises:
        NetworkError: an unknown name or option, or a value of the wrong type or out of range.
    """
    if name not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise NetworkError(f"unknown architecture {name!r}{did_you_mean(name, ARCHITECTURES)} (known: {known})")
    architecture = ARCHITECTURES[name]
    read: dict[str, object] = {}
    for option, value in (options or {}).items():
        if option not in architecture.options:
            hint = did_you_mean(option, architecture.options)
            raise NetworkError(f"{name} has no option {option!r}{hint} (known: {', '.join(architecture.options)})")
        read[option] = _checked(name, option, value, architecture.options[option])
    return architecture.module(**read)


def _checked(name: str, option: str, value: object, default: object) -> object:
    if value is None and default is None:
        return None
    if type(default) is int:
        fits, wanted = type(value) is int and value >= 1, "a whole number of at least 1"
    elif option == "dropout":
        fits, wanted = _is_number(value) and 0 <= value < 1, "a number from 0 to below 1"
    else:
        fits, wanted = _is_number(value) and value > 0, "a number above 0"
    if not fits:
        raise NetworkError(f"{name}: {option} must be {wanted}, got {value!r}")
    return value if type(default) is int else float(typing.cast(float, value))


def _is_number(value: object) -> typing.TypeGuard[float]:
    return type(value) in (int, float) and math.isfinite(typing.cast(float, value))
