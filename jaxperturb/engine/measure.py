"""What a perturbation needs to know from images, measured once on the intact network."""

from collections.abc import Mapping
from typing import Any

from jaxperturb.data.preprocess import PreparedImages
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked


def extras_for(network: Network, images: PreparedImages, asked: Asked) -> Mapping[str, Any]:
    """Returns the traced options that a perturbation takes from images, by name."""
    del network, images, asked
    return {}
