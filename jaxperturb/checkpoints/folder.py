"""A checkpoint is a folder: manifest.json and the arrays, written whole or not at all."""

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from jaxperturb.checkpoints import arrays as array_files
from jaxperturb.checkpoints import manifest as manifests
from jaxperturb.checkpoints.manifest import Manifest
from jaxperturb.errors import CheckpointError, NetworkError, OutputError
from jaxperturb.networks import catalogue
from jaxperturb.networks.network import Network
from jaxperturb.types import Params


def save_checkpoint(folder: str | Path, variables: Params, manifest: Manifest, *, overwrite: bool = False) -> Path:
    """Writes a checkpoint folder atomically: it appears complete, or not at all.

    Args:
        folder: where; folders above it are made.
        variables: the tree ``{"params": {"conv1": {"kernel": …}, …}}`` of float arrays.
        manifest: everything else; its `storage` says how the arrays are kept, and its `arrays` are replaced by the
            records of what is written.
        overwrite: replaces an existing checkpoint instead of refusing.

    Returns:
        The folder.

    Raises:
        CheckpointError: the arrays do not fit the manifest's architecture, or are no float32 or float16.
        OutputError: the folder exists or cannot be made.
    """
    folder = Path(folder)
    flat = {name: np.asarray(array) for name, array in _flatten(variables).items()}
    shapes = _expected_shapes(manifest)
    _check_shapes({name: array.shape for name, array in flat.items()}, shapes, f"cannot save {manifest.name}")
    if folder.exists() and not (overwrite and (folder / manifests.FILE).is_file()):
        raise OutputError(f"{folder} exists already; choose another folder or remove it")
    with _new_folder(folder) as temporary:
        records = array_files.write_arrays(temporary, flat, manifest.storage)
        text = manifests.to_text(dataclasses.replace(manifest, arrays=records))
        (temporary / manifests.FILE).write_text(text, encoding="utf-8")
    return folder


def load_folder(folder: Path) -> Network:
    """Reads a checkpoint folder into a network with float32 weights.

    Raises:
        CheckpointError: it is missing, damaged, or its arrays do not fit its architecture.
    """
    if not folder.exists():
        raise CheckpointError(f"there is no checkpoint folder {folder}")
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is a file; expected a checkpoint folder with a {manifests.FILE}")
    manifest = manifests.read_manifest(folder)
    shapes = _expected_shapes(manifest)
    _check_shapes({name: record.shape for name, record in manifest.arrays.items()}, shapes, str(folder))
    loaded = array_files.read_arrays(folder, manifest.arrays, manifest.storage)
    return network_of(manifest, traverse_util.unflatten_dict(loaded, sep="/"))


def network_of(manifest: Manifest, variables: Params) -> Network:
    """Returns the network that a manifest describes, with a tree of arrays that fits it."""
    return Network.from_linen(
        catalogue.build(manifest.architecture, manifest.options),
        jax.tree.map(jnp.asarray, variables),
        name=manifest.name,
        classes=manifest.classes,
        preprocessing=manifest.preprocessing,
        image_shape=manifest.image_shape,
        source=_source(manifest),
    )


def check_manifest(manifest: Manifest) -> None:
    """Refuses a manifest whose network cannot be built, or does not agree with its classes and preprocessing.

    Raises:
        CheckpointError: it is one of these.
    """
    _expected_shapes(manifest)


def _source(manifest: Manifest) -> dict[str, Any]:
    told = ("summary", "architecture", "options", "licence", "training", "accuracy", "source", "versions")
    return {name: value for name, value in manifest.to_json().items() if name in told}


def _flatten(tree: Params) -> dict[str, Any]:
    return traverse_util.flatten_dict(tree, sep="/")


def _expected_shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    try:
        module = catalogue.build(manifest.architecture, manifest.options)
        tree = _init_shapes(module, manifest.image_shape)
    except NetworkError as error:
        raise CheckpointError(f"the manifest of {manifest.name!r} cannot be built: {error}") from None
    shapes = {name: leaf.shape for name, leaf in _flatten(tree).items()}
    _check_agreement(manifest)
    return shapes


def _init_shapes(module: nn.Module, image_shape: tuple[int, int, int]) -> Params:
    return jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def _check_agreement(manifest: Manifest) -> None:
    wanted = manifest.options.get("classes", catalogue.ARCHITECTURES[manifest.architecture].options["classes"])
    if manifest.classes is not None and len(manifest.classes) != wanted:
        raise CheckpointError(
            f"the manifest of {manifest.name!r} names {len(manifest.classes)} classes, its network has {wanted}"
        )
    made = None if manifest.preprocessing is None else manifest.preprocessing.image_shape
    if made is not None and made != manifest.image_shape:
        raise CheckpointError(
            f"the preprocessing of {manifest.name!r} makes images {made}, its network takes {manifest.image_shape}"
        )


def _check_shapes(found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    wrong = [f"{name} is missing" for name in expected if name not in found]
    wrong += [f"{name} is not part of the network" for name in found if name not in expected]
    for name in expected:
        if name in found and found[name] != expected[name]:
            wrong.append(f"{name} has the shape {found[name]}, expected {expected[name]}")
    if wrong:
        raise CheckpointError(f"{where}: the arrays do not fit the network: {'; '.join(wrong)}")


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Gives a temporary folder beside `folder` that takes its place when the block ends without an error."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise OutputError(f"cannot make {folder}: {error}; choose another place") from None
    try:
        written, old = temporary / "new", temporary / "old"
        written.mkdir()
        yield written
        _sync(written)
        if folder.exists():
            folder.rename(old)
        written.rename(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _sync(folder: Path) -> None:
    # Without this a power cut after the rename could leave a complete-looking folder with empty files.
    for path in (*folder.rglob("*"), folder):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
