"""Finds a network's own arrays in a checkpoint of its training, and puts them into its tree: strict both ways."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.errors import CheckpointError
from jaxperturb.trees import COLLECTION, leaf_names
from jaxperturb.types import Params

# What a tree of variables is found under, besides its own collections.
WRAPPERS = ("state", "train_state", "model", "variables", "target")
STATISTICS = "batch_stats"
RANDOM = "rngs"


def variables_in(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays of the collections, whatever they are wrapped in, by their path from the collection.

    A state of training holds a step and an optimiser's state beside `params` and `batch_stats`: these are left out.
    What has no collections is taken as `params`.
    """
    tops = {name.partition("/")[0] for name in arrays}
    if COLLECTION in tops:
        inner = _below(arrays, COLLECTION)
        if any(name.startswith(f"{COLLECTION}/") for name in inner):  # the whole tree of variables as "params"
            return {name: array for name, array in arrays.items() if name.startswith(f"{STATISTICS}/")} | inner
        return dict(arrays)
    for wrapper in WRAPPERS:
        inner = _below(arrays, wrapper)
        if wrapper in tops and inner:
            return variables_in(inner)
    plain = (name if name.startswith(f"{STATISTICS}/") else f"{COLLECTION}/{name}" for name in arrays)
    return dict(zip(plain, arrays.values(), strict=True))


def collections_of(arrays: Mapping[str, np.ndarray], wanted: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Returns the arrays of some collections only, such as ``("params", "batch_stats")``."""
    return {name: array for name, array in arrays.items() if name.partition("/")[0] in wanted}


def misfits(tree: Params, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Returns what keeps arrays from being a tree's leaves, each with its shapes: nothing if they fit.

    Args:
        tree: of arrays, or of shapes and types.
        arrays: as `variables_in` returns them.
    """
    wanted, found = _expected(tree), _found(tree, arrays)
    missing = [f"{name} {leaf.shape}" for name, leaf in wanted.items() if name not in found]
    unexpected = [f"{name} {array.shape}" for name, array in found.items() if name not in wanted]
    both = [(name, found[name], leaf) for name, leaf in wanted.items() if name in found]
    shapes = [f"{name} {array.shape}, expected {leaf.shape}" for name, array, leaf in both if array.shape != leaf.shape]
    types = [
        f"{name} is {array.dtype.name}, expected {leaf.dtype.name}"
        for name, array, leaf in both
        if _is_float(array.dtype) != _is_float(leaf.dtype)
    ]
    lists = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes), ("of another type", types))
    return [f"{what} {len(names)}: {', '.join(names)}" for what, names in lists if names]


def faults(tree: Params, arrays: Mapping[str, np.ndarray]) -> int:
    """Returns how many leaves and arrays do not fit."""
    wanted, found = _expected(tree), _found(tree, arrays)
    alike = sum(name in found and found[name].shape == leaf.shape for name, leaf in wanted.items())
    return len(wanted.keys() | found.keys()) - alike


def filled(tree: Params, arrays: Mapping[str, np.ndarray], where: str) -> Params:
    """Returns the tree with an array for each leaf, in the leaf's type.

    Args:
        tree: of arrays, or of shapes and types.
        arrays: as `variables_in` returns them.
        where: they come from, for the message.

    Raises:
        CheckpointError: they do not fit; the message names every array that is missing, unexpected, or of another
            shape or type.
    """
    if problems := misfits(tree, arrays):
        raise CheckpointError(f"{where} does not fit the network: {'; '.join(problems)}")
    found, structure = _found(tree, arrays), jax.tree.structure(tree)
    leaves = [jnp.asarray(found[name], leaf.dtype) for name, leaf in _expected(tree).items()]
    return jax.tree.unflatten(structure, leaves)


def _expected(tree: Params) -> dict[str, jax.ShapeDtypeStruct]:
    shapes = [jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in jax.tree.leaves(tree)]
    return dict(zip(map(_plain, leaf_names(tree)), shapes, strict=True))


def _found(tree: Params, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = leaf_names(tree)
    collections = dict.fromkeys([COLLECTION, *(name.partition("/")[0] for name in names)])
    found = {_plain(name): array for name, array in collections_of(arrays, tuple(collections)).items()}
    return _apart(found, {_plain(name) for name in names}, tuple(collections))


def _apart(
    found: Mapping[str, np.ndarray], wanted: Collection[str], collections: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """Puts what NNX keeps in one tree into the network's collections, and leaves the state of random streams out."""
    sorted_in = {}
    for name, array in found.items():
        places = [name, *(f"{collection}/{name}" for collection in collections)]
        place = next((place for place in places if place in wanted), name)
        if place in wanted or RANDOM not in name.split("/"):
            sorted_in[place] = array
    return sorted_in


def _plain(name: str) -> str:
    # One network has one set of names, with or without the collection, in Linen and in NNX.
    return name.removeprefix(f"{COLLECTION}/").removesuffix("/value")


def _below(arrays: Mapping[str, Any], top: str) -> dict[str, Any]:
    return {name.removeprefix(f"{top}/"): array for name, array in arrays.items() if name.startswith(f"{top}/")}


def _is_float(dtype: np.dtype) -> bool:
    return bool(jnp.issubdtype(dtype, jnp.floating))
