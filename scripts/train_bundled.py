"""Trains a bundled network from a seed and writes its checkpoint folder.

    python scripts/train_bundled.py --network=alexnet-digits

The recipe of each network is a row of `RECIPES`. Training sees the train split only; some of it is held back to watch
the training by. The test split is looked at once, at the end, for the accuracy in the manifest.
"""

import dataclasses
import functools
import time
import tomllib
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from jaxperturb.checkpoints import Manifest, save_checkpoint
from jaxperturb.data import Dataset, load_dataset
from jaxperturb.data.preprocess import PreparedImages, prepare, split_fingerprint
from jaxperturb.networks import catalogue
from jaxperturb.networks.preprocessing import Preprocessing

ROOT = Path(__file__).resolve().parents[1]
EVALUATION_BATCH = 100


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How one bundled network is trained.

    Attributes:
        summary: one line for lists.
        dataset: name of the data set.
        train_split: the split that it learns from.
        test_split: the split that its accuracy is told on.
        architecture: a key of `catalogue.ARCHITECTURES`.
        options: what the architecture is built with.
        preprocessing: what makes an image into an input.
        epochs: passes over the training images.
        batch_size: images per step.
        learning_rate: the highest; it falls along a cosine to 0.
        weight_decay: of AdamW, on kernels alone.
        label_smoothing: share of each label that is spread over all classes.
        shift: largest shift, as a share of the side.
        rotation: largest turn in degrees.
        scaling: largest change of size, as a share.
        held_back: training images that are only watched.
    """

    summary: str
    dataset: str
    train_split: str
    test_split: str
    architecture: str
    options: Mapping[str, Any]
    preprocessing: Preprocessing
    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    label_smoothing: float
    shift: float
    rotation: float
    scaling: float
    held_back: int


RECIPES: Mapping[str, Recipe] = {
    "alexnet-digits": Recipe(
        summary="AlexNet, a quarter as wide, for scikit-learn's handwritten digits",
        dataset="digits",
        train_split="train",
        test_split="test",
        architecture="alexnet",
        options={"classes": 10, "width": 0.25, "dense_width": 0.125, "pooled_size": 1},
        preprocessing=Preprocessing(resize=(64, 64), channels="L", mean=(0.3,), std=(0.35,)),
        epochs=60,
        batch_size=64,
        learning_rate=2e-3,
        weight_decay=1e-3,
        label_smoothing=0.0,
        shift=0.08,
        rotation=12.0,
        scaling=0.1,
        held_back=150,
    ),
}


def augment(key: jax.Array, images: jax.Array, recipe: Recipe) -> jax.Array:
    """Turns, scales and shifts each image (n, h, w, c) by its own random amounts; edges are repeated."""
    keys = jax.random.split(key, 3)
    count, side = images.shape[0], images.shape[1]
    angles = jnp.deg2rad(recipe.rotation) * jax.random.uniform(keys[0], (count,), minval=-1, maxval=1)
    scales = 1 + recipe.scaling * jax.random.uniform(keys[1], (count,), minval=-1, maxval=1)
    shifts = side * recipe.shift * jax.random.uniform(keys[2], (count, 2), minval=-1, maxval=1)
    return jax.vmap(_moved)(images, angles, scales, shifts)


def _moved(image: jax.Array, angle: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    height, width, _ = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1) - centre
    turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    source = jnp.moveaxis(grid @ turn * scale + centre + shift, -1, 0)
    sample = functools.partial(jax.scipy.ndimage.map_coordinates, coordinates=list(source), order=1, mode="nearest")
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def train(recipe: Recipe, images: np.ndarray, labels: np.ndarray, watched: PreparedImages, seed: int) -> dict[str, Any]:
    """Returns the trained variables; prints loss and watched accuracy now and then."""
    module = catalogue.build(recipe.architecture, recipe.options)
    key = jax.random.key(seed)
    # The params' own key is apart from the steps', so another batch size starts from the same network.
    variables = jax.jit(module.init)(jax.random.fold_in(key, 0), jnp.asarray(images[:1]))
    steps = steps_per_epoch(recipe, len(labels))
    optimiser = make_optimiser(recipe, steps)
    state = optimiser.init(variables)
    step = make_step(recipe, module, optimiser)
    shuffles = np.random.default_rng(seed)
    begun = time.monotonic()
    for epoch in range(recipe.epochs):
        order = shuffles.permutation(len(labels))
        losses = []
        for i in range(steps):
            chosen = order[i * recipe.batch_size : (i + 1) * recipe.batch_size]
            step_key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch * steps + i)
            variables, state, loss = step(variables, state, step_key, images[chosen], labels[chosen])
            losses.append(loss)
        if (epoch + 1) % max(1, recipe.epochs // 12) == 0:
            right = count_right(module, variables, watched)[0]
            print(
                f"epoch {epoch + 1:3d}/{recipe.epochs}  loss {np.mean(losses):.4f}"
                f"  held back {right}/{len(watched)}  {time.monotonic() - begun:.0f} s",
                flush=True,
            )
    return jax.device_get(variables)


def steps_per_epoch(recipe: Recipe, images: int) -> int:
    """Returns the number of full batches."""
    return images // recipe.batch_size


def make_optimiser(recipe: Recipe, steps: int) -> optax.GradientTransformation:
    """Returns AdamW with a short warm-up and a cosine decay over all epochs."""
    total = steps * recipe.epochs
    rate = optax.warmup_cosine_decay_schedule(0.0, recipe.learning_rate, total // 20, total)
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(rate, weight_decay=recipe.weight_decay, mask=functools.partial(jax.tree.map, lambda p: p.ndim > 1)),
    )


def make_step(recipe: Recipe, module: nn.Module, optimiser: optax.GradientTransformation) -> Any:
    """Returns the compiled function (variables, state, key, images, labels) -> (variables, state, loss)."""

    def loss_of(variables: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = module.apply(variables, images, train=True, rngs={"dropout": key})
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), recipe.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean()

    @jax.jit
    def step(variables: Any, state: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        moved, dropped = jax.random.split(key)
        loss, gradients = jax.value_and_grad(loss_of)(variables, dropped, augment(moved, images, recipe), labels)
        updates, state = optimiser.update(gradients, state, variables)
        return optax.apply_updates(variables, updates), state, loss

    return step


def count_right(module: nn.Module, variables: Any, images: PreparedImages) -> tuple[int, int]:
    """Returns how many images have their class first, and among the first five (an equal logit before it counts)."""
    apply = jax.jit(module.apply)
    firsts = fives = 0
    for start in range(0, len(images), EVALUATION_BATCH):
        stop = min(start + EVALUATION_BATCH, len(images))
        logits, labels = np.asarray(apply(variables, images.block(start, stop))), images.labels[start:stop]
        best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        firsts += int((best[:, 0] == labels).sum())
        fives += int((best == labels[:, None]).any(1).sum())
    return firsts, fives


def make_manifest(name: str, recipe: Recipe, data: Dataset, training: Mapping[str, Any]) -> Manifest:
    """Returns everything that the manifest says but accuracy and arrays."""
    shape = recipe.preprocessing.image_shape
    assert shape is not None, f"the recipe {name} must fix the size of its images"
    return Manifest(
        name=name,
        summary=recipe.summary,
        architecture=recipe.architecture,
        options=dict(recipe.options),
        image_shape=shape,
        licence="MIT",
        arrays={},
        classes=data.classes,
        preprocessing=recipe.preprocessing,
        training=training,
        source={"made_by": "scripts/train_bundled.py"},
        versions=library_versions(),
    )


def library_versions() -> dict[str, str]:
    """Returns the versions that matter for the numbers."""
    own = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return {"jaxperturb": own} | {package: metadata.version(package) for package in ("jax", "flax", "optax", "numpy")}


def run(name: str, recipe: Recipe, seed: int, out: Path) -> None:
    """Trains, evaluates once on the test split, and writes the folder."""
    data = load_dataset(recipe.dataset, recipe.train_split)
    everything = prepare(data, recipe.preprocessing)
    images, labels = everything.block(recipe.held_back, len(everything)), everything.labels[recipe.held_back :]
    watched = prepare(data, recipe.preprocessing, recipe.held_back)
    variables = train(recipe, images, labels, watched, seed)
    settings = dataclasses.asdict(recipe)
    training = {
        **{k: settings[k] for k in list(settings) if k not in ("summary", "options", "preprocessing", "architecture")},
        "seed": seed,
        "images": len(labels),
        "steps": steps_per_epoch(recipe, len(labels)) * recipe.epochs,
        "fingerprint": split_fingerprint(data),
    }
    manifest = make_manifest(name, recipe, data, training)
    test = load_dataset(recipe.dataset, recipe.test_split)
    module = catalogue.build(recipe.architecture, recipe.options)
    top1, top5 = count_right(module, variables, prepare(test, recipe.preprocessing))
    accuracy = {
        "dataset": recipe.dataset,
        "split": recipe.test_split,
        "fingerprint": split_fingerprint(test),
        "images": len(test),
        "top1": top1,
        "top5": top5,
    }
    save_checkpoint(out, variables, dataclasses.replace(manifest, accuracy=accuracy), overwrite=True)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {top1}/{len(test)} right on {recipe.dataset} {recipe.test_split}, {size / 1e6:.2f} MB")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    name = flags.FLAGS.network
    out = Path(flags.FLAGS.out) if flags.FLAGS.out else ROOT / "weights" / name
    run(name, RECIPES[name], flags.FLAGS.seed, out)


if __name__ == "__main__":
    flags.DEFINE_enum("network", "alexnet-digits", list(RECIPES), "which network to train")
    flags.DEFINE_integer("seed", 0, "of the first weights, the batches and the augmentation", lower_bound=0)
    flags.DEFINE_string("out", None, "checkpoint folder to write; default: weights/<network>")
    app.run(main)
