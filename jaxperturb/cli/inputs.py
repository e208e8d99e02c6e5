"""Turns ``--weights``, ``--network`` and the flags of data into a network and a data set."""

from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli.options import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from jaxperturb.data import Dataset
    from jaxperturb.networks.network import Network


def read_network(values: flags.FlagValues) -> "Network":
    """Returns the network that the flags ask for.

    Raises:
        NetworkError: an unknown network, a factory that does not make one, or a name that the weights disagree with.
        CheckpointError: weights that are not there, damaged, or do not fit.
    """
    from jaxperturb.checkpoints import load_network

    if values.network is None:
        return load_network(values.weights or DEFAULT_WEIGHTS)
    return load_network(values.weights, values.network)


def read_dataset(values: flags.FlagValues) -> "Dataset":
    """Returns the data set that the flags ask for.

    Raises:
        DataError: an unknown data set or split, or one that is not where it should be.
    """
    from jaxperturb.data import load_dataset

    return load_dataset(values.dataset, split=values.split, data_dir=values.data_dir)
