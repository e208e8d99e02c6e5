"""torchvision's names, shapes and layouts of its networks, as rows: which tensor becomes which leaf of the tree."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from jaxperturb.errors import CheckpointError, did_you_mean
from jaxperturb.networks.classifier import DENSE_UNITS
from jaxperturb.networks.squeezenet import FIRST_FIRE, VERSIONS, Version
from jaxperturb.networks.vgg import BLOCKS
from jaxperturb.networks.widths import scaled

# How PyTorch lays a tensor out: a convolution, a dense layer behind a flattened map, a dense layer, one axis of units.
Layout = Literal["OIHW", "O(CHW)", "OI", "O"]

NORM_ROWS = (
    ("weight", "params", "scale"),
    ("bias", "params", "bias"),
    ("running_mean", "batch_stats", "mean"),
    ("running_var", "batch_stats", "var"),
)


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
    """A convolution before sizes are chosen.

    Attributes:
        source: its name in PyTorch, "features.0".
        name: ours, with "/" between a module and its parts.
        channels: at width 1; 0 for one channel per class.
        side: of its kernel.
        sees: names of those whose channels it sees beside each other; none for the images.
        norm: name in PyTorch of the batch norm behind it, or "".
    """

    source: str
    name: str
    channels: int
    side: int
    sees: tuple[str, ...]
    norm: str = ""


@dataclass(frozen=True)
class Plan:
    """An architecture before sizes are chosen.

    Attributes:
        convolutions: in torchvision's order.
        dense: PyTorch's and our names of the dense layers, or none.
        pooled_size: torchvision's side of the map that the first dense layer sees.
    """

    convolutions: tuple[Convolution, ...]
    dense: tuple[tuple[str, str], ...] = ()
    pooled_size: int = 0


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


def _alexnet() -> Plan:
    table = (
        (0, "conv1", 64, 11),
        (3, "conv2", 192, 5),
        (6, "conv3", 384, 3),
        (8, "conv4", 256, 3),
        (10, "conv5", 256, 3),
    )
    convolutions: list[Convolution] = []
    for index, name, channels, side in table:
        convolutions.append(Convolution(f"features.{index}", name, channels, side, _last(convolutions)))
    return Plan(tuple(convolutions), _dense(1, 4, 6), pooled_size=6)


def _vgg(blocks: tuple[tuple[int, ...], ...], norms: bool) -> Plan:
    convolutions: list[Convolution] = []
    index = 0
    for block, channels in enumerate(blocks, 1):
        for place, count in enumerate(channels, 1):
            norm = f"features.{index + 1}" if norms else ""
            seen = _last(convolutions)
            convolutions.append(Convolution(f"features.{index}", f"conv{block}_{place}", count, 3, seen, norm))
            index += 3 if norms else 2  # the convolution, its batch norm, its ReLU
        index += 1  # the pooling
    return Plan(tuple(convolutions), _dense(0, 3, 6), pooled_size=7)


def _squeezenet(version: Version) -> Plan:
    convolutions = [Convolution("features.0", "conv1", version.channels, version.side, ())]
    index = 2  # behind the first convolution and its ReLU
    seen: tuple[str, ...] = ("conv1",)
    for number, (squeeze, expand) in enumerate(version.fires, FIRST_FIRE):
        index += number - 1 in version.pooled
        source, name = f"features.{index}", f"fire{number}"
        convolutions += [
            Convolution(f"{source}.squeeze", f"{name}/squeeze", squeeze, 1, seen),
            Convolution(f"{source}.expand1x1", f"{name}/expand1x1", expand, 1, (f"{name}/squeeze",)),
            Convolution(f"{source}.expand3x3", f"{name}/expand3x3", expand, 3, (f"{name}/squeeze",)),
        ]
        index, seen = index + 1, (f"{name}/expand1x1", f"{name}/expand3x3")
    return Plan((*convolutions, Convolution("classifier.1", "conv_final", 0, 1, seen)))


def _last(convolutions: list[Convolution]) -> tuple[str, ...]:
    return (convolutions[-1].name,) if convolutions else ()


def _dense(*indices: int) -> tuple[tuple[str, str], ...]:
    return tuple((f"classifier.{index}", name) for index, name in zip(indices, ("fc6", "fc7", "fc8"), strict=True))


PLANS: Mapping[str, Plan] = {
    "alexnet": _alexnet(),
    **{f"vgg{depth}": _vgg(blocks, norms=False) for depth, blocks in BLOCKS.items()},
    **{f"vgg{depth}_bn": _vgg(blocks, norms=True) for depth, blocks in BLOCKS.items()},
    **{f"squeezenet{version.replace('.', '_')}": _squeezenet(table) for version, table in VERSIONS.items()},
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
    made: list[Row] = []
    counts: dict[str, int] = {}
    for conv in plan.convolutions:
        seen = sum(counts[name] for name in conv.sees) if conv.sees else sizes.channels
        units = counts[conv.name] = scaled(conv.channels, sizes.width) if conv.channels else sizes.classes
        made += _layer(conv.source, conv.name, "OIHW", units, (seen, conv.side, conv.side))
        made += _norm(conv.norm, f"{conv.name}_norm", units) if conv.norm else []
    hidden = scaled(DENSE_UNITS, sizes.dense_width)
    maps = (units, sizes.pooled_size, sizes.pooled_size)
    for (source, name), units in zip(plan.dense, (hidden, hidden, sizes.classes), strict=False):
        made += _layer(source, name, "OI" if maps[1:] == (1, 1) else "O(CHW)", units, maps)
        maps = (units, 1, 1)
    return tuple(made)


def optional_names(plan: Plan) -> tuple[str, ...]:
    """Returns the tensors that PyTorch counts batches in; they say nothing about the network's answers."""
    return tuple(f"{conv.norm}.num_batches_tracked" for conv in plan.convolutions if conv.norm)


def sizes_from(plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> tuple[Sizes, Sizes]:
    """Returns torchvision's own sizes, and the sizes that shapes (PyTorch's, by name) speak for, should they agree.

    Classes and image channels are free, and are taken from the shapes in both.
    """
    kernels = [(conv.channels, shapes.get(f"{conv.source}.weight", ())) for conv in plan.convolutions]
    weights = [shapes.get(f"{source}.weight", ()) for source, _ in plan.dense]
    stem, last = kernels[0][1], weights[-1] if weights else kernels[-1][1]
    width = _width([(channels, shape[0]) for channels, shape in kernels if channels and len(shape) == 4])
    usual = Sizes(
        classes=last[0] if len(last) in (2, 4) else 1000,
        channels=stem[1] if len(stem) == 4 else 3,
        width=Fraction(1),
        dense_width=Fraction(1),
        pooled_size=plan.pooled_size,
    )
    stated = replace(usual, width=width, dense_width=width)
    if plan.dense:
        hidden = [(DENSE_UNITS, shape[0]) for shape in weights[:-1] if len(shape) == 2]
        pooled = _pooled_size(weights[0], scaled(plan.convolutions[-1].channels, width), plan.pooled_size)
        stated = replace(stated, dense_width=_width(hidden), pooled_size=pooled)
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


def _layer(source: str, name: str, layout: Layout, units: int, maps: tuple[int, int, int]) -> list[Row]:
    shape = (units, *maps) if layout == "OIHW" else (units, math.prod(maps))
    return [
        Row(f"{source}.weight", ("params", *name.split("/"), "kernel"), layout, shape, maps),
        Row(f"{source}.bias", ("params", *name.split("/"), "bias"), "O", (units,)),
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
