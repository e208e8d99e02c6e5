"""Layers of any tree of arrays: their names, the leaves that they own, and how to replace these.

A *layer* is a sub-tree that holds a weight leaf: ``kernel`` (Flax, units last), ``weight`` (Equinox, units first) or
``w`` (Haiku, units last), with its ``bias`` or ``b`` where there is one. Its name is its path, joined by ``/``,
without the collection ``params`` and without NNX's ``value``, so that Linen variables, an NNX state and plain dicts
of one network name it alike.

A normalisation that follows a layer unit by unit belongs to it: a sub-tree with a ``scale`` (Equinox: a ``weight`` of
one axis) that is named like the layer with ``_norm`` behind it, or ``norm`` inside it, or as the caller says.

A tree with other names has a `LayerRule`.
"""

import fnmatch
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, FlattenedIndexKey, GetAttrKey, SequenceKey

from jaxperturb.errors import LayerError, did_you_mean
from jaxperturb.types import AnyArray, Params

WEIGHTS = {"kernel": -1, "weight": 0, "w": -1}  # leaf name -> the axis that counts units
BIASES = ("bias", "b")
SCALES, SHIFTS = ("scale", "weight"), ("bias", "offset")  # of norms
COLLECTION = "params"


@dataclass(frozen=True)
class LayerRule:
    """How the layers of a tree are found, where its leaves are not named as Flax, Equinox or Haiku name them.

    Attributes:
        weights: names of leaves that make their sub-tree a layer, each with the axis that counts units: the last (-1)
            or last but one (-2), the first (0) or second (1). The axis of inputs is its neighbour.
        biases: names of the leaf with an entry for each unit.
        norms: for layers whose norm has a name of its own, that name: ``{"Conv_0": "BatchNorm_0"}``.

    Raises:
        LayerError: no weight is named, or an axis is another one.
    """

    weights: Mapping[str, int] = field(default_factory=lambda: dict(WEIGHTS))
    biases: tuple[str, ...] = BIASES
    norms: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuses what finds no layer."""
        if not self.weights:
            raise LayerError("expected the name of a weight and its axis of units, such as {'kernel': -1}, got none")
        for name, axis in self.weights.items():
            if axis not in (-1, -2, 0, 1):
                raise LayerError(f"expected -1, -2, 0 or 1 as the axis of units of {name!r}, got {axis!r}")

    def __hash__(self) -> int:
        """Equal rules have equal numbers: compiled programs are kept by it."""
        return hash((tuple(self.weights.items()), self.biases, frozenset(self.norms.items())))

    @classmethod
    def of(cls, norms: "Norms") -> "LayerRule":
        """Returns a rule, or that of names alone for norms."""
        return norms if isinstance(norms, LayerRule) else cls(norms=norms or {})


Norms = Mapping[str, str] | LayerRule | None


@dataclass(frozen=True)
class Leaf:
    """One tensor of a layer.

    Attributes:
        name: of the leaf itself, ``kernel`` or ``bias``; its randomness is drawn by this name.
        index: its place among the leaves of the tree, in `jax.tree.leaves` order.
        shape: its axes.
        unit_axis: the axis that counts the layer's units.
    """

    name: str
    index: int
    shape: tuple[int, ...]
    unit_axis: int

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layer:
    """A layer of a tree.

    Attributes:
        name: its path.
        weight: its kernel.
        bias: one entry for each unit, or None.
        norm: scale and shift of the normalisation that follows it, one entry for each unit; or nothing.
    """

    name: str
    weight: Leaf
    bias: Leaf | None
    norm: tuple[Leaf, ...] = ()

    @property
    def units(self) -> int:
        """Number of output channels or neurons."""
        return self.weight.shape[self.weight.unit_axis]

    @property
    def input_axis(self) -> int:
        """The axis of the weight that counts input channels or neurons: beside the axis of units."""
        return self.weight.unit_axis ^ 1  # -1 and -2, 0 and 1 are neighbours

    @property
    def inputs(self) -> int:
        """Number of input channels or neurons."""
        return self.weight.shape[self.input_axis]

    def leaves(self, include_bias: bool = True, include_norm: bool = False) -> tuple[Leaf, ...]:
        """Returns the tensors of the layer: weight, bias, and those of its norm."""
        bias = (self.bias,) if include_bias and self.bias else ()
        return (self.weight, *bias, *(self.norm if include_norm else ()))


def layers_of(params: Params, norms: Norms = None) -> dict[str, Layer]:
    """Returns the layers of a tree by name, in the order of its leaves.

    Args:
        params: the tree.
        norms: for layers whose norm has a name of its own, that name: ``{"Conv_0": "BatchNorm_0"}``; or a whole rule.

    Raises:
        LayerError: no sub-tree holds a weight, two of them have one name, or a norm that is given does not fit.
    """
    leaves, groups, rule = jax.tree.leaves(params), _groups(params), LayerRule.of(norms)
    layers: dict[str, Layer] = {}
    for name, members in groups.items():
        layer = _layer(name, members, leaves, rule)
        if layer is None:
            continue
        if layer.name in layers:
            raise LayerError(f"two layers of the tree are named {layer.name!r}; rename one")
        layers[layer.name] = replace(layer, norm=_norm(layer, groups, rule.norms.get(layer.name), leaves))
    if not layers:
        known = ", ".join(rule.weights)
        raise LayerError(f"the tree has no layer: no sub-tree holds a leaf named {known} of two axes or more")
    if unknown := [name for name in rule.norms if name not in layers]:
        raise LayerError(f"a norm is given for {unknown[0]!r}, which is no layer" + did_you_mean(unknown[0], layers))
    return layers


def select_layers(names: Sequence[str], patterns: str | Sequence[str]) -> tuple[str, ...]:
    """Returns the names that match, in the order of `names`.

    Args:
        names: the layers there are.
        patterns: names or `fnmatch` patterns (``"conv*"``), a sequence of them or joined by commas.

    Raises:
        LayerError: a pattern that matches no layer, or none given.
    """
    wanted = patterns.split(",") if isinstance(patterns, str) else list(patterns)
    wanted = [pattern.strip() for pattern in wanted]
    if not any(wanted):
        raise LayerError(f"expected a layer or a pattern, got none; there are {', '.join(names)}")
    for pattern in wanted:
        if not fnmatch.filter(names, pattern):
            raise LayerError(
                f"unknown layer {pattern!r}" + did_you_mean(pattern, names) + f" (layers: {', '.join(names)})"
            )
    return tuple(name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted))


def replace_leaves(params: Params, changed: Mapping[int, Any]) -> Params:
    """Returns the tree with some leaves replaced, by their index; all others are the same objects."""
    leaves, structure = jax.tree.flatten(params)
    return jax.tree.unflatten(structure, [changed.get(index, leaf) for index, leaf in enumerate(leaves)])


def fingerprint(params: Params) -> str:
    """Returns the SHA-256 (hexadecimal) of a tree's values: of each leaf's name, type, shape and bytes, by name.

    The place of the collection ``params`` and the kind of container do not count, so one network has one fingerprint.
    """
    digest = hashlib.sha256()
    named = [(path[path[:1] == (COLLECTION,) :], leaf) for path, leaf in _named_leaves(params)]
    for path, leaf in sorted(named, key=lambda item: item[0]):
        array = np.asarray(leaf)
        digest.update(f"{'/'.join(path)} {array.dtype.name} {list(array.shape)}\n".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def nested(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Returns nested dictionaries of arrays that are named by their paths, joined by ``/``."""
    tree: dict[str, Any] = {}
    for name, array in arrays.items():
        *groups, leaf = name.split("/")
        inner = tree
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = array
    return tree


def leaf_names(params: Params) -> list[str]:
    """Returns the full path of every leaf, joined by ``/``, in `jax.tree.leaves` order."""
    return ["/".join(path) for path, _ in _named_leaves(params)]


def is_changed(before: AnyArray, after: AnyArray) -> AnyArray:
    """Returns where two arrays of one type differ, bit for bit: -0 is not 0, and a NaN is itself."""
    unsigned = jnp.dtype(f"uint{8 * before.dtype.itemsize}")
    return jax.lax.bitcast_convert_type(before, unsigned) != jax.lax.bitcast_convert_type(after, unsigned)


def _groups(params: Params) -> dict[str, dict[str, int]]:
    """The leaves of each sub-tree, by the sub-tree's path and their own names."""
    paths = [path for path, _ in _named_leaves(params)]
    has_collection = any(path[:1] == (COLLECTION,) for path in paths)
    groups: dict[str, dict[str, int]] = {}
    for index, path in enumerate(paths):
        if has_collection and path[0] != COLLECTION:
            continue  # running statistics and the like are never perturbed
        path = path[1:] if has_collection else path
        if path:
            groups.setdefault("/".join(path[:-1]), {})[path[-1]] = index
    return groups


def _layer(name: str, members: Mapping[str, int], leaves: Sequence[AnyArray], rule: LayerRule) -> Layer | None:
    weight = next((leaf for leaf in rule.weights if leaf in members and jnp.ndim(leaves[members[leaf]]) >= 2), None)
    if weight is None:
        return None
    kernel = Leaf(weight, members[weight], jnp.shape(leaves[members[weight]]), rule.weights[weight])
    name_of_bias = next((leaf for leaf in rule.biases if leaf in members), None)
    bias = None
    if name_of_bias:
        shape, units = jnp.shape(leaves[members[name_of_bias]]), kernel.shape[kernel.unit_axis]
        bias = Leaf(name_of_bias, members[name_of_bias], shape, _axis_of_bias(name, shape, units))
    return Layer(name or weight, kernel, bias)


def _axis_of_bias(name: str, shape: tuple[int, ...], units: int) -> int:
    if math.prod(shape) == units:
        return int(np.argmax(shape))
    # Attention and stacked layers have a bias for each head, or for each of the stack.
    if not shape or shape[-1] != units:
        raise LayerError(f"layer {name!r}: expected a bias with an entry for each of {units} units, got shape {shape}")
    return len(shape) - 1


def _norm(
    layer: Layer, groups: Mapping[str, Mapping[str, int]], given: str | None, leaves: Sequence[AnyArray]
) -> tuple[Leaf, ...]:
    names = [given] if given else [f"{layer.name}_norm", f"{layer.name}/norm"]
    found = (_norm_leaves(groups.get(name, {}), leaves) for name in names)
    members = next((members for members in found if "norm/scale" in members), None)
    if members is None and given:
        raise LayerError(f"layer {layer.name!r}: expected a norm named {given!r} with a scale, and the tree has none")
    for name, index in (members or {}).items():
        shape = jnp.shape(leaves[index])
        if shape != (layer.units,):
            what = name.removeprefix("norm/")
            raise LayerError(f"layer {layer.name!r}: its norm's {what} has shape {shape}, expected ({layer.units},)")
    return tuple(Leaf(name, index, (layer.units,), 0) for name, index in (members or {}).items())


def _norm_leaves(members: Mapping[str, int], leaves: Sequence[AnyArray]) -> dict[str, int]:
    """The scale and shift of a sub-tree, which have one name each whatever the library calls them."""
    found = {}
    for name, names in (("norm/scale", SCALES), ("norm/bias", SHIFTS)):
        known = (leaf for leaf in names if leaf in members)
        if (leaf := next(known, None)) is not None and not (leaf == "weight" and jnp.ndim(leaves[members[leaf]]) > 1):
            found[name] = members[leaf]
    return found


def _named_leaves(params: Params) -> list[tuple[tuple[str, ...], Any]]:
    named = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        parts = tuple(_text(entry) for entry in path)
        named.append((parts[:-1] if len(parts) > 1 and parts[-1] == "value" else parts, leaf))
    return named


def _text(entry: Any) -> str:
    match entry:
        case DictKey(key=name) | FlattenedIndexKey(key=name):
            return str(name)
        case GetAttrKey(name=name):
            return name
        case SequenceKey(idx=index):
            return str(index)
        case _:
            return str(entry)
