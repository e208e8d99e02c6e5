"""Knockouts: an exact share of synapses, or of whole units, is set to zero."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp

from jaxperturb.errors import PerturbationError
from jaxperturb.perturb.choose import (
    along,
    chosen_units,
    given_units,
    only_selection,
    replace_entries,
    replace_masked,
)
from jaxperturb.perturb.nonzero import replace_nonzero
from jaxperturb.perturb.scope import Count, Layers, Level, Norms, Shared, Where
from jaxperturb.trees import replace_leaves
from jaxperturb.types import AnyArray, Key, Params, Words


def synapse_knockout(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    among: Literal["all", "nonzero"] = "all",
    scope: Shared = "each",
    count: Count = None,
    mask: Params | None = None,
    norms: Norms = None,
) -> Params:
    """Sets floor(level * n) of the n weights of each tensor to zero: which layers can live without their synapses?

    Kernel and bias are drawn apart, each with its own n. A larger level removes the same weights and more.

    Source: Cheney, Schrimpf and Kreiman (2017), arXiv 1703.08245, "synapse knockout"; theirs draws by Python's
    `random.sample` from one stream, so that a mask depends on the loops around it.

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: fraction in [0, 1]; a float32 array is clipped to it.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are drawn too.
        include_norm: whether scale and shift of a layer's norm are.
        among: ``nonzero`` draws from the weights that are not 0 alone, and takes the level as their fraction: for
            pruned networks.
        scope: ``joint`` draws from all selected tensors as if they were one.
        count: number of weights of each tensor, instead of a level; also by name, ``{"conv1/kernel": 5, ...}``.
        mask: exactly these weights, instead: a tree like `params` of booleans, None where a tensor stays.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a level outside [0, 1], or not exactly one of level, count and mask.
        LayerError: a pattern that matches no layer, a tree without layers, or a mask that does not fit it.
    """
    where = Where(layers, include_bias, include_norm, scope, norms)
    if among not in ("all", "nonzero"):
        raise PerturbationError(f"expected among 'all' or 'nonzero', got {among!r}")
    if mask is not None:
        only_selection(level, count)
        return replace_masked(key, params, mask, where, _zeros)
    if among == "nonzero":
        return replace_nonzero(key, params, level, count, where, _zeros)
    return replace_entries(key, params, level, count, where, _zeros)


def node_knockout(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    axis: Literal["out", "in"] = "out",
    scope: Shared = "each",
    count: Count = None,
    units: Sequence[int] | None = None,
    norms: Norms = None,
) -> Params:
    """Silences floor(level * units) of a layer's units: can it live without whole features?

    A unit is one output channel or neuron. Its incoming weights and its bias are set to zero, and the scale and shift
    of its norm, so that the next layer receives exactly 0 from it.

    Source: Cheney, Schrimpf and Kreiman (2017), arXiv 1703.08245, "node knockout", as described there. Their code
    differs by two slips that are not repeated: in dense layers it also zeroes the *inputs* of the same numbers (75 %
    of a square layer at level 0.5), and in grouped convolutions the same units of both groups.

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: fraction in [0, 1]; a float32 array is clipped to it.
        layers: names or `fnmatch` patterns.
        include_bias: whether bias and norm of a removed unit go too; without it the unit emits a constant.
        axis: ``in`` cuts input channels or neurons off instead: the weights that read them, and no bias.
        scope: ``joint`` draws from the units of all selected layers together.
        count: number of units of each layer, instead of a level; also by name, ``{"conv1": 5, ...}``.
        units: exactly these units of each layer, by number from 0, instead.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a level outside [0, 1], not exactly one of level, count and units, or a unit that is not there.
        LayerError: a pattern that matches no layer, or a tree without layers.
    """
    if axis not in ("out", "in"):
        raise PerturbationError(f"expected axis 'out' or 'in', got {axis!r}")
    chosen = Where(layers, scope=scope, norms=norms).chosen(params)
    if units is not None:
        only_selection(level, count)
        dead = given_units(chosen, units, axis == "in")
    else:
        dead = chosen_units(key, chosen, level, count, scope == "joint", axis == "in")
    leaves, changed = jax.tree.leaves(params), {}
    for layer in chosen:
        whole = include_bias and axis == "out"
        for leaf in layer.leaves(whole, whole):
            array = jnp.asarray(leaves[leaf.index])
            axis_of_leaf = leaf.unit_axis if axis == "out" else layer.input_axis
            gone = along(dead[layer.name], axis_of_leaf, array.ndim)
            changed[leaf.index] = jnp.where(gone, jnp.zeros((), array.dtype), array)
    return replace_leaves(params, changed)


def _zeros(words: Words, array: AnyArray) -> AnyArray:
    del words
    return jnp.zeros((), array.dtype)
