"""Laws that every perturbation keeps, and what each of them means, against NumPy. A new one is a row of LAWS."""

import functools
import math
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxperturb as jp
from jaxperturb.errors import LayerError, LevelError
from jaxperturb.perturb import CATALOGUE
from jaxperturb.random import draw_key, key
from jaxperturb.trees import layers_of

FALSE_ALARM = 1e-6
SHAPES = [(1, 1), (2, 1), (1, 9), (7, 3), (3, 3, 2, 5), (4, 1, 6), (300, 219)]  # few, since each is compiled


@dataclass(frozen=True)
class Law:
    """A perturbation under test.

    Attributes:
        function: the perturbation.
        selects: whether it leaves unselected entries as they are.
        unit: whether it selects whole units.
        options: for the call.
    """

    function: Any
    selects: bool = True
    unit: bool = False
    options: dict = field(default_factory=dict)
    share: bool = True  # whether the level is the share that is selected, and not a probability
    draws: bool = True  # whether draws differ
    biases: bool = True  # whether it can do without biases


def saliency_knockout(key, params, level=None, **options):
    """With scores that order the weights otherwise than their size does."""
    scores = jax.tree.map(lambda leaf: jnp.sin(jnp.asarray(leaf, jnp.float32)), params)
    return jp.saliency_knockout(key, params, level, scores=scores, **options)


def mean_ablation(key, params, level=None, **options):
    """With means of 0, so that what is selected can be seen."""
    means = {name: np.zeros(layer.units, np.float32) for name, layer in layers_of(params).items()}
    return jp.mean_ablation(key, params, level, means=means, **options)


LAWS = {
    "synapse_knockout": Law(jp.synapse_knockout),
    "node_knockout": Law(jp.node_knockout, unit=True),
    "gaussian_noise": Law(jp.gaussian_noise, selects=False),
    "resample": Law(jp.resample),
    "shuffle": Law(jp.shuffle),
    "sign_flip": Law(jp.sign_flip),
    "rerandomize": Law(jp.rerandomize),
    "magnitude_knockout": Law(jp.magnitude_knockout, draws=False),
    "saliency_knockout": Law(saliency_knockout, draws=False),
    "mean_ablation": Law(mean_ablation, unit=True, biases=False),
    "bit_flip": Law(jp.bit_flip, share=False),
    "stuck_at": Law(jp.stuck_at, share=False),
}
APART = {"quantize", "replay"}  # their levels are no amount of damage; they have tests of their own
SELECTING = [name for name, law in LAWS.items() if law.selects]
SHARING = [name for name in SELECTING if LAWS[name].share]
each = pytest.mark.parametrize("name", LAWS)


def tree(seed=0, shapes=((3, 3, 5, 8), (40, 7), (300, 260)), dtype=np.float32):
    """Layers a, b, c with normal weights, none of which is 0 or twice there, in a Linen-like tree with statistics."""
    rng = np.random.default_rng(seed)
    layers = {
        name: {
            "kernel": rng.permutation(np.arange(1, math.prod(shape) + 1)).reshape(shape).astype(dtype) / 97,
            "bias": rng.permutation(np.arange(1, shape[-1] + 1)).astype(dtype),
        }
        for name, shape in zip("abc", shapes, strict=True)
    }
    return {"params": layers, "batch_stats": {"a": {"mean": np.ones(8, np.float32)}}}


def leaves(params):
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}


def bits(array):
    return np.asarray(array).tobytes()


def test_every_entry_of_the_catalogue_is_under_the_laws():
    assert set(LAWS) | APART == set(CATALOGUE)


@each
def test_other_layers_are_the_same_objects(name):
    params = tree()
    after = LAWS[name].function(key(0), params, 0.5, layers="b", **LAWS[name].options)
    assert jax.tree.structure(after) == jax.tree.structure(params)
    for path, leaf in leaves(params).items():
        if "'b'" not in path:
            assert leaves(after)[path] is leaf
        else:
            assert leaves(after)[path].dtype == leaf.dtype
            assert bits(leaves(after)[path]) != bits(leaf)


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.biases])
def test_biases_can_be_left_out(name):
    params = tree()
    after = LAWS[name].function(key(0), params, 1, include_bias=False)
    for path, leaf in leaves(params).items():
        assert (leaves(after)[path] is leaf) == ("kernel" not in path)


@each
def test_level_0_changes_nothing(name):
    params = tree()
    after = LAWS[name].function(key(0), params, 0)
    assert all(bits(a) == bits(b) for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(params), strict=True))


@each
@pytest.mark.parametrize("level", [0.0, 0.3, 1.0])
def test_eager_jitted_and_vmapped_agree(name, level):
    law, params = LAWS[name], tree()
    eager = law.function(key(4), params, level)
    jitted = jax.jit(law.function)(key(4), params, level)
    over_keys = jax.vmap(lambda k: law.function(k, params, level))(jnp.stack([key(9), key(4)]))
    over_levels = jax.vmap(lambda f: law.function(key(4), params, f))(jnp.float32([0.9, level]))
    for other in (
        jitted,
        jax.tree.map(lambda x: x[1], over_keys["params"]),
        jax.tree.map(lambda x: x[1], over_levels["params"]),
    ):
        for a, b in zip(jax.tree.leaves(eager["params"]), jax.tree.leaves(other.get("params", other)), strict=True):
            if law.selects:
                assert bits(a) == bits(b)
            else:
                scale = max(np.abs(a).max(), np.std(a))
                np.testing.assert_allclose(a, b, rtol=0, atol=4 * np.spacing(np.float32(scale)))


@each
def test_one_layer_alone_is_perturbed_as_among_all(name):
    law, params = LAWS[name], tree()
    everything = law.function(key(1), params, 0.4)
    alone = law.function(key(1), params, 0.4, layers="b")
    for leaf in ("kernel", "bias"):
        assert bits(everything["params"]["b"][leaf]) == bits(alone["params"]["b"][leaf])


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.draws])
def test_draws_and_layers_differ(name):
    law = LAWS[name]
    params = {"params": {layer: tree()["params"]["c"] for layer in "xy"}}
    first, second = (law.function(draw_key(0, draw), params, 0.5)["params"] for draw in (0, 1))
    assert bits(first["x"]["kernel"]) != bits(first["y"]["kernel"])
    assert bits(first["x"]["kernel"]) != bits(second["x"]["kernel"])


@each
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_stays_half(name, dtype):
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), tree())
    after = LAWS[name].function(key(0), params, 0.5)
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(after))


@each
def test_plain_dicts_and_linen_variables_get_the_same_numbers(name):
    params = tree()
    for a, b in zip(
        jax.tree.leaves(LAWS[name].function(key(2), params, 0.5)["params"]),
        jax.tree.leaves(LAWS[name].function(key(2), params["params"], 0.5)),
        strict=True,
    ):
        assert bits(a) == bits(b)


@each
def test_levels_out_of_range_are_refused(name):
    for level in (-0.1, "x", float("nan")) + ((1.1,) if CATALOGUE[name].high else ()):
        with pytest.raises(LevelError):
            LAWS[name].function(key(0), tree(), level)
    with pytest.raises(LevelError, match="float32"):
        LAWS[name].function(key(0), tree(), jnp.int32(1))
    with pytest.raises(LevelError):
        LAWS[name].function(key(0), tree())


@each
def test_unknown_layers_are_refused(name):
    with pytest.raises(LayerError, match="unknown layer 'd'"):
        LAWS[name].function(key(0), tree(), 0.5, layers="d")


@each
def test_nothing_recompiles_for_other_keys_and_levels(name):
    traces = []

    @jax.jit
    def lesion(k, params, level):
        traces.append(level)
        return LAWS[name].function(k, params, level)

    for seed, level in ((0, 0.1), (1, 0.7), (2, 1.0)):
        lesion(key(seed), tree(), level)
    assert len(traces) == 1


@pytest.mark.parametrize("name", SHARING)
@settings(max_examples=40)
@given(data=st.data())
def test_selections_are_exact_and_nested(name, data):
    law = LAWS[name]
    shape = data.draw(st.sampled_from(SHAPES))
    levels = sorted(data.draw(st.lists(st.decimals(0, 1, places=4), min_size=2, max_size=3)))
    params = tree(shapes=(shape, (2, 2), (2, 2)))
    seed = data.draw(st.integers(0, 2**32 - 1))
    chosen = []
    for level in levels:
        after = law.function(key(seed), params, level, layers="a")["params"]["a"]
        masks = {leaf: _selected(name, params["params"]["a"][leaf], after[leaf]) for leaf in after}
        for leaf, mask in masks.items():
            if mask is None:
                continue
            n = shape[-1] if law.unit or leaf == "bias" else math.prod(shape)
            count = mask.reshape(-1, shape[-1]).any(0).sum() if law.unit else mask.sum()
            assert count == int(level * n)
            if law.unit:
                assert (mask.reshape(-1, shape[-1]).all(0) == mask.reshape(-1, shape[-1]).any(0)).all()
        chosen.append(masks)
    for smaller, larger in zip(chosen, chosen[1:], strict=False):
        for leaf in smaller:
            if smaller[leaf] is not None:
                assert not (smaller[leaf] & ~larger[leaf]).any()


def _selected(name, before, after):
    """Which entries were selected, where that can be seen: knockouts of weights that are not 0."""
    if name == "sign_flip":
        return np.asarray(after) == -np.asarray(before)
    if name == "rerandomize" and before.ndim > 1:
        return np.asarray(after) != np.asarray(before)
    return np.asarray(after) == 0 if "knockout" in name or name == "mean_ablation" else None


@pytest.mark.parametrize("name", SHARING)
@pytest.mark.parametrize("level", [Decimal("0"), Decimal("0.29"), Decimal("0.7"), Decimal("1")])
def test_traced_fractions_and_counts_select_as_levels_do(name, level):
    law, params = LAWS[name], tree()
    want = law.function(key(3), params, level, layers="c")["params"]["c"]
    traced = jax.jit(lambda f: law.function(key(3), params, f, layers="c"))(float(level))["params"]["c"]
    kernel, bias, units = (int(level * n) for n in (300 * 260, 260, 260))
    counts = {"c": units} if law.unit else {"c/kernel": kernel, "c/bias": bias}
    counts = {n: jnp.uint32(k) for n, k in counts.items()}
    counted = jax.jit(lambda count: law.function(key(3), params, layers="c", count=count))(counts)["params"]["c"]
    for leaf in want:
        assert bits(want[leaf]) == bits(traced[leaf]) == bits(counted[leaf])


@pytest.mark.parametrize("name", SELECTING)
def test_counts_out_of_range_are_refused(name):
    params = tree()
    for count in (-1, 10**6, {"d": 3}):
        with pytest.raises(LevelError):
            LAWS[name].function(key(0), params, layers="b", count=count)
    with pytest.raises(LevelError, match="both"):
        LAWS[name].function(key(0), params, 0.5, layers="b", count=1)


def test_synapse_knockout_counts_every_tensor():
    params = tree()
    for level in [Decimal(i) / 20 for i in range(21)]:
        after = jp.synapse_knockout(key(8), params, level)
        for layer in layers_of(params).values():
            for leaf in layer.leaves():
                old, new = (np.asarray(jax.tree.leaves(t)[leaf.index]) for t in (params, after))
                assert (new == 0).sum() == int(level * leaf.size)
                np.testing.assert_array_equal(new[new != 0], old[new != 0])


def test_node_knockout_takes_the_same_units_in_kernel_and_bias():
    after = jp.node_knockout(key(8), tree(), 0.5)["params"]
    for layer in after.values():
        dead = np.asarray(layer["bias"]) == 0
        kernel = np.asarray(layer["kernel"]).reshape(-1, len(dead))
        assert dead.sum() == len(dead) // 2
        np.testing.assert_array_equal((kernel == 0).all(0), dead)
        assert (kernel[:, ~dead] != 0).all()


def test_node_knockout_of_weights_with_units_first():
    params = {"conv": {"weight": np.ones((6, 3, 2, 2), np.float32), "bias": np.ones((6, 1, 1), np.float32)}}
    after = jp.node_knockout(key(0), params, 0.5)["conv"]
    dead = np.asarray(after["bias"]).ravel() == 0
    assert dead.sum() == 3
    np.testing.assert_array_equal((np.asarray(after["weight"]) == 0).all((1, 2, 3)), dead)


def test_every_weight_is_knocked_out_alike():
    """Over 400 draws each of the weights goes binomially often."""
    shape, draws, level = (20, 15), 400, 0.3
    params = {"a": {"kernel": np.ones(shape, np.float32)}}
    knock = jax.jit(jax.vmap(lambda draw: jp.synapse_knockout(draw_key(0, draw), params, level)["a"]["kernel"]))
    gone = np.asarray(knock(jnp.arange(draws, dtype=jnp.uint32)) == 0).sum(0)
    statistic = ((gone - draws * level) ** 2).sum() / (draws * level * (1 - level))
    assert FALSE_ALARM < scipy.stats.chi2.cdf(statistic, gone.size) < 1 - FALSE_ALARM


def test_noise_has_the_tensors_own_scale():
    params, level = tree(), 0.6
    after = jp.gaussian_noise(key(5), params, level)
    kernel, noisy = (np.asarray(t["params"]["c"]["kernel"], np.float64) for t in (params, after))
    z = (noisy - kernel) / (level * np.std(kernel))
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > FALSE_ALARM
    bias, noisy = (np.asarray(t["params"]["c"]["bias"], np.float64) for t in (params, after))
    z = (noisy - bias) / (level * np.std(bias))
    assert scipy.stats.kstest(z, "norm").pvalue > FALSE_ALARM


def test_noise_of_one_draw_is_linear_in_the_level():
    params = {"a": {"kernel": tree()["params"]["c"]["kernel"]}}
    one, two = (np.asarray(jp.gaussian_noise(key(5), params, level)["a"]["kernel"], np.float64) for level in (1, 2))
    kernel = params["a"]["kernel"].astype(np.float64)
    np.testing.assert_allclose(two - kernel, 2 * (one - kernel), atol=1e-3)


def test_noise_can_be_differentiated_through():
    def loss(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(jp.gaussian_noise(key(0), params, 0.5)))

    params = {"a": {"kernel": jnp.ones((4, 3)), "bias": jnp.zeros(3)}, "b": {"kernel": jnp.arange(12.0).reshape(4, 3)}}
    gradient = jax.grad(loss)(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    np.testing.assert_allclose(gradient["a"]["kernel"], 2 * jp.gaussian_noise(key(0), params, 0.5)["a"]["kernel"])


def test_resample_draws_values_without_replacement_from_the_tensor():
    params = {"a": {"kernel": tree()["params"]["c"]["kernel"]}}
    before = params["a"]["kernel"].ravel()
    complete = np.asarray(jp.resample(key(7), params, 1)["a"]["kernel"]).ravel()
    np.testing.assert_array_equal(np.sort(complete), np.sort(before))
    half = np.asarray(jp.resample(key(7), params, 0.5)["a"]["kernel"]).ravel()
    moved = half != before
    np.testing.assert_array_equal(half[moved], complete[moved])
    assert abs(moved.sum() - before.size / 2) < 10
    assert len(np.unique(half[moved])) == moved.sum()


@each
def test_partial_application_traces(name):
    lesion = functools.partial(LAWS[name].function, layers="a")
    assert jax.eval_shape(lesion, key(0), tree(), 0.5)["params"]["a"]["kernel"].shape == (3, 3, 5, 8)
