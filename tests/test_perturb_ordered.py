"""Knockouts in an order, against NumPy's stable sort, and the scores that networks give."""

from decimal import Decimal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxperturb as jp
from jaxperturb.errors import LayerError, PerturbationError
from jaxperturb.random import draw_key, key


def values(seed, n, ties):
    """Normal numbers, many of them equal or equal but for the sign where asked, with both zeros."""
    rng = np.random.default_rng(seed)
    found = rng.normal(size=n).astype(np.float32)
    if ties:
        found = np.round(found, 1)
    found[rng.integers(0, n, n // 10)] = -0.0
    found[rng.integers(0, n, n // 10)] = 0.0
    return found


def first(scores, k, largest):
    """The k entries that come first, equal ones by index."""
    return np.argsort(-scores if largest else scores, kind="stable")[:k]


@pytest.mark.parametrize("order", ["smallest", "largest"])
@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 99),
    ties=st.booleans(),
    level=st.decimals(0, 1, places=3),
    n=st.sampled_from([1, 9, 300, 70000]),
)
def test_magnitudes_go_in_numpys_order(order, seed, ties, level, n):
    kernel = values(seed, n, ties)
    want = kernel.copy()
    want[first(np.abs(kernel), int(level * n), order == "largest")] = 0
    found = jp.magnitude_knockout(key(seed), {"a": {"kernel": kernel.reshape(1, n)}}, level, order=order)
    assert np.asarray(found["a"]["kernel"]).tobytes() == want.tobytes()


@pytest.mark.parametrize("order", ["smallest", "largest"])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16])
def test_scores_go_in_numpys_order(order, ties, dtype):
    kernel, scores = values(1, 5000, False), values(2, 5000, ties).astype(dtype)
    scores[[7, 70]] = np.inf
    scores[[700]] = -np.inf
    for k in (0, 1, 2, 1234, 4999, 5000):
        want = kernel.copy()
        want[first(scores.astype(np.float32) + 0.0, k, order == "largest")] = 0
        params, tree = {"a": {"kernel": kernel.reshape(50, 100)}}, {"a": {"kernel": scores.reshape(50, 100)}}
        found = jp.saliency_knockout(key(0), params, scores=tree, count=k, order=order)["a"]["kernel"]
        assert np.asarray(found).tobytes() == want.tobytes()


def test_a_nan_is_the_largest_score():
    scores = np.array([[1.0, np.nan, np.inf, -np.nan]], np.float32)
    found = jp.saliency_knockout(key(0), {"a": {"kernel": np.ones((1, 4))}}, scores={"a": {"kernel": scores}}, count=2)
    np.testing.assert_array_equal(found["a"]["kernel"], [[1, 0, 1, 0]])


@pytest.mark.parametrize("order", ["smallest", "largest"])
def test_one_order_over_all_tensors(order):
    params = {
        "b": {"kernel": values(3, 600, True).reshape(20, 30), "bias": values(4, 30, True)},
        "a": {"kernel": values(5, 70, True).reshape(7, 10)},
    }
    flat = np.concatenate([params["a"]["kernel"].ravel(), params["b"]["kernel"].ravel(), params["b"]["bias"]])
    for level in (Decimal("0.1"), Decimal("0.5"), Decimal(1)):
        want = flat.copy()
        want[first(np.abs(flat), int(level * 700), order == "largest")] = 0
        after = jp.magnitude_knockout(key(0), params, level, order=order, scope="joint")
        found = [after["a"]["kernel"], after["b"]["kernel"], after["b"]["bias"]]
        assert np.concatenate([np.ravel(x) for x in found]).tobytes() == want.tobytes()


def test_draws_do_not_matter():
    params = {"a": {"kernel": values(1, 300, True).reshape(10, 30)}}
    found = [
        np.asarray(jp.magnitude_knockout(k, params, 0.4)["a"]["kernel"]) for k in (key(0), key(1), jax.random.key(2))
    ]
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


def test_mistakes_are_named():
    params = {"a": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)}}
    with pytest.raises(PerturbationError, match="order 'smallest' or 'largest', got 'biggest'"):
        jp.magnitude_knockout(key(0), params, 0.5, order="biggest")
    with pytest.raises(PerturbationError, match="pass scores="):
        jp.saliency_knockout(key(0), params, 0.5)
    with pytest.raises(LayerError, match="structure of the params"):
        jp.saliency_knockout(key(0), params, 0.5, scores={"a": {"kernel": np.ones((2, 3))}})
    with pytest.raises(LayerError, match=r"\[2, 3\], got \[3, 2\]"):
        jp.saliency_knockout(key(0), params, 0.5, scores={"a": {"kernel": np.ones((3, 2)), "bias": np.ones(3)}})
    with pytest.raises(PerturbationError, match="expected an array for a/bias in scores, got None"):
        jp.saliency_knockout(key(0), params, 0.5, scores={"a": {"kernel": np.ones((2, 3)), "bias": None}})


class Small(nn.Module):
    """A convolution with a norm and a dense layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="conv1_norm")(x))
        return nn.Dense(3, name="fc2")(x.mean((1, 2)))


@pytest.fixture(scope="module")
def network():
    module = Small()
    variables = module.init(jax.random.key(0), jnp.zeros((1, 6, 6, 2)))
    moved = jax.tree.map(lambda a: a + 0.1 * jax.random.uniform(jax.random.key(a.size), a.shape), variables)
    return jp.Network.from_linen(module, moved, image_shape=(6, 6, 2))


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 6, 6, 2)).astype(np.float32), rng.integers(0, 3, 300).astype(np.int32)


def test_saliency_is_weight_times_gradient_by_finite_differences(network, data):
    images, labels = data

    def loss(params):
        logits = np.asarray(network.apply(params, images), np.float64)
        return -(logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(300), labels].sum()

    scores = jp.saliency(network, data, batch_size=64)
    assert jax.tree.leaves(scores["batch_stats"]) == []
    for layer, leaf in (("conv1", "kernel"), ("fc2", "bias"), ("conv1_norm", "scale")):
        own = scores["params"][layer][leaf]
        place = np.unravel_index(np.argmax(own), own.shape)
        weight = float(network.params["params"][layer][leaf][place])
        step = 1e-2 * np.sign(weight or 1)

        def moved(by, layer=layer, leaf=leaf, place=place):
            def change(path, a):
                return a.at[place].add(by) if [p.key for p in path] == ["params", layer, leaf] else a

            return jax.tree_util.tree_map_with_path(change, network.params)

        slope = (loss(moved(step)) - loss(moved(-step))) / (2 * step)
        np.testing.assert_allclose(scores["params"][layer][leaf][place], abs(weight * slope), rtol=1e-2)


def test_saliency_of_batches_is_that_of_all(network, data):
    whole, parts = (jp.saliency(network, data, batch_size=size) for size in (300, 77))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("images", [40, 300])
def test_a_study_scores_on_the_first_256_images_of_the_set(network, data, images):
    """So that a study can be extended; in Python its cells are those of the function with these scores."""
    found = jp.sweep(network, data, "saliency_knockout", "conv1", 0.3, draws=1, images=images)
    scores = jp.saliency(network, data, images=256)
    lesioned = jp.saliency_knockout(draw_key(0, 0), network.params, 0.3, layers="conv1", scores=scores)
    row = found.cells.iloc[0]
    assert row.top1 == jp.evaluate(jp.Network.from_linen(Small(), lesioned, image_shape=(6, 6, 2)), data, images).top1
    assert (row.selected, row.changed) == (22, 22)


def test_a_lesion_without_data_says_what_to_do(network):
    with pytest.raises(PerturbationError, match="pass scores="):
        jp.lesion(network, "saliency_knockout", "conv1", 0.3)
