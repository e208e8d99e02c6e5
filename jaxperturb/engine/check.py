"""Whether a cut network is the plain one: compared on a few images under one lesion before it is used."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import numpy as np

from jaxperturb.engine.cells import run_cells
from jaxperturb.engine.lesions import Lesions, with_leaves
from jaxperturb.engine.loop import Tile, loop_of
from jaxperturb.engine.methods import Method
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.programs import Shape
from jaxperturb.types import AnyArray, Apply, Key

IMAGES = 4
TOLERANCE = 1e-4  # of the largest logit


def agrees(
    shape: Shape,
    lesions: Lesions,
    method: Method,
    leaves: Sequence[AnyArray],
    cell: Cell,
    key: Key,
    pixels: np.ndarray,
    tile: Tile,
) -> bool:
    """Returns whether a method gives the logits of the plain network, on the first images of a tile.

    Args:
        shape: of the study.
        lesions: of the perturbation and target.
        method: by which they are to be computed.
        leaves: of the intact network, on the device.
        cell: a lesion.
        key: of its draw.
        pixels: of the tile's first images.
        tile: with what is handed over.
    """
    loop = loop_of(shape, lesions, method, leaves, [leaves[i] for i in lesions.leaves])
    first = replace(tile, pieces=tile.pieces[:1])
    (found,) = run_cells(loop, [replace(cell, draw=0)], [key], [first])
    count = min(IMAGES, tile.images)
    images = np.zeros((IMAGES, *shape.image_shape), np.float32)
    images[:count] = pixels[:count]
    lesioned = with_leaves(leaves, lesions.leaves, lesions.lesioned(cell, key, leaves))
    plain = np.asarray(_plain(shape.apply, shape.spec[0])(lesioned, images), np.float32)[:count]
    own = np.asarray(found.logits[0], np.float32)[:count]
    finite = np.isfinite(plain)
    scale = np.abs(plain[finite]).max(initial=0.0)
    same = np.abs(own[finite] - plain[finite]) <= TOLERANCE * scale
    return bool(np.array_equal(finite, np.isfinite(own)) and same.all())


@functools.lru_cache(maxsize=16)
def _plain(apply: Apply, structure: object) -> Callable[..., AnyArray]:
    def plain(leaves: Sequence[AnyArray], images: AnyArray) -> AnyArray:
        with jax.default_matmul_precision("highest"):
            return apply(jax.tree.unflatten(structure, leaves), images)

    return jax.jit(plain)
