"""What a cluster's driver and its workers tell each other. Imports nothing that imports JAX."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxperturb.engine.run import Part
    from jaxperturb.perturb.asked import Asked


@dataclass(frozen=True)
class Place:
    """What a worker takes over from the process that starts it.

    Attributes:
        environment: variables that decide how JAX computes.
        path: where Python finds modules, a user's own among them.
        folder: from which relative paths start.
        cpus: how many it may use.
    """

    environment: Mapping[str, str]
    path: tuple[str, ...]
    folder: str
    cpus: int


@dataclass(frozen=True)
class Programs:
    """Who computes, and by which programs.

    Attributes:
        host: name of the machine.
        pid: of the process.
        versions: of Python, of packages, and a fingerprint of this package's files.
    """

    host: str
    pid: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Inputs:
    """What is computed with; it must agree between workers.

    Attributes:
        weights: fingerprint of the network's arrays.
        images: chain of hashes of the images.
        backend: platform that computes.
        tile: of the compiled programs.
        code: SHA-256 of the source file of each user's function, by the perturbation's text.
        device: kind of the device; it may differ, which is said.
    """

    weights: str
    images: tuple[str, ...]
    backend: str
    tile: Mapping[str, Any]
    code: Mapping[str, str]
    device: str


@dataclass(frozen=True, eq=False)
class Job:
    """What the tasks of one call have in common.

    Attributes:
        images: fields of the `PreparedImages`, without the data set and what cannot travel.
        asked: the perturbations.
        levels: of each, by its text.
        targets: what is perturbed.
        draws: number of draws.
        seed: of the study.
        batch_size: images of a block.
        options: further ones of the engine.
    """

    images: Mapping[str, Any]
    asked: tuple["Asked", ...]
    levels: Mapping[str, Any]
    targets: tuple[str, ...]
    draws: int
    seed: int
    batch_size: int
    options: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Report:
    """What came of a task since the last report.

    Attributes:
        parts: finished ones.
        skipped: place and reason of images that cannot be read; of all parts that were reported with them or after.
        events: kind and text of what should be known.
        finished: whether nothing is left of the task.
    """

    parts: tuple["Part", ...]
    skipped: tuple[tuple[int, str], ...]
    events: tuple[tuple[str, str], ...]
    finished: bool
