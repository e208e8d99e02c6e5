"""A random choice of exactly k out of n, as a keyed permutation: nothing of size n is sorted, searched or kept.

Every entry 0..n-1 has a *value*; those with the k lowest are chosen. One key therefore gives nested choices, and one
set of values serves every k. Up to 2**16 entries the values are hashed counters and a sort finds the k-th. Above, the
values are a generalised Feistel network over Z_b x Z_a with a*b >= n (Black and Rogaway, "Ciphers with Arbitrary
Finite Domains", 2002): a permutation of 0..a*b-1, so that the k-th value is k itself but for the fewer than a phantoms
n..a*b-1, whose values are sorted. a is a power of two, so that its rounds need neither a product nor a remainder.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Integer, UInt32

from jaxperturb.random.prng import flat_index, hash_word
from jaxperturb.types import AnyArray, Words

HASHED_UP_TO = 2**16  # part of the semantics: below, finding the k-th value is cheap
ROUNDS = 8  # 4 rounds leave correlations between neighbours, 6 do not, 8 leave room

_ROUND_TAG = 0xA4093822


@dataclass(frozen=True)
class Permutation:
    """A keyed pseudo-random permutation of 0..n-1.

    Attributes:
        words: the two key words.
        n: number of entries, from 1 to 2**32 - 1.
        rounds: of the Feistel network; other than 8 only to test the tests.
    """

    words: Words
    n: int
    rounds: int = ROUNDS

    def mask(
        self, k: Integer[AnyArray, "*levels"] | int, shape: tuple[int, ...], offset: int = 0
    ) -> Bool[AnyArray, "..."]:
        """Returns which entries of an array are among the k chosen of all n.

        Exactly min(k, n) of n entries are; masks of larger k contain those of smaller.

        Args:
            k: how many are chosen; an array of numbers gives as many masks, in front.
            shape: of the array.
            offset: place of its first entry among the n, if it is a part of them.
        """
        return self.below(self.values(shape, offset), k)

    def values(self, shape: tuple[int, ...], offset: int = 0) -> UInt32[AnyArray, "..."]:
        """Returns the value of each entry of an array, all different."""
        index = flat_index(shape) + jnp.uint32(offset)
        return hash_word(self.words, index) if self._hashes else self._permute(index)

    def below(self, values: UInt32[AnyArray, "..."], k: Integer[AnyArray, "*levels"] | int) -> Bool[AnyArray, "..."]:
        """Returns which of the values are among the k lowest of all n, for each k."""
        k = jnp.asarray(k, jnp.uint32)
        limit = jnp.vectorize(self._threshold)(k)
        wide = (..., *(None for _ in range(values.ndim)))
        return (values < limit[wide]) | (k >= jnp.uint32(self.n))[wide]

    def ranks(self, shape: tuple[int, ...]) -> UInt32[AnyArray, "..."]:
        """Returns the permutation itself: the place of each entry's value among all n values."""
        values = self.values(shape)
        if self._hashes:
            order, places = jnp.argsort(values.ravel()), jnp.arange(self.n, dtype=jnp.uint32)
            return jnp.zeros(self.n, jnp.uint32).at[order].set(places).reshape(shape)
        return values - jnp.searchsorted(self._phantoms(), values.ravel()).astype(jnp.uint32).reshape(shape)

    def entries(self, ranks: UInt32[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
        """Returns the inverse permutation: the entries that have the given ranks, without a pass over all n."""
        if self._hashes:
            return jnp.argsort(self.values((self.n,))).astype(jnp.uint32)[ranks]
        phantoms = self._phantoms()
        reals_below = phantoms - jnp.arange(len(phantoms), dtype=jnp.uint32)
        return self._permute_back(ranks + jnp.searchsorted(reals_below, ranks, side="right").astype(jnp.uint32))

    def walk(self) -> UInt32[AnyArray, " n"]:
        """Returns another permutation of 0..n-1 made of the same values, without the search that ranks take.

        A value that is no entry is permuted again until it is one (Black and Rogaway's "cycle walking").
        """
        if self._hashes:
            return self.ranks((self.n,))
        outside = self._outside()
        # Few values are: they are walked on by themselves, and written to the entries that have them.
        ends = jax.lax.while_loop(
            lambda values: jnp.any(values >= self.n),
            lambda values: jnp.where(values >= self.n, self._permute(values), values),
            outside,
        )
        return jnp.asarray(self.values((self.n,))).at[self._permute_back(outside)].set(ends, mode="drop")

    def cycle(self, k: Integer[AnyArray, ""] | int) -> UInt32[AnyArray, " n"]:
        """Returns, for each of the k chosen entries, the one of the next rank, and for the last of them the first.

        For entries that are not chosen, any entry.
        """
        last = jnp.minimum(jnp.maximum(jnp.asarray(k, jnp.uint32), 1), jnp.uint32(self.n)) - 1
        if self._hashes:
            order = jnp.argsort(self.values((self.n,))).astype(jnp.uint32)
            after = jnp.zeros(self.n, jnp.uint32).at[order].set(jnp.roll(order, -1))
            return after.at[order[last]].set(order[0])
        phantoms = self._phantoms()
        # The next value is mostly one more; where that is a phantom's, it is the first after it that is none.
        next_real = jax.lax.while_loop(
            lambda values: jnp.any(self._is_phantom(values)),
            lambda values: values + self._is_phantom(values),
            phantoms,
        )
        first, end = self.entries(jnp.zeros(1, jnp.uint32)), self.entries(last[None])
        before = jnp.where(phantoms == 0, jnp.uint32(self.n), self._permute_back(phantoms - 1))
        after = jnp.where(before == end, first, self._permute_back(next_real))
        values = jnp.minimum(self.values((self.n,)), jnp.uint32(self._domain - 2))
        following = jnp.asarray(self._permute_back(values + 1))
        # One scatter for both: what is written to one entry only fuses with what follows, and makes that slow.
        return following.at[jnp.concatenate([before, end])].set(jnp.concatenate([after, first]), mode="drop")

    @property
    def _hashes(self) -> bool:
        return self.n <= HASHED_UP_TO

    @property
    def _sides(self) -> tuple[int, int]:
        """Numbers b and p of Z_b x Z_a, a = 2**p: as nearly square as a power of two allows, neither above 2**16."""
        p = round(math.log2(self.n) / 2)
        return -(-self.n >> p), p

    def _threshold(self, k: UInt32[AnyArray, ""]) -> UInt32[AnyArray, ""]:
        """A value with exactly k values below it, for k < n."""
        if self._hashes:
            return _limit(self.values((self.n,)), jnp.minimum(k, jnp.uint32(self.n - 1)))
        phantoms = self._phantoms()
        reals_below = phantoms - jnp.arange(len(phantoms), dtype=jnp.uint32)
        return k + jnp.sum(reals_below <= k, dtype=jnp.uint32)

    @property
    def _domain(self) -> int:
        b, p = self._sides
        return b << p

    def _outside(self) -> UInt32[AnyArray, " phantoms"]:
        return jnp.uint32(self.n) + jnp.arange(self._domain - self.n, dtype=jnp.uint32)

    def _phantoms(self) -> UInt32[AnyArray, " phantoms"]:
        return jnp.sort(self._permute(self._outside()))

    def _is_phantom(self, values: UInt32[AnyArray, "..."]) -> Bool[AnyArray, "..."]:
        return (values <= jnp.uint32(self._domain - 1)) & (self._permute_back(values) >= jnp.uint32(self.n))

    def _round_keys(self) -> list[UInt32[AnyArray, ""]]:
        keys = hash_word(self.words, jnp.arange(self.rounds, dtype=jnp.uint32), _ROUND_TAG)
        return [keys[i] for i in range(self.rounds)]

    def _permute(self, index: UInt32[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
        b, p = self._sides
        left, right = index >> p, index & jnp.uint32((1 << p) - 1)
        for i, round_key in enumerate(self._round_keys()):
            if i % 2:
                right = right ^ (_mix(left ^ round_key) >> (32 - p))
            else:
                left = _add(left, _scale(_mix(right ^ round_key), b), b)
        return (left << p) | right

    def _permute_back(self, value: UInt32[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
        b, p = self._sides
        left, right = value >> p, value & jnp.uint32((1 << p) - 1)
        for i, round_key in reversed(list(enumerate(self._round_keys()))):
            if i % 2:
                right = right ^ (_mix(left ^ round_key) >> (32 - p))
            else:
                left = _add(left, jnp.uint32(b) - _scale(_mix(right ^ round_key), b), b)
        return (left << p) | right


def _limit(values: UInt32[AnyArray, " n"], k: UInt32[AnyArray, ""]) -> UInt32[AnyArray, ""]:
    """A number with exactly k of the values below it.

    Uniform values lie about 2**32 / n apart, so one count tells how far to go: some five steps. Where a step would
    leave the bracket, and from the 16th on, the bracket is halved. Values are counted by a product, which is exact up
    to 2**24 and many times faster than a sum of integers on a CPU.
    """
    n = values.shape[0]
    ones, gap = jnp.ones(n, jnp.float32), jnp.float32((2**32 - 2**9) / n)

    def count(limit: AnyArray) -> AnyArray:
        below = (values < limit).astype(jnp.float32)
        return jnp.dot(below, ones, precision=jax.lax.Precision.HIGHEST).astype(jnp.int32)

    def move(state: Any) -> Any:
        step, low, high, limit, found = state
        up = found < k
        low, high = jnp.where(up, limit, low), jnp.where(up, high, limit)
        away = (jnp.abs(k - found).astype(jnp.float32) * gap).astype(jnp.uint32)
        halved = low + (high - low) // 2
        room = jnp.where(up, high - limit, limit - low)
        limit = jnp.where((away < room) & (step < 16), jnp.where(up, limit + away, limit - away), halved)
        return step + 1, low, high, limit, count(limit)

    k = k.astype(jnp.int32)
    start = (k.astype(jnp.float32) * gap).astype(jnp.uint32)
    state = jnp.int32(0), jnp.uint32(0), jnp.uint32(2**32 - 1), start, count(start)
    # 64 steps leave only the largest number, which halving never tries.
    found = jax.lax.while_loop(lambda state: (state[4] != k) & (state[0] < 64), move, state)
    return jnp.where(found[4] == k, found[3], jnp.uint32(2**32 - 1))


def _mix(x: UInt32[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
    """Spreads 16 bits over the upper ones of 32, which are those that are used: `prng.mix` without its outer shifts."""
    x = x * jnp.uint32(0x7FEB352D)
    return (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)


def _scale(word: UInt32[AnyArray, "..."], m: int) -> UInt32[AnyArray, "..."]:
    """floor(word * m / 2**32) in 32-bit arithmetic, for m up to 2**16."""
    high, low = word >> 16, word & jnp.uint32(0xFFFF)
    return (high * jnp.uint32(m) + ((low * jnp.uint32(m)) >> 16)) >> 16


def _add(x: UInt32[AnyArray, "..."], y: UInt32[AnyArray, "..."], m: int) -> UInt32[AnyArray, "..."]:
    """(x + y) mod m for x < m and y <= m <= 2**16: a sum below m becomes the larger number when m is taken off."""
    total = x + y
    return jnp.minimum(total, total - jnp.uint32(m))
