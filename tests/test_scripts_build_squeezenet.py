"""The decoded SqueezeNet knows ImageNet's classes."""

import csv
import dataclasses
import importlib.util
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxperturb import api
from jaxperturb.checkpoints import bundled, load_network, read_manifest
from jaxperturb.data import load_dataset
from jaxperturb.data.fingerprints import split_fingerprint
from jaxperturb.data.prepared import prepare
from jaxperturb.data.scoring import fit_classes

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "build_squeezenet.py"
NAME = "squeezenet-imagenet"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("build_squeezenet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["build_squeezenet"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["build_squeezenet"]


@pytest.fixture
def rows(shared):
    with (shared / "data" / "photos.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def folder(shared, rows, tmp_path):
    """The 96 photographs, a folder for each class."""
    for row in rows:
        place = tmp_path / "photographs" / row["wnid"]
        place.mkdir(parents=True)
        shutil.copyfile(shared / "data" / "photos" / row["file"], place / row["file"])
    return tmp_path / "photographs"


def test_the_bundled_arrays_are_the_files(script, shared):
    layers = script.decode((shared / "data" / script.FILE).read_bytes())
    assert len(layers) == 26
    assert sum(kernel.size + bias.size for kernel, bias in layers.values()) == 1_248_424  # torchvision's documentation
    params = load_network(NAME).params["params"]
    for name, (kernel, bias) in layers.items():
        at = params
        for key in name.split("/"):
            at = at[key]
        # (out, in, height, width) in half precision.
        np.testing.assert_array_equal(np.transpose(at["kernel"], (3, 2, 0, 1)), kernel.astype(np.float16))
        np.testing.assert_array_equal(at["bias"], bias.astype(np.float16))
        assert len(np.unique(kernel)) <= 256


def test_the_manifest_says_that_it_is_pruned_and_whose_it_is(script, shared):
    manifest = read_manifest(bundled()[NAME])
    assert manifest.licence == "BSD-2-Clause"
    assert manifest.training["percent_zero"]["all"] == 66.6
    assert "66.6 % of its weights are 0" in manifest.summary
    layers = load_network(NAME).layers()
    assert 0.66 < sum(layer.zeros for layer in layers) / sum(layer.weights for layer in layers) < 0.67
    assert manifest.accuracy["fingerprint"] == split_fingerprint(script.photographs(shared / "data", manifest.classes))


def test_a_damaged_file_is_refused(script, shared):
    content = (shared / "data" / script.FILE).read_bytes()
    with pytest.raises(ValueError, match="expected"):
        script.decode(content + b"\0")
    with pytest.raises(ValueError, match=r"outside a kernel|buffer"):
        script.decode(content[:200] + bytes([255]) * 100_000)


def test_it_is_right_on_most_photographs(folder):
    found = api.evaluate(NAME, load_dataset(f"folder:{folder}"))
    accuracy = read_manifest(bundled()[NAME]).accuracy
    assert found.images == accuracy["images"] == 96
    assert found.top1 / 96 >= 0.55
    assert found.top5 / 96 >= 0.80
    # On another processor one photograph may fall to the other side.
    assert abs(found.top1 - accuracy["top1"]) <= 1
    assert abs(found.top5 - accuracy["top5"]) <= 1


def test_it_is_right_where_another_program_found_it_right(folder, rows):
    network = load_network(NAME)
    by_short_side = dataclasses.replace(network.preprocessing, resize=256)
    _, images = fit_classes(network, prepare(load_dataset(f"folder:{folder}"), by_short_side))
    logits = np.asarray(jax.jit(network.apply)(network.params, images.block(0, 96)))
    assert images.identifiers[0].endswith(".JPEG")
    expected = {row["file"]: (int(row["squeezenet_top1"]), int(row["squeezenet_top5"])) for row in rows}
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    for column, k in enumerate((1, 5)):
        right = (best[:, :k] == images.labels[:, None]).any(1)
        theirs = np.array([expected[Path(name).name][column] for name in images.identifiers], bool)
        assert (right != theirs).sum() <= 1
