"""The arrays of a checkpoint, each held against its SHA-256: in one .safetensors file, or as an Orbax checkpoint."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from flax import traverse_util
from jaxtyping import Float32, Shaped

from jaxperturb.checkpoints import orbax_files
from jaxperturb.checkpoints.manifest import ArrayRecord
from jaxperturb.errors import CheckpointError

FILE = "arrays.safetensors"
ORBAX_FOLDER = "arrays"
DTYPES = ("float32", "float16")
STORAGES = ("safetensors", "orbax")


def array_record(array: Shaped[np.ndarray, "..."]) -> ArrayRecord:
    """Returns shape, type and digest of an array."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    # The bytes in place: a copy of the largest array would be the peak of memory.
    digest = hashlib.sha256(little.reshape(-1).view(np.uint8).data)
    return ArrayRecord(array.shape, array.dtype.name, digest.hexdigest())


def write_arrays(
    folder: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]], storage: str = "safetensors"
) -> dict[str, ArrayRecord]:
    """Writes the arrays and returns the records that `read_arrays` checks them against.

    Args:
        folder: of the checkpoint.
        arrays: by their path in the tree, joined by "/".
        storage: one of `STORAGES`.

    Raises:
        CheckpointError: an array's type is none of `DTYPES`, or there is no such storage.
    """
    _check_storage(storage, str(folder))
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise CheckpointError(f"the array {name!r} is {array.dtype.name}; expected {' or '.join(DTYPES)}")
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    if storage == "orbax":
        orbax_files.write_tree(folder / ORBAX_FOLDER, traverse_util.unflatten_dict(arrays, sep="/"))
    else:
        _write_safetensors(folder / FILE, arrays)
    return {name: array_record(array) for name, array in arrays.items()}


def read_arrays(
    folder: Path, records: Mapping[str, ArrayRecord], storage: str = "safetensors"
) -> dict[str, Float32[np.ndarray, "..."]]:
    """Reads exactly the recorded arrays, as float32.

    Raises:
        CheckpointError: the arrays are missing or damaged, one is missing, not recorded, of another shape or type, or
            has another SHA-256.
    """
    _check_storage(storage, str(folder))
    path = folder / (ORBAX_FOLDER if storage == "orbax" else FILE)
    if not path.exists():
        raise CheckpointError(f"{folder} has no {path.name}; get the checkpoint again")
    arrays = _read_orbax(path, records) if storage == "orbax" else _read_safetensors(path)
    _check_names(path, arrays.keys(), records)
    for name, record in records.items():
        _check(path, name, arrays[name], record)
    return {name: np.asarray(arrays[name], np.float32) for name in records}


def _check_storage(storage: str, where: str) -> None:
    if storage not in STORAGES:
        raise CheckpointError(
            f"{where}: its arrays are kept as {storage!r}; expected {' or '.join(map(repr, STORAGES))}"
        )


def _write_safetensors(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    # The library makes a file that its owner alone may read, whatever the umask says.
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(dict(arrays), path)
    path.chmod(mode)


def _read_safetensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); get the checkpoint again") from None


def _read_orbax(path: Path, records: Mapping[str, ArrayRecord]) -> dict[str, np.ndarray]:
    # Names and shapes first: a damaged length shall not ask for terabytes.
    stated = orbax_files.flatten(orbax_files.tree_shapes(path))
    _check_names(path, stated.keys(), records)
    for name, record in records.items():
        _check_kind(path, name, stated[name].shape, stated[name].dtype.name, record)
    return orbax_files.flatten(orbax_files.read_tree(path))


def _check_names(path: Path, found: Iterable[str], records: Mapping[str, ArrayRecord]) -> None:
    missing, extra = sorted(records.keys() - set(found)), sorted(set(found) - records.keys())
    if missing or extra:
        lists = (("missing", missing), ("extra", extra))
        said = "; ".join(f"{word} {', '.join(names)}" for word, names in lists if names)
        raise CheckpointError(f"{path} does not hold the arrays of its manifest: {said}")


def _check(path: Path, name: str, array: Shaped[np.ndarray, "..."], record: ArrayRecord) -> None:
    _check_kind(path, name, array.shape, array.dtype.name, record)
    if array_record(array).sha256 != record.sha256:
        raise CheckpointError(
            f"{path} is damaged: the SHA-256 of {name} is not its manifest's; get the checkpoint again"
        )


def _check_kind(path: Path, name: str, shape: tuple[int, ...], dtype: str, record: ArrayRecord) -> None:
    for what, got, expected in (("shape", shape, record.shape), ("dtype", dtype, record.dtype)):
        if got != expected:
            raise CheckpointError(f"{path}: {name} has the {what} {got}, but its manifest says {expected}")
    if record.dtype not in DTYPES:
        raise CheckpointError(f"{path}: {name} is {record.dtype}; expected {' or '.join(DTYPES)}")
