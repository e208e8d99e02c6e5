"""The architectures that can be built by name: one literal table."""

import dataclasses
import math
import typing
from collections.abc import Mapping

import flax.linen as nn

from jaxperturb.errors import NetworkError, did_you_mean
from jaxperturb.networks import alexnet, squeezenet, vgg


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A kind of network.

    Attributes:
        name: the word for it, as in `build`.
        summary: one line for lists.
        module: the Linen module.
        image_size: side in pixels that the published network takes.
        min_image_size: smallest side in pixels that it can take.
        variant: fields of the module that make it this architecture, and are no options.
    """

    name: str
    summary: str
    module: type[nn.Module]
    image_size: int
    min_image_size: int
    variant: Mapping[str, object] = dataclasses.field(default_factory=dict)

    @property
    def options(self) -> Mapping[str, object]:
        """Names of the options with their defaults."""
        fields = dataclasses.fields(typing.cast(typing.Any, self.module))
        return {field.name: field.default for field in fields if field.name not in ("parent", "name", *self.variant)}


def _vgg(depth: int, batch_norm: bool) -> Architecture:
    behind = ", each with batch norm" if batch_norm else ""
    return Architecture(
        name=f"vgg{depth}_bn" if batch_norm else f"vgg{depth}",
        summary=f"VGG (torchvision's): {depth - 3} convolutions{behind}, 3 dense layers",
        module=vgg.VGG,
        image_size=224,
        min_image_size=vgg.MIN_IMAGE_SIZE,
        variant={"depth": depth, "batch_norm": batch_norm},
    )


def _squeezenet(version: str) -> Architecture:
    return Architecture(
        name=f"squeezenet{version.replace('.', '_')}",
        summary=f"SqueezeNet {version} (torchvision's): 26 convolutions, no dense layer",
        module=squeezenet.SqueezeNet,
        image_size=224,
        min_image_size=squeezenet.VERSIONS[version].min_image_size,
        variant={"version": version},
    )


_ALEXNET = Architecture(
    name="alexnet",
    summary="AlexNet (torchvision's): 5 convolutions, 3 dense layers",
    module=alexnet.AlexNet,
    image_size=224,
    min_image_size=alexnet.MIN_IMAGE_SIZE,
)

ARCHITECTURES: Mapping[str, Architecture] = {
    one.name: one
    for one in (
        _ALEXNET,
        *(_vgg(depth, batch_norm=False) for depth in vgg.BLOCKS),
        *(_vgg(depth, batch_norm=True) for depth in vgg.BLOCKS),
        *(_squeezenet(version) for version in squeezenet.VERSIONS),
    )
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
    return architecture.module(**architecture.variant, **read)


def _checked(name: str, option: str, value: object, default: object) -> object:
    if value is None and default is None:
        return None
    if type(default) is int:
        least = min(default, 1)
        fits, wanted = type(value) is int and value >= least, f"a whole number of at least {least}"
    elif option == "dropout":
        fits, wanted = _is_number(value) and 0 <= value < 1, "a number from 0 to below 1"
    else:
        fits, wanted = _is_number(value) and value > 0, "a number above 0"
    if not fits:
        raise NetworkError(f"{name}: {option} must be {wanted}, got {value!r}")
    return value if type(default) is int else float(typing.cast(float, value))


def _is_number(value: object) -> typing.TypeGuard[float]:
    return type(value) in (int, float) and math.isfinite(typing.cast(float, value))
