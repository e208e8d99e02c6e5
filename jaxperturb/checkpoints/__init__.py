"""Weights on disk: bundled networks and checkpoint folders."""

import os
from pathlib import Path

from jaxperturb.checkpoints.bundled import bundled as bundled
from jaxperturb.checkpoints.bundled import bundled_summaries as bundled_summaries
from jaxperturb.checkpoints.folder import load_folder
from jaxperturb.checkpoints.folder import save_checkpoint as save_checkpoint
from jaxperturb.checkpoints.manifest import Manifest as Manifest
from jaxperturb.checkpoints.manifest import read_manifest as read_manifest
from jaxperturb.errors import CheckpointError, did_you_mean
from jaxperturb.networks.network import Network


def load_network(name_or_path: str | os.PathLike[str]) -> Network:
    """Reads a network from a bundled checkpoint or a checkpoint folder.

    Args:
        name_or_path: a bundled name such as "alexnet-digits" (see `bundled`), or the path of a checkpoint folder. A
            name wins over a folder of the same name; ``./name`` is the folder.

    Raises:
        CheckpointError: there is no such checkpoint, it is damaged, or its arrays do not fit its architecture.
    """
    names = bundled()
    if isinstance(name_or_path, str) and name_or_path in names:
        return load_folder(names[name_or_path])
    path = Path(name_or_path).expanduser()
    # An empty name would be the current folder.
    if name_or_path != "" and (path.exists() or _is_path(name_or_path)):
        return load_folder(path)
    hint = did_you_mean(str(name_or_path), names)
    known = ", ".join(names)
    raise CheckpointError(f"no checkpoint is called {name_or_path!r}{hint}; give a folder or a known name ({known})")


def _is_path(name_or_path: str | os.PathLike[str]) -> bool:
    return not isinstance(name_or_path, str) or name_or_path.startswith(("~", ".")) or os.sep in name_or_path
