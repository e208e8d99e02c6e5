"""Noise: every weight is moved, by an amount on the scale of its tensor."""

import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxperturb.perturb.scope import Layers, Level, Norms, Where, scale_of, touched
from jaxperturb.random.keys import Stream, stream_words
from jaxperturb.random.prng import normal
from jaxperturb.trees import replace_leaves
from jaxperturb.types import AnyArray, Key, Params, Scalar, Words


def gaussian_noise(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    norms: Norms = None,
) -> Params:
    """Adds normal noise of ``level`` times the tensor's standard deviation: do the exact values matter?

    ``w + level * std(w) * z``, with z standard normal and std the population standard deviation of the tensor; kernel
    and bias apart. One draw's z serves all levels. Computed in float32 and returned in the tensor's own type.

    Source: Cheney, Schrimpf and Kreiman (2017), arXiv 1703.08245, "weight perturbation"; theirs is not seeded and
    returns float64.

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: multiple of the standard deviation, 0 or more; a float32 array is clipped to that.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are moved too.
        include_norm: whether scale and shift of a layer's norm are.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a negative level, or one that is not a number.
        LayerError: a pattern that matches no layer, or a tree without layers.
    """
    scale = scale_of(level)
    where = Where(layers, include_bias, include_norm, norms=norms)
    changed = {
        tensor.leaf.index: _noisy(stream_words(tensor.words(key), Stream.NOISE), scale, array)
        for tensor, array in touched(params, where)
    }
    return replace_leaves(params, changed)


@jax.jit
def _noisy(words: Words, scale: Scalar, array: AnyArray) -> AnyArray:
    wide = array.astype(jnp.float32)
    return (wide + (scale * population_std(wide)) * normal(words, array.shape)).astype(array.dtype)


def population_std(array: Float[AnyArray, "..."]) -> Float[AnyArray, ""]:
    """Returns the population standard deviation, with gradient 0 where it is 0 (that of the root is infinite there)."""
    variance = jnp.mean(jnp.square(array - jnp.mean(array)))
    constant = variance == 0
    return jnp.where(constant, 0.0, jnp.sqrt(jnp.where(constant, 1.0, variance)))
