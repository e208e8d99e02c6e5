"""A choice among the weights that are not 0, for pruned networks: exactly k of them, nested, by the same permutation.

How many there are is known only from the weights, so the k-th lowest value is found by bisection, in 32 passes.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt32

from jaxperturb.errors import LevelError
from jaxperturb.levels import as_level, check_range, count_of, traced_count_of
from jaxperturb.perturb.choose import Values
from jaxperturb.perturb.scope import Count, Level, Tensor, Where, given_count, touched, traced_level
from jaxperturb.random.keys import Stream, stream_words
from jaxperturb.random.permutation import Permutation
from jaxperturb.trees import replace_leaves
from jaxperturb.types import AnyArray, Key, Params, Scalar, Words


def replace_nonzero(key: Key, params: Params, level: Level, count: Count, where: Where, values: Values) -> Params:
    """Returns the tree with k of the entries that are not 0 replaced, in each population.

    A Python level is exact where the weights are known, and rounded to millionths where they are traced.

    Args:
        key: of the draw.
        params: the tree.
        level: fraction of the entries that are not 0.
        count: their number, instead.
        where: what is touched.
        values: what entries become.
    """
    populations: dict[str, list[tuple[Tensor, AnyArray]]] = {}
    for tensor, array in touched(params, where):
        populations.setdefault(tensor.population, []).append((tensor, array))
    changed = {}
    for name, members in populations.items():
        tensors, arrays = [tensor for tensor, _ in members], [array for _, array in members]
        total = jnp.sum(jnp.stack([jnp.count_nonzero(array) for array in arrays])).astype(jnp.uint32)
        k = _number(level, count, name, total)
        words = stream_words(tensors[0].population_words(key), Stream.SELECT)
        offsets = tuple(tensor.offset for tensor in tensors)
        chosen = _chosen(tensors[0].n, offsets, words, jnp.uint32(k), [array != 0 for array in arrays])
        for tensor, array, mask in zip(tensors, arrays, chosen, strict=True):
            changed[tensor.leaf.index] = jnp.where(mask, values(tensor.words(key), array), array)
    return replace_leaves(params, changed)


def nonzero_counts(arrays: Sequence[AnyArray], tensors: Sequence[Tensor], level: Decimal) -> dict[str, int]:
    """Returns how many of the entries that are not 0 a fraction selects, by population."""
    totals: dict[str, int] = {}
    for tensor, array in zip(tensors, arrays, strict=True):
        totals[tensor.population] = totals.get(tensor.population, 0) + int(np.count_nonzero(np.asarray(array)))
    return {name: count_of(level, total) for name, total in totals.items()}


def _number(level: Level, count: Count, name: str, total: UInt32[AnyArray, ""]) -> int | Scalar:
    known = not isinstance(total, jax.core.Tracer)
    if count is not None:
        if level is not None:
            raise LevelError("expected either a level or a count, got both")
        return given_count(count, name, int(total) if known else 2**32 - 1)
    if level is None:
        raise LevelError("expected either a level or a count, got neither")
    if isinstance(level, jax.Array | np.ndarray):
        return traced_count_of(traced_level(level), total)
    exact = check_range(as_level(level), Decimal(0), Decimal(1), "a fraction")
    return count_of(exact, int(total)) if known else traced_count_of(jnp.float32(float(exact)), total)


@partial(jax.jit, static_argnums=(0, 1))
def _chosen(n: int, offsets: tuple[int, ...], words: Words, k: Scalar, alive: list[AnyArray]) -> list[AnyArray]:
    permutation = Permutation(words, n)
    values = [permutation.values(mask.shape, offset) for mask, offset in zip(alive, offsets, strict=True)]

    def reached(limit: AnyArray) -> AnyArray:
        below = [jnp.sum((v <= limit) & mask, dtype=jnp.uint32) for v, mask in zip(values, alive, strict=True)]
        return jnp.sum(jnp.stack(below)) >= k

    def halve(i: AnyArray, limit: AnyArray) -> AnyArray:
        # The highest limit that is too low, bit by bit from the top; one more is the k-th lowest value.
        higher = limit | (jnp.uint32(1) << (31 - i).astype(jnp.uint32))
        return jnp.where(reached(higher - 1), limit, higher)

    limit = jax.lax.fori_loop(0, 32, halve, jnp.uint32(0))
    return [(v <= limit) & mask & (k > 0) for v, mask in zip(values, alive, strict=True)]
