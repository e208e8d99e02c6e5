"""Ablation of units to their mean: the next layer gets what it gets from them on average, whatever the image."""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from jaxperturb.errors import LayerError, PerturbationError
from jaxperturb.perturb.choose import along, chosen_units, given_units, only_selection
from jaxperturb.perturb.scope import Count, Layers, Level, Norms, Shared, Where
from jaxperturb.trees import Layer, Leaf, replace_leaves
from jaxperturb.types import AnyArray, Key, Params


def mean_ablation(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    means: Mapping[str, AnyArray] | None = None,
    scope: Shared = "each",
    count: Count = None,
    units: Sequence[int] | None = None,
    norms: Norms = None,
) -> Params:
    """Fixes floor(level * units) of a layer's units at their mean: is it their signal that counts, or their level?

    A removed unit takes away its average too, to which the next layer is used; here that stays. Incoming weights, and
    the scale of the unit's norm, become 0; its bias, or the shift of its norm, becomes the mean of its activation after
    norm and ReLU. That is not below 0, so ReLU passes it, and the next layer receives it at every image and position.
    The units are those that `node_knockout` takes with the same key, level and layers.

    In a study the means are those of `jaxperturb.mean_activations` on the first 256 images of the data set's study
    order.

    Source: Morcos, Barrett, Rabinowitz and Botvinick (2018), "On the importance of single directions for
    generalization", arXiv 1803.06959, who clamp units to fixed values.

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: fraction in [0, 1]; a float32 array is clipped to it.
        layers: names or `fnmatch` patterns.
        means: by layer, a mean for each unit.
        scope: ``joint`` draws from the units of all selected layers together.
        count: number of units of each layer, instead of a level; also by name, ``{"conv1": 5, ...}``.
        units: exactly these units of each layer, by number from 0, instead.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a level outside [0, 1], not exactly one of level, count and units, or a unit that is not there.
        PerturbationError: no means.
        LayerError: a pattern that matches no layer, a tree without layers, means that do not fit, or a layer with
            neither a bias nor a norm's shift.
    """
    if means is None:
        raise PerturbationError(
            "mean_ablation needs data: pass means=, by layer a mean for each unit, as jaxperturb.mean_activations gives"
        )
    chosen = Where(layers, scope=scope, norms=norms).chosen(params)
    if units is not None:
        only_selection(level, count)
        fixed = given_units(chosen, units, False)
    else:
        fixed = chosen_units(key, chosen, level, count, scope == "joint", False)
    leaves, changed = jax.tree.leaves(params), {}
    for layer in chosen:
        shift, own = shift_of(layer), _means_of(means, layer)
        for leaf in layer.leaves(include_norm=True):
            array = jnp.asarray(leaves[leaf.index])
            wanted = own.reshape(leaf.shape).astype(array.dtype) if leaf is shift else jnp.zeros((), array.dtype)
            changed[leaf.index] = jnp.where(along(fixed[layer.name], leaf.unit_axis, array.ndim), wanted, array)
    return replace_leaves(params, changed)


def shift_of(layer: Layer) -> Leaf:
    """Returns the tensor whose value a unit without weights emits: the shift of its norm, or its bias.

    Raises:
        LayerError: there is none.
    """
    if layer.norm:
        shift = next((leaf for leaf in layer.norm if leaf.name == "norm/bias"), None)
        lacks = "a norm without a shift (bias)"
    else:
        shift, lacks = layer.bias, "neither a bias nor a norm"
    if shift is None:
        raise LayerError(
            f"layer {layer.name!r} has {lacks}, so no constant can be given to its units; use node_knockout, or name"
            " its norm by norms="
        )
    return shift


def _means_of(means: Mapping[str, AnyArray], layer: Layer) -> AnyArray:
    if layer.name not in means:
        raise LayerError(f"expected means for layer {layer.name!r}, got those of {', '.join(means) or 'no layer'}")
    own = jnp.asarray(means[layer.name])
    if own.shape != (layer.units,):
        raise LayerError(f"means of {layer.name!r}: expected one for each of {layer.units} units, got {own.shape}")
    return own
