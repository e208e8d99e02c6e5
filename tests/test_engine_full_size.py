"""A full-width AlexNet runs: shapes and memory are real, not only the small network's."""

import jax
import jax.numpy as jnp
import numpy as np

import jaxperturb as jp
from jaxperturb.networks.alexnet import AlexNet
from jaxperturb.random import draw_key


def test_a_study_of_alexnet_at_224():
    module = AlexNet()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    variables = jax.tree.map(lambda a: a * np.sqrt(2) if a.ndim > 1 else a, variables)
    network = jp.Network.from_linen(module, variables, image_shape=(224, 224, 3))
    images = np.asarray(jax.random.normal(jax.random.key(1), (16, 224, 224, 3)))
    intact = np.asarray(jax.jit(network.apply)(variables, images))
    labels = intact.argmax(1).astype(np.int32)

    results = jp.sweep(network, (images, labels), "synapse_knockout", levels=[0, 0.5, 1], draws=1)

    cells = results.cells.set_index(["perturbation", "target", "level_text"])
    assert len(cells) == 8 * 3
    assert (cells["images"] == 16).all()
    assert (cells.xs("0", level="level_text")[["top1", "top5", "same1", "same5"]] == 16).all(axis=None)
    silent = (labels == 0).sum()  # equal logits: the first class
    assert (cells.xs("1", level="level_text").loc[("synapse_knockout", "fc8"), "top1"] == silent).all()
    for target in ("conv1", "conv3", "fc6"):
        lesioned = jp.synapse_knockout(draw_key(0, 0), variables, 0.5, layers=target)
        same = np.asarray(jax.jit(network.apply)(lesioned, images)).argmax(1) == labels
        assert abs(cells.loc[("synapse_knockout", target, "0.5"), "same1"] - same.sum()) <= 1
        n = sum(leaf.size for leaf in jax.tree.leaves(variables["params"][target]))
        assert abs(cells.loc[("synapse_knockout", target, "0.5"), "selected"] - n / 2) <= 1
