"""Units at their mean: what the next layer receives, in networks with and without norms."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxperturb as jp
from jaxperturb.errors import LayerError, NetworkError, PerturbationError
from jaxperturb.random import draw_key, key

SHAPE = (10, 10, 3)


class Everything(nn.Module):
    """Norm and ReLU, ReLU alone, a sum, pooling before ReLU, ReLU6, no ReLU, logits."""

    @nn.compact
    def __call__(self, x):
        def seen(name, x):
            self.sow("intermediates", f"after_{name}", x)
            return x

        x = nn.Conv(8, (3, 3), use_bias=False, name="conv1")(x)
        x = nn.BatchNorm(use_running_average=True, name="conv1_norm")(x)
        x = seen("conv1", nn.relu(x))
        y = nn.Conv(8, (3, 3), name="conv2")(x)
        y = nn.BatchNorm(use_running_average=True, name="conv2_norm")(y)
        x = nn.relu(x + seen("conv2", y))
        x = seen("conv3", nn.relu(nn.Conv(6, (3, 3), name="conv3")(x)))
        x = nn.max_pool(nn.Conv(7, (3, 3), name="conv4")(x), (2, 2), (2, 2))
        x = seen("conv4", nn.relu(x))
        x = seen("fc5", nn.relu6(nn.Dense(20, name="fc5")(x.reshape(x.shape[0], -1))))
        x = seen("fc6", nn.Dense(9, name="fc6")(x))
        return seen("fc7", nn.Dense(5, name="fc7")(x))


LAYERS = ("conv1", "conv2", "conv3", "conv4", "fc5", "fc6", "fc7")
RECTIFIED = {"conv1", "conv3", "conv4", "fc5"}


@pytest.fixture(scope="module")
def network():
    module = Everything()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables = {name: variables[name] for name in ("params", "batch_stats")}
    moved = jax.tree_util.tree_map_with_path(
        lambda path, a: a + 0.1 * jax.random.normal(jax.random.key(len(str(path))), a.shape) / a.ndim,
        variables,
    )
    return jp.Network.from_linen(module, moved, image_shape=SHAPE)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, *SHAPE)).astype(np.float32), rng.integers(0, 5, 300).astype(np.int32)


@pytest.fixture(scope="module")
def means(network, data):
    return jp.mean_activations(network, data, batch_size=128)


def captured(params, images):
    _, state = Everything().apply(params, images, mutable=["intermediates"])
    return {name.removeprefix("after_"): np.asarray(value) for name, (value,) in state["intermediates"].items()}


def test_means_are_those_of_captured_activations(network, data, means):
    assert list(means) == list(LAYERS)
    for name, value in captured(network.params, data[0]).items():
        axes = tuple(range(value.ndim - 1))
        np.testing.assert_allclose(means[name], value.mean(axes, dtype=np.float64), rtol=2e-5, atol=1e-6)
        assert (means[name] >= 0).all() or name not in RECTIFIED


@pytest.mark.parametrize("layer", LAYERS)
def test_the_next_layer_receives_exactly_the_mean_or_nothing(network, data, means, layer):
    fixed = jp.mean_ablation(key(1), network.params, 0.5, layers=layer, means=means)
    silent = jp.node_knockout(key(1), network.params, 0.5, layers=layer)
    intact, at_mean, gone = (captured(params, data[0][:20])[layer] for params in (network.params, fixed, silent))
    units = intact.shape[-1]
    chosen = np.asarray((gone == 0).all(tuple(range(gone.ndim - 1))))
    assert chosen.sum() >= units // 2  # a unit may be silent by itself
    for unit in range(units):
        where = at_mean[..., unit]
        if (where == means[layer][unit]).all():
            assert chosen[unit]
        else:
            np.testing.assert_array_equal(where, intact[..., unit])
    same = [(at_mean[..., unit] == means[layer][unit]).all() for unit in range(units)]
    assert sum(same) >= units // 2
    assert not np.array_equal(at_mean, intact)


def test_the_units_are_those_of_node_knockout(network, means):
    for scope in ("each", "joint"):
        fixed = jp.mean_ablation(key(2), network.params, 0.4, means=means, scope=scope)["params"]
        silent = jp.node_knockout(key(2), network.params, 0.4, scope=scope)["params"]
        for layer in LAYERS:
            np.testing.assert_array_equal(fixed[layer]["kernel"], silent[layer]["kernel"])


def test_given_units(network, means):
    after = jp.mean_ablation(key(0), network.params, layers="conv3", means=means, units=[0, 4])["params"]["conv3"]
    before = network.params["params"]["conv3"]
    changed = np.asarray(after["bias"]) != np.asarray(before["bias"])
    np.testing.assert_array_equal(np.flatnonzero(changed), [0, 4])
    np.testing.assert_array_equal(np.asarray(after["bias"])[[0, 4]], means["conv3"][[0, 4]])
    assert not np.asarray(after["kernel"])[..., [0, 4]].any()


@pytest.mark.parametrize("images", [30, 300])
def test_a_study_measures_on_the_first_256_images_of_the_set(network, data, images):
    found = jp.sweep(network, data, "mean_ablation", "conv2,conv3", 0.5, draws=2, images=images).cells
    means = jp.mean_activations(network, data, images=256, layers="conv2,conv3", batch_size=64)
    for row in found.itertuples():
        params = jp.mean_ablation(draw_key(0, row.draw), network.params, 0.5, layers=row.target, means=means)
        assert row.top1 == jp.evaluate(dataclasses.replace(network, params=params), data, images).top1
    selected = dict(zip(found.target, found.selected, strict=True))
    assert selected == {"conv2": 4 * (72 + 1 + 2), "conv3": 3 * (72 + 1)}


def test_what_is_missing_is_named(network, means):
    with pytest.raises(PerturbationError, match="pass means="):
        jp.mean_ablation(key(0), network.params, 0.5)
    with pytest.raises(PerturbationError, match="pass means="):
        jp.lesion(network, "mean_ablation", "conv1", 0.5)
    with pytest.raises(LayerError, match="expected means for layer 'conv1', got those of conv2"):
        jp.mean_ablation(key(0), network.params, 0.5, layers="conv1", means={"conv2": means["conv2"]})
    with pytest.raises(LayerError, match="8 units"):
        jp.mean_ablation(key(0), network.params, 0.5, layers="conv1", means={"conv1": np.zeros(3)})


class Odd(nn.Module):
    """One layer, and what comes after it as asked."""

    after: str

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(4, (3, 3), use_bias=self.after != "no bias", name="conv1")(x)
        if self.after == "no shift":
            x = nn.relu(nn.BatchNorm(use_running_average=True, use_bias=False, name="conv1_norm")(x))
        elif self.after == "other norm":
            x = nn.relu(nn.BatchNorm(use_running_average=True, name="bn")(x))
        elif self.after not in ("no bias",):
            x = getattr(nn, self.after)(x)
        return nn.Dense(5, name="fc2")(x.mean((1, 2)))


def odd(after, norms=None):
    module = Odd(after)
    variables = module.init(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    return jp.Network.from_linen(module, variables, image_shape=SHAPE, norms=norms)


@pytest.mark.parametrize(
    ("after", "kind", "message"),
    [
        ("tanh", NetworkError, "expected ReLU or another layer after its shift, got tanh"),
        ("gelu", NetworkError, "expected ReLU"),
        ("silu", NetworkError, "expected ReLU"),
        ("leaky_relu", NetworkError, "expected ReLU"),
        ("other norm", NetworkError, "norms="),
        ("no bias", LayerError, "'conv1' has neither a bias nor a norm"),
        ("no shift", LayerError, "'conv1' has a norm without a shift"),
    ],
)
def test_activations_that_cannot_be_fixed_are_refused(data, after, kind, message):
    network = odd(after)
    with pytest.raises(kind, match=message):
        jp.mean_activations(network, data)
    assert list(jp.mean_activations(network, data, layers="fc2")) == ["fc2"]


def test_a_norm_of_another_name(data):
    network = odd("other norm", {"conv1": "bn"})
    means = jp.mean_activations(network, data)
    params = jp.mean_ablation(key(0), network.params, 1, layers="conv1", means=means, norms={"conv1": "bn"})
    logits = np.asarray(network.apply(params, data[0][:9]))
    kernel, bias = (np.asarray(network.params["params"]["fc2"][name]) for name in ("kernel", "bias"))
    np.testing.assert_allclose(logits, np.tile(means["conv1"] @ kernel + bias, (9, 1)), rtol=1e-4, atol=1e-6)


def test_units_first():
    """Weights as in Equinox and PyTorch: units are the first axis of the kernel, and the second of activations."""

    def apply(params, images):
        x = jnp.moveaxis(images, -1, 1)
        x = jax.lax.conv(x, params["conv"]["weight"], (1, 1), "SAME") + params["conv"]["bias"]
        x = jnp.maximum(x, 0).mean((2, 3))
        return x @ params["out"]["weight"].T + params["out"]["bias"]

    rng = np.random.default_rng(0)
    made = {
        "conv": {"weight": rng.normal(size=(10, 3, 3, 3)), "bias": rng.normal(size=(10, 1, 1))},
        "out": {"weight": rng.normal(size=(4, 10)), "bias": rng.normal(size=4)},
    }
    params = jax.tree.map(lambda a: a.astype(np.float32), made)
    network = jp.Network.from_apply(apply, params, image_shape=SHAPE)
    images = rng.normal(size=(50, *SHAPE)).astype(np.float32)
    means = jp.mean_activations(network, (images, np.zeros(50, np.int32)))
    x = jax.lax.conv(np.moveaxis(images, -1, 1), params["conv"]["weight"], (1, 1), "SAME") + params["conv"]["bias"]
    np.testing.assert_allclose(means["conv"], np.maximum(x, 0).mean((0, 2, 3)), rtol=1e-4)
    logits = apply(jp.mean_ablation(key(0), params, 1, layers="conv", means=means), images)
    want = params["out"]["weight"] @ means["conv"] + params["out"]["bias"]
    np.testing.assert_allclose(logits, np.tile(want, (50, 1)), rtol=1e-4, atol=1e-5)
