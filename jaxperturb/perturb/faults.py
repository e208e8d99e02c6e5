"""Faults of memories: bits of stored weights that flip, or are stuck."""

from collections.abc import Mapping
from functools import partial
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.errors import PerturbationError
from jaxperturb.perturb.inject import (
    Bits,
    Memory,
    Struck,
    changed_bits,
    format_bits,
    inject,
    parse_bits,
    places,
    room_for,
)
from jaxperturb.perturb.rates import faults_drawn, faults_of
from jaxperturb.perturb.request import Request
from jaxperturb.perturb.scope import Count, Layers, Level, Norms, Shared, Tensor, Where, touched
from jaxperturb.perturb.words import Word, check_granularity, decode, encode, scale_axis, scale_of, stored_with
from jaxperturb.random.keys import Stream, stream_words
from jaxperturb.trees import Leaf, replace_leaves
from jaxperturb.types import AnyArray, Key, Params, Scalar, Words


def bit_flip(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    word: str = "float32",
    bits: Bits = "all",
    granularity: str = "tensor",
    scope: Shared = "each",
    count: Count = None,
    norms: Norms = None,
) -> Params:
    """Flips each bit of the stored weights with probability ``level``: which rate of soft errors can a memory have?

    The weights are written as words, the faults hit the words, and the words are read again: activations stay as they
    are, and a weight may well become infinite or NaN. The number of faults in a draw is the binomial quantile of the
    draw's own uniform number, so it is right on average at every rate, none of it by force; the places are drawn
    without replacement; and a higher rate has the same faults and more.

    Source: Reagen et al. (2018), "Ares: a framework for quantifying the resilience of deep neural networks"; Li et
    al. (2017), "Understanding error propagation in deep learning neural network (DNN) accelerators and applications".

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: rate of faults per selected bit, in [0, 1]. A float32 array is clipped to it and stands for its shortest
            decimal, so 1e-8 is the same rate either way; the number of faults then comes from a call back to the host.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are hit too.
        include_norm: whether scale and shift of a layer's norm are.
        word: ``float32``, ``bfloat16``, ``float16``, ``int8``, ``int4`` or ``fixed(i,f)`` (see `Word.of`). Other words
            than float32 round the weights, hit or not; the network that is rounded alone is the reference.
        bits: ``all``, a bit, a list of bits, or a range: ``0:8`` is bits 0 to 7; 0 is the least significant. In a
            study, ``each`` stands for one perturbation for each bit.
        granularity: ``unit`` gives integer weights of each unit a scale of their own; biases and norms have one each.
        scope: ``joint`` draws from all selected tensors as if they were one.
        count: number of faults of each tensor, instead of a level; also by name, ``{"conv1/kernel": 5, ...}``.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a rate outside [0, 1], not exactly one of level and count, or more than 2**32 - 1 bits.
        PerturbationError: an unknown word, or bits that it does not have.
        LayerError: a pattern that matches no layer, or a tree without layers.
    """
    where = Where(layers, include_bias, include_norm, scope, norms)
    return _with_faults(key, params, level, count, where, Word.of(word), bits, granularity, None)


def stuck_at(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    word: str = "float32",
    bits: Bits = "all",
    value: int = 0,
    granularity: str = "tensor",
    scope: Shared = "each",
    count: Count = None,
    norms: Norms = None,
) -> Params:
    """Sets each bit of the stored weights to ``value`` with probability ``level``: what do broken cells do?

    As `bit_flip`, of which one draw has its faults in the same bits; a bit that has the value already is masked: the
    fault is counted as selected, and changes nothing.

    Source: Li et al. (2017), "Understanding error propagation in deep learning neural network (DNN) accelerators and
    applications"; Zhang et al. (2018), "Analyzing and mitigating the impact of permanent faults on a systolic array
    based neural network accelerator".

    Args:
        key: a key of any JAX implementation.
        params: a tree of weights (see `jaxperturb.trees`).
        level: rate of faults per selected bit, in [0, 1]; a float32 array as for `bit_flip`.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are hit too.
        include_norm: whether scale and shift of a layer's norm are.
        word: how weights are stored, as for `bit_flip`.
        bits: which bits of a word, as for `bit_flip`.
        value: 0 or 1.
        granularity: of the scale of integers, as for `bit_flip`.
        scope: ``joint`` draws from all selected tensors as if they were one.
        count: number of faults of each tensor, instead of a level; also by name, ``{"conv1/kernel": 5, ...}``.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: a rate outside [0, 1], not exactly one of level and count, or more than 2**32 - 1 bits.
        PerturbationError: an unknown word, bits that it does not have, or a value that is not 0 or 1.
        LayerError: a pattern that matches no layer, or a tree without layers.
    """
    where = Where(layers, include_bias, include_norm, scope, norms)
    return _with_faults(key, params, level, count, where, Word.of(word), bits, granularity, _stuck_value(value))


def fault_counts(request: Request) -> dict[str, int]:
    """Returns how many faults each population has in the draw of a request."""
    found = {}
    for tensor, memory in _memories(request):
        if tensor.population not in found:
            found[tensor.population] = faults_drawn(request.key, request.level, tensor, memory.n)
    return found


def faults_selected(request: Request) -> int:
    """Returns how many faults the draw of a request has."""
    return sum(fault_counts(request).values())


def fault_places(request: Request) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Returns where the faults of a request are: by the leaf's index, entries in row-major order, and their bits."""
    counts, found = fault_counts(request), {}
    for tensor, memory in _memories(request):
        select = stream_words(tensor.population_words(request.key), Stream.SELECT)
        found[tensor.leaf.index] = places(select, counts[tensor.population], memory, tensor.leaf.size)
    return found


def struck_words(options: Mapping[str, Any], leaf: Leaf, array: AnyArray) -> Struck:
    """Returns what becomes of single words of a tensor, without a pass over it.

    Args:
        options: of the perturbation.
        leaf: the tensor.
        array: its intact values.

    Returns:
        ``(entries, bits) -> (entries that are hit, ascending, their values after)``, for faults as `fault_places` gives
        them.
    """
    word, value = Word.of(options["word"]), _stuck_value(options["value"]) if "value" in options else None
    scales = np.broadcast_to(_scale(word, scale_axis(leaf, options["granularity"]), array), leaf.shape)
    values = np.asarray(array)

    def struck(entries: np.ndarray, bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        hit, group = np.unique(entries, return_inverse=True)
        masks = np.zeros(len(hit), np.uint32)
        np.bitwise_or.at(masks, group, np.uint32(1) << bits.astype(np.uint32))
        at = np.unravel_index(hit, leaf.shape)
        given = (np.pad(some, (0, room_for(len(hit)) - len(hit))) for some in (values[at], scales[at], masks))
        return hit, np.asarray(_struck(word, value, *given))[: len(hit)]

    return struck


def encodes(options: Mapping[str, Any]) -> bool:
    """Whether options ask for words that round the weights."""
    return Word.of(options["word"]).kind != "float32"


def fault_variants(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the options in their one form; with ``bits=each``, once for each bit of the word.

    Raises:
        PerturbationError: an unknown word, bits that it does not have, or another option that does not fit.
    """
    word = Word.of(options["word"])
    check_granularity(options["granularity"], word)
    if "value" in options:
        _stuck_value(options["value"])
    given = options["bits"]
    some = [(bit,) for bit in range(word.bits)] if given == "each" else [parse_bits(given, word.bits)]
    return [dict(options) | {"word": word.name, "bits": format_bits(bits, word.bits)} for bits in some]


def _with_faults(
    key: Key,
    params: Params,
    level: Level,
    count: Count,
    where: Where,
    word: Word,
    bits: Bits,
    granularity: str,
    value: int | None,
) -> Params:
    check_granularity(granularity, word)
    selected, changed = parse_bits(bits, word.bits), {}
    for tensor, array in touched(params, where):
        memory = Memory(selected, tensor.n, tensor.offset).check(tensor.population)
        k = faults_of(key, level, count, tensor, memory.n)
        select = stream_words(tensor.population_words(key), Stream.SELECT)
        axis = scale_axis(tensor.leaf, granularity)
        changed[tensor.leaf.index] = _faulty(word, memory, axis, value, select, jnp.uint32(k), array)
    return replace_leaves(params, changed)


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _faulty(
    word: Word, memory: Memory, axis: int | None, value: int | None, select: Words, k: Scalar, array: AnyArray
) -> AnyArray:
    stored, scale = encode(array, word, axis)
    return decode(inject(stored, select, k, memory, value), scale, word, array.dtype)


@partial(jax.jit, static_argnums=(0, 1))
def _scale(word: Word, axis: int | None, array: AnyArray) -> AnyArray:
    return scale_of(array, word, axis)


@partial(jax.jit, static_argnums=(0, 1))
def _struck(word: Word, value: int | None, values: AnyArray, scales: AnyArray, masks: AnyArray) -> AnyArray:
    stored = stored_with(values, scales, word)
    return decode(changed_bits(value)(stored, masks.astype(stored.dtype)), scales, word, values.dtype)


def _memories(request: Request) -> list[tuple[Tensor, Memory]]:
    bits = parse_bits(request.options["bits"], Word.of(request.options["word"]).bits)
    tensors = request.where.tensors(request.layers)
    return [(tensor, Memory(bits, tensor.n, tensor.offset).check(tensor.population)) for tensor in tensors]


def _stuck_value(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value not in (0, 1):
        raise PerturbationError(f"expected a value of 0 or 1 that bits are stuck at, got {value!r}")
    return int(value)
