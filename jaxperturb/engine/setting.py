"""What all blocks of images share: the network on its device, the shape of its programs, keys and devices."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.engine.allocator import keep_pages
from jaxperturb.engine.cells import Event, ignore
from jaxperturb.engine.devices import warn_if_not_deterministic
from jaxperturb.engine.precision import in_precision, tolerance
from jaxperturb.engine.programs import Shape
from jaxperturb.engine.tiling import Tiling, tiling
from jaxperturb.networks.network import Network, specification
from jaxperturb.types import AnyArray, Key


@dataclass(frozen=True, eq=False)
class Setting:
    """What all blocks of images share.

    Attributes:
        network: intact.
        leaves: of its params, on the first device.
        shape: of the programs.
        tolerance: how far logits of two programs of it may differ, as a share of the largest.
        keys: of the draws, by number.
        on_event: called with the kind and the text of what should be known of the run.
        devices: that share the lesions; the default one where there are none.
    """

    network: Network
    leaves: Sequence[AnyArray]
    shape: Shape
    tolerance: float
    keys: Sequence[Key] = ()
    on_event: Event = ignore
    devices: Sequence[jax.Device] = ()


def setting_of(network: Network, images: PreparedImages, tile: Tiling | None, precision: str) -> Setting:
    """Returns the setting of an intact network.

    Args:
        network: intact.
        images: of the study.
        tile: of the compiled programs; None for the backend's own.
        precision: one of `jaxperturb.engine.precision.PRECISIONS`.
    """
    keep_pages()
    warn_if_not_deterministic()
    image_shape = network.shape_of_images(images.image_shape)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(network.params)]
    apply = in_precision(network.apply, precision)
    shape = Shape(apply, specification(network.params), image_shape, tile or tiling(network, image_shape))
    return Setting(network, leaves, shape, tolerance(precision))
