"""Holds a network's features of one photograph against those that torchvision's own weights are known to give."""

import dataclasses
import io
from collections.abc import Mapping
from importlib import resources

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Float32

from jaxperturb.data.pictures import decode_picture
from jaxperturb.data.preprocess import normalise, to_pixels
from jaxperturb.errors import CheckpointError
from jaxperturb.networks.network import Network
from jaxperturb.networks.preprocessing import IMAGENET

FIRST_DENSE = "fc6"
# Of the largest feature. What another order of float32 sums changes is a hundred times smaller, what a wrong weight
# or another resize changes is larger.
TOLERANCE = 1e-4
_PREPROCESSING = dataclasses.replace(IMAGENET, resize=224, crop=None)

Features = Float32[np.ndarray, "h w c"]


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far a network's features are from the known ones.

    Attributes:
        difference: the largest, absolute.
        largest: known feature.
    """

    difference: float
    largest: float

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance."""
        return self.difference <= TOLERANCE * self.largest


def known_answers() -> Mapping[str, Features]:
    """Returns by the name of torchvision's weights the features that they give for the photograph.

    Features are what the first dense layer sees, (height, width, channels). Source: eqxvision's tests (MIT).
    """
    with np.load(io.BytesIO(_resource("features.npz")), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def features_of_photograph(network: Network) -> Features:
    """Returns what the first dense layer of AlexNet or VGG sees of the photograph, resized to 224 by 224.

    Raises:
        CheckpointError: the network has no such layer.
    """
    picture = decode_picture(_resource("img.png"), "the photograph that comes with jaxperturb")
    images = normalise(to_pixels(picture, _PREPROCESSING), _PREPROCESSING)[np.newaxis]
    seen: list[jax.Array] = []

    def watch(call, arguments, options, context):  # type: ignore[no-untyped-def]
        if context.module.name == FIRST_DENSE and context.method_name == "__call__":
            seen.append(arguments[0])
        return call(*arguments, **options)

    with nn.intercept_methods(watch), jax.default_matmul_precision("highest"):
        network.apply(network.params, images)
    if len(seen) != 1:
        raise CheckpointError(f"{network.name} has no layer {FIRST_DENSE}; only AlexNet and VGG can be verified")
    channels = _channels(network)
    side = round((seen[0].size / channels) ** 0.5)
    return np.asarray(seen[0]).reshape(side, side, channels)


def verify(network: Network, answer: Features) -> Agreement:
    """Compares a network's features of the photograph with the known ones.

    Raises:
        CheckpointError: the network gives features of another shape.
    """
    features = features_of_photograph(network)
    if features.shape != answer.shape:
        raise CheckpointError(f"{network.name} gives features {features.shape}, expected {answer.shape}")
    return Agreement(float(np.abs(features - answer).max()), float(np.abs(answer).max()))


def _channels(network: Network) -> int:
    convolutions = [layer for layer in network.layers() if len(layer.shape) == 4]
    return convolutions[-1].units


def _resource(name: str) -> bytes:
    return (resources.files("jaxperturb.data") / "known_answers" / name).read_bytes()
