"""The cells of one perturbation and target, by the plan that the tile names."""

import itertools
from collections.abc import Callable, Iterator, Sequence

import jax

from jaxperturb.engine.batched import run_batched
from jaxperturb.engine.loop import Found, Loop, Tile, run_draw
from jaxperturb.engine.plan import Cell
from jaxperturb.types import Key

Event = Callable[[str, str], None]  # (kind, text): what a study records of its run


def ignore(kind: str, text: str) -> None:
    """Records nothing."""
    del kind, text


def run_cells(
    loop: Loop, cells: Sequence[Cell], keys: Sequence[Key], tiles: Sequence[Tile], on_event: Event = ignore
) -> Iterator[Found]:
    """Yields what comes of some cells, one lesion after another or many at once.

    Args:
        loop: of their perturbation and target.
        cells: sorted by draw.
        keys: of the draws, by number.
        tiles: of images.
        on_event: called when memory did not suffice.
    """
    if loop.shape.tiling.masks is not None:
        yield from _while_memory_lasts(loop, cells, keys, tiles, loop.shape.tiling.masks, on_event)
        return
    for draw, some in itertools.groupby(cells, lambda cell: cell.draw):
        yield from run_draw(loop, list(some), keys[draw], tiles)


def _while_memory_lasts(
    loop: Loop, cells: Sequence[Cell], keys: Sequence[Key], tiles: Sequence[Tile], masks: int, on_event: Event
) -> Iterator[Found]:
    """Many lesions at once, half as many after each time that the device's memory did not hold them."""
    left = list(cells)
    while left:
        try:
            for found in run_batched(loop, left, keys, tiles, masks):
                yield found
                left.remove(found.cell)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or masks == 1:
                raise
            masks //= 2
            on_event("memory", f"{loop.lesions.target.name}: out of memory, {masks} lesions at a time from here on")
