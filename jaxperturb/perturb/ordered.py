"""Knockouts in an order: the smallest or largest weights go first, or those of the highest score.

The place of the k-th in the order is found digit by digit from counts, exactly and without a sort, and among equal ones
by their index; so k weights go at every level, and those of a lower level are among them.
"""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Bool, UInt32

from jaxperturb.errors import PerturbationError
from jaxperturb.perturb.given import leaf_for, matching_leaves
from jaxperturb.perturb.scope import Count, Layers, Level, Norms, Shared, Tensor, Where, entries_to_select, touched
from jaxperturb.random.prng import flat_index
from jaxperturb.trees import replace_leaves
from jaxperturb.types import AnyArray, Key, Params, Scalar

_DIGITS = 2**16  # a 32-bit word has two of them

Ranking = Callable[[AnyArray], AnyArray]  # array -> 32-bit words in the order of its entries


def magnitude_knockout(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    order: str = "smallest",
    scope: Shared = "each",
    count: Count = None,
    norms: Norms = None,
) -> Params:
    """Sets the floor(level * n) smallest weights of each tensor to zero: is damage at random worse than pruning?

    Smallest by absolute value; among equal ones the lower index goes first (row-major). All draws are one.

    Source: Han, Pool, Tran and Dally (2015), "Learning both weights and connections for efficient neural networks",
    arXiv 1506.02626; there the network is trained again afterwards.

    Args:
        key: of the draw; it does not matter.
        params: a tree of weights (see `jaxperturb.trees`).
        level: fraction in [0, 1]; a float32 array is clipped to it.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are ordered too, among themselves.
        include_norm: whether scale and shift of a layer's norm are.
        order: ``smallest`` weights first, or ``largest``.
        scope: ``joint`` puts all selected tensors into one order, equal ones by their layers' names.
        count: number of weights of each tensor, instead of a level; also by name, ``{"conv1/kernel": 5, ...}``.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a level outside [0, 1], or neither or both of level and count.
        PerturbationError: an unknown order.
        LayerError: a pattern that matches no layer, or a tree without layers.
    """
    del key
    largest, where = _is_largest(order), Where(layers, include_bias, include_norm, scope, norms)
    return _zero_first(
        params, level, count, where, _magnitudes, largest, [array for _, array in touched(params, where)]
    )


def saliency_knockout(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    scores: Params | None = None,
    order: str = "largest",
    scope: Shared = "each",
    count: Count = None,
    norms: Norms = None,
) -> Params:
    """Sets the floor(level * n) weights of each tensor with the highest scores to zero: how much hangs on a few?

    A score says how much a weight matters. In a study it is that of `jaxperturb.saliency` on the first 256 images of
    the data set's study order. Among equal scores the lower index goes first (row-major); a NaN is larger than all.

    Source: |weight * gradient| is the first-order criterion of Molchanov, Tyree, Karras, Aila and Kautz (2017),
    "Pruning convolutional neural networks for resource efficient inference", arXiv 1611.06440, and the connection
    sensitivity of Lee, Ajanthan and Torr (2019), "SNIP", arXiv 1810.02340.

    Args:
        key: of the draw; it does not matter.
        params: a tree of weights (see `jaxperturb.trees`).
        level: fraction in [0, 1]; a float32 array is clipped to it.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are ordered too, among themselves.
        include_norm: whether scale and shift of a layer's norm are.
        scores: a tree like `params` with a score for each weight, compared as float32; None for tensors that stay.
        order: ``largest`` scores first, or ``smallest``.
        scope: ``joint`` puts all selected tensors into one order, equal ones by their layers' names.
        count: number of weights of each tensor, instead of a level; also by name, ``{"conv1/kernel": 5, ...}``.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a level outside [0, 1], or neither or both of level and count.
        PerturbationError: an unknown order, or no scores.
        LayerError: a pattern that matches no layer, a tree without layers, or scores that do not fit it.
    """
    del key
    largest, where = _is_largest(order), Where(layers, include_bias, include_norm, scope, norms)
    if scores is None:
        raise PerturbationError(
            "saliency_knockout needs data: pass scores=, a tree like the params, such as jaxperturb.saliency gives"
        )
    found = matching_leaves(params, scores, "scores")
    given = [leaf_for(found, tensor, "scores") for tensor, _ in touched(params, where)]
    return _zero_first(params, level, count, where, _scores, largest, given)


def _is_largest(order: str) -> bool:
    if order not in ("smallest", "largest"):
        raise PerturbationError(f"expected order 'smallest' or 'largest', got {order!r}")
    return order == "largest"


def _zero_first(
    params: Params,
    level: Level,
    count: Count,
    where: Where,
    ranking: Ranking,
    largest: bool,
    ranked: Sequence[AnyArray],
) -> Params:
    """Returns the tree without the first k entries of each population, in the order of arrays beside the tensors."""
    populations: dict[str, list[tuple[Tensor, AnyArray, AnyArray]]] = {}
    for (tensor, array), beside in zip(touched(params, where), ranked, strict=True):
        populations.setdefault(tensor.population, []).append((tensor, array, beside))
    changed: dict[int, AnyArray] = {}
    for name, members in populations.items():
        tensors, arrays, besides = zip(*members, strict=True)
        n, offsets = tensors[0].n, tuple(tensor.offset for tensor in tensors)
        k = jnp.uint32(entries_to_select(level, count, name, n))
        zeroed = _zeroed(ranking, largest, n, offsets, k, arrays, besides)
        changed |= {tensor.leaf.index: array for tensor, array in zip(tensors, zeroed, strict=True)}
    return replace_leaves(params, changed)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _zeroed(
    ranking: Ranking,
    largest: bool,
    n: int,
    offsets: tuple[int, ...],
    k: Scalar,
    arrays: Sequence[AnyArray],
    ranked: Sequence[AnyArray],
) -> list[AnyArray]:
    words = [ranking(array) for array in ranked]
    chosen = _first([~word for word in words] if largest else words, n, offsets, k)
    return [jnp.where(mask, jnp.zeros((), array.dtype), array) for mask, array in zip(chosen, arrays, strict=True)]


def _magnitudes(array: AnyArray) -> UInt32[AnyArray, "..."]:
    # Without its sign, a float's bits are in the order of its value.
    return jax.lax.bitcast_convert_type(jnp.abs(array.astype(jnp.float32)), jnp.uint32)


def _scores(array: AnyArray) -> UInt32[AnyArray, "..."]:
    wide = array.astype(jnp.float32)
    wide = jnp.where(jnp.isnan(wide), jnp.float32(jnp.nan), jnp.where(wide == 0, jnp.float32(0), wide))
    word = jax.lax.bitcast_convert_type(wide, jnp.uint32)
    return word ^ jnp.where(word >> 31 == 1, jnp.uint32(0xFFFFFFFF), jnp.uint32(0x80000000))


def _first(
    words: Sequence[UInt32[AnyArray, "..."]], n: int, offsets: Sequence[int], k: UInt32[AnyArray, ""]
) -> list[Bool[AnyArray, "..."]]:
    """Returns which entries are the first k of all n, by their words and then by their place."""
    places = [flat_index(word.shape) + jnp.uint32(offset) for word, offset in zip(words, offsets, strict=True)]
    limit, left = _at(words, [jnp.ones(word.shape, bool) for word in words], k)
    equal = [word == limit for word in words]
    last = jax.lax.cond(left > 0, lambda: _at(places, equal, left)[0], lambda: jnp.uint32(0))
    return [
        (word < limit) | (same & (place < last)) | (k >= jnp.uint32(n))
        for word, same, place in zip(words, equal, places, strict=True)
    ]


def _at(
    words: Sequence[UInt32[AnyArray, "..."]], among: Sequence[Bool[AnyArray, "..."]], place: UInt32[AnyArray, ""]
) -> tuple[UInt32[AnyArray, ""], UInt32[AnyArray, ""]]:
    """Returns the word at a place in the ascending order of some, and how many equal to it come before that place."""
    found = jnp.uint32(0)
    for shift in (16, 0):
        digits = [(word >> shift) & jnp.uint32(_DIGITS - 1) for word in words]
        counts = jnp.zeros(_DIGITS, jnp.uint32)
        for digit, mask in zip(digits, among, strict=True):
            counts = counts.at[jnp.where(mask, digit, jnp.uint32(_DIGITS)).ravel()].add(jnp.uint32(1), mode="drop")
        up_to = jnp.cumsum(counts, dtype=jnp.uint32)
        digit_at = jnp.sum(up_to <= place, dtype=jnp.uint32)
        place = place - jnp.where(digit_at > 0, up_to[jnp.maximum(digit_at, 1) - 1], jnp.uint32(0))
        among = [mask & (digit == digit_at) for digit, mask in zip(digits, among, strict=True)]
        found = found | (digit_at << shift)
    return found, place
