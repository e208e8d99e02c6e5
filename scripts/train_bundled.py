"""Trains a bundled network from a seed and writes its checkpoint folder.

    python scripts/train_bundled.py --network=alexnet-digits
    python scripts/train_bundled.py --network=alexnet-cifar10 --data_dir=photos/tfds --state=alexnet-cifar10.state

The recipe of each network is a row of `RECIPES`. Training sees the train split only; some of it is held back to watch
the training by. The test split is looked at once, at the end, for the accuracy in the manifest. With ``--state`` a
training that was stopped goes on where it was after its last whole epoch.
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
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import app, flags

from jaxperturb.checkpoints import Manifest, save_checkpoint
from jaxperturb.data import Dataset, load_dataset
from jaxperturb.data.fingerprints import split_fingerprint
from jaxperturb.data.prepared import PreparedImages, prepare
from jaxperturb.data.preprocess import to_pixels
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
        flip: whether half of the images are mirrored.
        dtype: of the stored weights; the accuracy in the manifest is that of the network as it is stored.
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
    flip: bool = False
    dtype: str = "float32"


# Photographs: mean and spread of CIFAR-10's colours, near enough for all of them.
_PHOTOGRAPH = functools.partial(Preprocessing, mean=(0.49, 0.48, 0.45), std=(0.25, 0.25, 0.26))
_ON_PHOTOGRAPHS = {
    "weight_decay": 0.03,
    "label_smoothing": 0.05,
    "shift": 0.125,
    "rotation": 0.0,
    "scaling": 0.0,
    "flip": True,
    "dtype": "float16",
}
_CIFAR10 = {"dataset": "cifar10", "train_split": "train", "test_split": "test", "batch_size": 128, "held_back": 1000}
_IMAGENETTE = {
    "dataset": "folder:imagenette64",
    "train_split": "train",
    "test_split": "val",
    "batch_size": 64,
    "held_back": 400,
}
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
    "alexnet-cifar10": Recipe(
        summary="AlexNet, half as wide, for CIFAR-10 (JPEG copies) enlarged to 64 by 64",
        architecture="alexnet",
        options={"classes": 10, "width": 0.5, "dense_width": 0.125, "pooled_size": 1, "dropout": 0.2},
        preprocessing=_PHOTOGRAPH(resize=(64, 64)),
        epochs=32,
        learning_rate=1.5e-3,
        **_CIFAR10,
        **_ON_PHOTOGRAPHS,
    ),
    "alexnet-imagenette": Recipe(
        summary="AlexNet, half as wide, for ten ImageNet classes (Imagenette) at 64 by 64",
        architecture="alexnet",
        options={"classes": 10, "width": 0.5, "dense_width": 0.125, "pooled_size": 1, "dropout": 0.3},
        preprocessing=_PHOTOGRAPH(resize=(64, 64)),
        epochs=70,
        learning_rate=1e-3,
        **_IMAGENETTE,
        **_ON_PHOTOGRAPHS,
    ),
    "vgg11-imagenette": Recipe(
        summary="VGG11 with batch norm, a quarter as wide, for ten ImageNet classes (Imagenette) at 64 by 64",
        architecture="vgg11_bn",
        options={"classes": 10, "width": 0.25, "dense_width": 0.0625, "pooled_size": 1, "dropout": 0.2},
        preprocessing=_PHOTOGRAPH(resize=(64, 64)),
        epochs=30,
        learning_rate=2e-3,
        **_IMAGENETTE,
        **_ON_PHOTOGRAPHS,
    ),
    "vgg11-cifar10": Recipe(
        summary="VGG11 with batch norm, three eighths as wide, for CIFAR-10 (JPEG copies)",
        architecture="vgg11_bn",
        options={"classes": 10, "width": 0.375, "dense_width": 0.0625, "pooled_size": 1, "dropout": 0.1},
        preprocessing=_PHOTOGRAPH(resize=(32, 32)),
        epochs=26,
        learning_rate=3e-3,
        **_CIFAR10,
        **_ON_PHOTOGRAPHS,
    ),
}


def augment(key: jax.Array, images: jax.Array, recipe: Recipe) -> jax.Array:
    """Turns, scales, shifts and mirrors each image (n, h, w, c) by its own random amounts; edges are repeated."""
    if not (recipe.rotation or recipe.scaling):
        return _shift_whole_pixels(key, images, recipe)
    keys = jax.random.split(key, 3)
    count, side = images.shape[0], images.shape[1]
    angles = jnp.deg2rad(recipe.rotation) * jax.random.uniform(keys[0], (count,), minval=-1, maxval=1)
    scales = 1 + recipe.scaling * jax.random.uniform(keys[1], (count,), minval=-1, maxval=1)
    shifts = side * recipe.shift * jax.random.uniform(keys[2], (count, 2), minval=-1, maxval=1)
    return jax.vmap(_moved)(images, angles, scales, shifts)


def _shift_whole_pixels(key: jax.Array, images: jax.Array, recipe: Recipe) -> jax.Array:
    """Shifts and mirrors without interpolation, which takes ten times as long."""
    shifting, mirroring = jax.random.split(key)
    count, side = images.shape[0], images.shape[1]
    most = round(side * recipe.shift)
    around = jnp.pad(images, ((0, 0), (most, most), (most, most), (0, 0)), mode="edge")
    corners = jax.random.randint(shifting, (count, 2), 0, 2 * most + 1)
    shifted = jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), images.shape[1:]))(
        around, corners
    )
    mirrored = recipe.flip & jax.random.bernoulli(mirroring, 0.5, (count, 1, 1, 1))
    return jnp.where(mirrored, shifted[:, :, ::-1], shifted)


def _moved(image: jax.Array, angle: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
    height, width, _ = image.shape
    centre = jnp.array([(height - 1) / 2, (width - 1) / 2])
    grid = jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1) - centre
    turn = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    source = jnp.moveaxis(grid @ turn * scale + centre + shift, -1, 0)
    sample = functools.partial(jax.scipy.ndimage.map_coordinates, coordinates=list(source), order=1, mode="nearest")
    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image)


def train(
    recipe: Recipe,
    images: np.ndarray,
    labels: np.ndarray,
    watched: PreparedImages,
    seed: int,
    state_file: Path | None = None,
) -> dict[str, Any]:
    """Returns the trained variables; prints loss and watched accuracy now and then.

    Args:
        recipe: how.
        images: uint8 pixels (n, h, w, c).
        labels: their classes.
        watched: images that are not learnt from.
        seed: of everything random.
        state_file: where the training is kept after each epoch, and taken up again.
    """
    module = catalogue.build(recipe.architecture, recipe.options)
    key = jax.random.key(seed)
    # The params' own key is apart from the steps', so another batch size starts from the same network.
    variables = jax.jit(module.init)(jax.random.fold_in(key, 0), jnp.zeros((1, *images.shape[1:])))
    steps = steps_per_epoch(recipe, len(labels))
    optimiser = make_optimiser(recipe, steps)
    done, variables, state = _resume(state_file, (0, variables, optimiser.init(variables["params"])))
    step = make_step(recipe, module, optimiser)
    shuffles = np.random.default_rng(seed)
    begun = time.monotonic()
    for epoch in range(recipe.epochs):
        order = shuffles.permutation(len(labels))
        if epoch < done:
            continue
        losses = []
        for i in range(steps):
            chosen = order[i * recipe.batch_size : (i + 1) * recipe.batch_size]
            step_key = jax.random.fold_in(jax.random.fold_in(key, 1), epoch * steps + i)
            variables, state, loss = step(variables, state, step_key, images[chosen], labels[chosen])
            losses.append(loss)
        _keep(state_file, (epoch + 1, variables, state))
        if (epoch + 1) % max(1, recipe.epochs // 12) == 0:
            right = count_right(module, variables, watched)[0]
            print(
                f"epoch {epoch + 1:3d}/{recipe.epochs}  loss {np.mean(losses):.4f}"
                f"  held back {right}/{len(watched)}  {time.monotonic() - begun:.0f} s",
                flush=True,
            )
    return jax.device_get(variables)


def _resume(path: Path | None, fresh: tuple[int, Any, Any]) -> tuple[int, Any, Any]:
    if path is None or not path.exists():
        return fresh
    read = flax.serialization.from_bytes(fresh, path.read_bytes())
    print(f"going on after epoch {read[0]}", flush=True)
    return read


def _keep(path: Path | None, state: tuple[int, Any, Any]) -> None:
    if path is not None:
        temporary = path.with_name(f"{path.name}.new")
        temporary.write_bytes(flax.serialization.to_bytes(jax.device_get(state)))
        temporary.replace(path)


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
    """Returns the compiled function (variables, state, key, pixels, labels) -> (variables, state, loss)."""
    mean, std = (np.asarray(values, np.float32) for values in (recipe.preprocessing.mean, recipe.preprocessing.std))

    def loss_of(params: Any, rest: Any, key: jax.Array, images: jax.Array, labels: jax.Array) -> Any:
        variables = {"params": params, **rest}
        with nn.intercept_methods(_convolve_by_product):
            logits, rest = module.apply(variables, images, train=True, rngs={"dropout": key}, mutable=list(rest))
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), recipe.label_smoothing)
        return optax.softmax_cross_entropy(logits, targets).mean(), rest

    @jax.jit
    def step(variables: Any, state: Any, key: jax.Array, pixels: jax.Array, labels: jax.Array) -> Any:
        moved, dropped = jax.random.split(key)
        images = augment(moved, (pixels * np.float32(recipe.preprocessing.scale) - mean) / std, recipe)
        rest = {name: tree for name, tree in variables.items() if name != "params"}
        params = variables["params"]
        (loss, rest), gradients = jax.value_and_grad(loss_of, has_aux=True)(params, rest, dropped, images, labels)
        updates, state = optimiser.update(gradients, state, params)
        return {"params": optax.apply_updates(params, updates), **rest}, state, loss

    return step


def _convolve_by_product(call: Any, args: Any, options: Any, context: Any) -> Any:
    """Computes a small convolution as one product of patches and kernel: on a CPU a third less time a step for VGG."""
    layer = context.module
    if not isinstance(layer, nn.Conv) or context.method_name != "__call__" or layer.is_initializing():
        return call(*args, **options)
    if layer.kernel_size != (3, 3) or layer.padding != 1 or layer.strides not in (1, (1, 1)):
        return call(*args, **options)
    (images,) = args
    kernel, bias = (layer.variables["params"][name] for name in ("kernel", "bias"))
    height, width = images.shape[1:3]
    around = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = [around[:, i : i + height, j : j + width] for i in range(3) for j in range(3)]
    return jnp.concatenate(patches, -1) @ kernel.reshape(-1, kernel.shape[-1]) + bias


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


def load_split(recipe: Recipe, split: str, data_dir: str | None) -> Dataset:
    """Returns a split of the recipe's data: a folder of folders under `data_dir`, or a set known by name."""
    kind, _, name = recipe.dataset.partition(":")
    if kind == "folder":
        return load_dataset(f"folder:{Path(data_dir or '.') / name}", split)
    return load_dataset(recipe.dataset, split, data_dir)


def pixels_of(data: Dataset, images: PreparedImages, preprocessing: Preprocessing) -> np.ndarray:
    """Returns all images in their order as uint8, a quarter of the memory of floats."""
    pixels = np.empty((len(images), *images.image_shape), np.uint8)
    for place, position in enumerate(images.positions.tolist()):
        pixels[place] = to_pixels(data.read(position), preprocessing)
    return pixels


def stored(variables: Any, dtype: str) -> Any:
    """Returns the variables with weights as they will be on disk; the statistics of norms stay as they are."""
    return {**variables, "params": jax.tree.map(lambda array: np.asarray(array, dtype), variables["params"])}


def run(name: str, recipe: Recipe, seed: int, out: Path, data_dir: str | None, state_file: Path | None) -> None:
    """Trains, evaluates on the test split, and writes the folder."""
    data = load_split(recipe, recipe.train_split, data_dir)
    everything = prepare(data, recipe.preprocessing)
    pixels = pixels_of(data, everything, recipe.preprocessing)[recipe.held_back :]
    labels = everything.labels[recipe.held_back :]
    watched = prepare(data, recipe.preprocessing, recipe.held_back)
    variables = train(recipe, pixels, labels, watched, seed, state_file)
    test = load_split(recipe, recipe.test_split, data_dir)
    module, images = catalogue.build(recipe.architecture, recipe.options), prepare(test, recipe.preprocessing)
    kept = stored(variables, recipe.dtype)
    top1, top5 = count_right(module, jax.tree.map(np.float32, kept), images)
    print(f"test: {count_right(module, variables, images)[0]} right in float32, {top1} as stored ({recipe.dtype})")
    settings = dataclasses.asdict(recipe)
    training = {
        **{k: settings[k] for k in list(settings) if k not in ("summary", "options", "preprocessing", "architecture")},
        "seed": seed,
        "images": len(labels),
        "steps": steps_per_epoch(recipe, len(labels)) * recipe.epochs,
        "fingerprint": split_fingerprint(data),
    }
    accuracy = {
        "dataset": recipe.dataset,
        "split": recipe.test_split,
        "fingerprint": split_fingerprint(test),
        "images": len(test),
        "top1": top1,
        "top5": top5,
    }
    manifest = dataclasses.replace(make_manifest(name, recipe, data, training), accuracy=accuracy)
    save_checkpoint(out, kept, manifest, overwrite=True)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {top1}/{len(test)} right on {recipe.dataset} {recipe.test_split}, {size / 1e6:.2f} MB")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    name = flags.FLAGS.network
    out = Path(flags.FLAGS.out) if flags.FLAGS.out else ROOT / "weights" / name
    state_file = Path(flags.FLAGS.state) if flags.FLAGS.state else None
    run(name, RECIPES[name], flags.FLAGS.seed, out, flags.FLAGS.data_dir, state_file)


if __name__ == "__main__":
    flags.DEFINE_enum("network", "alexnet-digits", list(RECIPES), "which network to train")
    flags.DEFINE_integer("seed", 0, "of the first weights, the batches and the augmentation", lower_bound=0)
    flags.DEFINE_string("out", None, "checkpoint folder to write; default: weights/<network>")
    flags.DEFINE_string("data_dir", None, "where the data set lies; the digits need none")
    flags.DEFINE_string("state", None, "file that keeps the training after each epoch, and from which it goes on")
    app.run(main)
