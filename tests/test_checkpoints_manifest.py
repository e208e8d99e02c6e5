"""Manifests are read strictly."""

import json

import pytest

from jaxperturb.checkpoints.manifest import FILE, ArrayRecord, Manifest, read_manifest, to_text
from jaxperturb.errors import CheckpointError
from jaxperturb.networks.preprocessing import IMAGENET

FULL = Manifest(
    name="small",
    summary="a small network",
    architecture="alexnet",
    options={"classes": 2, "width": 0.25},
    image_shape=(224, 224, 3),
    licence="MIT",
    arrays={"params/conv1/bias": ArrayRecord((2,), "float32", "0" * 64)},
    classes=("yes", "no"),
    preprocessing=IMAGENET,
    training={"seed": 0},
    accuracy={"top1": 3},
    source={"file": "é.pth"},
    versions={"jax": "0.10.2"},
)
BARE = Manifest("n", "s", "alexnet", {}, (63, 63, 1), "MIT", {})


@pytest.mark.parametrize("manifest", [FULL, BARE])
def test_text_gives_the_manifest_back(manifest, tmp_path):
    (tmp_path / FILE).write_text(to_text(manifest), encoding="utf-8")
    assert read_manifest(tmp_path) == manifest


def changed(**changes):
    return {k: v for k, v in (FULL.to_json() | changes).items() if v != "leave out"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "not a manifest of jaxperturb"),
        (changed(format="other"), "not a manifest of jaxperturb"),
        (changed(version=2), "manifest version 2 is not the 1 known here; update jaxperturb"),
        (changed(arhitecture="alexnet"), "unknown field 'arhitecture'; did you mean 'architecture'"),
        (changed(licence="leave out"), "the field 'licence' is missing"),
        (changed(name=3), "name must be text, got 3"),
        (changed(options=[]), "options must be a table"),
        (changed(classes="ab"), "classes must be a list"),
        (changed(classes=[1, 2]), "classes must be texts"),
        (changed(image_shape=[224, 224]), r"image_shape must be \[height, width, channels\]"),
        (changed(image_shape=[224, 224, 0]), "image_shape must be"),
        (changed(image_shape=[224, 224, 3.0]), "image_shape must be"),
        (changed(preprocessing={"crop": "x"}), "preprocessing: crop must be"),
        (changed(preprocessing=[]), "preprocessing must be a table"),
        (changed(arrays={"a": {"shape": [1]}}), "the array 'a' must have shape, dtype and sha256"),
        (changed(arrays={"a": {"shape": [-1], "dtype": "float32", "sha256": ""}}), "expected a list of lengths"),
        (changed(arrays={"a": {"shape": [1], "dtype": 1, "sha256": ""}}), "must have texts"),
    ],
)
def test_what_is_no_manifest_is_refused(values, message, tmp_path):
    (tmp_path / FILE).write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=message) as caught:
        read_manifest(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"format": '])
def test_what_is_no_json_is_refused(content, tmp_path):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"cannot read .*manifest.json"):
        read_manifest(tmp_path)


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"is no checkpoint: it has no manifest.json"):
        read_manifest(tmp_path)
