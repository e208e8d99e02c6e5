"""The quality of the hash and of the permutation, tested and not assumed.

Each test gives a p-value, is passed by the hash at a false-alarm rate of 1e-6 (seeds are fixed, so that it stays
passed), and is failed by a hash that was weakened on purpose: a test that nothing fails proves nothing.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxperturb.random import Permutation, fold, key, normal, words_of
from jaxperturb.random.prng import hash_word, mix

FALSE_ALARM = 1e-6
N = 1 << 17

Hash = Callable[..., jax.Array]


def counter(words, index):
    """A Weyl sequence: nothing is mixed."""
    return index * jnp.uint32(0x9E3779B9) + words[0]


def key_at_the_end(words, index):
    """Mixed once, and the key added: keys only move the numbers."""
    return mix(index * jnp.uint32(0x9E3779B9)) ^ words[0]


def one_word(words, index):
    """Only one of the two words of the key is used."""
    return mix(mix(index * jnp.uint32(0x9E3779B9)) + words[1])


def stuck(words, index):
    """One bit of 32 is always 0."""
    return hash_word(words, index) & jnp.uint32(0xFFFFFFFE)


def skewed(words, index):
    """The upper half of the range comes a little too seldom."""
    value = hash_word(words, index)
    return jnp.where(value > jnp.uint32(0xF8000000), value >> 1, value)


def draw(hash_function: Hash, words, n=N) -> np.ndarray:
    words = tuple(jnp.asarray(word, jnp.uint32) for word in words)
    return np.asarray(jax.jit(hash_function)(words, jnp.arange(n, dtype=jnp.uint32)))


def centred(values: np.ndarray) -> np.ndarray:
    return values / 2.0**32 - 0.5


def two_sided(z: float) -> float:
    return float(2 * scipy.stats.norm.sf(abs(z)))


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """p-value of uniform numbers being uncorrelated: their products have variance 1/144."""
    return two_sided(float((centred(a) * centred(b)).sum() * 12 / np.sqrt(len(a))))


def chi_square(buckets: np.ndarray, number: int) -> float:
    counts = np.bincount(buckets, minlength=number)
    statistic = ((counts - len(buckets) / number) ** 2).sum() * number / len(buckets)
    below = scipy.stats.chi2.cdf(statistic, number - 1)
    return float(2 * min(below, 1 - below))


def bit_balance(hash_function):
    values = draw(hash_function, words_of(key(0)))
    ones = [int(((values >> bit) & 1).sum()) for bit in range(32)]
    return min(1.0, 32 * min(two_sided((count - N / 2) / np.sqrt(N / 4)) for count in ones))


def buckets(hash_function):
    return chi_square(draw(hash_function, words_of(key(1))) >> 20, 1 << 12)


def low_bits(hash_function):
    return chi_square(draw(hash_function, words_of(key(2))) & 0xFF, 1 << 8)


def neighbouring_indices(hash_function):
    values = draw(hash_function, words_of(key(3)))
    return min(1.0, 4 * min(correlation(values[:-lag], values[lag:]) for lag in (1, 2, 64, 4096)))


def pairs_of(hash_function, pairs):
    found = [correlation(draw(hash_function, a), draw(hash_function, b)) for a, b in pairs]
    return min(1.0, len(found) * min(found))


def neighbouring_seeds(hash_function):
    words = [words_of(key(seed)) for seed in range(40)]
    return pairs_of(hash_function, zip(words, words[1:], strict=False))


def folded_children(hash_function):
    parent = words_of(key(4))
    words = [parent, *(fold(parent, i) for i in range(30))]
    return pairs_of(hash_function, zip(words, words[1:], strict=False))


def split_children(hash_function):
    words = [words_of(child) for child in jax.random.split(key(5), 30)]
    return pairs_of(hash_function, zip(words, words[1:], strict=False))


def shared_words(hash_function):
    pairs = [((7 * i, 5), (7 * i + 7, 5)) for i in range(10)] + [((5, 7 * i), (5, 7 * i + 7)) for i in range(10)]
    return pairs_of(hash_function, pairs)


def normals(hash_function):
    values = draw(hash_function, words_of(key(6)))
    odd = 2 * (values >> 9).astype(np.int64) + 1 - 2**23
    return float(scipy.stats.kstest(scipy.stats.norm.ppf((odd / 2**23 + 1) / 2), "norm").pvalue)


TESTS = {
    bit_balance: stuck,
    buckets: skewed,
    low_bits: stuck,
    neighbouring_indices: counter,
    neighbouring_seeds: key_at_the_end,
    folded_children: key_at_the_end,
    split_children: key_at_the_end,
    shared_words: one_word,
    normals: skewed,
}


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__)
def test_the_hash_passes(test):
    assert test(hash_word) > FALSE_ALARM


@pytest.mark.parametrize("test", TESTS, ids=lambda test: test.__name__)
def test_a_weakened_hash_fails(test):
    assert test(TESTS[test]) < FALSE_ALARM


def test_normals_are_those_of_the_uniform_numbers():
    values = draw(hash_word, words_of(key(6)))
    odd = 2 * (values >> 9).astype(np.int64) + 1 - 2**23
    want = scipy.stats.norm.ppf((odd / 2**23 + 1) / 2)
    np.testing.assert_allclose(normal(words_of(key(6)), (N,)), want, rtol=2e-5, atol=2e-6)


def structure(shape, rounds, seeds=300, fraction=0.3) -> dict[str, float]:
    """z-values of masks against a uniform choice of k of n, by what they look at."""
    (rows, columns), n = shape, shape[0] * shape[1]
    k, a = int(fraction * n), 1 << round(np.log2(n) / 2)
    b, q = -(-n // a), k / n
    one = jax.jit(lambda seed: Permutation(words_of(key(seed)), n, rounds).mask(k, shape))
    masks = np.stack([np.asarray(one(jnp.uint32(seed))) for seed in range(seeds)])

    def z(samples, expected):
        return (samples.mean() - expected) / (samples.std(ddof=1) / np.sqrt(len(samples)))

    inclusion = ((masks.sum(0) - seeds * q) ** 2 / (seeds * q * (1 - q))).sum()
    found = {"inclusion": (inclusion - n) / np.sqrt(2 * n)}
    for name, axis, length in (("columns", 1, rows), ("rows", 2, columns)):
        hypergeometric = length * q * (1 - q) * (n - length) / (n - 1)
        found[name] = z(masks.sum(axis).var(axis=1), hypergeometric)
    flat = masks.reshape(seeds, n)
    for lag in sorted({1, columns, a // 2, a - 1, a, a + 1, b - 1, b, b + 1}):
        found[f"lag {lag}"] = z((flat[:, :-lag] & flat[:, lag:]).mean(axis=1), k * (k - 1) / n / (n - 1))
    found["seeds"] = z((flat[1:] & flat[:-1]).mean(axis=1), q * q)
    return found


# One that is hashed; then rounds over other, equal and unequal sides, and columns that are a power of two.
@pytest.mark.parametrize("shape", [(363, 64), (1000, 97), (512, 256), (75, 1024), (300, 256)])
def test_masks_have_no_structure(shape):
    found = structure(shape, rounds=8)
    limit = scipy.stats.norm.isf(FALSE_ALARM / 2 / len(found))
    assert max(map(abs, found.values())) < limit, found


def test_four_rounds_would_not_do():
    found = structure((1000, 97), rounds=4)
    assert max(map(abs, found.values())) > scipy.stats.norm.isf(FALSE_ALARM / 2 / len(found))
