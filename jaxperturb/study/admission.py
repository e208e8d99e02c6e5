"""Which workers of a cluster are let in: those that compute the very same as this process would."""

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.engine.tiling import tiling
from jaxperturb.errors import ClusterError, StudyError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.asked import Asked
from jaxperturb.study.exchange import Inputs, Programs
from jaxperturb.study.extend import image_differences, value_differences
from jaxperturb.study.study import source_hash
from jaxperturb.trees import fingerprint

_PACKAGES = ("jaxperturb", "jax", "jaxlib", "flax", "numpy")
_PRESENTING = {"api", "cli", "recovery", "show", "stats"}
_PLACES = ("here", "there")


def own_programs() -> Programs:
    """Returns what this process computes by."""
    versions = {"Python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}
    return Programs(socket.gethostname(), os.getpid(), versions | {"jaxperturb's files": _files()})


def own_inputs(network: Network, images: PreparedImages, asked: Sequence[Asked], options: Mapping[str, Any]) -> Inputs:
    """Returns what this process would compute with. Hashes the weights and the images.

    Args:
        network: intact.
        images: of the study.
        asked: the perturbations.
        options: of the engine.
    """
    code: dict[str, str] = {}
    for one in asked:
        with contextlib.suppress(StudyError):  # one of a notebook travels as it is
            if found := source_hash(one.perturbation.function):
                code[one.text] = found
    tile = options.get("tile") or tiling(network, images.image_shape)
    device = jax.devices()[0]
    return Inputs(
        fingerprint(network.params), images.chain, device.platform, tile.to_json(), code, str(device.device_kind)
    )


def check_programs(own: Programs, found: Programs) -> None:
    """Refuses a worker that computes by other programs.

    Raises:
        ClusterError: each difference is spelt out.
    """
    differences = [
        phrase
        for name in dict.fromkeys([*own.versions, *found.versions])
        for phrase in value_differences(name, own.versions.get(name), found.versions.get(name), _PLACES)
    ]
    if differences:
        raise ClusterError(
            f"a worker on {found.host} has other programs ({'; '.join(differences)}); install the same ones there, and "
            "start Ray again"
        )


def check_inputs(own: Inputs, found: Inputs, name: str) -> None:
    """Refuses a worker that would compute something else.

    Args:
        own: of this process.
        found: of the worker.
        name: of the worker: its process and machine.

    Raises:
        ClusterError: each difference is spelt out.
    """
    differences = image_differences(own.images, found.images)
    for name in ("weights", "backend", "tile"):
        differences += value_differences(name, getattr(own, name), getattr(found, name), _PLACES)
    for text in own.code.keys() & found.code.keys():
        differences += value_differences(f"source file of {text}", own.code[text], found.code[text], _PLACES)
    if differences:
        raise ClusterError(f"the worker {name} would compute something else ({'; '.join(differences)})")


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # a source tree that is not installed
        return "unknown"


def _files() -> str:
    """A fingerprint of the source files that computing rests on: a checkout has one version for many states."""
    folder = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        own = path.relative_to(folder)
        if own.parts[0] not in _PRESENTING:
            content = path.read_bytes()
            digest.update(f"{own.as_posix()} {len(content)} ".encode() + content)
    return digest.hexdigest()[:12]
