"""Weights as people who train in JAX have them: Orbax checkpoints, msgpack of Flax, safetensors. Nothing is run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jaxperturb.checkpoints import orbax_files
from jaxperturb.checkpoints.torch_file import open_weights
from jaxperturb.errors import CheckpointError

Arrays = Mapping[str, Shaped[np.ndarray, "..."]]

# Names of leaves that only Flax has: what tells its tensors from PyTorch's.
LEAVES = ("kernel", "scale", "embedding")


def read_arrays_of(path: Path) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Reads all arrays of a folder of Orbax, a msgpack file of Flax or a safetensors file.

    Returns:
        The arrays by their path in the tree, joined by "/".

    Raises:
        CheckpointError: it is missing, damaged, or something else.
    """
    if path.is_dir():
        tree = orbax_files.read_tree(orbax_files.item_of(path))
    elif is_msgpack(path):
        tree = _read_msgpack(path)
    else:
        file = open_weights(path)
        tree = {slashed(name): file.read(name) for name in file.names}
    return {name: np.asarray(leaf) for name, leaf in orbax_files.flatten(tree).items() if _is_number(leaf)}


def is_msgpack(path: Path) -> bool:
    """Says whether a file begins like a msgpack of Flax: with a table that is not empty."""
    try:
        with path.open("rb") as file:
            head = file.read(1)
    except OSError:
        return False
    return head in (b"\xde", b"\xdf") or b"\x81" <= head <= b"\x8f"


def is_flax(names: Mapping[str, object]) -> bool:
    """Says whether tensors are named as in a tree of Flax."""
    return any(slashed(name).split("/")[-1] in LEAVES for name in names)


def _read_msgpack(path: Path) -> Any:
    from flax import serialization

    try:
        return serialization.msgpack_restore(path.read_bytes())
    except (OSError, MemoryError):
        raise
    except Exception as error:  # msgpack, NumPy and Flax each raise their own for what is no tree of arrays
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise CheckpointError(f"{path} cannot be read as msgpack of Flax ({reason}); get it again") from error


def slashed(name: str) -> str:
    """Returns the path of a tensor joined by "/": files of tensors join it with "." or "/"."""
    return name if "/" in name else name.replace(".", "/")


def _is_number(leaf: object) -> bool:
    return isinstance(leaf, np.ndarray | np.generic | bool | int | float)
