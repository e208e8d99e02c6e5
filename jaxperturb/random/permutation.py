"""A random choice of exactly k out of n, as a keyed permutation: nothing of size n is sorted, searched or kept.

Every entry 0..n-1 has a *value*; those with the k lowest are chosen. One key therefore gives nested choices, and one
set of values serves every k. Up to 2**16 entries the values are hashed counters and a sort finds the k-th. Above, the
values are a generalised Feistel network over Z_a x Z_b with a*b >= n (Black and Rogaway, "Ciphers with Arbitrary
Finite Domains", 2002): a permutation of 0..a*b-1, so that the k-th value is k itself but for the few phantoms
n..a*b-1, whose values are sorted.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Bool, Integer, UInt32

from jaxperturb.random.prng import flat_index, hash_word, mix
from jaxperturb.types import AnyArray, Words

SORTED_UP_TO = 2**16  # part of the semantics: below, sorting is cheap and the values are independent
ROUNDS = 8  # 4 rounds leave correlations between neighbours, 6 do not, 8 leave room; even, so that the sides return

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

    def mask(self, k: Integer[AnyArray, ""] | int, shape: tuple[int, ...], offset: int = 0) -> Bool[AnyArray, "..."]:
        """Returns which entries of an array are among the k chosen of all n.

        Exactly min(k, n) of n entries are; masks of larger k contain those of smaller.

        Args:
            k: how many are chosen.
            shape: of the array.
            offset: place of its first entry among the n, if it is a part of them.
        """
        return self.below(self.values(shape, offset), k)

    def values(self, shape: tuple[int, ...], offset: int = 0) -> UInt32[AnyArray, "..."]:
        """Returns the value of each entry of an array, all different."""
        index = flat_index(shape) + jnp.uint32(offset)
        return hash_word(self.words, index) if self._sorts else self._permute(index)

    def below(self, values: UInt32[AnyArray, "..."], k: Integer[AnyArray, ""] | int) -> Bool[AnyArray, "..."]:
        """Returns which of the values are among the k lowest of all n."""
        k = jnp.asarray(k, jnp.uint32)
        return (values < self._threshold(k)) | (k >= jnp.uint32(self.n))

    def ranks(self, shape: tuple[int, ...]) -> UInt32[AnyArray, "..."]:
        """Returns the permutation itself: the place of each entry's value among all n values."""
        values = self.values(shape)
        if self._sorts:
            order, places = jnp.argsort(values.ravel()), jnp.arange(self.n, dtype=jnp.uint32)
            return jnp.zeros(self.n, jnp.uint32).at[order].set(places).reshape(shape)
        return values - jnp.searchsorted(self._phantoms(), values.ravel()).astype(jnp.uint32).reshape(shape)

    def entries(self, ranks: UInt32[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
        """Returns the inverse permutation: the entries that have the given ranks, without a pass over all n."""
        if self._sorts:
            return jnp.argsort(self.values((self.n,))).astype(jnp.uint32)[ranks]
        phantoms = self._phantoms()
        reals_below = phantoms - jnp.arange(len(phantoms), dtype=jnp.uint32)
        return self._permute_back(ranks + jnp.searchsorted(reals_below, ranks, side="right").astype(jnp.uint32))

    @property
    def _sorts(self) -> bool:
        return self.n <= SORTED_UP_TO

    @property
    def _sides(self) -> tuple[int, int]:
        a = math.isqrt(self.n - 1) + 1
        return a, -(-self.n // a)

    def _threshold(self, k: UInt32[AnyArray, ""]) -> UInt32[AnyArray, ""]:
        """A value with exactly k values below it, for k < n."""
        if self._sorts:
            return jnp.sort(self.values((self.n,)))[jnp.minimum(k, jnp.uint32(self.n - 1))]
        phantoms = self._phantoms()
        reals_below = phantoms - jnp.arange(len(phantoms), dtype=jnp.uint32)
        return k + jnp.sum(reals_below <= k, dtype=jnp.uint32)

    def _phantoms(self) -> UInt32[AnyArray, " phantoms"]:
        a, b = self._sides
        return jnp.sort(self._permute(jnp.uint32(self.n) + jnp.arange(a * b - self.n, dtype=jnp.uint32)))

    def _round_keys(self) -> list[UInt32[AnyArray, ""]]:
        keys = hash_word(self.words, jnp.arange(self.rounds, dtype=jnp.uint32), _ROUND_TAG)
        return [keys[i] for i in range(self.rounds)]

    def _permute(self, index: UInt32[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
        a, b = self._sides
        left, right = index // jnp.uint32(b), index % jnp.uint32(b)
        for round_key in self._round_keys():
            left, right = right, _add(left, _scale(mix(right ^ round_key), a), a)
            a, b = b, a
        return left * jnp.uint32(b) + right

    def _permute_back(self, value: UInt32[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
        a, b = self._sides
        left, right = value // jnp.uint32(b), value % jnp.uint32(b)
        for round_key in reversed(self._round_keys()):
            a, b = b, a
            left, right = _add(right, jnp.uint32(a) - _scale(mix(left ^ round_key), a), a), left
        return left * jnp.uint32(b) + right


def _scale(word: UInt32[AnyArray, "..."], m: int) -> UInt32[AnyArray, "..."]:
    """floor(word * m / 2**32) in 32-bit arithmetic, for m up to 2**16."""
    high, low = word >> 16, word & jnp.uint32(0xFFFF)
    return (high * jnp.uint32(m) + ((low * jnp.uint32(m)) >> 16)) >> 16


def _add(x: UInt32[AnyArray, "..."], y: UInt32[AnyArray, "..."], m: int) -> UInt32[AnyArray, "..."]:
    """(x + y) mod m for x < m and y <= m <= 2**16."""
    total = x + y
    return jnp.where(total >= jnp.uint32(m), total - jnp.uint32(m), total)
