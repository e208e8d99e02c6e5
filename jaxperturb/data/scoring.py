"""Fits the images of a study and a network to each other: whose logits compete, and which of them is right."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxperturb.data.labels import match_classes, read_class_file
from jaxperturb.data.prepared import PreparedImages
from jaxperturb.networks.network import Network
from jaxperturb.networks.restriction import restrict

GivenClasses = Mapping[str, str | int] | str | os.PathLike[str]


def fit_classes(
    network: Network, images: PreparedImages, classes: GivenClasses | None = None, restrict_classes: bool = False
) -> tuple[Network, PreparedImages]:
    """Returns the network with the logits that compete, and the images with labels that number these.

    Args:
        network: intact.
        images: of a study.
        classes: the network's class for classes of the data set, or a file of it (`jaxperturb.data.labels`); those not
            named are matched by WordNet id, name or number.
        restrict_classes: whether the data set's classes alone compete, instead of all of the network's.

    Raises:
        DataError: a class with images that the network does not have.
    """
    given, source = (classes, "classes") if isinstance(classes, Mapping) or classes is None else _read(classes)
    dataset, outputs = images.dataset, network.number_of_classes(images.image_shape)
    used = frozenset(np.unique(dataset.labels).tolist())
    found = match_classes(dataset.classes, used, network.classes, outputs, given, source)
    if not restrict_classes:
        return network, images.with_classes(found)
    found = found.restricted()
    return restrict(network, found.restriction or ()), images.with_classes(found)


def _read(file: str | os.PathLike[str]) -> tuple[Mapping[str, str], str]:
    path = Path(file)
    return read_class_file(path), path.name
