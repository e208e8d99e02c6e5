"""Rearrangements: weights take the values of other weights of the same tensor."""

from jaxperturb.perturb.choose import replace_entries
from jaxperturb.perturb.scope import Count, Layers, Level, Norms, Shared, Where
from jaxperturb.random.keys import Stream, stream_words
from jaxperturb.random.permutation import Permutation
from jaxperturb.types import AnyArray, Key, Params, Words


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


def _others(words: Words, array: AnyArray) -> AnyArray:
    # A permutation of all entries, looked up at the chosen ones, is a sample without replacement of any size.
    return array.ravel()[Permutation(stream_words(words, Stream.VALUES), array.size).ranks(array.shape)]
