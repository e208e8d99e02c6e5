"""PyTorch's layouts to Flax's and back. A weight of PyTorch has its units first, one of Flax has them last."""

import math
from collections.abc import Iterable
from types import EllipsisType

import numpy as np
from jaxtyping import Shaped

from jaxperturb.checkpoints.torchvision_names import Row

# Rows of units and inputs that are turned at once: such a tile fits a core's own cache (measured: 4 times faster than
# one transposition of a whole dense kernel).
TILE_UNITS = 128
TILE_INPUTS = 1568

Weight = Shaped[np.ndarray, "..."]
Blocks = Iterable[tuple[slice | EllipsisType, np.ndarray]]


def flax_shape(row: Row) -> tuple[int, ...]:
    """Returns the shape of a row's leaf: HWIO for a convolution, inputs × units for a dense layer."""
    if row.layout == "O":
        return row.shape
    channels, height, width = row.maps
    if row.layout == "OIHW":
        return (height, width, channels, row.shape[0])
    return (math.prod(row.maps), row.shape[0])


def torch_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape in PyTorch of a leaf of Flax."""
    return tuple(shape[axis] for axis in {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(shape), range(len(shape))))


def to_flax(row: Row, blocks: Blocks, dtype: np.dtype) -> tuple[Weight, bool]:
    """Builds a leaf from pieces of PyTorch's tensor; the inputs of the first dense layer go from CHW to HWC order.

    Args:
        row: which tensor it is.
        blocks: the tensor in pieces along its first axis.
        dtype: of the leaf.

    Returns:
        The leaf, and whether all its values are finite.
    """
    if row.layout == "O":
        return _vector(row, blocks, dtype)
    channels, height, width = row.maps
    leaf = np.empty((height * width, channels, row.shape[0]), dtype)
    finite = True
    for units, block in blocks:
        if isinstance(units, slice):
            maps = block.reshape(block.shape[0], channels, height * width)
            finite &= _turn(maps, leaf[:, :, units])
    return leaf.reshape(flax_shape(row)), finite


def to_torch(row: Row, leaf: Weight) -> Weight:
    """Returns PyTorch's tensor of a leaf, row-major; the inverse of `to_flax`."""
    if row.layout == "O":
        return np.array(leaf, order="C")
    channels, height, width = row.maps
    maps = np.asarray(leaf).reshape(height, width, channels, row.shape[0])
    return np.ascontiguousarray(maps.transpose(3, 2, 0, 1)).reshape(row.shape)


def _vector(row: Row, blocks: Blocks, dtype: np.dtype) -> tuple[Weight, bool]:
    leaf = np.empty(row.shape, dtype)
    with np.errstate(over="ignore"):
        for units, block in blocks:
            leaf[units] = block
    return leaf, bool(np.isfinite(leaf).all())


def _turn(maps: Weight, out: Weight) -> bool:
    """Writes units × channels × positions as positions × channels × units, tile by tile; says if all are finite."""
    units, channels, positions = maps.shape
    step = max(1, TILE_INPUTS // positions)
    finite = True
    for start in range(0, channels, step):
        part = maps[:, start : start + step]
        # Copied first: what is read may lie at odd addresses of the file, and a narrowing must show what overflows.
        with np.errstate(over="ignore"):
            tile = np.array(part, out.dtype, order="C").reshape(units, -1)
        finite = finite and bool(np.isfinite(tile).all())
        turned = np.ascontiguousarray(tile.T).reshape(-1, positions, units)
        out[:, start : start + step] = turned.transpose(1, 0, 2)
    return finite
