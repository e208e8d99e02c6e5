"""The networks that come with jaxperturb do what their manifests say."""

import jax
import numpy as np
import pytest

from jaxperturb.checkpoints import bundled, bundled_summaries, load_network, read_manifest
from jaxperturb.data import load_dataset
from jaxperturb.data.fingerprints import split_fingerprint
from jaxperturb.data.prepared import prepare
from jaxperturb.errors import CheckpointError


@pytest.fixture(scope="module")
def digits_logits():
    network = load_network("alexnet-digits")
    images = prepare(load_dataset("digits"), network.preprocessing)
    return images.labels, np.asarray(jax.jit(network.apply)(network.params, images.block(0, len(images))))


def test_alexnet_digits_gets_97_percent(digits_logits):
    labels, logits = digits_logits
    assert logits.shape == (500, 10)
    assert (logits.argmax(1) == labels).mean() >= 0.97


def test_alexnet_digits_gets_what_its_manifest_says(digits_logits):
    labels, logits = digits_logits
    accuracy = read_manifest(bundled()["alexnet-digits"]).accuracy
    assert accuracy["images"] == 500
    assert accuracy["fingerprint"] == split_fingerprint(load_dataset("digits", accuracy["split"]))
    # Another processor may add in another order: a prediction on the edge may fall to the other side.
    assert abs((logits.argmax(1) == labels).sum() - accuracy["top1"]) <= 1
    among = (np.argsort(-logits, axis=1)[:, :5] == labels[:, None]).any(1).sum()
    assert abs(among - accuracy["top5"]) <= 1


def test_training_and_test_images_are_apart():
    training = read_manifest(bundled()["alexnet-digits"]).training
    assert training["fingerprint"] == split_fingerprint(load_dataset("digits", training["train_split"]))
    assert training["train_split"] != training["test_split"]


@pytest.mark.parametrize("name", bundled())
def test_bundled_checkpoints_are_small_and_say_where_they_come_from(name):
    folder = bundled()[name]
    manifest = read_manifest(folder)
    assert manifest.name == name
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 5_000_000
    assert manifest.licence
    assert manifest.training
    assert manifest.accuracy
    assert bundled_summaries()[name] == manifest.summary
    network = load_network(name)
    assert network.name == name
    assert network.classes == manifest.classes


def test_a_name_wins_over_a_folder(tmp_path, monkeypatch):
    (tmp_path / "alexnet-digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_network("alexnet-digits").name == "alexnet-digits"
    with pytest.raises(CheckpointError, match="it has no manifest"):
        load_network("./alexnet-digits")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "alexnet-digit",
            r"no checkpoint is called 'alexnet-digit'; did you mean 'alexnet-digits'\?; give a folder, a file or",
        ),
        ("zzz", r"no checkpoint is called 'zzz'; give a folder, a file or a known name \(.*alexnet-digits.*\)"),
        ("", "no checkpoint is called ''"),
        ("weights/none", "there is no checkpoint folder or file weights/none"),
    ],
)
def test_unknown_names_are_refused(name, message):
    with pytest.raises(CheckpointError, match=message):
        load_network(name)
