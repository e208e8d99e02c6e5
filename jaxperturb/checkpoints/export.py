"""Networks back to .safetensors, and so to PyTorch: torchvision's names and layouts where the architecture is its."""

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from jaxperturb.checkpoints import orbax_files
from jaxperturb.checkpoints.convert import to_state_dict
from jaxperturb.checkpoints.converted import remark_of
from jaxperturb.checkpoints.torchvision_names import PLANS
from jaxperturb.errors import OutputError
from jaxperturb.networks.network import Network


def export_network(network: Network, path: str | os.PathLike[str], *, remark: str = "") -> Path:
    """Writes a network's weights into one new .safetensors file: complete, or not at all.

    An architecture of torchvision's gets its names and layouts: PyTorch takes ``load_file(path)`` with
    ``load_state_dict(strict=True)``, and converting the file again gives the same bits, classes and preprocessing. Any
    other network keeps the names and layouts of its own tree, joined by "/".

    Args:
        network: intact or lesioned.
        path: of the file; folders above it are made.
        remark: what was done to the network, kept in the file's metadata.

    Raises:
        OutputError: the file exists, or cannot be written.
    """
    path = Path(path).expanduser()
    if path.exists():
        raise OutputError(f"{path} exists already; choose another file or remove it")
    architecture = network.source.get("architecture", "")
    if architecture in PLANS:
        tensors, metadata = to_state_dict(architecture, network.params), remark_of(_told(network, remark))
    else:
        leaves = orbax_files.flatten(network.params)
        tensors = {name: np.ascontiguousarray(leaf) for name, leaf in leaves.items()}
        metadata = {"remark": remark} if remark else {}
    _write(path, tensors, {"format": "pt" if architecture in PLANS else "flax"} | metadata)
    return path


def _told(network: Network, remark: str) -> dict[str, Any]:
    return {
        "options": dict(network.source.get("options", {})),
        "image_shape": list(network.image_shape or ()),
        "classes": None if network.classes is None else list(network.classes),
        "preprocessing": None if network.preprocessing is None else network.preprocessing.to_json(),
        "exported": {"network": network.name, "lesion": remark},
    }


def _write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            written = Path(folder) / path.name
            written.touch()
            mode = written.stat().st_mode
            safetensors.numpy.save_file(tensors, written, metadata)
            # The library makes a file that its owner alone may read, whatever the umask says.
            written.chmod(mode)
            with contextlib.closing(os.fdopen(os.open(written, os.O_RDONLY), "rb")) as file:
                os.fsync(file.fileno())
            written.replace(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise OutputError(f"cannot write {path}: {error}; choose another place") from error
