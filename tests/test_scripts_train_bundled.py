"""The recipes agree with the checkpoints that they made, and training runs."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxperturb.checkpoints import bundled, read_manifest
from jaxperturb.data import load_dataset
from jaxperturb.data.preprocess import prepare

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
    for name, recipe in script.RECIPES.items():
        manifest = read_manifest(bundled()[name])
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


def test_training_reaches_every_layer(script):
    recipe = dataclasses.replace(
        script.RECIPES["alexnet-digits"],
        options={"classes": 10, "width": 0.1, "dense_width": 0.02, "pooled_size": 1, "dropout": 0.0},
        epochs=1,
        batch_size=32,
    )
    data = prepare(load_dataset("digits", "train"), recipe.preprocessing, 70)
    watched = prepare(load_dataset("digits", "train"), recipe.preprocessing, 10)
    trained = script.train(recipe, data.block(0, 70), data.labels, watched, 3)
    # Biases start at 0.
    assert all(0 < np.abs(layer["bias"]).max() < 0.1 for layer in trained["params"].values())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(trained))
