"""The cells of one perturbation and target, by the plan that the tile names."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax

from jaxperturb.engine.batched import run_batched
from jaxperturb.engine.few import run_few
from jaxperturb.engine.loop import Found, Loop, Tile, run_draw
from jaxperturb.engine.mesh import mesh_of
from jaxperturb.engine.plan import Cell
from jaxperturb.types import Key

Event = Callable[[str, str], None]  # (kind, text): what a study records of its run


def ignore(kind: str, text: str) -> None:
    """Records nothing."""
    del kind, text


def run_cells(
    loop: Loop,
    cells: Sequence[Cell],
    keys: Sequence[Key],
    tiles: Sequence[Tile],
    on_event: Event = ignore,
    devices: Sequence[jax.Device] = (),
) -> Iterator[Found]:
    """Yields what comes of some cells, one lesion after another or many at once.

    Args:
        loop: of their perturbation and target.
        cells: sorted by draw.
        keys: of the draws, by number.
        tiles: of images.
        on_event: called when memory did not suffice.
        devices: that share the work; the default one where there are none.
    """
    if loop.shape.tiling.masks is not None:
        yield from _while_memory_lasts(loop, cells, keys, tiles, loop.shape.tiling.masks, on_event, devices)
        return
    if len(devices) > 1:
        yield from _draws_on_devices(loop, cells, keys, tiles, devices)
    else:
        yield from _in_turn(loop, cells, dict(enumerate(keys)), tiles)


def _in_turn(loop: Loop, cells: Sequence[Cell], keys: Mapping[int, Key], tiles: Sequence[Tile]) -> Iterator[Found]:
    """One lesion after another, those of a draw together, or where few units are computed those of several draws."""
    if loop.method.narrow:
        yield from run_few(loop, cells, keys, tiles)
        return
    for draw, some in _by_draw(cells):
        yield from run_draw(loop, some, keys[draw], tiles)


def _by_draw(cells: Sequence[Cell]) -> list[tuple[int, list[Cell]]]:
    return [(draw, list(some)) for draw, some in itertools.groupby(cells, lambda cell: cell.draw)]


def _draws_on_devices(
    loop: Loop,
    cells: Sequence[Cell],
    keys: Sequence[Key],
    tiles: Sequence[Tile],
    devices: Sequence[jax.Device],
) -> Iterator[Found]:
    """A draw for each row of devices, a share of the tiles for each column, as often as it takes."""
    draws = _by_draw(cells)
    mesh = mesh_of(devices, len(draws), len(tiles))
    rows, columns = mesh.devices.shape
    most = -(-len(tiles) // columns)
    shares = [tiles[first : first + most] for first in range(0, len(tiles), most)]
    placed = [
        [
            (_loop_on(loop, device), [_tile_on(tile, device) for tile in share], device)
            for device, share in zip(row, shares, strict=False)
        ]
        for row in mesh.devices
    ]

    def begin(own: Loop, draw: int, some: Sequence[Cell], device: jax.Device, share: Sequence[Tile]) -> list[Found]:
        return list(_in_turn(own, some, {draw: jax.device_put(keys[draw], device)}, share))

    for first in range(0, len(draws), rows):
        begun = [
            [begin(own, draw, some, device, share) for own, share, device in row]
            for row, (draw, some) in zip(placed, draws[first : first + rows], strict=False)
        ]
        for of_draw in begun:
            yield from (_joined(of_cell) for of_cell in zip(*of_draw, strict=True))


def _loop_on(loop: Loop, device: jax.Device) -> Loop:
    names = ("leaves", "reference", "early", "late", "layer", "silent")
    return replace(loop, **{name: jax.device_put(getattr(loop, name), device) for name in names})


def _tile_on(tile: Tile, device: jax.Device) -> Tile:
    def put(values: Any) -> dict[Any, Any]:  # variables cannot be sorted, so these are no tree to JAX
        return dict(zip(values, jax.device_put(list(values.values()), device), strict=True))

    labels, reference = jax.device_put((tile.labels, tile.reference), device)
    return replace(
        tile, pieces=[put(piece) for piece in tile.pieces], whole=put(tile.whole), labels=labels, reference=reference
    )


def _joined(parts: Sequence[Found]) -> Found:
    """What came of one lesion on several shares of the tiles."""
    planes, logits = ([value for part in parts for value in getattr(part, name)] for name in ("planes", "logits"))
    return replace(parts[0], planes=planes, logits=logits)


def _while_memory_lasts(
    loop: Loop,
    cells: Sequence[Cell],
    keys: Sequence[Key],
    tiles: Sequence[Tile],
    masks: int,
    on_event: Event,
    devices: Sequence[jax.Device],
) -> Iterator[Found]:
    """Many lesions at once, half as many after each time that the device's memory did not hold them."""
    left = list(cells)
    while left:
        try:
            for found in run_batched(loop, left, keys, tiles, masks, devices):
                yield found
                left.remove(found.cell)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or masks == 1:
                raise
            masks //= 2
            on_event("memory", f"{loop.lesions.target.name}: out of memory, {masks} lesions at a time from here on")
