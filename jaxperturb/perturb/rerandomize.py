"""Going back: weights take the values of an initialiser's draw, or those of another network of the same form."""

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from jaxperturb.errors import PerturbationError, did_you_mean
from jaxperturb.perturb.given import leaf_for, matching_leaves
from jaxperturb.perturb.scope import Count, Layers, Level, Norms, Shared, Tensor, Where, entries_to_select, touched
from jaxperturb.random.keys import Stream, stream_words
from jaxperturb.random.permutation import Permutation
from jaxperturb.random.prng import uniform
from jaxperturb.trees import replace_leaves
from jaxperturb.types import AnyArray, Key, Params, Scalar, Words

# name -> (variance times fan, which fan); each with normal numbers or uniform ones
_SCALES = {"lecun": (1.0, "in"), "he": (2.0, "in"), "glorot": (1.0, "average")}
INITIALIZERS = tuple(f"{name}_{kind}" for name in _SCALES for kind in ("normal", "uniform"))

_STD_OF_TRUNCATED = 0.87962566103423978  # standard deviation of a standard normal number that is cut off at 2


@dataclass(frozen=True)
class _Initial:
    """How a tensor is initialised: ``std`` times numbers of unit variance, or a constant where that is 0."""

    std: float
    normal: bool
    constant: float = 0.0

    def __call__(self, words: Words, array: AnyArray) -> AnyArray:
        if self.std == 0:
            return jnp.full(array.shape, self.constant, jnp.float32)
        u = uniform(words, array.shape)
        if not self.normal:
            return jnp.float32(self.std * math.sqrt(3)) * u
        cut_off = jax.lax.erf_inv(jnp.float32(math.erf(math.sqrt(2))) * u)
        return jnp.float32(self.std * math.sqrt(2) / _STD_OF_TRUNCATED) * cut_off


def rerandomize(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    initializer: str = "lecun_normal",
    values: Params | None = None,
    scope: Shared = "each",
    count: Count = None,
    norms: Norms = None,
) -> Params:
    """Sets floor(level * n) weights of each tensor back to an initialiser's draw: did the layer have to learn?

    Biases and a norm's shift go back to 0, its scale to 1. One draw gives an entry the same value at all levels. With
    `values`, such as the weights before training, entries go back to those.

    Source: Zhang, Bengio and Singer (2019), "Are all layers created equal?", arXiv 1902.01996, for whole layers:
    "re-randomization" and, with `values`, "re-initialization"; layers that do not survive it they call critical.

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: fraction in [0, 1]; a float32 array is clipped to it.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are set back too.
        include_norm: whether scale and shift of a layer's norm are.
        initializer: ``lecun``, ``he`` or ``glorot`` with ``_normal`` (cut off at 2 standard deviations, as Flax's) or
            ``_uniform``; variance 1/fan_in, 2/fan_in, 2/(fan_in + fan_out).
        values: a tree like `params` with the values to go back to, instead; None for tensors that stay.
        scope: ``joint`` draws the places from all selected tensors together.
        count: number of weights of each tensor, instead of a level; also by name, ``{"conv1/kernel": 5, ...}``.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a level outside [0, 1], or neither or both of level and count.
        PerturbationError: an unknown initialiser, or no values for a selected tensor.
        LayerError: a pattern that matches no layer, a tree without layers, or values that do not fit it.
    """
    if initializer not in INITIALIZERS:
        near, known = did_you_mean(initializer, INITIALIZERS), ", ".join(INITIALIZERS)
        raise PerturbationError(f"unknown initializer {initializer!r}{near} (known: {known})")
    where, changed = Where(layers, include_bias, include_norm, scope, norms), {}
    given = None if values is None else matching_leaves(params, values, "values")
    for tensor, array in touched(params, where):
        k = entries_to_select(level, count, tensor.population, tensor.n)
        select = stream_words(tensor.population_words(key), Stream.SELECT)
        own = stream_words(tensor.words(key), Stream.VALUES)
        new = None if given is None else leaf_for(given, tensor, "values")
        changed[tensor.leaf.index] = _set_back(
            _initial(tensor, initializer), tensor.n, tensor.offset, select, own, jnp.uint32(k), array, new
        )
    return replace_leaves(params, changed)


def _initial(tensor: Tensor, initializer: str) -> _Initial:
    name, _, kind = initializer.partition("_")
    if tensor.leaf is not tensor.layer.weight:
        return _Initial(0.0, False, float(tensor.leaf.name == "norm/scale"))
    scale, fan = _SCALES[name]
    layer = tensor.layer
    fan_in, fan_out = layer.weight.size / layer.units, layer.weight.size / layer.inputs
    return _Initial(math.sqrt(scale / (fan_in if fan == "in" else (fan_in + fan_out) / 2)), kind == "normal")


@partial(jax.jit, static_argnums=(0, 1, 2))
def _set_back(
    initial: _Initial, n: int, offset: int, select: Words, own: Words, k: Scalar, array: AnyArray, new: AnyArray | None
) -> AnyArray:
    chosen = Permutation(select, n).mask(k, array.shape, offset)
    return jnp.where(chosen, (initial(own, array) if new is None else new).astype(array.dtype), array)
