"""Whether a cut network is the plain one: compared on a few images under its first lesion, before that counts."""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np

from jaxperturb.engine.lesions import Lesions, with_leaves
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.programs import Shape
from jaxperturb.types import AnyArray, Apply, Key, Logits

IMAGES = 4


def plain_logits(
    shape: Shape, lesions: Lesions, leaves: Sequence[AnyArray], cell: Cell, key: Key, pixels: np.ndarray
) -> np.ndarray:
    """Returns the logits of the plain network under a lesion, of the first few images.

    Args:
        shape: of the study.
        lesions: of the perturbation and target.
        leaves: of the intact network, on the device.
        cell: the lesion.
        key: of its draw.
        pixels: of the images, of which at least one.
    """
    count = min(IMAGES, len(pixels))
    images = np.zeros((IMAGES, *shape.image_shape), np.float32)
    images[:count] = pixels[:count]
    lesioned = with_leaves(leaves, lesions.leaves, lesions.lesioned(cell, key, leaves))
    return np.asarray(_program(shape.apply, shape.spec[0])(lesioned, images), np.float32)[:count]


def agrees(logits: Logits, plain: np.ndarray, tolerance: float) -> bool:
    """Returns whether logits are those of the plain network.

    Args:
        logits: of all images under a lesion.
        plain: what `plain_logits` gives for it.
        tolerance: as a share of the largest logit.
    """
    own = np.asarray(logits, np.float32)[: len(plain)]
    finite = np.isfinite(plain)
    scale = np.abs(plain[finite]).max(initial=0.0)
    same = np.abs(own[finite] - plain[finite]) <= tolerance * scale
    return bool(np.array_equal(finite, np.isfinite(own)) and same.all())


@functools.lru_cache(maxsize=16)
def _program(apply: Apply, structure: object) -> Callable[..., AnyArray]:
    def plain(leaves: Sequence[AnyArray], images: AnyArray) -> AnyArray:
        with jax.default_matmul_precision("highest"):
            return apply(jax.tree.unflatten(structure, leaves), images)

    return jax.jit(plain)
