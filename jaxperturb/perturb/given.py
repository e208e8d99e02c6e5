"""Trees of arrays that a caller gives beside the weights: scores of weights, values that they go back to."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxperturb.errors import LayerError, PerturbationError
from jaxperturb.perturb.scope import Tensor
from jaxperturb.types import AnyArray, Params


def matching_leaves(params: Params, given: Params, name: str) -> list[AnyArray | None]:
    """Returns the leaves of a given tree in the order of those of the params; None where it holds None.

    Args:
        params: the tree of weights.
        given: of the same structure, with an array of the same shape or None for each leaf.
        name: of the option, for messages.

    Raises:
        LayerError: a tree of another structure, or an array of another shape.
    """
    leaves, structure = jax.tree.flatten(params)
    other: Any = jax.tree.structure(given, is_leaf=_is_none)
    if other != structure:
        raise LayerError(f"expected {name} as a tree of the structure of the params, with None for tensors that stay")
    found = jax.tree.leaves(given, is_leaf=_is_none)
    for leaf, array in zip(leaves, found, strict=True):
        if array is not None and jnp.shape(array) != jnp.shape(leaf):
            raise LayerError(f"{name}: expected an array {list(jnp.shape(leaf))}, got {list(jnp.shape(array))}")
    return found


def leaf_for(found: list[AnyArray | None], tensor: Tensor, name: str) -> AnyArray:
    """Returns the given array of a tensor, or raises `PerturbationError` where there is none."""
    array = found[tensor.leaf.index]
    if array is None:
        whose = f"{tensor.layer.name}/{tensor.leaf.name}"
        raise PerturbationError(f"expected an array for {whose} in {name}, got None; leave the tensor out or give one")
    return jnp.asarray(array)


def _is_none(node: object) -> bool:
    return node is None
