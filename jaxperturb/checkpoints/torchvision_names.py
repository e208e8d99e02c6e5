"""torchvision's names, shapes and layouts of AlexNet and VGG, as rows: which tensor becomes which leaf of the tree."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from jaxperturb.errors import CheckpointError, did_you_mean

# How PyTorch lays a tensor out: a convolution, a dense layer behind a flattened map, a dense layer, one axis of units.
Layout = Literal["OIHW", "O(CHW)", "OI", "O"]

DENSE_UNITS = 4096
NORM_ROWS = (
    ("weight", "params", "scale"),
    ("bias", "params", "bias"),
    ("running_mean", "batch_stats", "mean"),
    ("running_var", "batch_stats", "var"),
)
# Which convolutions follow each other between two poolings, by their number of channels.
VGG_BLOCKS = {
    "vgg11": ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg13": ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    "vgg16": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    "vgg19": ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


@dataclass(frozen=True)
class Row:
    """One tensor: its name in PyTorch, its path in the Flax tree, its layout, and its shape in PyTorch.

    Attributes:
        source: "features.0.weight".
        path: ("params", "conv1", "kernel").
        layout: of the tensor in PyTorch.
        shape: of the tensor in PyTorch.
        maps: channels, height and width that an output unit sees; (0, 0, 0) for one axis of units.
    """

    source: str
    path: tuple[str, ...]
    layout: Layout
    shape: tuple[int, ...]
    maps: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Convolution:
    """A convolution: its number among torchvision's features, our name, its channels at width 1, its kernel's side."""

    index: int
    name: str
    channels: int
    side: int


@dataclass(frozen=True)
class Plan:
    """An architecture before sizes are chosen."""

    convolutions: tuple[Convolution, ...]
    dense: tuple[tuple[int, str], ...]
    norms: bool
    pooled_size: int


@dataclass(frozen=True)
class Sizes:
    """What one architecture may vary in.

    Attributes:
        classes: number of logits.
        channels: of the images.
        width: factor on the channels of every convolution.
        dense_width: factor on the 4096 units of the two hidden dense layers.
        pooled_size: side of the map that the first dense layer sees.
    """

    classes: int
    channels: int
    width: Fraction
    dense_width: Fraction
    pooled_size: int


def _vgg(blocks: tuple[tuple[int, ...], ...], norms: bool) -> Plan:
    convolutions, index = [], 0
    for block, channels in enumerate(blocks, 1):
        for place, count in enumerate(channels, 1):
            convolutions.append(Convolution(index, f"conv{block}_{place}", count, 3))
            index += 3 if norms else 2  # the convolution, its batch norm, its ReLU
        index += 1  # the pooling
    return Plan(tuple(convolutions), ((0, "fc6"), (3, "fc7"), (6, "fc8")), norms, 7)


PLANS: Mapping[str, Plan] = {
    "alexnet": Plan(
        (
            Convolution(0, "conv1", 64, 11),
            Convolution(3, "conv2", 192, 5),
            Convolution(6, "conv3", 384, 3),
            Convolution(8, "conv4", 256, 3),
            Convolution(10, "conv5", 256, 3),
        ),
        ((1, "fc6"), (4, "fc7"), (6, "fc8")),
        norms=False,
        pooled_size=6,
    ),
    **{name: _vgg(blocks, norms=False) for name, blocks in VGG_BLOCKS.items()},
    **{f"{name}_bn": _vgg(blocks, norms=True) for name, blocks in VGG_BLOCKS.items()},
}


def plan(architecture: str) -> Plan:
    """Returns an architecture by name.

    Raises:
        CheckpointError: there is none of that name.
    """
    if architecture not in PLANS:
        hint = did_you_mean(architecture, PLANS)
        raise CheckpointError(f"no architecture is called {architecture!r}{hint}; convertible are {', '.join(PLANS)}")
    return PLANS[architecture]


def rows(plan: Plan, sizes: Sizes) -> tuple[Row, ...]:
    """Returns the tensors of an architecture in torchvision's order, without the optional `num_batches_tracked`."""
    made, seen = [], sizes.channels
    for conv in plan.convolutions:
        units = scaled(conv.channels, sizes.width)
        made += _layer(f"features.{conv.index}", conv.name, "OIHW", units, (seen, conv.side, conv.side))
        if plan.norms:
            made += _norm(f"features.{conv.index + 1}", f"{conv.name}_norm", units)
        seen = units
    hidden = scaled(DENSE_UNITS, sizes.dense_width)
    maps = (seen, sizes.pooled_size, sizes.pooled_size)
    for (index, name), units in zip(plan.dense, (hidden, hidden, sizes.classes), strict=True):
        made += _layer(f"classifier.{index}", name, "OI" if maps[1:] == (1, 1) else "O(CHW)", units, maps)
        maps = (units, 1, 1)
    return tuple(made)


def optional_names(plan: Plan) -> tuple[str, ...]:
    """Returns the tensors that PyTorch counts batches in; they say nothing about the network's answers."""
    return tuple(f"features.{conv.index + 1}.num_batches_tracked" for conv in plan.convolutions if plan.norms)


def sizes_from(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Sizes, Sizes]:
    """Returns torchvision's own sizes, and the sizes that shapes (PyTorch's, by name) speak for, should they agree.

    Classes and image channels are free, and are taken from the shapes in both.
    """
    weights = [shapes.get(f"classifier.{index}.weight", ()) for index, _ in plan.dense]
    kernels = [(conv.channels, shapes.get(f"features.{conv.index}.weight", ())) for conv in plan.convolutions]
    stem, last = kernels[0][1], weights[-1]
    width = _width([(channels, shape[0]) for channels, shape in kernels if len(shape) == 4])
    usual = Sizes(
        classes=last[0] if len(last) == 2 else 1000,
        channels=stem[1] if len(stem) == 4 else 3,
        width=Fraction(1),
        dense_width=Fraction(1),
        pooled_size=plan.pooled_size,
    )
    stated = replace(
        usual,
        width=width,
        dense_width=_width([(DENSE_UNITS, shape[0]) for shape in weights[:-1] if len(shape) == 2]),
        pooled_size=_pooled_size(weights[0], scaled(plan.convolutions[-1].channels, width), plan.pooled_size),
    )
    return usual, stated


def options(plan: Plan, sizes: Sizes) -> dict[str, int | float]:
    """Returns the options of the network: the classes, and whatever differs from torchvision's sizes."""
    made: dict[str, int | float] = {"classes": sizes.classes}
    if sizes.width != 1:
        made["width"] = float(sizes.width)
    if sizes.dense_width != sizes.width:
        made["dense_width"] = float(sizes.dense_width)
    if sizes.pooled_size != plan.pooled_size:
        made["pooled_size"] = sizes.pooled_size
    return made


def scaled(units: int, width: Fraction) -> int:
    """Returns a number of units times a width, as the networks round it: halves up, at least one."""
    return max(1, math.floor(units * width + Fraction(1, 2)))


def _layer(source: str, name: str, layout: Layout, units: int, maps: tuple[int, int, int]) -> list[Row]:
    shape = (units, *maps) if layout == "OIHW" else (units, math.prod(maps))
    return [
        Row(f"{source}.weight", ("params", name, "kernel"), layout, shape, maps),
        Row(f"{source}.bias", ("params", name, "bias"), "O", (units,)),
    ]


def _norm(source: str, name: str, units: int) -> list[Row]:
    return [Row(f"{source}.{leaf}", (group, name, target), "O", (units,)) for leaf, group, target in NORM_ROWS]


def _width(pairs: list[tuple[int, int]]) -> Fraction:
    """Returns the plainest factor that scales every first number to its second, or 1 if none does."""
    half = Fraction(1, 2)
    low = max(((Fraction(found) - half) / base for base, found in pairs), default=Fraction(1))
    high = min(((Fraction(found) + half) / base for base, found in pairs), default=Fraction(2))
    simple = Fraction(*reversed(pairs[0])) if pairs else Fraction(1)
    if low <= simple < high and simple.denominator <= 64:
        return simple
    shortest = (Fraction(math.ceil(low * 10**places), 10**places) for places in range(7))
    return next((width for width in shortest if 0 < width < high), Fraction(1))


def _pooled_size(shape: tuple[int, ...], channels: int, usual: int) -> int:
    if len(shape) != 2 or shape[1] % channels:
        return usual
    size = math.isqrt(shape[1] // channels)
    return size if size and size * size * channels == shape[1] else usual
