"""Turns ``--weights``, ``--network`` and the flags of data into a network and a data set."""

import importlib
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxperturb.cli.options import DEFAULT_WEIGHTS
from jaxperturb.errors import NetworkError, did_you_mean

if TYPE_CHECKING:
    from jaxperturb.data import Dataset
    from jaxperturb.networks.network import Network


def read_network(values: flags.FlagValues) -> "Network":
    """Returns the network that the flags ask for.

    Raises:
        NetworkError: an unknown network, a factory that does not make one, or a name that the weights disagree with.
        CheckpointError: weights that are not there or damaged.
    """
    asked: str | None = values.network
    if asked is not None and ":" in asked:
        return _call_factory(asked, values.weights)
    if asked is not None:
        _check_name(asked, values.weights)
    from jaxperturb.checkpoints import load_network

    network = load_network(values.weights or DEFAULT_WEIGHTS)
    _check_agreement(network, asked)
    return network


def read_dataset(values: flags.FlagValues) -> "Dataset":
    """Returns the data set that the flags ask for.

    Raises:
        DataError: an unknown data set or split, or one that is not where it should be.
    """
    from jaxperturb.data import load_dataset

    return load_dataset(values.dataset, split=values.split, data_dir=values.data_dir)


def _call_factory(path: str, weights: str | None) -> "Network":
    from jaxperturb.networks.network import Network

    if weights is not None:
        raise NetworkError(f"--network={path} brings its own weights; leave --weights out")
    factory = _find_function(path)
    network = factory()
    if not isinstance(network, Network):
        raise NetworkError(f"--network={path} returned a {type(network).__name__}, not a jaxperturb.Network")
    return network


def _find_function(path: str) -> Any:
    module_name, _, name = path.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise NetworkError(f"--network={path}: module {module_name!r} cannot be imported: {error}") from None
    except ValueError:
        raise NetworkError(f"--network={path}: a function of your own is written package.module:function") from None
    if not callable(function := getattr(module, name, None)):
        near = did_you_mean(name, (known for known in dir(module) if not known.startswith("_")))
        raise NetworkError(f"--network={path}: module {module_name!r} has no function {name!r}{near}")
    return function


def _check_name(asked: str, weights: str | None) -> None:
    from jaxperturb.checkpoints import bundled
    from jaxperturb.networks.catalogue import ARCHITECTURES

    if asked in ARCHITECTURES:
        if weights is None:
            raise NetworkError(f"network {asked!r} needs trained weights: add --weights=NAME or --weights=FOLDER")
        return
    if asked in bundled():
        raise NetworkError(f"{asked!r} names trained weights: write --weights={asked} (and leave --network out)")
    near = did_you_mean(asked, ARCHITECTURES) or f"; networks are {', '.join(ARCHITECTURES)}"
    raise NetworkError(f"unknown network {asked!r}{near}")


def _check_agreement(network: "Network", asked: str | None) -> None:
    architecture = network.source.get("architecture")
    if asked is not None and architecture != asked:
        raise NetworkError(f"these weights are of network {architecture!r}, not {asked!r}; leave --network out")
