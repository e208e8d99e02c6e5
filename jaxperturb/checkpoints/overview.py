"""What is in a weight file or checkpoint, seen without reading its values; nothing in it runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jaxperturb.checkpoints import flax_files, manifest, orbax_files
from jaxperturb.checkpoints.convert import recognise, state_dict
from jaxperturb.checkpoints.stored import StoredTensor, scalar_text
from jaxperturb.checkpoints.torch_file import WeightsFile, open_weights
from jaxperturb.errors import CheckpointError

CONTAINERS = {
    "zip": "PyTorch, zip container",
    "legacy": "PyTorch, legacy container (before 1.6)",
    "safetensors": "safetensors",
}
MAX_REMARKS = 20


@dataclass(frozen=True)
class Overview:
    """What is in a file or folder.

    Attributes:
        path: of it.
        kind: its container, in words.
        size: in bytes.
        tensors: shape and element type by name.
        remarks: what else is known of it, a line each.
    """

    path: Path
    kind: str
    size: int
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    remarks: tuple[str, ...]


def overview(path: Path) -> Overview:
    """Looks into a weight file, a checkpoint folder or an Orbax checkpoint.

    Raises:
        CheckpointError: it is not there, is damaged, or is something else; the message says what.
    """
    path = path.expanduser()
    if path.is_dir():
        return _of_folder(path)
    if flax_files.is_msgpack(path):
        arrays = flax_files.read_arrays_of(path)
        tensors = {name: (array.shape, array.dtype.name) for name, array in arrays.items()}
        return Overview(path, "msgpack of Flax", path.stat().st_size, tensors, ())
    file = open_weights(path)
    tensors = {name: (stored.shape, stored.dtype.name) for name, stored in file.tensors.items()}
    remarks = (_fit(file), *_beside(file))
    return Overview(path, CONTAINERS[file.container], path.stat().st_size, tensors, remarks)


def _of_folder(path: Path) -> Overview:
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if (path / manifest.FILE).is_file():
        said = manifest.read_manifest(path)
        tensors = {name: (record.shape, record.dtype) for name, record in said.arrays.items()}
        options = ", ".join(f"{name} {value}" for name, value in said.options.items())
        remarks = (said.summary, f"{said.architecture} ({options}) for images {said.image_shape}", _from(said))
        return Overview(path, f"checkpoint folder of jaxperturb, arrays as {said.storage}", size, tensors, remarks)
    shapes = orbax_files.flatten(orbax_files.tree_shapes(orbax_files.item_of(path)))
    tensors = {name: (leaf.shape, leaf.dtype.name) for name, leaf in shapes.items()}
    return Overview(path, "Orbax checkpoint", size, tensors, ())


def _from(said: manifest.Manifest) -> str:
    source = ", ".join(f"{name} {value}" for name, value in said.source.items())
    return f"licence {said.licence}; source: {source or 'not told'}"


def _fit(file: WeightsFile) -> str:
    """Says which architecture the tensors are of."""
    try:
        fit = recognise({name: stored.shape for name, stored in state_dict(file.content).items()})
    except CheckpointError as error:
        return str(error)
    if fit.faults:
        return f"nearest to {fit.architecture}, but {fit.faults} tensors do not fit; 'jaxperturb convert' lists them"
    return f"{fit.architecture} with {fit.sizes.classes} classes; 'jaxperturb convert' takes it"


def _beside(file: WeightsFile) -> list[str]:
    """Says what a file holds besides tensors, so far as it fits on a few lines."""
    values = dict(file.metadata) or (file.content if isinstance(file.content, dict) else {})
    told = [
        f"{scalar_text(key)}: {_brief(value)}" for key, value in values.items() if not isinstance(value, StoredTensor)
    ]
    rest = len(told) - MAX_REMARKS
    return told[:MAX_REMARKS] + ([f"and {rest} more"] if rest > 0 else [])


def _brief(value: object) -> str:
    if isinstance(value, dict | list | tuple):
        return f"{len(value)} entries"
    return scalar_text(value)
