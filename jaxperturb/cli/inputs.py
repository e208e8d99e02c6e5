"""Turns ``--weights``, ``--network`` and the flags of data into a network and a data set."""

import dataclasses
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxperturb.cli.options import DEFAULT_WEIGHTS

if TYPE_CHECKING:
    from jaxperturb.data import Dataset
    from jaxperturb.data.prepared import PreparedImages
    from jaxperturb.networks.network import Network


def read_network(values: flags.FlagValues) -> "Network":
    """Returns the network that the flags ask for, with the preprocessing that they ask for where they do.

    Raises:
        NetworkError: an unknown network, a factory that does not make one, a name that the weights disagree with, or a
            preprocessing that cannot be read.
        CheckpointError: weights that are not there, damaged, or do not fit.
    """
    from jaxperturb.checkpoints import load_network
    from jaxperturb.networks.preprocessing import parse_preprocessing

    if values.network is None:
        network = load_network(values.weights or DEFAULT_WEIGHTS)
    else:
        network = load_network(values.weights, values.network)
    if "preprocessing" not in values or values.preprocessing is None:
        return network
    return dataclasses.replace(network, preprocessing=parse_preprocessing(values.preprocessing, network.preprocessing))


def read_dataset(values: flags.FlagValues) -> "Dataset":
    """Returns the data set that the flags ask for.

    Raises:
        DataError: an unknown data set or split, or one that is not where it should be.
    """
    from jaxperturb.data import load_dataset

    # Pillow's warning of a picture that is too large comes beside the error that says so in one line.
    warnings.filterwarnings("error", message=".*decompression bomb")
    return load_dataset(values.dataset, split=values.split, data_dir=values.data_dir, labels_file=values.labels_file)


def class_options(values: flags.FlagValues) -> dict[str, Any]:
    """Returns what the flags say of classes and bad images, as the library's functions take it."""
    return {
        "classes": None if values.classes is None else Path(values.classes),
        "restrict_classes": values.restrict_classes,
        "on_bad_image": values.on_bad_image,
    }


def tell_classes(images: "PreparedImages") -> None:
    """Says on standard error how the data set's classes are those of the network, unless they are the very same."""
    if images.class_map is not None and not images.class_map.is_evident():
        print(f"{images.dataset.name}: {images.class_map.describe()}", file=sys.stderr)
