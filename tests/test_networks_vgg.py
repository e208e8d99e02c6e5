"""VGG against PyTorch: torchvision's networks are written out with torch.nn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file
from torchvision_copies import NAMES, PARAMETERS, SMALL, agree, clearly_differ, pictures, torch_logits, torch_network
from torchvision_copies import weights as random_weights

from jaxperturb.checkpoints import load_network
from jaxperturb.errors import NetworkError
from jaxperturb.networks import catalogue
from jaxperturb.networks.network import Network
from jaxperturb.trees import layers_of

VGGS = [name for name in NAMES if name.startswith("vgg")]
CONVOLUTIONS = {"vgg11": (1, 1, 2, 2, 2), "vgg13": (2,) * 5, "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)}


def tree_of(name, side=224, channels=3, **options):
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    return jax.eval_shape(catalogue.build(name, options).init, jax.random.key(0), image)


def zeros(name, side, **options):
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), tree_of(name, side, **options))


@pytest.mark.parametrize("name", VGGS)
def test_full_width_has_the_published_parameters(name):
    tree = tree_of(name)
    assert sum(leaf.size for leaf in jax.tree.leaves(tree["params"])) == PARAMETERS[name]
    assert tree["params"]["fc6"]["kernel"].shape == (25088, 4096)


@pytest.mark.parametrize("name", VGGS)
def test_layers_and_norms_are_named_in_the_programs_order(name):
    options = {"width": 0.05, "classes": 3, "pooled_size": 1}
    network = Network.from_linen(catalogue.build(name, options), zeros(name, 32, **options), image_shape=(32, 32, 3))
    blocks = CONVOLUTIONS[name.removesuffix("_bn")]
    names = [f"conv{block}_{i}" for block, count in enumerate(blocks, 1) for i in range(1, count + 1)]
    assert network.layer_names() == (*names, "fc6", "fc7", "fc8")
    layers = layers_of(network.params)
    has_norm = [bool(layers[layer].norm) for layer in network.layer_names()]
    assert has_norm == [name.endswith("_bn")] * len(names) + [False] * 3


@pytest.mark.parametrize(
    ("name", "side", "pooled"), [("vgg11", 32, 1), ("vgg13_bn", 75, 7), ("vgg16", 100, 3), ("vgg19_bn", 64, 2)]
)
def test_logits_equal_pytorch_at_other_sizes(torch, tmp_path, name, side, pooled):
    arrays = random_weights(name, **SMALL, pooled=pooled)
    network = torch_network(torch, name, **SMALL, pooled=pooled)
    network.load_state_dict({key: torch.from_numpy(array) for key, array in arrays.items()}, strict=True)
    network.avgpool = torch.nn.AdaptiveAvgPool2d(pooled)
    network.forward = lambda x: network.classifier(torch.flatten(network.avgpool(network.features(x)), 1))
    images = pictures(side)
    expected = torch_logits(torch, network, images)
    save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, tmp_path / "w.safetensors")
    ours = load_network(tmp_path / "w.safetensors")
    assert clearly_differ(expected)
    assert agree(np.asarray(ours.apply(ours.params, images)), expected)


def test_training_uses_dropout_and_the_batchs_statistics():
    module = catalogue.build("vgg11_bn", {"width": 0.05, "classes": 4, "pooled_size": 1})
    images = pictures(32)
    variables = module.init(jax.random.key(0), images)
    logits, changed = module.apply(
        variables, images, train=True, rngs={"dropout": jax.random.key(1)}, mutable=["batch_stats"]
    )
    assert not np.allclose(logits, module.apply(variables, images))
    first = jax.lax.conv_general_dilated(
        images, variables["params"]["conv1_1"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    # Momentum 0.9 from 0, as PyTorch's 0.1 is.
    np.testing.assert_allclose(
        changed["batch_stats"]["conv1_1_norm"]["mean"], 0.1 * np.mean(first, (0, 1, 2)), rtol=1e-3, atol=1e-5
    )


def test_images_that_are_too_small_are_refused():
    with pytest.raises(NetworkError, match="at least 32 by 32"):
        tree_of("vgg16", 31)


def test_depth_and_batch_norm_are_no_options():
    assert set(catalogue.ARCHITECTURES["vgg16_bn"].options) == {
        "classes", "width", "dense_width", "pooled_size", "dropout",
    }  # fmt: skip
    with pytest.raises(NetworkError, match="has no option 'depth'"):
        catalogue.build("vgg16", {"depth": 11})
    module = catalogue.build("vgg19_bn", {"classes": 2})
    assert (module.depth, module.batch_norm, module.classes) == (19, True, 2)
