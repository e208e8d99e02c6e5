"""SqueezeNet against PyTorch: torchvision's networks are written out with torch.nn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torchvision_copies import agree, clearly_differ, pictures, randomise, torch_logits, torch_squeezenet

from jaxperturb.checkpoints import load_network
from jaxperturb.errors import NetworkError
from jaxperturb.networks import catalogue
from jaxperturb.networks.pooling import max_pool_ceil

VERSIONS = {"1.0": ("squeezenet1_0", 1_248_424, 21), "1.1": ("squeezenet1_1", 1_235_496, 17)}


def tree_of(name, side=224, **options):
    image = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return jax.eval_shape(catalogue.build(name, options).init, jax.random.key(0), image)["params"]


@pytest.mark.parametrize("version", VERSIONS)
def test_it_has_the_published_parameters_and_sizes(version):
    name, parameters, least = VERSIONS[version]
    assert sum(leaf.size for leaf in jax.tree.leaves(tree_of(name))) == parameters
    assert tree_of(name, least)
    with pytest.raises(NetworkError, match=f"at least {least} by {least}"):
        tree_of(name, least - 1)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("side", [224, 75, 21])
def test_logits_equal_pytorch(torch, tmp_path, version, padding, side):
    name = VERSIONS[version][0]
    sizes = {"classes": 9, "width": 0.25} if side == 224 else {}
    reference = randomise(torch, torch_squeezenet(torch, version, final_padding=padding, **sizes))
    images = pictures(side)
    expected = torch_logits(torch, reference, images)
    torch.save(reference.state_dict(), tmp_path / "w.pth")
    network = load_network(tmp_path / "w.pth")
    assert network.source["architecture"] == name
    assert network.source["options"] == {"classes": 1000, **sizes}
    module = catalogue.build(name, {**network.source["options"], "final_padding": padding})
    assert clearly_differ(expected)
    assert agree(np.asarray(module.apply(network.params, images)), expected)
    # The padding is no tensor: the file cannot say it.
    other = dataclasses.replace(module, final_padding=1 - padding)
    assert not agree(np.asarray(other.apply(network.params, images)), expected)


def test_layers_are_named_in_the_programs_order(torch, tmp_path):
    torch.save(torch_squeezenet(torch, "1.1", width=0.1, classes=2).state_dict(), tmp_path / "w.pth")
    fires = [f"fire{i}/{part}" for i in range(2, 10) for part in ("squeeze", "expand1x1", "expand3x3")]
    assert load_network(tmp_path / "w.pth").layer_names() == ("conv1", *fires, "conv_final")


@pytest.mark.parametrize("length", range(2, 13))
def test_ceil_mode_pooling_equals_pytorch(torch, length):
    x = np.random.default_rng(0).normal(size=(2, length, length + 1, 5)).astype(np.float32) - 3
    expected = torch.nn.MaxPool2d(3, 2, ceil_mode=True)(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_array_equal(max_pool_ceil(jnp.asarray(x), 3, 2), expected.transpose(0, 2, 3, 1))


def test_final_padding_may_be_0_and_not_less():
    assert catalogue.build("squeezenet1_0", {"final_padding": 0}).final_padding == 0
    for wrong in (-1, 0.5, True, None):
        with pytest.raises(NetworkError, match="final_padding must be a whole number of at least 0"):
            catalogue.build("squeezenet1_0", {"final_padding": wrong})
