"""The hash, keys and permutations: exact where they promise it, and without visible structure."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxperturb import random as jp_random
from jaxperturb.errors import SeedError
from jaxperturb.random import IMPLEMENTATION, Permutation, bits, draw_key, key, words_of
from jaxperturb.random.keys import layer_words, leaf_words
from jaxperturb.random.prng import flat_index, hash_word

FALSE_ALARM = 1e-6  # of each statistical test; seeds are fixed, so a test that passes once always passes


def test_hash_equals_its_written_form_in_plain_integers():
    def mix(x):
        x = ((x ^ (x >> 16)) * 0x7FEB352D) % 2**32
        x = ((x ^ (x >> 15)) * 0x846CA68B) % 2**32
        return x ^ (x >> 16)

    first, second = 0xDEADBEEF, 0x12345678
    for index in (0, 1, 2, 65_537, 2**32 - 1):
        x = mix((index * 0x9E3779B9 + first) % 2**32)
        want = mix((mix(x ^ second) + first) % 2**32)
        assert int(hash_word((jnp.uint32(first), jnp.uint32(second)), jnp.uint32(index))) == want


def test_hash_never_repeats_under_one_key():
    values = np.asarray(bits(words_of(key(3)), (1 << 18,)))
    assert len(np.unique(values)) == len(values)


@pytest.mark.parametrize("seed", [-1, 2**32, True])
def test_seeds_outside_32_bits_are_refused(seed):
    with pytest.raises(SeedError):
        key(seed)


def test_largest_seed_and_draw():
    assert not np.array_equal(*(jax.random.key_data(key(seed)) for seed in (0, 2**32 - 1)))
    with pytest.raises(SeedError, match="draw"):
        draw_key(0, -1)


def test_key_of_a_draw_is_a_fold_of_the_seed():
    want = jax.random.fold_in(jax.random.key(7, impl=IMPLEMENTATION), 3)
    np.testing.assert_array_equal(jax.random.key_data(draw_key(7, 3)), jax.random.key_data(want))


def test_jax_random_works_with_our_keys():
    sample = jax.random.normal(key(0), (10_000,))
    assert scipy.stats.kstest(np.asarray(sample), "norm").pvalue > FALSE_ALARM
    children = jax.random.split(key(0), 1000)
    assert len(np.unique(jax.random.key_data(children), axis=0)) == 1000
    together = jax.vmap(lambda k: jax.random.uniform(k, (3,)))(children)
    np.testing.assert_array_equal(together[17], jax.random.uniform(children[17], (3,)))
    assert sorted(np.asarray(jax.random.permutation(key(1), 100))) == list(range(100))


@pytest.mark.parametrize("other", [jax.random.key(1), jax.random.PRNGKey(1), jax.random.key(1, impl="rbg")])
def test_keys_of_other_implementations_are_hashed(other):
    words = [int(word) for word in words_of(other)]
    assert words == [int(word) for word in words_of(other)]
    assert words != [int(word) for word in words_of(jax.random.key(2))]


def test_typed_and_untyped_keys_of_one_implementation_agree():
    assert [int(w) for w in words_of(jax.random.key(5))] == [int(w) for w in words_of(jax.random.PRNGKey(5))]


@pytest.mark.parametrize("bad", [jnp.zeros(2), jnp.uint32(3), jax.random.split(jax.random.key(0), 2)])
def test_what_is_no_key_is_refused(bad):
    with pytest.raises(SeedError):
        words_of(bad)


def test_names_separate_streams():
    words = [
        layer_words(key(0), "conv1"),
        layer_words(key(0), "conv2"),
        leaf_words(layer_words(key(0), "conv1"), "bias"),
    ]
    assert len({(int(a), int(b)) for a, b in words}) == 3


def test_flat_index_is_row_major():
    np.testing.assert_array_equal(flat_index((3, 4, 5)), np.arange(60).reshape(3, 4, 5))
    assert flat_index(()).shape == ()


SIZES = [1, 2, 7, 65_535, 65_536, 65_537, 307_200, 1_000_003]


@pytest.mark.parametrize("n", SIZES)
def test_masks_are_exact_and_nested(n):
    permutation = Permutation(words_of(key(5)), n)
    mask = jax.jit(lambda k: permutation.mask(k, (n,)))
    smaller = np.zeros(n, bool)
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n, n + 9}):
        larger = np.asarray(mask(k))
        assert larger.sum() == min(k, n)
        assert not (smaller & ~larger).any()
        smaller = larger


@pytest.mark.parametrize("n", SIZES)
def test_ranks_are_a_permutation_that_entries_inverts(n):
    permutation = Permutation(words_of(key(6)), n)
    ranks = np.asarray(jax.jit(lambda: permutation.ranks((n,)))())
    np.testing.assert_array_equal(np.sort(ranks), np.arange(n))
    few = np.unique(np.array([0, n // 2, n - 1], np.uint32))
    entries = np.asarray(jax.jit(permutation.entries)(few))
    np.testing.assert_array_equal(ranks[entries], few)
    k = n // 3
    np.testing.assert_array_equal(ranks < k, permutation.mask(k, (n,)))


def test_largest_size_is_exact_at_its_ends():
    n = 2**32 - 1
    permutation = Permutation(words_of(key(1)), n)
    few = jnp.arange(1000, dtype=jnp.uint32)
    entries = np.asarray(permutation.entries(few))
    assert len(np.unique(entries)) == 1000
    assert bool(permutation.below(np.uint32([0, 1, n]), n).all())


@pytest.mark.parametrize("n", [1000, 70_000])
def test_one_permutation_serves_many_counts(n):
    permutation = Permutation(words_of(key(2)), n)
    counts = jnp.array([0, 1, n // 2, n])
    masks = np.asarray(jax.jit(lambda k: permutation.mask(k, (n // 10, 10)))(counts))
    assert masks.shape == (4, n // 10, 10)
    for mask, k in zip(masks, counts, strict=True):
        np.testing.assert_array_equal(mask, permutation.mask(int(k), (n // 10, 10)))
        assert mask.sum() == k


@pytest.mark.parametrize("n", [1000, 70_000])
def test_a_part_of_the_entries_is_masked_as_in_the_whole(n):
    permutation = Permutation(words_of(key(2)), n)
    whole = np.asarray(permutation.mask(n // 3, (n,)))
    np.testing.assert_array_equal(permutation.mask(n // 3, (5, 20), 300), whole[300:400].reshape(5, 20))


@pytest.mark.parametrize("n", [2, 40, 1001])
def test_every_count_of_a_small_population_is_exact(n):
    permutation = Permutation(words_of(key(9)), n)
    masks = permutation.mask(jnp.arange(n + 1), (n,))
    np.testing.assert_array_equal(masks.sum(1), np.arange(n + 1))


def test_semantics_is_a_number():
    assert jp_random.SEMANTICS == 1
