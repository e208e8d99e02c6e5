"""The common form of perturbations that choose entries or units of tensors, exactly k of n, and replace them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxperturb.errors import LayerError, LevelError
from jaxperturb.perturb.scope import JOINT, Count, Level, Where, entries_to_select, touched
from jaxperturb.random.keys import Stream, layer_words, stream_words
from jaxperturb.random.permutation import Permutation
from jaxperturb.trees import Layer, replace_leaves
from jaxperturb.types import AnyArray, Key, Params, Scalar, Words

# (key words of the tensor, array) -> what its entries become where they are chosen; a module's function, not a closure,
# since compiled programs are kept by it.
Values = Callable[[Words, AnyArray], AnyArray]


def replace_entries(key: Key, params: Params, level: Level, count: Count, where: Where, values: Values) -> Params:
    """Returns the tree with k entries of each population replaced, chosen by the keyed permutation.

    Args:
        key: of the draw.
        params: the tree.
        level: fraction of the entries.
        count: their number, instead.
        where: what is touched.
        values: what entries become.
    """
    changed = {}
    for tensor, array in touched(params, where):
        k = entries_to_select(level, count, tensor.population, tensor.n)
        words = stream_words(tensor.population_words(key), Stream.SELECT)
        changed[tensor.leaf.index] = _replaced(
            values, tensor.n, words, tensor.words(key), jnp.uint32(k), array, tensor.offset
        )
    return replace_leaves(params, changed)


def replace_masked(key: Key, params: Params, mask: Params, where: Where, values: Values) -> Params:
    """Returns the tree with exactly those entries replaced that are true in a tree of masks.

    Args:
        key: of the draw.
        params: the tree.
        mask: of the same structure; boolean arrays, or None for tensors that stay.
        where: what may be touched.
        values: what entries become.

    Raises:
        LayerError: a mask of another structure, shape or type.
    """
    masks = _mask_leaves(params, mask)
    changed = {}
    for tensor, array in touched(params, where):
        chosen = masks[tensor.leaf.index]
        if chosen is not None:
            changed[tensor.leaf.index] = jnp.where(chosen, values(tensor.words(key), array), array)
    return replace_leaves(params, changed)


def chosen_units(
    key: Key, layers: Sequence[Layer], level: Level, count: Count, joint: bool, inputs: bool
) -> dict[str, Bool[AnyArray, " units"]]:
    """Returns which units (or inputs) of each layer are chosen: from each, or jointly from all, sorted by name."""
    sizes = [layer.inputs if inputs else layer.units for layer in layers]
    found: dict[str, AnyArray] = {}
    for i, (layer, size) in enumerate(zip(layers, sizes, strict=True)):
        name, n, offset = (JOINT, sum(sizes), sum(sizes[:i])) if joint else (layer.name, size, 0)
        k = entries_to_select(level, count, name, n)
        words = stream_words(layer_words(key, name), Stream.SELECT)
        found[layer.name] = _mask(n, size, words, jnp.uint32(k), offset)
    return found


def given_units(layers: Sequence[Layer], units: Sequence[int], inputs: bool) -> dict[str, Bool[AnyArray, " units"]]:
    """Returns the same for units given by number.

    Raises:
        LevelError: a unit that a layer does not have.
    """
    found: dict[str, AnyArray] = {}
    for layer in layers:
        n = layer.inputs if inputs else layer.units
        if wrong := [unit for unit in units if not 0 <= unit < n]:
            raise LevelError(f"layer {layer.name!r} has units 0 to {n - 1}, and no unit {wrong[0]}")
        found[layer.name] = jnp.zeros(n, bool).at[jnp.asarray(units, jnp.int32)].set(True)
    return found


def only_selection(level: Level, count: Count) -> None:
    """Raises `LevelError` where an explicit selection comes with a level or a count."""
    if level is not None or count is not None:
        raise LevelError("expected one of level, count and an explicit selection, got two")


def along(mask: Bool[AnyArray, " units"], axis: int, dimensions: int) -> Bool[AnyArray, "..."]:
    """Returns a mask of units in the shape that broadcasts along an axis."""
    return mask.reshape([-1 if i == axis % dimensions else 1 for i in range(dimensions)])


@partial(jax.jit, static_argnums=(0, 1, 6))
def _replaced(values: Values, n: int, select: Words, own: Words, k: Scalar, array: AnyArray, offset: int) -> AnyArray:
    chosen = Permutation(select, n).mask(k, array.shape, offset)
    return jnp.where(chosen, values(own, array), array)


@partial(jax.jit, static_argnums=(0, 1, 4))
def _mask(n: int, size: int, words: Words, k: Scalar, offset: int) -> Bool[AnyArray, " units"]:
    return Permutation(words, n).mask(k, (size,), offset)


def _mask_leaves(params: Params, mask: Params) -> list[AnyArray | None]:
    leaves, structure = jax.tree.flatten(params)
    given: Any = jax.tree.structure(mask, is_leaf=_is_none)
    if given != structure:
        raise LayerError("expected a mask tree of the structure of the params, with None for tensors that stay")
    masks = jax.tree.leaves(mask, is_leaf=_is_none)
    for leaf, chosen in zip(leaves, masks, strict=True):
        if chosen is not None and (jnp.shape(chosen) != jnp.shape(leaf) or jnp.result_type(chosen) != jnp.bool_):
            came = f"{jnp.result_type(chosen)}{list(jnp.shape(chosen))}"
            raise LayerError(f"expected a mask of booleans {list(jnp.shape(leaf))}, got {came}")
    return masks


def _is_none(node: object) -> bool:
    return node is None
