"""Layers of trees: one network has the same layers in every container."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxperturb.errors import LayerError
from jaxperturb.trees import fingerprint, is_changed, layers_of, leaf_names, replace_leaves, select_layers

KERNEL, BIAS = np.arange(36.0, dtype=np.float32).reshape(3, 3, 1, 4), np.zeros(4, np.float32)
PLAIN = {
    "conv1": {"kernel": KERNEL, "bias": BIAS},
    "norm": {"scale": BIAS},
    "block": {"fc": {"w": KERNEL[0, 0], "b": BIAS}},
}


def test_layers_of_plain_dicts():
    layers = layers_of(PLAIN)
    assert set(layers) == {"conv1", "block/fc"}
    assert layers["conv1"].units == 4
    assert layers["conv1"].weight.size == 36
    assert [leaf.name for leaf in layers["block/fc"].leaves()] == ["w", "b"]
    assert [leaf.name for leaf in layers["block/fc"].leaves(include_bias=False)] == ["w"]


def test_units_come_first_in_trees_of_weights():
    layer = layers_of({"conv": {"weight": np.zeros((7, 3, 5, 5)), "bias": np.zeros((7, 1, 1))}})["conv"]
    assert (layer.units, layer.weight.unit_axis, layer.bias.unit_axis) == (7, 0, 0)


def test_statistics_are_not_layers():
    tree = {"params": PLAIN, "batch_stats": {"norm": {"kernel": KERNEL}}}
    assert set(layers_of(tree)) == {"conv1", "block/fc"}


def test_linen_nnx_and_dicts_agree():
    class Linen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(4, name="fc")(nn.Conv(2, (3, 3), name="conv1")(x).reshape(len(x), -1))

    class Nnx(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(1, 2, (3, 3), rngs=rngs)
            self.fc = nnx.Linear(50, 4, rngs=rngs)

    variables = Linen().init(jax.random.key(0), jnp.zeros((1, 5, 5, 1)))
    state = nnx.split(Nnx(nnx.Rngs(0)))[1]
    state = nnx.merge_state(state)
    described = [
        {name: (layer.weight.shape, layer.weight.name, layer.bias.name) for name, layer in layers_of(tree).items()}
        for tree in (variables, variables["params"], state)
    ]
    assert described[0] == described[1] == described[2]
    assert fingerprint(variables) == fingerprint(variables["params"])


@pytest.mark.parametrize("tree", [{}, {"a": np.zeros(3)}, {"params": {"n": {"scale": BIAS}}}])
def test_a_tree_without_layers_is_refused(tree):
    with pytest.raises(LayerError, match="no layer"):
        layers_of(tree)


def test_a_bias_of_another_size_is_refused():
    with pytest.raises(LayerError, match="4 units"):
        layers_of({"a": {"kernel": KERNEL, "bias": np.zeros(3)}})


def test_patterns():
    names = ("conv1", "conv2", "fc6")
    assert select_layers(names, "*") == names
    assert select_layers(names, "fc*, conv2") == ("conv2", "fc6")
    assert select_layers(names, ["conv?"]) == ("conv1", "conv2")
    with pytest.raises(LayerError, match="unknown layer 'conv3'; did you mean 'conv2'"):
        select_layers(names, "conv3")
    with pytest.raises(LayerError, match="expected a layer"):
        select_layers(names, "")


def test_replacing_keeps_the_other_objects():
    after = replace_leaves(PLAIN, {leaf_names(PLAIN).index("conv1/bias"): np.ones(4)})
    assert after["conv1"]["kernel"] is KERNEL
    assert after["conv1"]["bias"].sum() == 4
    assert jax.tree.structure(after) == jax.tree.structure(PLAIN)


def test_fingerprint_is_of_values():
    again = {
        "conv1": {"bias": BIAS.copy(), "kernel": jnp.asarray(KERNEL)},
        "norm": PLAIN["norm"],
        "block": PLAIN["block"],
    }
    assert fingerprint(again) == fingerprint(PLAIN)
    flipped = KERNEL.copy()
    flipped.view(np.uint32).flat[5] ^= 1
    assert fingerprint({**PLAIN, "conv1": {"kernel": flipped, "bias": BIAS}}) != fingerprint(PLAIN)
    assert fingerprint({**PLAIN, "conv1": {"kernel": KERNEL.reshape(9, 4), "bias": BIAS}}) != fingerprint(PLAIN)


def test_changes_are_of_bits():
    before = jnp.float32([0.0, 1.0, jnp.nan, 2.0])
    after = jnp.float32([-0.0, 1.0, jnp.nan, 3.0])
    np.testing.assert_array_equal(is_changed(before, after), [True, False, False, True])
