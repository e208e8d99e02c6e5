"""How many images a compiled program takes at once: the tile.

With one tile the counts are identical whatever the block, order or number of devices (a block is a whole number of
tiles, so an image always has the same place in its tile). So the tile follows from the backend, the network and the
target alone, never from the block, the number of images, levels or layers, or the free memory.
"""

from collections.abc import Mapping, Sequence

import jax

from jaxperturb.engine.cut import cut
from jaxperturb.networks.network import ImageShape, Network
from jaxperturb.perturb.targets import Target
from jaxperturb.trees import Layer, layers_of

# Entries of the largest value of a tile: what stays near a CPU's caches, what fills an accelerator.
_ENTRIES = {"cpu": 2**22}
_ENTRIES_ACCELERATOR = 2**28
_LEAST, _MOST = 16, 512

REFERENCE = "*"  # the target of the whole network


def tile_sizes(network: Network, image_shape: ImageShape, targets: Sequence[str]) -> dict[str, int]:
    """Returns the number of images per compiled call: for each target, and for the whole network under ``"*"``."""
    layers = layers_of(network.params, network.norms) if targets else {}
    program = network.program(image_shape)
    everything = range(len(program.weights))
    sizes = {REFERENCE: _tile(cut(program, everything).per_image)}
    for target in targets:
        sizes[target] = _tile(cut(program, target_leaves(layers, target)).per_image)
    return sizes


def target_leaves(layers: Mapping[str, Layer], target: str) -> tuple[int, ...]:
    """Returns the indices of all leaves that a lesion of a target may touch, those of norms among them."""
    return tuple(leaf.index for name in Target.of(target).layers for leaf in layers[name].leaves(include_norm=True))


def block_size(batch_size: int, tiles: Mapping[str, int]) -> int:
    """Returns the images of a block: those asked for, rounded up to a whole number of every tile (powers of two)."""
    largest = max(tiles.values())
    return -(-batch_size // largest) * largest


def _tile(per_image: int) -> int:
    room = _ENTRIES.get(jax.default_backend(), _ENTRIES_ACCELERATOR) // per_image
    size = _LEAST
    while size < _MOST and 2 * size <= room:
        size *= 2
    return size
