"""Networks of any make: one network has the same layers, masks and logits in each, and is used as after training."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sample_networks as samples
from flax import nnx, serialization
from sample_networks import COLOUR, SAMPLES

import jaxperturb as jp
from jaxperturb.checkpoints import load_network
from jaxperturb.cli import main
from jaxperturb.errors import LayerError, NetworkError
from jaxperturb.networks.network import Network
from jaxperturb.networks.preprocessing import Preprocessing
from jaxperturb.random import draw_key
from jaxperturb.trees import LayerRule, fingerprint, layers_of

TESTS = Path(__file__).parent


def images(shape=COLOUR, n=5):
    return np.random.default_rng(1).normal(size=(n, *shape)).astype(np.float32)


def same_network():
    """The same network in Linen, NNX and plain functions of the same tree."""
    linen = SAMPLES["linen"]()
    return linen, SAMPLES["nnx"](), Network.from_apply(samples.plain_apply, linen.params, image_shape=COLOUR)


# In which order each network uses its layers, and the axis of units of each weight.
ORDERS = {
    "resnet": (*(f"Conv_{i}" for i in range(6)), "Dense_0"),
    "attention": ("patches", *(f"attention/{name}" for name in ("query", "key", "value", "out")), "up", "down", "head"),
    "linen": ("conv1", "fc2", "fc10"),
    "nnx": ("conv1", "fc2", "fc10"),
    "equinox": ("conv1", "dense/0", "dense/1"),
    "mlp": ("first", "second", "last"),
    "jit": ("first", "second", "last"),
    "scan": ("first", "stack", "last"),
    "remat": ("conv1", "conv2", "fc"),
    "custom_jvp": ("first", "second", "last"),
    "tied": ("code", "last"),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_layers_are_in_the_order_of_the_program_and_classes_are_counted(name):
    network = SAMPLES[name]()
    assert network.layer_names() == ORDERS[name]
    assert network.number_of_classes() == 10
    logits = network.apply(network.params, images(network.image_shape))
    assert logits.shape == (5, 10)
    assert np.isfinite(logits).all()
    assert np.ptp(logits, axis=0).min() > 1e-3, "each class depends on the image"


def test_one_network_has_the_same_logits_layers_and_fingerprint_in_each_library():
    networks = same_network()
    want = networks[0].apply(networks[0].params, images())
    for network in networks[1:]:
        np.testing.assert_allclose(network.apply(network.params, images()), want, rtol=1e-4, atol=1e-4)
        assert fingerprint(network.params) == fingerprint(networks[0].params)
        assert layers_of(network.params) == layers_of(networks[0].params)


@pytest.mark.parametrize("word", ["synapse_knockout", "node_knockout", "gaussian_noise", "bit_flip"])
def test_one_network_has_the_same_masks_in_linen_nnx_and_plain_dicts(word):
    linen, *_ = same_network()
    level = {"bit_flip": 0.01}.get(word, 0.4)
    state = nnx.split(samples.nnx_model(), nnx.Param, ...)[1]
    trees = (linen.params, linen.params["params"], state, nnx.to_pure_dict(state))
    key = draw_key(3, 7)
    changed = [getattr(jp, word)(key, tree, level) for tree in trees]
    for tree, after in zip(trees, changed, strict=True):
        assert jax.tree.structure(after) == jax.tree.structure(tree)
    prints = [fingerprint({"params": dict(after.get("params", after))}) for after in (changed[0], changed[1])]
    assert prints[0] == prints[1]
    want = jax.tree.leaves(changed[1])
    for after in changed[2:]:
        for one, other in zip(jax.tree.leaves(after), want, strict=True):
            np.testing.assert_array_equal(one, other)


def test_the_network_of_a_cell_is_the_same_in_each_library():
    lesioned = [jp.lesion(network, "node_knockout", "fc2", 0.5, draw=1, seed=2) for network in same_network()]
    prints = {fingerprint(network.params) for network in lesioned}
    assert len(prints) == 1
    assert prints != {fingerprint(same_network()[0].params)}


def test_an_equinox_models_own_arrays_get_the_masks_of_its_network():
    model, state = samples.equinox_model()
    network = Network.from_equinox(model, state, image_shape=COLOUR)
    key = draw_key(0, 0)
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    after = jp.node_knockout(key, arrays, 0.5, layers="dense/0")
    assert (np.asarray(after.dense[0].weight) == 0).all(1).sum() == 8, "units come first"
    inference = eqx.nn.inference_mode(eqx.combine(after, rest))
    want = [inference(image.transpose(2, 0, 1), state, key=None)[0] for image in images()]
    lesioned = jp.lesion(network, "node_knockout", "dense/0", 0.5)
    np.testing.assert_allclose(lesioned.apply(lesioned.params, images()), np.stack(want), rtol=1e-4, atol=1e-5)


# As after training


def test_flags_of_training_are_set_to_use():
    network = SAMPLES["resnet"]()
    want = samples.ResNet().apply(network.params, images(), train=False)
    np.testing.assert_array_equal(network.apply(network.params, images()), want)
    asked = Network.from_linen(samples.ResNet(), network.params, train=True)
    with pytest.raises(NetworkError, match="batch_stats"):
        asked.program(COLOUR)


def test_further_arguments_go_to_the_call():
    class Scaled(nn.Module):
        @nn.compact
        def __call__(self, x, factor):
            return factor * nn.Dense(4)(x.mean((1, 2)))

    variables = Scaled().init(jax.random.key(0), images(), 1.0)
    network = Network.from_linen(Scaled(), variables, factor=3.0, name="scaled", classes=tuple("abcd"))
    assert (network.name, network.classes) == ("scaled", tuple("abcd"))
    np.testing.assert_array_equal(network.apply(variables, images()), Scaled().apply(variables, images(), 3.0))
    plain = Network.from_apply(
        lambda p, x, *, factor: factor * x.mean((1, 2)) @ p["w"], {"w": jnp.ones((3, 2))}, factor=2
    )
    np.testing.assert_allclose(
        plain.apply(plain.params, images()), 2 * images().mean((1, 2)) @ np.ones((3, 2)), rtol=1e-5
    )


def test_an_nnx_model_is_used_and_left_as_it_is():
    model = samples.nnx_model()
    network = Network.from_nnx(model, image_shape=COLOUR)
    assert not model.dropout.deterministic
    assert not model.conv1_norm.use_running_average
    assert sorted(network.params) == ["batch_stats", "params"]
    assert sorted(network.params["params"]) == ["conv1", "conv1_norm", "fc10", "fc2"]
    first = network.apply(network.params, images())
    np.testing.assert_array_equal(network.apply(network.params, images()), first)
    model.eval()
    np.testing.assert_allclose(first, model(images()), rtol=1e-5, atol=1e-5)
    moved = network.params | {"batch_stats": jax.tree.map(lambda a: a + 1, network.params["batch_stats"])}
    assert np.abs(network.apply(moved, images()) - first).max() > 0.1, "statistics are variables"


def test_lists_of_layers_in_nnx_have_numbers_as_names():
    class Deep(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(3, 3, rngs=rngs) for _ in range(11)])
            self.offset = nnx.Variable(jnp.float32(2.0))

        def __call__(self, x):
            x = x.mean((1, 2))
            for layer in self.layers:
                x = layer(x)
            return x + self.offset

    model = Deep(nnx.Rngs(0))
    network = Network.from_nnx(model, image_shape=COLOUR)
    assert network.layer_names() == tuple(f"layers/{i}" for i in range(11))
    np.testing.assert_allclose(network.apply(network.params, images()), model(images()), rtol=1e-5, atol=1e-6)
    assert float(network.params["state"]["offset"]) == 2.0


def test_equinox_models_take_channels_first_or_last():
    class Means(eqx.Module):
        weight: jax.Array
        axis: int = eqx.field(static=True)
        counts: jax.Array

        def __call__(self, image):
            means = image.mean(tuple(i for i in range(3) if i != self.axis))
            return self.weight @ means + self.counts

    weight = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3)), jnp.float32)
    want = images().mean((1, 2)) @ weight.T + np.arange(4)
    for channels, axis in (("first", 0), ("last", 2)):
        network = Network.from_equinox(Means(weight, axis, jnp.arange(4)), channels=channels, image_shape=COLOUR)
        np.testing.assert_allclose(network.apply(network.params, images()), want, rtol=1e-5, atol=1e-5)
        assert (network.number_of_classes(), network.layer_names(), network.name) == (4, ("weight",), "means")
        assert sorted(network.params) == ["buffers", "params"], "whole numbers are never perturbed"
    with pytest.raises(NetworkError, match="expected channels 'first' or 'last', got 'middle'"):
        Network.from_equinox(Means(weight, 0, jnp.arange(4)), channels="middle")


def test_equinox_is_imported_for_its_models_only():
    code = (
        "import sys, jaxperturb.api; from jaxperturb.checkpoints import load_network as load; load('alexnet-digits');"
    )
    code += "print(*sorted({'equinox', 'flax.nnx'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "equinox" not in done.stdout


# Rules


ODD = {"a": {"W": np.ones((5, 4), np.float32), "beta": np.zeros(4)}, "b": {"W": np.ones((4, 3), np.float32)}}


def test_a_rule_names_weights_biases_and_the_axis_of_units():
    with pytest.raises(LayerError, match="no layer: no sub-tree holds a leaf named kernel, weight, w"):
        layers_of(ODD)
    layers = layers_of(ODD, LayerRule({"W": -1}, ("beta",)))
    assert [(one.units, one.inputs, len(one.leaves())) for one in layers.values()] == [(4, 5, 2), (3, 4, 1)]
    layers = layers_of(ODD, LayerRule({"W": 0}, ()))
    assert [(one.units, one.inputs, len(one.leaves())) for one in layers.values()] == [(5, 4, 1), (4, 3, 1)]


@pytest.mark.parametrize(("axis", "inputs"), [(-1, 2), (-2, 3), (0, 1), (1, 0)])
def test_the_axis_of_inputs_is_beside_that_of_units(axis, inputs):
    (layer,) = layers_of({"a": {"k": np.zeros((2, 3, 5, 7))}}, LayerRule({"k": axis})).values()
    assert (layer.units, layer.inputs) == ((2, 3, 5, 7)[axis], (2, 3, 5, 7)[inputs])


def test_rules_are_refused_that_find_nothing():
    with pytest.raises(LayerError, match="expected -1, -2, 0 or 1 as the axis of units of 'W', got 2"):
        LayerRule({"W": 2})
    with pytest.raises(LayerError, match="expected the name of a weight"):
        LayerRule({})


def test_a_rule_goes_through_functions_and_studies():
    rng = np.random.default_rng(0)
    odd = {"a": {"W": rng.normal(size=(192, 6)), "beta": rng.normal(size=6)}, "b": {"W": rng.normal(size=(6, 4))}}
    odd = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), odd)

    def apply(params, x):
        return jax.nn.relu(x.reshape(len(x), -1) @ params["a"]["W"] + params["a"]["beta"]) @ params["b"]["W"]

    rule = LayerRule({"W": -1}, ("beta",))
    network = Network.from_apply(apply, odd, layers=rule, image_shape=COLOUR)
    lesioned = jp.lesion(network, "node_knockout", "a", 0.5)
    after = lesioned.params["a"]
    np.testing.assert_array_equal((np.asarray(after["W"]) == 0).all(0), np.asarray(after["beta"]) == 0)
    assert (np.asarray(after["beta"]) == 0).sum() == 3
    pure = jp.node_knockout(draw_key(0, 0), odd, 0.5, layers="a", norms=rule)
    jax.tree.map(np.testing.assert_array_equal, pure, lesioned.params)
    labels = np.argmax(apply(odd, images(n=12)), 1)
    cells = jp.sweep(network, (images(n=12), labels), "node_knockout", "a", levels=[0, 0.5], draws=1).cells
    expected = (np.argmax(apply(lesioned.params, images(n=12)), 1) == labels).sum()
    assert list(cells.sort_values("level")["top1"]) == [12, expected]


def test_a_rule_keeps_norms_that_are_given_beside_it():
    network = SAMPLES["resnet"]()
    again = Network.from_linen(
        samples.ResNet(), network.params, layers=LayerRule({"kernel": -1}), norms={"Conv_1": "BatchNorm_1"}
    )
    layer = layers_of(again.params, again.norms)["Conv_1"]
    assert [leaf.name for leaf in layer.leaves(include_norm=True)] == ["kernel", "norm/scale", "norm/bias"]


def test_norms_of_equinox_and_haiku_are_found():
    scale = np.ones(4, np.float32)
    for weight, names in (("weight", ("weight", "bias")), ("w", ("scale", "offset"))):
        tree = {"c": {weight: np.ones((4, 4), np.float32)}, "c_norm": dict.fromkeys(names, scale)}
        leaves = layers_of(tree)["c"].leaves(include_norm=True)
        assert [leaf.name for leaf in leaves[1:]] == ["norm/scale", "norm/bias"]
    two = {"c": {"weight": np.ones((4, 4))}, "c_norm": {"weight": np.ones((4, 4)), "bias": np.ones(4)}}
    assert layers_of(two)["c"].norm == (), "a dense layer is no norm"


def test_a_bias_of_each_head_goes_with_its_unit():
    network = SAMPLES["attention"]()
    after = jp.lesion(network, "node_knockout", "attention/query", 0.5).params["params"]["attention"]["query"]
    silent = (np.asarray(after["kernel"]) == 0).all((0, 1))
    assert silent.sum() == 3
    np.testing.assert_array_equal((np.asarray(after["bias"]) == 0).all(0), silent)


# From the command line


class LinenDigits(nn.Module):
    """Wants to be told that it is not trained."""

    @nn.compact
    def __call__(self, images, train):
        x = nn.relu(nn.Dense(12, name="hidden")(images.reshape(len(images), -1)))
        return nn.Dense(10, name="last")(nn.Dropout(0.5, deterministic=not train)(x))


class NnxDigits(nnx.Module):
    """The same in NNX."""

    def __init__(self, rngs):
        self.hidden, self.last = nnx.Linear(64, 12, rngs=rngs), nnx.Linear(12, 10, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, images):
        return self.last(self.dropout(nnx.relu(self.hidden(images.reshape(len(images), -1)))))


def nnx_digits():
    return NnxDigits(nnx.Rngs(5))


class EquinoxDigits(eqx.Module):
    """The same in Equinox, one image at a time."""

    hidden: eqx.nn.Linear
    last: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __call__(self, image, key):
        return self.last(self.dropout(jax.nn.relu(self.hidden(image.ravel())), key=key))


def equinox_digits():
    keys = jax.random.split(jax.random.key(5))
    hidden, last = eqx.nn.Linear(64, 12, key=keys[0]), eqx.nn.Linear(12, 10, key=keys[1])
    return EquinoxDigits(hidden, last, eqx.nn.Dropout(0.5))


def network_of_digits():
    return Network.from_equinox(equinox_digits(), image_shape=samples.GREY, name="mine")


def weights_of_digits(units_last=True):
    """Weights that say a little: each class's mean image, through a hidden layer that hands on random features."""
    random = np.random.default_rng(0)
    digits = jp.load_dataset("digits")
    pixels = np.stack([digits.read(i) for i in range(len(digits))]).reshape(-1, 64).astype(np.float32)
    labels = np.asarray(digits.labels)
    hidden = random.normal(size=(64, 12)).astype(np.float32) / 64
    features = np.maximum(pixels @ hidden, 0)
    means = np.stack([features[labels == k].mean(0) for k in range(10)])
    last, bias = means.T, -0.5 * (means**2).sum(1)
    right = int((np.argmax(features @ last + bias, 1) == labels).sum())
    kernels = [np.ascontiguousarray(kernel if units_last else kernel.T) for kernel in (hidden, last)]
    word = "kernel" if units_last else "weight"
    tree = {
        "hidden": {word: kernels[0], "bias": np.zeros(12, np.float32)},
        "last": {word: kernels[1], "bias": bias.astype(np.float32)},
    }
    return tree, right


@pytest.mark.parametrize(
    ("factory", "units_last"),
    [("LinenDigits", True), ("nnx_digits", True), ("equinox_digits", False), ("network_of_digits", False)],
)
def test_evaluate_takes_a_network_of_ones_own(factory, units_last, capsys, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    tree, right = weights_of_digits(units_last)
    Path("w.msgpack").write_bytes(serialization.to_bytes(tree))
    words = [f"--network=test_networks_any:{factory}", "--weights=w.msgpack"]
    words.append("--preprocessing=channels=L;scale=1")
    assert main.run(["evaluate", *words]) == 0
    out, _ = capsys.readouterr()
    assert f"({right} right; chance 0.1)" in out


def test_a_sweep_takes_a_network_of_ones_own(monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    Path("w.msgpack").write_bytes(serialization.to_bytes(weights_of_digits(units_last=False)[0]))
    factory = "test_networks_any:equinox_digits"
    words = [f"--network={factory}", "--weights=w.msgpack", "--preprocessing=channels=L;scale=1", "--images=60"]
    cell = ["--perturbations=node_knockout", "--layers=hidden", "--levels=0,0.5", "--draws=1"]
    assert main.run(["sweep", *words, *cell, "--out=study", "--quiet"]) == 0
    network = load_network("w.msgpack", factory, image_shape=samples.GREY)
    network = dataclasses.replace(network, preprocessing=Preprocessing(channels="L", scale=1.0))
    left = jp.evaluate(jp.lesion(network, "node_knockout", "hidden", 0.5), "digits", 60).top1
    assert list(jp.load_results("study").cells.sort_values("level")["top1"])[1] == left


def test_a_module_without_weights_is_refused(capsys, monkeypatch):
    monkeypatch.syspath_prepend(TESTS)
    for factory in ("LinenDigits", "nnx_digits", "equinox_digits"):
        assert main.run(["evaluate", f"--network=test_networks_any:{factory}"]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert "returned a module without weights; give them, too" in err
    assert main.run(["evaluate", "--network=test_networks_any:weights_of_digits"]) == 2
    assert "returned a tuple, not a jaxperturb.Network or a module of Flax or Equinox" in capsys.readouterr().err
