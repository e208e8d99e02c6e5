"""torchvision's eleven networks from PyTorch's files to logits: AlexNet and VGG at full size, and every tensor of each."""

import gc

import jax
import numpy as np
import pytest
from torchvision_copies import (
    NAMES,
    SMALL,
    agree,
    clearly_differ,
    pictures,
    randomise,
    torch_logits,
    torch_network,
    torch_squeezenet,
)

from jaxperturb.checkpoints import load_network
from jaxperturb.checkpoints.convert import convert
from jaxperturb.checkpoints.torch_file import open_weights
from jaxperturb.networks.preprocessing import IMAGENET

# One of each kind at full size in the normal run; all of them with `pytest -m heavy`.
ALWAYS = ("alexnet", "vgg11", "vgg11_bn")
FULL = [name if name in ALWAYS else pytest.param(name, marks=pytest.mark.heavy) for name in NAMES]
SQUEEZENETS = {"squeezenet1_0": "1.0", "squeezenet1_1": "1.1"}


def logits_of(network, images):
    return np.asarray(jax.jit(network.apply)(network.params, images))


@pytest.mark.parametrize("name", FULL)
def test_logits_at_full_size_equal_pytorch(torch, tmp_path, name):
    reference = randomise(torch, torch_network(torch, name))
    images = pictures(224)
    expected = torch_logits(torch, reference, images)
    assert expected.shape == (8, 1000)
    assert clearly_differ(expected)
    trees = []
    for modern in (True, False):
        path = tmp_path / f"{name}.pth"
        torch.save(reference.state_dict(), path, _use_new_zipfile_serialization=modern)
        if trees:
            del reference
            gc.collect()
        network = load_network(path)
        path.unlink()
        assert (network.source["architecture"], network.preprocessing) == (name, IMAGENET)
        assert (network.image_shape, network.source["options"]["classes"]) == ((224, 224, 3), 1000)
        assert network.source["source"]["container"] == ("zip" if modern else "legacy")
        trees.append(network.params)
    # The same tree gives the same logits: they are computed once.
    jax.tree.map(np.testing.assert_array_equal, *trees)
    assert agree(logits_of(network, images), expected)


def narrow(torch, name):
    """A narrow network of PyTorch whose first dense layer sees a map of 2 × 2, and images for it."""
    if name in SQUEEZENETS:
        return randomise(torch, torch_squeezenet(torch, SQUEEZENETS[name], classes=7, width=0.25)), pictures(
            75, count=4
        )
    side = 111 if name == "alexnet" else 64
    return randomise(torch, torch_network(torch, name, **SMALL, pooled=2)), pictures(side, count=4)


@pytest.mark.parametrize("name", [*NAMES, *SQUEEZENETS])
def test_any_tensor_that_is_zeroed_or_swapped_is_noticed(torch, tmp_path, name):
    reference, images = narrow(torch, name)
    expected = torch_logits(torch, reference, images)
    state, path = reference.state_dict(), tmp_path / "w.pth"

    def passes(changed):
        torch.save({**state, **changed}, path)
        return agree(np.asarray(apply(convert(open_weights(path)).variables, images)), expected)

    torch.save(state, path)
    apply = jax.jit(load_network(path).apply)
    assert clearly_differ(expected)
    assert passes({})
    for key, tensor in state.items():
        if key.endswith("num_batches_tracked"):
            assert passes({key: tensor + 1})
            continue
        assert not passes({key: torch.zeros_like(tensor)}), f"{key} may be zero"
        assert not passes({key: tensor.roll(1, 0)}), f"the units of {key} may be swapped"
        others = [other for other in state if other != key and state[other].shape == tensor.shape]
        if others:
            assert not passes({key: state[others[0]], others[0]: tensor}), f"{key} and {others[0]} may be swapped"
