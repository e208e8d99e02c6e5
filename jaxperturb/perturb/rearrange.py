"""Rearrangements: weights take the values of others, change places, or change sign."""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from jaxperturb.perturb.choose import replace_entries
from jaxperturb.perturb.scope import Count, Layers, Level, Norms, Shared, Tensor, Where, entries_to_select, touched
from jaxperturb.random.keys import Stream, stream_words
from jaxperturb.random.permutation import Permutation
from jaxperturb.trees import replace_leaves
from jaxperturb.types import AnyArray, Key, Params, Scalar, Words


def resample(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    scope: Shared = "each",
    count: Count = None,
    norms: Norms = None,
) -> Params:
    """Gives floor(level * n) weights of each tensor the values of others: is it their distribution that counts?

    The places, and the values, are drawn without replacement and independently from all n of the intact tensor: a
    place may draw its own value, and a value may stand twice afterwards, once old and once new.

    Source: the kind ``draw`` of the code of Cheney, Schrimpf and Kreiman (2017), arXiv 1703.08245.

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: fraction in [0, 1]; a float32 array is clipped to it.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are drawn too, among themselves.
        include_norm: whether scale and shift of a layer's norm are.
        scope: ``joint`` draws the places from all selected tensors together; values come from the tensor itself.
        count: number of weights of each tensor, instead of a level; also by name, ``{"conv1/kernel": 5, ...}``.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a level outside [0, 1], or neither or both of level and count.
        LayerError: a pattern that matches no layer, or a tree without layers.
    """
    return replace_entries(key, params, level, count, Where(layers, include_bias, include_norm, scope, norms), _others)


def shuffle(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    scope: Shared = "each",
    count: Count = None,
    norms: Norms = None,
) -> Params:
    """Lets floor(level * n) weights of each tensor change places: is it the values, or their arrangement?

    The chosen weights go round one random cycle: each takes the value of the next one, and the last that of the first.
    So each gets another's value, the values stay the same as a whole, and a larger level gives all but one of the
    places of a smaller one the same values as that does. Of one chosen weight nothing changes.

    Source: Zhang, Bengio and Singer (2019), "Are all layers created equal?", arXiv 1902.01996, set layers back to
    other values; that the same ones are kept in other places is the control that Frankle, Dziugaite, Roy and Carbin
    (2021), "Pruning neural networks at initialization: why are we missing the mark?", arXiv 2009.08576, use for masks.

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: fraction in [0, 1]; a float32 array is clipped to it.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are shuffled too, among themselves.
        include_norm: whether scale and shift of a layer's norm are.
        scope: ``joint`` shuffles all selected tensors as if they were one: values move from layer to layer.
        count: number of weights of each tensor, instead of a level; also by name, ``{"conv1/kernel": 5, ...}``.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a level outside [0, 1], or neither or both of level and count.
        LayerError: a pattern that matches no layer, or a tree without layers.
    """
    populations: dict[str, list[tuple[Tensor, AnyArray]]] = {}
    for tensor, array in touched(params, Where(layers, include_bias, include_norm, scope, norms)):
        populations.setdefault(tensor.population, []).append((tensor, array))
    changed: dict[int, AnyArray] = {}
    for name, members in populations.items():
        tensors, arrays = zip(*members, strict=True)
        k = entries_to_select(level, count, name, tensors[0].n)
        words = stream_words(tensors[0].population_words(key), Stream.SELECT)
        moved = _moved(tensors[0].n, words, jnp.uint32(k), arrays)
        changed |= {tensor.leaf.index: array for tensor, array in zip(tensors, moved, strict=True)}
    return replace_leaves(params, changed)


def sign_flip(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    scope: Shared = "each",
    count: Count = None,
    norms: Norms = None,
) -> Params:
    """Changes the sign of floor(level * n) weights of each tensor: what are right sizes worth with wrong signs?

    Source: Zhou, Lan, Liu and Yosinski (2019), "Deconstructing lottery tickets: zeros, signs, and the supermask",
    arXiv 1905.01067, where signs alone make a network trainable.

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: fraction in [0, 1]; a float32 array is clipped to it.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are drawn too.
        include_norm: whether scale and shift of a layer's norm are.
        scope: ``joint`` draws from all selected tensors as if they were one.
        count: number of weights of each tensor, instead of a level; also by name, ``{"conv1/kernel": 5, ...}``.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a level outside [0, 1], or neither or both of level and count.
        LayerError: a pattern that matches no layer, or a tree without layers.
    """
    return replace_entries(key, params, level, count, Where(layers, include_bias, include_norm, scope, norms), _negated)


def _others(words: Words, array: AnyArray) -> AnyArray:
    # A permutation of all entries, looked up at the chosen ones, is a sample without replacement of any size.
    return array.ravel()[Permutation(stream_words(words, Stream.VALUES), array.size).walk()].reshape(array.shape)


def _negated(words: Words, array: AnyArray) -> AnyArray:
    del words
    return -array


@partial(jax.jit, static_argnums=0)
def _moved(n: int, words: Words, k: Scalar, arrays: Sequence[AnyArray]) -> list[AnyArray]:
    permutation = Permutation(words, n)
    flat = jnp.concatenate([array.ravel() for array in arrays])
    # Where nothing is chosen, the place of the next entry may lie outside.
    following = flat.at[permutation.cycle(k)].get(mode="clip")
    flat = jnp.where(permutation.mask(k, (n,)), following, flat)
    ends = [sum(array.size for array in arrays[:i]) for i in range(1, len(arrays))]
    parts = jnp.split(flat, ends)
    return [part.reshape(array.shape).astype(array.dtype) for part, array in zip(parts, arrays, strict=True)]
