"""The recipes agree with the checkpoints that they made, and training runs."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
import pytest

from jaxperturb.checkpoints import bundled, read_manifest
from jaxperturb.data import from_arrays, load_dataset
from jaxperturb.data.prepared import prepare

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "train_bundled.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("train_bundled", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_bundled"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["train_bundled"]


def test_each_recipe_is_that_of_its_checkpoint(script):
    manifests = {name: read_manifest(folder) for name, folder in bundled().items()}
    trained = {name: m for name, m in manifests.items() if m.source["made_by"] == "scripts/train_bundled.py"}
    assert trained
    for name, manifest in trained.items():
        recipe = script.RECIPES[name]
        assert manifest.summary == recipe.summary
        assert manifest.architecture == recipe.architecture
        assert manifest.options == recipe.options
        assert manifest.preprocessing == recipe.preprocessing
        for field in ("dataset", "train_split", "test_split", "epochs", "batch_size", "learning_rate", "weight_decay"):
            assert manifest.training[field] == getattr(recipe, field)


def test_augmentation_without_amounts_changes_nothing(script):
    recipe = dataclasses.replace(script.RECIPES["alexnet-digits"], shift=0.0, rotation=0.0, scaling=0.0)
    images = np.random.default_rng(0).normal(size=(3, 16, 16, 2)).astype(np.float32)
    np.testing.assert_allclose(script.augment(jax.random.key(0), images, recipe), images, atol=1e-5)


def test_photographs_are_shifted_by_whole_pixels_and_mirrored(script):
    recipe = dataclasses.replace(script.RECIPES["alexnet-cifar10"], shift=0.25)
    image = np.arange(8 * 8, dtype=np.float32).reshape(8, 8, 1)
    moved = np.asarray(script.augment(jax.random.key(1), np.repeat(image[None], 400, 0), recipe))
    around = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")
    expected = [around[i : i + 8, j : j + 8, :] for i in range(5) for j in range(5)]
    expected += [shifted[:, ::-1] for shifted in expected]
    kinds = {shifted.tobytes() for shifted in expected}
    assert {one.tobytes() for one in moved} == kinds  # each of the 50 comes about 8 times
    mirrored = sum(bool(one[0, 0, 0] > one[0, -1, 0]) for one in moved)
    assert 160 <= mirrored <= 240


class Tiny(nn.Module):
    """Convolutions of three kinds, a norm and a dense layer."""

    @nn.compact
    def __call__(self, images, train=False):
        x = nn.Conv(3, (3, 3), padding=1, name="near")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="near_norm")(x))
        x = nn.Conv(4, (3, 3), strides=2, padding=1, name="strided")(x)
        x = nn.Conv(4, (5, 5), padding=2, name="wide")(x)
        return nn.Dense(10, name="last")(x.mean((1, 2)))


def test_convolving_by_products_changes_nothing(script):
    images = np.random.default_rng(0).normal(size=(2, 12, 11, 3)).astype(np.float32)
    variables = Tiny().init(jax.random.key(0), images)
    expected = Tiny().apply(variables, images)
    seen = []

    def watch(call, arguments, options, context):
        seen.append(context.module.name)
        return script._convolve_by_product(call, arguments, options, context)

    with nn.intercept_methods(watch):
        found = Tiny().apply(variables, images)
    assert {"near", "strided", "wide"} <= set(seen)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_stopped_training_goes_on_to_the_same_weights(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script.catalogue, "build", lambda *_: Tiny())
    recipe = dataclasses.replace(script.RECIPES["vgg11-cifar10"], epochs=3, batch_size=16)
    pixels = np.random.default_rng(0).integers(0, 256, (48, 32, 32, 3), np.uint8)
    labels = np.arange(48) % 10
    watched = prepare(from_arrays(pixels[:10], labels[:10]), recipe.preprocessing)
    step = script.make_step(recipe, Tiny(), script.make_optimiser(recipe, 3))
    monkeypatch.setattr(script, "make_step", lambda *_: step)  # compiled once
    whole = script.train(recipe, pixels, labels, watched, 0)
    keep = script._keep

    def stop_after_2(path, state):
        keep(path, state)
        if state[0] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(script, "_keep", stop_after_2)
    with pytest.raises(KeyboardInterrupt):
        script.train(recipe, pixels, labels, watched, 0, tmp_path / "state")
    monkeypatch.setattr(script, "_keep", keep)
    resumed = script.train(recipe, pixels, labels, watched, 0, tmp_path / "state")
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)
    # The norm's statistics have moved from 0 and 1 towards those of the images.
    assert np.abs(whole["batch_stats"]["near_norm"]["mean"]).min() > 1e-4
    kept = script.stored(whole, "float16")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(kept["params"])} == {"float16"}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(kept["batch_stats"])} == {"float32"}


def test_training_reaches_every_layer(script):
    recipe = dataclasses.replace(
        script.RECIPES["alexnet-digits"],
        options={"classes": 10, "width": 0.1, "dense_width": 0.02, "pooled_size": 1, "dropout": 0.0},
        epochs=1,
        batch_size=32,
    )
    data = prepare(load_dataset("digits", "train"), recipe.preprocessing, 70)
    watched = prepare(load_dataset("digits", "train"), recipe.preprocessing, 10)
    trained = script.train(recipe, data.read_pixels(0, 70)[0], data.labels, watched, 3)
    # Biases start at 0.
    assert all(0 < np.abs(layer["bias"]).max() < 0.1 for layer in trained["params"].values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))
