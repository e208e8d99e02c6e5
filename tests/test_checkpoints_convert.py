"""PyTorch state dicts to Flax trees and back: names, layouts, logits, and what is said when something does not fit."""

import math
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from safetensors.numpy import load_file, save_file
from torchvision_copies import NAMES, PARAMETERS, SMALL, features, shapes, small, torch_network, weights, wide

from jaxperturb.checkpoints.convert import convert, recognise, to_state_dict
from jaxperturb.checkpoints.torch_file import open_weights
from jaxperturb.errors import CheckpointError


@pytest.fixture
def converted(tmp_path):
    def run(arrays, **options):
        save_file({key: np.ascontiguousarray(array) for key, array in arrays.items()}, tmp_path / "w.safetensors")
        return convert(open_weights(tmp_path / "w.safetensors"), **options)

    return run


def logits_of_tree(name, variables, images):
    """The network in plain JAX on a converted tree, NHWC; independent of the package's networks."""
    params, statistics, x = variables["params"], variables.get("batch_stats", {}), jnp.asarray(images)
    convolutions = iter(key for key in params if key.startswith("conv") and not key.endswith("norm"))
    for layer in features(name, SMALL["width"]):
        if layer[0] == "conv":
            current = next(convolutions)
            around = [(layer[5], layer[5])] * 2
            x = lax.conv_general_dilated(
                x,
                params[current]["kernel"],
                (layer[4],) * 2,
                around,
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
                precision="highest",
            )
            x = x + params[current]["bias"]
        elif layer[0] == "norm":
            norm, seen = params[f"{current}_norm"], statistics[f"{current}_norm"]
            x = (x - seen["mean"]) / jnp.sqrt(seen["var"] + 1e-5) * norm["scale"] + norm["bias"]
        elif layer[0] == "relu":
            x = jnp.maximum(x, 0)
        else:
            side = layer[1]
            x = lax.reduce_window(x, -jnp.inf, lax.max, (1, side, side, 1), (1, 2, 2, 1), "VALID")
    assert x.shape[1:3] == (2, 2)
    x = x.reshape(len(x), -1)
    for key in ("fc6", "fc7", "fc8"):
        x = jnp.dot(x, params[key]["kernel"], precision="highest") + params[key]["bias"]
        x = x if key == "fc8" else jnp.maximum(x, 0)
    return np.asarray(x)


def images_for(name, count=8):
    side = 111 if name == "alexnet" else 64  # whose poolings leave a map of 2 × 2
    return np.random.default_rng(1).standard_normal((count, side, side, 3)).astype(np.float32)


@pytest.mark.parametrize("name", NAMES)
def test_logits_equal_those_of_torch(name, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    network = torch_network(torch, name, **SMALL, pooled=2)
    network.load_state_dict({key: torch.from_numpy(array) for key, array in small(name).items()}, strict=True)
    images = images_for(name)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    assert np.ptp(expected, axis=0).max() > 0.1
    for modern in (True, False):
        torch.save(network.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=modern)
        found = convert(open_weights(tmp_path / "w.pth"))
        assert (found.architecture, found.channels) == (name, 3)
        assert found.options == {**SMALL, "pooled_size": 2}
        logits = logits_of_tree(name, found.variables, images)
        assert np.abs(logits - expected).max() <= 1e-4 * np.abs(expected).max()
        np.testing.assert_array_equal(np.argsort(-logits, axis=1)[:, :5], np.argsort(-expected, axis=1)[:, :5])


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "vgg13_bn"])
def test_every_tensor_matters_to_the_logits(name, converted):
    """Zeroing any one tensor moves the logits by far more than the tolerance above."""
    arrays, images = small(name), images_for(name, 2)
    right = logits_of_tree(name, converted(arrays).variables, images)
    for key in arrays:
        if key.endswith("num_batches_tracked"):
            continue
        wrong = logits_of_tree(name, converted({**arrays, key: np.zeros_like(arrays[key])}).variables, images)
        assert np.abs(wrong - right).max() > 1e-3 * np.abs(right).max(), key


@pytest.mark.parametrize("name", NAMES)
def test_layouts_entry_by_entry(name, converted):
    """Single weights followed by hand from PyTorch's place to Flax's."""
    arrays = small(name)
    found = converted(arrays)
    params = found.variables["params"]
    first = arrays["features.0.weight"]
    conv1 = params["conv1" if name == "alexnet" else "conv1_1"]["kernel"]
    assert conv1[1, 2, 0, 3] == first[3, 0, 1, 2]
    dense = arrays[f"classifier.{1 if name == 'alexnet' else 0}.weight"]
    channels = dense.shape[1] // 4
    h, w, c, unit = 1, 0, channels - 2, 5
    assert params["fc6"]["kernel"][h * 2 * channels + w * channels + c, unit] == dense[unit, c * 4 + h * 2 + w]
    np.testing.assert_array_equal(params["fc8"]["kernel"], arrays["classifier.6.weight"].T)
    assert all(
        leaf.flags.c_contiguous and leaf.dtype == np.float32 for layer in params.values() for leaf in layer.values()
    )


@pytest.mark.parametrize("name", NAMES)
def test_torchvisions_own_sizes_are_recognised(name):
    """Names and shapes alone, at full size: no memory is taken."""
    full = shapes(name)
    counted = sum(math.prod(s) for key, s in full.items() if "running" not in key and "tracked" not in key)
    assert counted == PARAMETERS[name]
    fit = recognise(full)
    assert (fit.architecture, fit.faults) == (name, 0)
    assert (fit.sizes.classes, fit.sizes.channels, fit.sizes.width, fit.sizes.pooled_size) == (
        1000,
        3,
        1,
        6 if name == "alexnet" else 7,
    )
    assert {row.source: row.shape for row in fit.rows} == {k: s for k, s in full.items() if "tracked" not in k}


def test_vgg_indices_are_torchvisions():
    # Written out in torchvision's published files.
    published = {
        "vgg16": [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28],
        "vgg19_bn": [0, 3, 7, 10, 14, 17, 20, 23, 27, 30, 33, 36, 40, 43, 46, 49],
    }
    for name, indices in published.items():
        rows = recognise(shapes(name)).rows
        assert [int(row.source.split(".")[1]) for row in rows if row.layout == "OIHW"] == indices
    layers = [row.path[1] for row in recognise(shapes("vgg19")).rows if row.layout == "OIHW"]
    assert (layers[0], layers[7], layers[-1]) == ("conv1_1", "conv3_4", "conv5_4")


@pytest.mark.parametrize(("width", "dense_width"), [(0.3, None), (0.25, 0.5), (2.0, None), (1.0, 0.1), (0.01, 0.01)])
def test_widths_are_found_from_shapes(width, dense_width):
    made = shapes("alexnet", classes=10, width=width, dense_width=dense_width, pooled=3, channels=1)
    fit = recognise(made)
    assert (fit.architecture, fit.faults, fit.sizes.channels, fit.sizes.pooled_size) == ("alexnet", 0, 1, 3)
    assert wide(4096, float(fit.sizes.dense_width)) == made["classifier.4.weight"][0]


def test_batch_counters_are_optional(converted):
    arrays = {key: array for key, array in small("vgg11_bn").items() if "tracked" not in key}
    assert converted(arrays).architecture == "vgg11_bn"


@pytest.mark.parametrize("prefix", ["module.", "module.module."])
def test_wrappers_and_prefixes(prefix, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    state = {prefix + key: torch.from_numpy(array) for key, array in small("alexnet").items()}
    plain = {key: torch.from_numpy(array) for key, array in small("alexnet").items()}
    data_parallel = {key.replace("features.", "features.module."): value for key, value in plain.items()}
    for value in (
        state,
        {"state_dict": state, "epoch": 3, "optimizer": {"state": {}, "param_groups": []}},
        {"net": state, "acc": 0.5},
        {"model": {"state_dict": state}},
        {"model_state_dict": plain, "model": "alexnet"},
        {"state_dict": data_parallel},
    ):
        torch.save(value, tmp_path / "w.pth")
        found = convert(open_weights(tmp_path / "w.pth"))
        np.testing.assert_array_equal(found.variables["params"]["fc8"]["bias"], plain["classifier.6.bias"].numpy())


def test_all_that_does_not_fit_is_said_at_once(converted):
    arrays = weights("alexnet", classes=7, width=0.0625, dense_width=0.01, pooled=1)
    del arrays["features.3.bias"], arrays["classifier.4.weight"]
    arrays["extra"] = np.zeros((2, 5), np.float32)
    arrays["features.8.weight"] = arrays["features.8.weight"][:, :, :2]
    arrays["classifier.6.bias"] = np.zeros(9, np.float32)
    with pytest.raises(CheckpointError) as caught:
        converted(arrays)
    message = str(caught.value)
    assert "does not fit alexnet" in message
    assert "missing 2: features.3.bias (12), classifier.4.weight (41, 41)" in message
    assert "unexpected 1: extra (2, 5)" in message
    assert "of another shape 2: features.8.weight (16, 24, 2, 3), expected (16, 24, 3, 3)" in message
    assert "classifier.6.bias (9), expected (7)" in message
    assert "\n" not in message


def test_one_width_out_of_line_is_reported_against_torchvisions_sizes():
    made = shapes("alexnet")
    made["features.6.weight"] = (383, 192, 3, 3)
    fit = recognise(made)
    assert [row.source for row in fit.misshapen] == ["features.6.weight"]
    assert fit.misshapen[0].shape == (384, 192, 3, 3)


@pytest.mark.parametrize("name", NAMES)
def test_one_missing_or_extra_tensor_does_not_hide_the_architecture(name):
    full = shapes(name)
    for key in list(full)[::5]:
        fit = recognise({k: s for k, s in full.items() if k != key})
        assert fit.architecture == name
        assert [row.source for row in fit.missing] == ([] if "tracked" in key else [key])


def test_a_wrong_architecture_is_named(converted):
    with pytest.raises(CheckpointError, match=r"does not fit vgg11: missing .*unexpected"):
        converted(small("alexnet"), architecture="vgg11")
    with pytest.raises(CheckpointError, match="no architecture is called 'alexnett'; did you mean 'alexnet'"):
        converted(small("alexnet"), architecture="alexnett")
    with pytest.raises(CheckpointError, match="of no architecture that can be converted"):
        converted({"conv1.weight": np.zeros((6, 3, 5, 5), np.float32)})


def test_features_alone_are_no_classifier(converted):
    arrays = small("vgg16")
    with pytest.raises(CheckpointError, match="no classifier, only the features"):
        converted({key: array for key, array in arrays.items() if key.startswith("features")})
    nothing = {k: np.full_like(a, np.nan) if k.startswith("classifier") else a for k, a in arrays.items()}
    with pytest.raises(CheckpointError, match=r"no classifier, only the features of a vgg16"):
        converted(nothing)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("key", ["features.3.weight", "classifier.1.weight", "classifier.6.bias"])
def test_nonfinite_weights_are_refused_unless_allowed(converted, bad, key):
    arrays = small("alexnet")
    arrays[key].flat[-1] = bad
    with pytest.raises(CheckpointError, match=f"NaN or infinite weights in 1 tensors: {key}"):
        converted(arrays)
    params = converted(arrays, allow_nonfinite=True).variables["params"]
    assert sum(int((~np.isfinite(leaf)).sum()) for layer in params.values() for leaf in layer.values()) == 1


def test_element_types(converted):
    arrays = small("alexnet")
    halves = {key: array.astype(np.float16) for key, array in arrays.items()}
    bias = converted(halves).variables["params"]["fc7"]["bias"]
    np.testing.assert_array_equal(bias, halves["classifier.4.bias"].astype(np.float32))
    assert bias.dtype == np.float32
    assert converted(halves, dtype=None).variables["params"]["fc6"]["kernel"].dtype == np.float16
    doubles = {key: array.astype(np.float64) for key, array in arrays.items()}
    np.testing.assert_array_equal(converted(doubles).variables["params"]["fc6"]["bias"], arrays["classifier.1.bias"])
    doubles["classifier.4.weight"][0, 0] = 1e300
    with pytest.raises(CheckpointError, match="infinite"):
        converted(doubles)
    with pytest.raises(CheckpointError, match=r"no floating-point numbers 1: features.0.bias is int64"):
        converted({**arrays, "features.0.bias": arrays["features.0.bias"].astype(np.int64)})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"state": {0: {"step": 1}}, "param_groups": [{"lr": 0.1}]}, "optimiser"),
        ({"epoch": 3, "acc": 0.5}, "no tensors .*'epoch', 'acc'"),
        ([1, 2], "expected a state dict"),
        ({"model": {"a": 1}, "net": {"b": 2}}, "several state dicts"),
    ],
)
def test_files_without_a_state_dict(value, message, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save(value, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match=message):
        convert(open_weights(tmp_path / "w.pth"))


def test_one_tensor_alone_and_clashing_names(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.save(torch.ones(3), tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="one tensor, expected a state dict"):
        convert(open_weights(tmp_path / "w.pth"))
    torch.save({"a": torch.ones(1), "module.a": torch.ones(1)}, tmp_path / "w.pth")
    with pytest.raises(CheckpointError, match="two tensors are called 'a'"):
        convert(open_weights(tmp_path / "w.pth"))


@pytest.mark.parametrize("name", NAMES)
def test_back_to_torchs_names_bit_for_bit(name, converted, tmp_path):
    arrays = small(name)
    found = converted(arrays)
    back = to_state_dict(found.architecture, found.variables)
    assert list(back) == [key for key in arrays if "tracked" not in key] + [k for k in arrays if "tracked" in k]
    for key, array in arrays.items():
        assert back[key].shape == array.shape
        assert "tracked" in key or back[key].tobytes() == array.tobytes()
    save_file(back, tmp_path / "back.safetensors")
    again = convert(open_weights(tmp_path / "back.safetensors"))
    assert (again.architecture, again.options) == (found.architecture, found.options)
    assert (
        to_state_dict(name, again.variables)["classifier.6.weight"].tobytes() == arrays["classifier.6.weight"].tobytes()
    )


def test_torch_takes_the_way_back_strictly(converted, tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    found = converted(small("vgg11_bn"))
    save_file(to_state_dict("vgg11_bn", found.variables), tmp_path / "back.safetensors")
    network = torch_network(torch, "vgg11_bn", **SMALL, pooled=2)
    state = {key: torch.from_numpy(array) for key, array in load_file(tmp_path / "back.safetensors").items()}
    network.load_state_dict(state, strict=True)


def test_a_tree_of_another_architecture_does_not_go_back(converted):
    variables = converted(small("alexnet")).variables
    with pytest.raises(CheckpointError, match=r"does not fit vgg11.*params/conv1/kernel"):
        to_state_dict("vgg11", variables)
    del variables["params"]["conv2"]["bias"]
    with pytest.raises(CheckpointError, match=r"missing 1: features.3.bias"):
        to_state_dict("alexnet", variables)


def test_the_packages_own_network_takes_the_tree(converted):
    alexnet = pytest.importorskip("jaxperturb.networks.alexnet")
    found = converted(small("alexnet"))
    images = images_for("alexnet", 2)
    logits = alexnet.AlexNet(**found.options).apply(found.variables, images)
    expected = logits_of_tree("alexnet", found.variables, images)
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_converting_takes_little_more_memory_than_the_tree(tmp_path):
    """Peak below 1.3 times the file above the imports: no second copy of the large dense kernel is made."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's account of memory")
    arrays = {key: np.zeros(shape, np.float32) for key, shape in shapes("alexnet").items()}
    save_file(arrays, tmp_path / "w.safetensors")
    del arrays
    code = (
        "import re, sys, numpy, jaxperturb.checkpoints.convert as c\n"
        "from jaxperturb.checkpoints.torch_file import open_weights\n"
        "peak = lambda: int(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])\n"
        "before = peak(); found = c.convert(open_weights(sys.argv[1])); print((peak() - before) * 1024)"
    )
    path = tmp_path / "w.safetensors"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert int(done.stdout) < 1.3 * path.stat().st_size, done.stderr
