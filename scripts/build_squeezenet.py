"""Decodes the SqueezeNet that was published with Deep Compression into weights/squeezenet-imagenet.

    python scripts/build_squeezenet.py --shared=../shared/data

The file holds, for each of 26 convolutions, a codebook of 256 weights, biases, and a sparse list of codes: two thirds
of the weights are 0, because the network was pruned. It takes pictures as Caffe did: blue first, from 0 to 255, minus
a mean for each channel, and warped to 256 by 256 before the crop, as Caffe's ImageNet data were. The accuracy in the
manifest is that on the 96 photographs beside the file.
"""

import csv
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from jaxperturb.checkpoints import Manifest, save_checkpoint
from jaxperturb.data import Dataset
from jaxperturb.data.fingerprints import split_fingerprint
from jaxperturb.data.prepared import prepare
from jaxperturb.networks import catalogue
from jaxperturb.networks.preprocessing import Preprocessing
from jaxperturb.networks.squeezenet import VERSIONS

ROOT = Path(__file__).resolve().parents[1]
NAME = "squeezenet-imagenet"
FILE = "weights/squeezenet_v1.0_deepcompression.net"
CODES = 256
OPTIONS: Mapping[str, Any] = {"classes": 1000, "final_padding": 1}
SIDE = 227
PREPROCESSING = Preprocessing(resize=(256, 256), crop=SIDE, channels="BGR", mean=(104.0, 117.0, 123.0), scale=1.0)
SOURCE = {
    "made_by": "scripts/build_squeezenet.py",
    "repository": "songhan/SqueezeNet-Deep-Compression",
    "commit": "fb13faa2cf121ced9999f8a9d538ec6c56084733",
    "file": "compressed_SqueezeNet.net",
    "copyright": "the authors of SqueezeNet and of Deep Compression (Iandola, Han, et al. 2016)",
}


def layer_shapes() -> dict[str, tuple[int, int, int, int]]:
    """Returns the kernels of the 26 convolutions in the file's order, as Caffe has them: (out, in, height, width)."""
    version = VERSIONS["1.0"]
    shapes = {"conv1": (version.channels, 3, version.side, version.side)}
    channels = version.channels
    for number, (squeeze, expand) in enumerate(version.fires, 2):
        shapes[f"fire{number}/squeeze"] = (squeeze, channels, 1, 1)
        shapes[f"fire{number}/expand1x1"] = (expand, squeeze, 1, 1)
        shapes[f"fire{number}/expand3x3"] = (expand, squeeze, 3, 3)
        channels = 2 * expand
    return shapes | {"conv_final": (OPTIONS["classes"], channels, 1, 1)}


def decode(content: bytes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Returns the kernel (out, in, height, width) and the bias of each convolution.

    Raises:
        ValueError: the file has another length, or a code lies outside its kernel.
    """
    shapes = layer_shapes()
    counts = np.frombuffer(content, "<u4", len(shapes)).tolist()
    place = 4 * len(shapes)
    layers = {}
    for (name, shape), count in zip(shapes.items(), counts, strict=True):
        codebook = np.frombuffer(content, "<f4", CODES, place)
        bias = np.frombuffer(content, "<f4", shape[0], place + codebook.nbytes)
        place += codebook.nbytes + bias.nbytes
        codes = np.frombuffer(content, np.uint8, count, place)
        gaps = np.frombuffer(content, np.uint8, (count + 1) // 2, place + count)
        place += codes.nbytes + gaps.nbytes
        layers[name] = (_kernel(codebook, codes, gaps, shape), bias)
    if place != len(content):
        raise ValueError(f"the file has {len(content)} bytes, expected {place}")
    return layers


def _kernel(codebook: np.ndarray, codes: np.ndarray, gaps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    # Two gaps a byte, the low half first.
    steps = np.stack([gaps & 15, gaps >> 4], 1).reshape(-1)[: len(codes)].astype(np.int64)
    positions = np.cumsum(steps + 1) - 1
    if len(positions) and positions[-1] >= np.prod(shape):
        raise ValueError(f"a code lies at {positions[-1]}, outside a kernel of the shape {shape}")
    kernel = np.full(np.prod(shape), codebook[0], np.float32)
    kernel[positions] = codebook[codes]
    return kernel.reshape(shape)


def variables_of(layers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Returns the tree of variables in half precision, which halves the file."""
    params: dict[str, Any] = {}
    for name, (kernel, bias) in layers.items():
        at = params
        for key in name.split("/"):
            at = at.setdefault(key, {})
        at |= {"kernel": kernel.transpose(2, 3, 1, 0).astype(np.float16), "bias": bias.astype(np.float16)}
    return {"params": params}


def zeros_of(layers: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Returns the percentage of weights that are 0, for each layer and for all."""
    kernels = {name: kernel for name, (kernel, _) in layers.items()}
    counts = {name: (int((kernel == 0).sum()), kernel.size) for name, kernel in kernels.items()}
    counts["all"] = tuple(map(sum, zip(*counts.values(), strict=True)))
    return {name: round(100 * zeros / size, 1) for name, (zeros, size) in counts.items()}


def photographs(shared: Path, classes: Sequence[str]) -> Dataset:
    """Returns the 96 labelled photographs."""
    with (shared / "photos.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return Dataset(
        name="imagenet-photographs",
        split="",
        classes=tuple(classes),
        labels=np.array([int(row["class_index"]) for row in rows], np.int32),
        identifiers=tuple(row["file"] for row in rows),
        read=lambda i: np.asarray(Image.open(shared / "photos" / rows[i]["file"]).convert("RGB")),
    )


def class_names() -> tuple[str, ...]:
    path = ROOT / "jaxperturb" / "data" / "imagenet_classes.csv"
    return tuple(row["name"] for row in _rows(path))


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def count_right(variables: Any, data: Dataset) -> tuple[int, int]:
    """Returns how many photographs have their class first, and among the first five."""
    images = prepare(data, PREPROCESSING)
    module = catalogue.build("squeezenet1_0", OPTIONS)
    params = jax.tree.map(lambda array: array.astype(np.float32), variables)
    logits = np.asarray(jax.jit(module.apply)(params, images.block(0, len(images))))
    best = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    return int((best[:, 0] == images.labels).sum()), int((best == images.labels[:, None]).any(1).sum())


def build(shared: Path, out: Path) -> None:
    """Decodes, evaluates and writes the checkpoint folder."""
    layers = decode((shared / FILE).read_bytes())
    variables, zeros, data = variables_of(layers), zeros_of(layers), photographs(shared, class_names())
    top1, top5 = count_right(variables, data)
    manifest = Manifest(
        name=NAME,
        summary=f"SqueezeNet 1.0 for ImageNet, pruned by Deep Compression: {zeros['all']} % of its weights are 0",
        architecture="squeezenet1_0",
        options=OPTIONS,
        image_shape=(SIDE, SIDE, 3),
        licence="BSD-2-Clause",
        arrays={},
        classes=data.classes,
        preprocessing=PREPROCESSING,
        training={"dataset": "imagenet2012", "train_split": "train", "pruned": True, "percent_zero": zeros},
        source=SOURCE,
    )
    accuracy = {
        "dataset": data.name,
        "split": "",
        "fingerprint": split_fingerprint(data),
        "images": len(data),
        "top1": top1,
        "top5": top5,
    }
    save_checkpoint(out, variables, dataclasses.replace(manifest, accuracy=accuracy), overwrite=True)
    size = sum(path.stat().st_size for path in out.iterdir())
    print(f"{out}: {top1} and {top5} of {len(data)} right in the first and first five, {size / 1e6:.2f} MB")


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    build(Path(flags.FLAGS.shared), Path(flags.FLAGS.out))


if __name__ == "__main__":
    flags.DEFINE_string("shared", str(ROOT.parent / "shared" / "data"), "folder with weights/, photos/ and photos.csv")
    flags.DEFINE_string("out", str(ROOT / "weights" / NAME), "checkpoint folder to write")
    app.run(main)
