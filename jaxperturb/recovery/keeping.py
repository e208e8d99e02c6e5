"""The state of a training on disk: Orbax arrays, each held against its SHA-256 when it is read again."""

import json
import shutil
from pathlib import Path

import numpy as np

from jaxperturb.checkpoints import orbax_files
from jaxperturb.checkpoints.arrays import array_record
from jaxperturb.errors import CheckpointError, OutputError

DIGESTS = "digests.json"
ARRAYS = "arrays"


def write_state(folder: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes arrays into a new folder; what another process left there goes.

    Raises:
        OutputError: it cannot be written.
    """
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
        orbax_files.write_tree(folder / ARRAYS, arrays)
        digests = {name: array_record(array).sha256 for name, array in arrays.items()}
        (folder / DIGESTS).write_text(json.dumps(digests, indent=1), encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{folder} cannot be written: {error.strerror or error}; what was stored is kept") from error


def read_state(folder: Path) -> dict[str, np.ndarray]:
    """Reads what `write_state` wrote.

    Raises:
        CheckpointError: it is not there, or damaged.
    """
    try:
        digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} is damaged ({error}); remove the recovery's folder to start anew") from None
    arrays = {
        name: np.asarray(array) for name, array in orbax_files.flatten(orbax_files.read_tree(folder / ARRAYS)).items()
    }
    if {name: array_record(array).sha256 for name, array in arrays.items()} != digests:
        raise CheckpointError(f"{folder} is damaged: its arrays are not as written; remove it to start anew")
    return arrays


def remove_state(folder: Path) -> None:
    """Removes a state that is no longer needed, if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
