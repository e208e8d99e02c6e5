"""Weights that change places, signs or go back to an initialiser's draw, against NumPy and Flax."""

import math
from decimal import Decimal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxperturb as jp
from jaxperturb.errors import LayerError, PerturbationError
from jaxperturb.perturb.rerandomize import INITIALIZERS
from jaxperturb.random import draw_key, key

FALSE_ALARM = 1e-6
SHAPES = [(1, 1), (2, 3), (40, 7), (300, 260), (3, 3, 96, 100)]  # hashed, and by the network of Feistel with phantoms


def distinct(shape, seed=0):
    """Weights of which no two are equal, up to the sign."""
    n = math.prod(shape)
    return np.random.default_rng(seed).permutation(np.arange(1, n + 1)).reshape(shape).astype(np.float32)


def places(key, shape, k):
    """The entries that a knockout with this key takes: all perturbations of entries share them."""
    gone = jp.synapse_knockout(key, {"a": {"kernel": np.ones(shape, np.float32)}}, count=k)["a"]["kernel"]
    return np.asarray(gone) == 0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("level", ["0", "0.3", "0.77", "1"])
def test_shuffled_weights_are_the_same_in_other_places(shape, level):
    before = distinct(shape)
    k = int(Decimal(level) * before.size)
    after = np.asarray(jp.shuffle(key(1), {"a": {"kernel": before}}, Decimal(level))["a"]["kernel"])
    np.testing.assert_array_equal(np.sort(after.ravel()), np.sort(before.ravel()))
    moved = after != before
    if k > 1:
        np.testing.assert_array_equal(moved, places(key(1), shape, k))
    else:
        assert not moved.any()


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_a_shuffle_is_one_cycle_and_nests_but_for_one(shape):
    before = distinct(shape)
    n, seen = before.size, {}
    for k in (2, n // 2, n):
        after = np.asarray(jp.shuffle(key(2), {"a": {"kernel": before}}, count=k)["a"]["kernel"]).ravel()
        came_from = dict(zip(before.ravel().tolist(), after.tolist(), strict=True))
        start = next(value for value, other in came_from.items() if value != other)
        value, length = came_from[start], 1
        while value != start:
            value, length = came_from[value], length + 1
        assert length == k
        seen[k] = after
    for small, large in ((2, n // 2), (n // 2, n)):
        moved = seen[small] != before.ravel()
        assert (seen[small][moved] != seen[large][moved]).sum() == (small != large)


def test_shuffles_are_uniform():
    """Over 3000 draws a weight gets each of the others equally often."""
    before, draws = distinct((3, 4)), 3000
    lesion = jax.jit(jax.vmap(lambda draw: jp.shuffle(draw_key(0, draw), {"a": {"kernel": before}}, 1)["a"]["kernel"]))
    counts = np.bincount(np.asarray(lesion(jnp.arange(draws, dtype=jnp.uint32)))[:, 1, 1].astype(int), minlength=13)
    own = int(before[1, 1])
    assert counts[own] == 0
    assert scipy.stats.chisquare(np.delete(counts, [0, own])).pvalue > FALSE_ALARM


def test_a_joint_shuffle_moves_values_between_layers():
    params = {"a": {"kernel": distinct((30, 40)), "bias": -distinct((40,))}, "b": {"kernel": 5000 + distinct((20, 9))}}
    after = jp.shuffle(key(3), params, 0.5, scope="joint")
    old, new = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (params, after))
    np.testing.assert_array_equal(np.sort(old), np.sort(new))
    assert (old != new).sum() == 1420 // 2
    assert (np.asarray(after["b"]["kernel"]) < 5000).sum() > 20


def test_resampled_places_and_values_of_a_large_tensor():
    before = distinct((3, 3, 96, 100))
    complete = np.asarray(jp.resample(key(7), {"a": {"kernel": before}}, 1)["a"]["kernel"])
    np.testing.assert_array_equal(np.sort(complete.ravel()), np.sort(before.ravel()))
    part = np.asarray(jp.resample(key(7), {"a": {"kernel": before}}, count=1000)["a"]["kernel"])
    np.testing.assert_array_equal(part, np.where(places(key(7), before.shape, 1000), complete, before))


def test_signs_flip_where_knockouts_strike():
    before = np.random.default_rng(0).normal(size=(60, 50)).astype(np.float32)
    before[0, 0] = 0
    for k in (0, 17, 3000):
        after = jp.sign_flip(key(4), {"a": {"kernel": before}}, count=k)["a"]["kernel"]
        want = np.where(places(key(4), before.shape, k), -before, before)
        assert np.asarray(after).tobytes() == want.tobytes()


@pytest.mark.parametrize("initializer", INITIALIZERS)
@pytest.mark.parametrize("shape", [(5, 5, 60, 100), (400, 250)])
def test_values_are_of_the_initialisers_distribution(initializer, shape):
    params = {"a": {"kernel": np.full(shape, 9, np.float32)}}
    after = np.asarray(jp.rerandomize(key(5), params, 1, initializer=initializer)["a"]["kernel"]).ravel()
    theirs = np.asarray(getattr(nn.initializers, initializer)()(jax.random.key(0), shape)).ravel()
    assert scipy.stats.ks_2samp(after, theirs).pvalue > FALSE_ALARM
    # By closed form too: a variance, and a bound that is all but reached.
    fan_in, fan_out = math.prod(shape[:-1]), math.prod(shape) // shape[-2]
    variance = {"lecun": 1 / fan_in, "he": 2 / fan_in, "glorot": 2 / (fan_in + fan_out)}[initializer.partition("_")[0]]
    bound = math.sqrt(3 * variance) if "uniform" in initializer else 2 * math.sqrt(variance) / 0.87962566
    assert 0.99 * bound < np.abs(after).max() <= 1.000001 * bound
    np.testing.assert_allclose(after.var(), variance, rtol=6 * math.sqrt(2 / after.size))


def test_fans_of_weights_with_units_first():
    params = {"a": {"weight": np.full((100, 60, 5, 5), 9, np.float32)}}
    after = np.asarray(jp.rerandomize(key(5), params, 1, initializer="he_uniform")["a"]["weight"])
    np.testing.assert_allclose(np.abs(after).max(), math.sqrt(6 / 1500), rtol=1e-3)


def test_biases_and_norms_go_back_to_their_first_values():
    leaf = np.full(8, 9, np.float32)
    params = {"a": {"kernel": np.full((4, 8), 9, np.float32), "bias": leaf}, "a_norm": {"scale": leaf, "bias": leaf}}
    after = jp.rerandomize(key(0), params, 0.5, include_norm=True)
    for layer, name, value in (("a", "bias", 0), ("a_norm", "scale", 1), ("a_norm", "bias", 0)):
        found = np.asarray(after[layer][name])
        assert sorted(found.tolist()) == [value] * 4 + [9] * 4


def test_one_draw_gives_an_entry_one_value_at_all_levels():
    before = distinct((300, 260))
    complete = np.asarray(jp.rerandomize(key(6), {"a": {"kernel": before}}, 1)["a"]["kernel"])
    part = np.asarray(jp.rerandomize(key(6), {"a": {"kernel": before}}, count=999)["a"]["kernel"])
    np.testing.assert_array_equal(part, np.where(places(key(6), before.shape, 999), complete, before))


def test_going_back_to_given_values():
    before, first = distinct((30, 40)), np.random.default_rng(1).normal(size=(30, 40)).astype(np.float32)
    params = {"a": {"kernel": before, "bias": np.ones(40, np.float32)}}
    values = {"a": {"kernel": first, "bias": None}}
    after = jp.rerandomize(key(6), params, count=500, values=values, include_bias=False)["a"]
    np.testing.assert_array_equal(after["kernel"], np.where(places(key(6), before.shape, 500), first, before))
    assert after["bias"] is params["a"]["bias"]
    with pytest.raises(PerturbationError, match="a/bias in values"):
        jp.rerandomize(key(6), params, 0.5, values=values)
    with pytest.raises(LayerError, match="structure"):
        jp.rerandomize(key(6), params, 0.5, values={"a": first})


def test_unknown_initialisers_get_the_nearest_name():
    with pytest.raises(PerturbationError, match="did you mean 'he_normal'"):
        jp.rerandomize(key(0), {"a": {"kernel": distinct((2, 3))}}, 1, initializer="he_norml")
