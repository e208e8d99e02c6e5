"""Trees of a framework as one plain tree of variables, ``{"params": …, "batch_stats": …}``, and back."""

import functools
import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxperturb.trees import leaf_names, nested
from jaxperturb.types import Params

# What the arguments are called that tell training from use, and their values in use.
IN_USE = {
    "train": False,
    "training": False,
    "is_training": False,
    "deterministic": True,
    "use_running_average": True,
    "inference": True,
    "key": None,
}


@dataclass(frozen=True)
class Collections:
    """Where each array of a framework's trees is in the tree of variables.

    Attributes:
        structure: of the trees.
        names: the path of each of their leaves in the tree of variables, which begins with its collection.
    """

    structure: Any
    names: tuple[str, ...]

    @classmethod
    def of(cls, trees: Mapping[str, Params]) -> "Collections":
        """Returns the places of trees that are named by their collections."""
        names = (f"{collection}/{name}" for collection, tree in trees.items() for name in leaf_names(tree))
        return cls(jax.tree.structure(tuple(trees.values())), tuple(names))

    def variables(self, trees: Mapping[str, Params]) -> Params:
        """Returns the arrays as nested dictionaries; a collection without arrays is left out."""
        return nested(dict(zip(self.names, jax.tree.leaves(tuple(trees.values())), strict=True)))

    def trees(self, variables: Params) -> tuple[Params, ...]:
        """Returns the trees with the arrays of a tree of variables."""
        leaves = [functools.reduce(operator.getitem, name.split("/"), variables) for name in self.names]
        return tuple(jax.tree.unflatten(self.structure, leaves))


def is_number_array(leaf: object) -> bool:
    """Says whether a leaf is an array of numbers or booleans: no key of JAX, no text."""
    return (
        isinstance(leaf, jax.Array | np.ndarray) and isinstance(leaf.dtype, np.dtype) and leaf.dtype.kind not in "OSU"
    )


def call_in_use(function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the keyword arguments with which a network is used, not trained: those given, and what `IN_USE` says."""
    parameters = inspect.signature(function).parameters.values()
    named = [parameter for parameter in parameters if parameter.kind is not inspect.Parameter.POSITIONAL_ONLY]
    usual = {p.name: IN_USE[p.name] for p in named if p.name in IN_USE and p.default is not IN_USE[p.name]}
    return usual | dict(given)
