"""A network of which some classes alone compete."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from jaxperturb.networks.network import Network
from jaxperturb.types import Apply, Images, Logits, Params


def restrict(network: Network, classes: Sequence[int]) -> Network:
    """Returns a network that gives the logits of some classes alone, in the order given.

    Args:
        network: whose other logits are dropped; its weights are the same arrays.
        classes: numbers of its classes.
    """
    names = None if network.classes is None else tuple(network.classes[place] for place in classes)
    return dataclasses.replace(network, apply=_Selected(network.apply, tuple(classes)), classes=names)


@dataclasses.dataclass(frozen=True)
class _Selected:
    """Some columns of a function's logits. Equal ones are equal, so that programs compiled for one serve the other."""

    apply: Apply
    classes: tuple[int, ...]

    def __call__(self, params: Params, images: Images) -> Logits:
        return jnp.take(self.apply(params, images), np.asarray(self.classes, np.int32), axis=-1)
