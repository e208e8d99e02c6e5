"""A converted weight file as a network: what its manifest says besides the arrays."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from jaxperturb.checkpoints.convert import Converted, convert
from jaxperturb.checkpoints.folder import check_manifest, save_checkpoint
from jaxperturb.checkpoints.known import Known, imagenet_names
from jaxperturb.checkpoints.manifest import Manifest, class_names, read_image_shape
from jaxperturb.checkpoints.torch_file import WeightsFile, open_weights
from jaxperturb.errors import CheckpointError
from jaxperturb.networks.catalogue import ARCHITECTURES
from jaxperturb.networks.preprocessing import CHANNELS, IMAGENET, Preprocessing
from jaxperturb.types import Params

REMARK = "jaxperturb"  # in the metadata of a file that `export` wrote
UNKNOWN = "unknown"
# Options that the shapes of the tensors say; the others only a remark can.
IN_SHAPES = ("classes", "width", "dense_width", "pooled_size")


def convert_file(
    path: Path,
    architecture: str | None = None,
    *,
    name: str | None = None,
    licence: str = UNKNOWN,
    allow_nonfinite: bool = False,
) -> tuple[Manifest, Params]:
    """Converts a weight file, and says what the network takes and where it is from.

    A file of torchvision's sizes gets torchvision's ImageNet preprocessing; one that `export` wrote brings its own.

    Args:
        path: of a `.pth`, `.pt`, `.t7` or `.safetensors` file.
        architecture: what it should be; None recognises it.
        name: of the network; the file's otherwise.
        licence: of the weights, as an SPDX identifier.
        allow_nonfinite: takes weights that are NaN or infinite, too.

    Raises:
        CheckpointError: it cannot be read, or does not fit.
    """
    file = open_weights(path)
    made = convert(file, architecture, allow_nonfinite=allow_nonfinite)
    manifest = _manifest(file, made, name or path.stem, licence)
    check_manifest(manifest)
    return manifest, made.variables


def convert_known(record: Known, path: Path, architecture: str | None = None) -> tuple[Manifest, Params]:
    """Converts the file of a known checkpoint; see `convert_file`."""
    manifest, variables = convert_file(path, architecture, name=record.name, licence=record.licence)
    names = imagenet_names()
    return dataclasses.replace(
        manifest, classes=names if manifest.options["classes"] == len(names) else None
    ), variables


def save_converted(folder: Path, manifest: Manifest, variables: Params, storage: str) -> Path:
    """Writes what `convert_file` returned as a checkpoint folder, its arrays as "orbax" or "safetensors"."""
    return save_checkpoint(folder, variables, dataclasses.replace(manifest, storage=storage))


def remark_of(manifest_like: Mapping[str, Any]) -> dict[str, str]:
    """Returns the metadata that lets `convert_file` find again what tensors cannot say."""
    return {REMARK: json.dumps(manifest_like, ensure_ascii=False, allow_nan=False)}


def _manifest(file: WeightsFile, made: Converted, name: str, licence: str) -> Manifest:
    side, colours = ARCHITECTURES[made.architecture].image_size, made.channels == CHANNELS["RGB"]
    usual = Manifest(
        name=name,
        summary=f"{made.architecture}, converted from {file.path.name}",
        architecture=made.architecture,
        options=dict(made.options),
        image_shape=(side, side, made.channels),
        licence=licence,
        arrays={},
        preprocessing=IMAGENET if colours else None,
        source={"file": file.path.name, "container": file.container, "sha256": sha256_of(file.path)},
        versions={package: metadata.version(package) for package in ("jaxperturb", "jax", "flax", "numpy")},
    )
    return _with_remark(usual, file) if REMARK in file.metadata else usual


def _with_remark(manifest: Manifest, file: WeightsFile) -> Manifest:
    try:
        told = json.loads(file.metadata[REMARK])
        options = {key: value for key, value in told["options"].items() if key not in IN_SHAPES}
        classes, preprocessing = told["classes"], told["preprocessing"]
        return dataclasses.replace(
            manifest,
            options=options | dict(manifest.options),
            image_shape=read_image_shape(told["image_shape"]),
            classes=None if classes is None else class_names(classes),
            preprocessing=None if preprocessing is None else Preprocessing.from_json(preprocessing),
            source=dict(manifest.source) | {"exported": told["exported"]},
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CheckpointError) as error:
        raise CheckpointError(f"{file.path}: its remark {REMARK!r} is damaged ({error}); export it again") from None


def sha256_of(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
