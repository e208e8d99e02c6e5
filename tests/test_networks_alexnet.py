"""AlexNet against PyTorch: torchvision's network is written out with torch.nn."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperturb.errors import NetworkError
from jaxperturb.networks import catalogue
from jaxperturb.networks.alexnet import AlexNet
from jaxperturb.networks.pooling import adaptive_average_pool

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
PUBLISHED_PARAMETERS = (23296, 307392, 663936, 884992, 590080, 37752832, 16781312, 4097000)


def shapes_of(module, side, channels=3):
    image = jax.ShapeDtypeStruct((1, side, side, channels), jnp.float32)
    return jax.eval_shape(module.init, jax.random.key(0), image)["params"]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def torch_alexnet(torch, channels, widths, units, classes, pooled):
    nn = torch.nn
    a, b, c, d, e = widths
    features = nn.Sequential(
        nn.Conv2d(channels, a, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(a, b, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2),
        nn.Conv2d(b, c, 3, padding=1), nn.ReLU(),
        nn.Conv2d(c, d, 3, padding=1), nn.ReLU(),
        nn.Conv2d(d, e, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip
    classifier = nn.Sequential(
        nn.Dropout(), nn.Linear(e * pooled * pooled, units), nn.ReLU(),
        nn.Dropout(), nn.Linear(units, units), nn.ReLU(),
        nn.Linear(units, classes),
    )  # fmt: skip
    return nn.Sequential(features, nn.AdaptiveAvgPool2d((pooled, pooled)), nn.Flatten(), classifier).eval()


def to_torch(torch, params, network, pooled):
    """Copies a Flax tree into the PyTorch network: transposes, and the flatten permutation before fc6."""
    layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    for name, layer in zip(LAYERS, layers, strict=True):
        kernel = np.asarray(params[name]["kernel"])
        if kernel.ndim == 4:
            weight = kernel.transpose(3, 2, 0, 1)
        elif name == "fc6":
            weight = (
                kernel.reshape(pooled, pooled, -1, kernel.shape[1]).transpose(3, 2, 0, 1).reshape(kernel.shape[1], -1)
            )
        else:
            weight = kernel.T
        assert tuple(layer.weight.shape) == weight.shape
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight.copy()))
            layer.bias.copy_(torch.from_numpy(np.asarray(params[name]["bias"]).copy()))


def random_biases(params, seed=3):
    random = np.random.default_rng(seed)
    return {
        name: {**layer, "bias": jnp.asarray(random.normal(0, 0.1, layer["bias"].shape), jnp.float32)}
        for name, layer in params.items()
    }


@pytest.mark.parametrize(
    ("side", "channels", "options", "widths", "units"),
    [
        (224, 3, {"width": 0.25, "classes": 50}, (16, 48, 96, 64, 64), 1024),
        (227, 3, {"width": 0.125, "classes": 7}, (8, 24, 48, 32, 32), 512),
        (64, 1, {"width": 0.25, "dense_width": 0.125, "pooled_size": 1, "classes": 10}, (16, 48, 96, 64, 64), 512),
        (200, 3, {"width": 0.125, "classes": 12, "pooled_size": 3}, (8, 24, 48, 32, 32), 512),
        (131, 3, {"width": 0.125, "classes": 12}, (8, 24, 48, 32, 32), 512),
    ],
)
def test_logits_equal_pytorch(side, channels, options, widths, units):
    torch = pytest.importorskip("torch")
    module = AlexNet(**options)
    random = np.random.default_rng(0)
    images = random.normal(size=(3, side, side, channels)).astype(np.float32)
    params = random_biases(module.init(jax.random.key(1), jnp.asarray(images))["params"])
    reference = torch_alexnet(torch, channels, widths, units, module.classes, module.pooled_size)
    to_torch(torch, params, reference, module.pooled_size)
    with torch.no_grad():
        expected = reference(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = np.asarray(module.apply({"params": params}, images))
    assert logits.shape == expected.shape
    assert np.abs(expected[0] - expected[1]).max() > 0.1 * np.abs(expected).max()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def test_full_width_has_the_published_parameters():
    params = shapes_of(AlexNet(), 224)
    assert tuple(count(params[name]) for name in LAYERS) == PUBLISHED_PARAMETERS
    assert count(params) == 61_100_840
    assert params["fc6"]["kernel"].shape == (9216, 4096)


def test_parameters_do_not_depend_on_the_image_size():
    module = AlexNet(pooled_size=1, classes=10, width=0.5)
    assert jax.tree.map(lambda s: s.shape, shapes_of(module, 64)) == jax.tree.map(
        lambda s: s.shape, shapes_of(module, 224)
    )


@pytest.mark.parametrize(("length", "size"), [(13, 6), (6, 6), (3, 6), (1, 3), (7, 1), (12, 4)])
def test_adaptive_pooling_equals_pytorch(length, size):
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).normal(size=(2, length, length + 1, 5)).astype(np.float32)
    expected = torch.nn.AdaptiveAvgPool2d(size)(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())).numpy()
    np.testing.assert_allclose(adaptive_average_pool(jnp.asarray(x), size), expected.transpose(0, 2, 3, 1), atol=1e-6)


def test_adaptive_pooling_by_hand():
    x = jnp.arange(5.0).reshape(1, 5, 1, 1) * jnp.ones((1, 5, 5, 1))
    # Cells of 5 rows in 2: rows 0 to 2 and 2 to 4.
    np.testing.assert_allclose(adaptive_average_pool(x, 2)[0, :, 0, 0], [1.0, 3.0])


def test_dropout_acts_only_while_training():
    module = AlexNet(classes=10, width=0.125, pooled_size=1)
    images = jnp.ones((2, 64, 64, 1))
    variables = module.init(jax.random.key(0), images)
    still = module.apply(variables, images)
    trained = module.apply(variables, images, train=True, rngs={"dropout": jax.random.key(1)})
    assert not np.allclose(still, trained)
    none = AlexNet(classes=10, width=0.125, pooled_size=1, dropout=0.0)
    np.testing.assert_allclose(none.apply(variables, images, train=True), still, rtol=1e-6)


def test_images_that_are_too_small_are_refused():
    with pytest.raises(NetworkError, match="at least 63 by 63"):
        shapes_of(AlexNet(), 62)
    assert shapes_of(AlexNet(), 63)


def test_build_by_name():
    module = catalogue.build("alexnet", {"classes": 10, "width": 0.25})
    assert (module.classes, module.width, module.pooled_size) == (10, 0.25, 6)
    assert count(shapes_of(catalogue.build("alexnet"), 224)) == 61_100_840
    assert catalogue.ARCHITECTURES["alexnet"].options == {
        "classes": 1000, "width": 1.0, "dense_width": None, "pooled_size": 6, "dropout": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("alexnett", {}, r"unknown architecture 'alexnett'; did you mean 'alexnet'\?"),
        ("alexnet", {"widht": 1.0}, r"no option 'widht'; did you mean 'width'\?"),
        ("alexnet", {"classes": 0}, "classes must be a whole number of at least 1, got 0"),
        ("alexnet", {"classes": 1.0}, "classes must be a whole number"),
        ("alexnet", {"classes": True}, "classes must be a whole number"),
        ("alexnet", {"pooled_size": None}, "pooled_size must be a whole number"),
        ("alexnet", {"width": 0}, "width must be a number above 0, got 0"),
        ("alexnet", {"width": float("nan")}, "width must be a number above 0, got nan"),
        ("alexnet", {"dense_width": "1"}, "dense_width must be a number above 0"),
        ("alexnet", {"dropout": 1.0}, "dropout must be a number from 0 to below 1"),
    ],
)
def test_build_refuses(name, options, message):
    with pytest.raises(NetworkError, match=message) as caught:
        catalogue.build(name, options)
    assert "\n" not in str(caught.value)


def test_architectures_are_named_as_in_the_table():
    for name, architecture in catalogue.ARCHITECTURES.items():
        assert architecture.name == name
        assert "\n" not in architecture.summary
        assert dataclasses.is_dataclass(architecture)
        with pytest.raises(NetworkError):
            shapes_of(catalogue.build(name), architecture.min_image_size - 1)
        assert shapes_of(catalogue.build(name), architecture.min_image_size)
