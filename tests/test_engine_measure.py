"""Activations of a layer, image by image."""

import jax.numpy as jnp
import numpy as np
import pytest
from sample_networks import dense, plain

import jaxperturb as jp
from jaxperturb.errors import LayerError


def perceptron(params, images):
    x = jnp.maximum(images.reshape(len(images), -1) @ params["first"]["w"] + params["first"]["b"], 0)
    return x @ params["last"]["w"] + params["last"]["b"]


NETWORK = plain(perceptron, {"first": dense(16, 12), "last": dense(12, 4)}, (4, 4, 1))
IMAGES = np.random.default_rng(0).normal(size=(10, 4, 4, 1)).astype(np.float32)
LABELS = np.arange(10) % 4


def by_hand(params):
    first = params["first"]
    return np.maximum(IMAGES.reshape(10, 16) @ np.asarray(first["w"]) + np.asarray(first["b"]), 0)


@pytest.mark.parametrize("batch_size", [3, 256])
def test_they_are_those_of_numpy_in_the_study_order(batch_size):
    found = jp.activations(NETWORK, (IMAGES, LABELS), "first", batch_size=batch_size)
    order = jp.sweep(NETWORK, (IMAGES, LABELS), "synapse_knockout", "last", levels=0, draws=1).images["data_index"]
    np.testing.assert_allclose(found, by_hand(NETWORK.params)[order], rtol=1e-5, atol=1e-6)


def test_a_silenced_unit_says_nothing_and_others_what_they_said():
    lesioned = jp.lesion(NETWORK, "node_knockout", "first", 0.5)
    before, after = (jp.activations(net, (IMAGES, LABELS), "first") for net in (NETWORK, lesioned))
    gone = ~np.asarray(lesioned.params["first"]["w"]).any(axis=0)
    assert gone.sum() == 6
    assert not after[:, gone].any()
    np.testing.assert_allclose(after[:, ~gone], before[:, ~gone], rtol=1e-6)


def test_of_a_convolution_there_is_one_for_each_position():
    digits = jp.load_dataset("digits")
    found = jp.activations("alexnet-digits", digits, "conv2", images=20)
    means = jp.mean_activations("alexnet-digits", digits, images=20, layers="conv2")["conv2"]
    assert found.ndim == 4
    np.testing.assert_allclose(found.mean(axis=(0, 1, 2)), means, rtol=1e-4, atol=1e-6)


def test_a_pattern_of_several_layers_is_refused():
    with pytest.raises(LayerError, match="expected one layer, got first, last"):
        jp.activations(NETWORK, (IMAGES, LABELS), "*")
