"""The intact network on a block of images: its outcomes, and what it hands over to the targets."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxperturb.engine.loop import Tile, fill
from jaxperturb.engine.methods import Wanted
from jaxperturb.engine.programs import (
    Shape,
    Values,
    carried_axes,
    compiled,
    first_classes,
    intact_chain,
    joined,
    pair_of,
    planes,
)
from jaxperturb.engine.stages import Chain
from jaxperturb.types import AnyArray


@dataclass(frozen=True, eq=False)
class Intact:
    """The intact network on some images.

    Attributes:
        tiles: of the images, with what is handed over.
        outcomes: one plane for each of `PLANES`, (5, images).
        logits: of each tile, with those of images that only fill it up.
    """

    tiles: tuple[Tile, ...]
    outcomes: Bool[np.ndarray, "p n"]
    logits: tuple[AnyArray, ...]


def intact_pass(shape: Shape, leaves: Values, pixels: np.ndarray, labels: np.ndarray, wanted: Wanted) -> Intact:
    """Runs the intact network.

    Args:
        shape: of the study.
        leaves: of the network, on the device.
        pixels: the images, (n, h, w, c).
        labels: of them.
        wanted: what is handed over.
    """
    size = shape.tiling.large
    some, outcomes, every = [], [], []
    for number, tile_labels in enumerate(padded(labels, size)):
        own, tile_pixels = jnp.asarray(tile_labels), pixels[number * size : (number + 1) * size]
        count = len(tile_pixels)
        pieces, whole, logits = _run(shape, leaves, tile_pixels, wanted)
        first = first_classes(logits)
        outcomes.append(np.asarray(planes(logits, own, first))[:, :count])
        some.append(Tile(pieces, whole, own, first, count))
        every.append(logits)
    return Intact(tuple(some), np.concatenate(outcomes, axis=1), tuple(every))


def _run(
    shape: Shape, leaves: Values, pixels: np.ndarray, wanted: Wanted
) -> tuple[list[dict[Any, AnyArray]], dict[Any, AnyArray], AnyArray]:
    """What is handed over of one tile: of its pieces that hold images, and of the whole; and its logits."""
    both = pair_of(shape)
    chain, kept, kept_late = intact_chain(both, (*wanted.early, *(both.reduced[v] for v in wanted.late)))
    found = _early(shape, chain, leaves, pixels)
    carried = len(chain.early.outputs) - len(kept) if chain.early else 0
    pieces = [{v: a for v, a in zip(kept, values[carried:], strict=True) if v in wanted.early} for values in found]
    filled = fill(found, shape.tiling)
    axes = carried_axes(both, chain.early)
    late = compiled(chain.late)
    given = joined([values[:carried] for values in filled], axes[:carried])
    handed = [jnp.asarray(some) for some in padded(pixels, shape.tiling.large)] if chain.late.handed else []
    *own, logits = late.run(late.fixed(leaves), [], handed, [], given)
    whole = dict(zip(kept_late, own, strict=True))
    for place, v in enumerate(kept, start=carried):
        if both.enlarged[v] in wanted.late:
            whole[both.enlarged[v]] = jnp.concatenate([values[place] for values in filled], axes[place])
    return pieces, whole, logits


def _early(shape: Shape, chain: Chain, leaves: Values, pixels: np.ndarray) -> list[Values]:
    """What the early stage gives of each piece."""
    if chain.early is None:
        return []
    early = compiled(chain.early)
    fixed, takes_images = early.fixed(leaves), bool(chain.early.handed)
    pieces = padded(pixels, shape.tiling.small)
    return [early.run(fixed, [], [jnp.asarray(piece)] if takes_images else [], [], []) for piece in pieces]


def padded(array: np.ndarray, size: int) -> list[np.ndarray]:
    """Splits along the first axis into pieces of one size, the last one filled up with zeros."""
    pieces = [array[first : first + size] for first in range(0, len(array), size)]
    missing = -len(array) % size
    if missing:
        pieces[-1] = np.concatenate([pieces[-1], np.zeros((missing, *array.shape[1:]), array.dtype)])
    return pieces
