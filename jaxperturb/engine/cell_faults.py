"""The faults of one cell, weight by weight: what its lesion did, in our layout and in PyTorch's."""

import math
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.checkpoints.torchvision_names import PLANS
from jaxperturb.engine.lesions import Lesions
from jaxperturb.engine.plan import Cell
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.perturb.fault_list import Fault
from jaxperturb.trees import Layer, Leaf, is_changed, layers_of
from jaxperturb.types import AnyArray, Key

Maps = tuple[int, int, int]  # channels, height and width that an output unit of a dense layer sees


def cell_faults(network: Network, asked: Asked, cell: Cell, key: Key) -> tuple[Fault, ...]:
    """Returns what a cell's lesion does, compared with the reference network, layer by layer in ascending order.

    Of faults in bits each one, also one that changes nothing (a bit stuck at its own value); of other lesions each
    weight whose value changes.

    Args:
        network: intact.
        asked: the perturbation.
        cell: the lesion.
        key: of its draw.
    """
    lesions = Lesions.of(network, asked, cell.target, {})
    arrays = [jnp.asarray(leaf) for leaf in jax.tree.leaves(network.params)]
    reference = lesions.encoded(key, arrays)
    lesioned = lesions.lesioned(cell, key, arrays)
    values = dict(zip(lesions.leaves, zip(reference, lesioned, strict=True), strict=True))
    places = asked.places(lesions.request(cell, key))
    layers, maps = layers_of(network.params, network.norms), flattened_maps(network)
    return tuple(
        fault
        for name in lesions.target.layers
        for leaf in layers[name].leaves(include_norm=True)
        for fault in _faults(cell.draw, layers[name], leaf, maps.get(name), *values[leaf.index], places)
    )


def _faults(
    draw: int,
    layer: Layer,
    leaf: Leaf,
    maps: Maps | None,
    before: AnyArray,
    after: AnyArray,
    places: dict[int, tuple[np.ndarray, np.ndarray]] | None,
) -> Iterator[Fault]:
    if places is None:
        index = np.flatnonzero(np.asarray(is_changed(before, after)).ravel())
        bits: Sequence[int | None] = [None] * len(index)
    elif leaf.index in places:
        index, found = places[leaf.index]
        bits = found.tolist()
    else:
        return
    pytorch = pytorch_index(index, layer, leaf, maps)
    theirs: Sequence[int | None] = [None] * len(index) if pytorch is None else pytorch.tolist()
    old, new = (np.asarray(values).ravel()[index].astype(np.float32).tolist() for values in (before, after))
    for row in zip(index.tolist(), theirs, bits, old, new, strict=True):
        yield Fault(draw, layer.name, leaf.name, *row)


def pytorch_index(index: np.ndarray, layer: Layer, leaf: Leaf, maps: Maps | None) -> np.ndarray | None:
    """Returns the row-major places of entries in PyTorch's layout, or None where it is not known.

    Convolutions (…, in, out) become (out, in, …), dense layers (in, out) become (out, in); a dense layer behind a
    flattened map counts its inputs channel by channel there, and position by position here.

    Args:
        index: row-major places in the tree's own layout.
        layer: whose tensor it is.
        leaf: the tensor.
        maps: what a unit of a dense layer sees, or None where that is not known.
    """
    if leaf is not layer.weight or leaf.unit_axis == 0:
        return index  # one axis, or units first already
    places = np.unravel_index(index, leaf.shape)
    if len(leaf.shape) > 2:
        order = (len(leaf.shape) - 1, len(leaf.shape) - 2, *range(len(leaf.shape) - 2))
        return np.ravel_multi_index([places[i] for i in order], [leaf.shape[i] for i in order])
    if maps is None:
        return None
    channels, height, width = maps
    position, channel = np.divmod(places[0], channels)
    return np.asarray(places[1] * (channels * height * width) + channel * (height * width) + position)


def flattened_maps(network: Network) -> dict[str, Maps]:
    """Returns what a unit of each dense layer sees, as far as that is known.

    A layer with as many inputs as the one before it has units sees no map; that of a network of torchvision's sees a
    square one. Of other networks it is not known in which order a map was flattened.
    """
    if network.image_shape is None:
        return {}
    layers, seen, found = layers_of(network.params, network.norms), network.image_shape[2], {}
    for name in network.layer_names():
        layer = layers[name]
        area, rest = divmod(layer.inputs, seen)
        side = math.isqrt(area)
        if len(layer.weight.shape) == 2 and not rest and (area == 1 or seen == 1):
            found[name] = (seen, area, 1)
        elif len(layer.weight.shape) == 2 and not rest and side * side == area and _is_torchvision(network):
            found[name] = (seen, side, side)
        seen = layer.units
    return found


def unknown_layouts(faults: Sequence[Fault]) -> tuple[str, ...]:
    """Returns the layers whose place in PyTorch's layout a list leaves empty."""
    return tuple(dict.fromkeys(fault.layer for fault in faults if fault.pytorch_index is None))


def _is_torchvision(network: Network) -> bool:
    return network.source.get("architecture") in PLANS
