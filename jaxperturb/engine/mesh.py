"""Several devices as a mesh: lesions over its rows, images over its columns.

Each device runs the program of the tile that one device alone would run, on values of the same shapes. So sums are
added in the same order, and the counts are those of one device, whatever their number.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxperturb.types import AnyArray

MASKS, IMAGES = "masks", "images"


def mesh_of(devices: Sequence[jax.Device], groups: int, tiles: int) -> Mesh:
    """Returns the mesh that computes all groups of lesions on all tiles of images in the fewest rounds.

    Of several such meshes it is the one of the fewest devices.

    Args:
        devices: that may be used, at least one.
        groups: of lesions, each for one device at a time.
        tiles: of images, likewise.
    """
    shapes = [
        (rows, columns)
        for columns in range(1, min(len(devices), tiles) + 1)
        for rows in range(1, min(len(devices) // columns, groups) + 1)
    ]
    rows, columns = min(shapes, key=lambda shape: (-(-groups // shape[0]) * -(-tiles // shape[1]), shape[0] * shape[1]))
    return Mesh(np.array(devices[: rows * columns], object).reshape(rows, columns), (MASKS, IMAGES))


def everywhere(tree: Any, mesh: Mesh) -> Any:
    """Returns a tree of arrays with a copy on each device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def over_masks(tree: Any, mesh: Mesh) -> Any:
    """Returns a tree of arrays whose first axis, of lesions, is divided over the rows."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec(MASKS)))


def over_images(trees: Sequence[Any], mesh: Mesh) -> Any:
    """Returns the trees of several tiles, one for each column, as one whose arrays have a first axis of tiles."""
    stacked = jax.tree.map(lambda *some: jnp.stack(some), *trees)
    return jax.device_put(stacked, NamedSharding(mesh, PartitionSpec(IMAGES)))


def by_device(array: jax.Array, mesh: Mesh) -> list[list[AnyArray]]:
    """Returns what each device holds of an array, row by row."""
    held = {shard.device: shard.data for shard in array.addressable_shards}
    return [[held[device] for device in row] for row in mesh.devices]


def filled(some: Sequence[Any], size: int) -> list[Any]:
    """Returns a list of a given length: where there is less, the last one again."""
    return [*some, *itertools.repeat(some[-1], size - len(some))]
