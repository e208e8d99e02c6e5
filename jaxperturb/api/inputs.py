"""What callers may give for networks, data, perturbations and levels, and what it becomes."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from jaxperturb.checkpoints import load_network
from jaxperturb.data import Dataset, from_arrays, from_batches, load_dataset
from jaxperturb.data.prepared import PreparedImages, prepare
from jaxperturb.data.reading import read_fast
from jaxperturb.data.scoring import GivenClasses, fit_classes
from jaxperturb.errors import DataError, LevelError, NetworkError, StudyError, did_you_mean
from jaxperturb.levels import LevelLike, as_level, parse_level_flag, parse_levels
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked, Perturbation, ask, parse_perturbations

NetworkLike = Network | str | Path
DataLike = Dataset | str | tuple[Any, Any] | Iterable[Any]
Grid = str | LevelLike | Sequence[LevelLike] | np.ndarray
Levels = Grid | Mapping[str, Grid]
OnePerturbation = str | Callable[..., Any] | Asked | Perturbation
Perturbations = OnePerturbation | Sequence[OnePerturbation]


def fitted(
    net: object,
    data: object,
    images: int | None,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    on_bad_image: str = "raise",
) -> tuple[Network, PreparedImages]:
    """Returns the network with the logits that compete, and the images of a study with labels that number these."""
    network = network_of(net)
    prepared = read_fast(prepare(dataset_of(data), network.preprocessing, images, on_bad_image))
    return fit_classes(network, prepared, classes, restrict_classes)


def network_of(net: object) -> Network:
    """Returns a network as it is, or the one of a bundled name or of a checkpoint's folder."""
    if isinstance(net, Network):
        return net
    if isinstance(net, str | Path):
        return load_network(net)
    raise NetworkError(f"expected a jaxperturb.Network, a bundled name or a folder, got {type(net).__name__}")


def dataset_of(data: object) -> Dataset:
    """Returns a data set as it is, or the one of a name, of a pair of arrays, or of an iterable of batches."""
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        return load_dataset(data)
    if isinstance(data, tuple | list) and len(data) == 2:
        return from_arrays(*data)
    if isinstance(data, Iterable) and not isinstance(data, np.ndarray | bytes):
        return from_batches(data)
    raise DataError(
        f"expected a data set, its name, (images, labels), or an iterable of batches, got {type(data).__name__}"
    )


def asked_of(perturbations: Perturbations) -> tuple[Asked, ...]:
    """Returns the perturbations of a text, a function, or a sequence of either."""
    if isinstance(perturbations, str | Sequence):
        return parse_perturbations(perturbations)
    return (ask(perturbations),)


def grids_of(asked: Sequence[Asked], levels: object) -> dict[str, tuple[Decimal, ...]]:
    """Returns the levels of each perturbation by its text, each within its range."""
    names = [one.perturbation.name for one in asked]
    given: Mapping[str, tuple[Decimal, ...]]
    if levels is None:
        given = {}
    elif isinstance(levels, str):
        given = parse_level_flag(levels, names)
    elif isinstance(levels, Mapping):
        given = {_known(name, names): _grid(grid) for name, grid in levels.items()}
    else:
        given = {"*": _grid(levels)}
    grids = {}
    for one in asked:
        grid = given.get(one.perturbation.name) or given.get("*") or one.perturbation.levels()
        grids[one.text] = one.check_levels(grid)
    return grids


def _grid(levels: Any) -> tuple[Decimal, ...]:
    if isinstance(levels, str):
        return parse_levels(levels)
    if isinstance(levels, Real | Decimal) or not isinstance(levels, Iterable):
        return (as_level(levels),)
    grid = tuple(dict.fromkeys(as_level(level) for level in levels))
    if not grid:
        raise LevelError("expected levels such as 0.1,0.5 or 0:1:0.1, got none")
    return grid


def _known(name: str, names: Sequence[str]) -> str:
    if name != "*" and name not in names:
        near = did_you_mean(str(name), names)
        raise LevelError(f"levels are given for {name!r}, which is not in the study ({', '.join(names)}){near}")
    return name


def check_count(name: str, value: object) -> int:
    """Returns a whole number of 1 or more, or says that it is none."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise StudyError(f"expected {name} of 1 or more, got {value!r}")
    return int(value)
