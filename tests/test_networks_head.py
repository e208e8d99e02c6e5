"""A fresh output layer for other classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_networks import SAMPLES, dense, plain

import jaxperturb as jp
from jaxperturb.errors import NetworkError
from jaxperturb.networks.head import replace_head
from jaxperturb.trees import layers_of


def perceptron(params, images):
    return jnp.tanh(images.reshape(len(images), -1) @ params["first"]["w"]) @ params["last"]["w"] + params["last"]["b"]


def test_the_logits_are_those_of_the_old_features_and_the_new_weights():
    network = plain(perceptron, {"first": dense(16, 200), "last": dense(200, 4)}, (4, 4, 1))
    found = replace_head(network, ["a", "b", "c"], seed=3)
    images = np.random.default_rng(0).normal(size=(5, 4, 4, 1)).astype(np.float32)
    features = np.tanh(images.reshape(5, 16) @ np.asarray(network.params["first"]["w"]))
    expected = features @ np.asarray(found.params["last"]["w"])
    np.testing.assert_allclose(found.apply(found.params, images), expected, rtol=1e-5, atol=1e-6)
    assert found.classes == ("a", "b", "c")
    assert np.asarray(found.params["last"]["w"]).std() == pytest.approx(200**-0.5, rel=0.15)
    assert not np.asarray(found.params["last"]["b"]).any()


@pytest.mark.parametrize("name", ["alexnet-digits", "squeezenet-imagenet"])
def test_a_bundled_network_keeps_all_other_weights(name):
    network = jp.load_network(name)
    found = replace_head(network, 7)
    assert found.number_of_classes() == 7
    head = layers_of(network.params)[network.layer_names()[-1]]
    own = {leaf.index for leaf in head.leaves()}
    pairs = list(zip(jax.tree.leaves(network.params), jax.tree.leaves(found.params), strict=True))
    assert all((a is b) == (i not in own) for i, (a, b) in enumerate(pairs))


def test_the_same_seed_gives_the_same_head():
    network = jp.load_network("alexnet-digits")
    first, again, other = (replace_head(network, 7, seed).params["params"]["fc8"]["kernel"] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", ["nnx", "equinox", "mlp"])
def test_functions_of_weights_take_it_as_they_are(name):
    assert replace_head(SAMPLES[name](), 7).number_of_classes() == 7


def test_what_cannot_be_given_other_classes_is_refused_in_a_line():
    with pytest.raises(NetworkError, match="expected 2 classes or more, got 1"):
        replace_head(jp.load_network("alexnet-digits"), 1)
    with pytest.raises(NetworkError, match="cannot be given 7 classes in place of") as caught:
        replace_head(SAMPLES["linen"](), 7)
    assert "\n" not in str(caught.value)
