"""The arrays of a checkpoint in one .safetensors file, each held against its SHA-256."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import Float32, Shaped

from jaxperturb.checkpoints.manifest import ArrayRecord
from jaxperturb.errors import CheckpointError

FILE = "arrays.safetensors"
DTYPES = ("float32", "float16")


def array_record(array: Shaped[np.ndarray, "..."]) -> ArrayRecord:
    """Returns shape, type and digest of an array."""
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return ArrayRecord(array.shape, array.dtype.name, hashlib.sha256(little.tobytes()).hexdigest())


def write_arrays(folder: Path, arrays: Mapping[str, Shaped[np.ndarray, "..."]]) -> dict[str, ArrayRecord]:
    """Writes the arrays and returns the records that `read_arrays` checks them against.

    Raises:
        CheckpointError: an array's type is none of `DTYPES`.
    """
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise CheckpointError(f"the array {name!r} is {array.dtype.name}; expected {' or '.join(DTYPES)}")
    arrays = {name: np.ascontiguousarray(array) for name, array in sorted(arrays.items())}
    path = folder / FILE
    # The library makes a file that its owner alone may read, whatever the umask says.
    path.touch()
    mode = path.stat().st_mode
    safetensors.numpy.save_file(arrays, path)
    path.chmod(mode)
    return {name: array_record(array) for name, array in arrays.items()}


def read_arrays(folder: Path, records: Mapping[str, ArrayRecord]) -> dict[str, Float32[np.ndarray, "..."]]:
    """Reads exactly the recorded arrays, as float32.

    Raises:
        CheckpointError: the file is missing or damaged, an array is missing, not recorded, of another shape or type, or
            has another SHA-256.
    """
    path = folder / FILE
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {FILE}; get the checkpoint again")
    try:
        arrays = safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); get the checkpoint again") from None
    missing, extra = sorted(records.keys() - arrays.keys()), sorted(arrays.keys() - records.keys())
    if missing or extra:
        lists = (("missing", missing), ("extra", extra))
        found = "; ".join(f"{word} {', '.join(names)}" for word, names in lists if names)
        raise CheckpointError(f"{path} does not hold the arrays of its manifest: {found}")
    for name, record in records.items():
        _check(path, name, arrays[name], record)
    return {name: np.asarray(arrays[name], np.float32) for name in records}


def _check(path: Path, name: str, array: Shaped[np.ndarray, "..."], record: ArrayRecord) -> None:
    found = array_record(array)
    for what in ("shape", "dtype"):
        got, expected = getattr(found, what), getattr(record, what)
        if got != expected:
            raise CheckpointError(f"{path}: {name} has the {what} {got}, but its manifest says {expected}")
    if record.dtype not in DTYPES:
        raise CheckpointError(f"{path}: {name} is {record.dtype}; expected {' or '.join(DTYPES)}")
    if found.sha256 != record.sha256:
        raise CheckpointError(
            f"{path} is damaged: the SHA-256 of {name} is not its manifest's; get the checkpoint again"
        )
