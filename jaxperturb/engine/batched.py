"""Many lesions at once by `vmap`, as an accelerator likes it.

Only the target's leaves are ever batched: the perturbed convolution becomes one with more output channels, and all
later layers see a larger batch. Where a target has several layers, the later one would become a grouped convolution,
many times slower: there, one lesion after another inside the compiled program.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec

from jaxperturb.engine.draws import Parts
from jaxperturb.engine.lesions import entries_changed, with_leaves
from jaxperturb.engine.loop import Found, Loop, Tile, chooser, form_of
from jaxperturb.engine.mesh import IMAGES, MASKS, by_device, everywhere, filled, mesh_of, over_images, over_masks
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.programs import Blend, Values, compiled, planes
from jaxperturb.engine.stages import Stage
from jaxperturb.random.prng import IMPLEMENTATION
from jaxperturb.types import AnyArray, Key


def run_batched(
    loop: Loop,
    cells: Sequence[Cell],
    keys: Sequence[Key],
    tiles: Sequence[Tile],
    masks: int,
    devices: Sequence[jax.Device] = (),
) -> Iterator[Found]:
    """Yields what comes of some cells.

    Args:
        loop: of their perturbation and target; its program must be of one size.
        cells: of any draws.
        keys: of the draws, by number.
        tiles: of images.
        masks: lesions at a time on a device; the last call is filled up.
        devices: that share the work; the default one where there are none.
    """
    forms: dict[Any, list[tuple[Cell, Any]]] = {}
    for cell in cells:
        amount = loop.lesions.amount(cell, keys[cell.draw])
        forms.setdefault(form_of(amount), []).append((cell, amount))
    for some in forms.values():
        mesh = mesh_of(devices, -(-len(some) // masks), len(tiles)) if devices else None
        if mesh is None or mesh.size == 1:
            for first in range(0, len(some), masks):
                yield from _run_group(loop, some[first : first + masks], masks, keys, tiles)
        else:
            yield from _run_on_mesh(loop, some, masks, keys, tiles, mesh)


def _run_group(
    loop: Loop, group: Sequence[tuple[Cell, Any]], masks: int, keys: Sequence[Key], tiles: Sequence[Tile]
) -> Iterator[Found]:
    found = []
    for tile in tiles:
        program, arguments = program_of(loop, filled(group, masks), keys, tile)
        found.append(program(*arguments))
    yield from (_found(cell, i, found) for i, (cell, _) in enumerate(group))


def _run_on_mesh(
    loop: Loop,
    some: Sequence[tuple[Cell, Any]],
    masks: int,
    keys: Sequence[Key],
    tiles: Sequence[Tile],
    mesh: Mesh,
) -> Iterator[Found]:
    """A group of lesions for each row of devices, a tile of images for each column, as often as it takes."""
    rows, columns = mesh.devices.shape
    program = _program_of(loop, some[0][1], mesh)
    rounds = [
        over_images([_of_images(loop, tile) for tile in filled(tiles[first : first + columns], columns)], mesh)
        for first in range(0, len(tiles), columns)
    ]
    of_all = everywhere(_of_all(loop, some[0][1]), mesh)
    for first in range(0, len(some), rows * masks):
        group = some[first : first + rows * masks]
        of_lesions = over_masks(_of_lesions(loop, filled(group, rows * masks), keys), mesh)
        found = [_own_of(program(of_lesions, of_all, of_images), mesh) for of_images in rounds]
        for i, (cell, _) in enumerate(group):
            row, place = divmod(i, masks)
            yield _found(cell, place, [own for of_round in found for own in of_round[row]][: len(tiles)])


def _own_of(outputs: Sequence[jax.Array], mesh: Mesh) -> list[list[list[AnyArray]]]:
    """What came of each device's lesions on its tile: row by row, column by column."""
    planes_of, logits_of, changed = (by_device(array, mesh) for array in outputs)
    return [
        [[value[:, 0] for value in own] for own in zip(*some, strict=True)]
        for some in zip(planes_of, logits_of, changed, strict=True)
    ]


def _found(cell: Cell, place: int, of_tiles: Sequence[Sequence[AnyArray]]) -> Found:
    """What came of a cell that has a place among the lesions of its call."""
    planes_of_tiles, logits = zip(*((every[0][place], every[1][place]) for every in of_tiles), strict=True)
    return Found(cell, planes_of_tiles, logits, of_tiles[0][2][place])


def program_of(
    loop: Loop, group: Sequence[tuple[Cell, Any]], keys: Sequence[Key], tile: Tile
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns the compiled program of several lesions on a tile, and its arguments.

    Args:
        loop: of their perturbation and target.
        group: cells with their amounts.
        keys: of the draws, by number.
        tile: of images.
    """
    amount = group[0][1]
    return _program_of(loop, amount), (_of_lesions(loop, group, keys), _of_all(loop, amount), _of_images(loop, tile))


def _program_of(loop: Loop, amount: Any, mesh: Mesh | None = None) -> Callable[..., Any]:
    lesions, method = loop.lesions, loop.method
    apart = len(lesions.target.layers) > 1
    return _program(
        lesions.programs(amount).parts, method.chain.late, lesions.leaves, method.blend, apart=apart, mesh=mesh
    )


def _of_lesions(loop: Loop, group: Sequence[tuple[Cell, Any]], keys: Sequence[Key]) -> tuple[Any, ...]:
    """What tells the lesions apart: words of their draws, units that they replace, amounts of their levels."""
    lesions = loop.lesions
    amounts = [amount for _, amount in group]
    data = jnp.stack([jax.random.key_data(keys[cell.draw]) for cell, _ in group])
    every = jax.random.wrap_key_data(data, impl=IMPLEMENTATION)
    units = None
    if loop.method.name == "units":
        choose = chooser(lesions.layers[0], lesions.target.scope == "joint")
        units = jnp.stack([choose(keys[cell.draw], amount) for cell, amount in group])
    words = jax.vmap(lesions.programs(amounts[0]).parts.seeds)(every)
    return words, units, jax.tree.map(lambda *some: jnp.stack(some), *amounts)


def _of_all(loop: Loop, amount: Any) -> tuple[Any, ...]:
    """What all lesions and images share."""
    return loop.lesions.programs(amount).extras, loop.leaves, loop.reference, loop.late, loop.silent


def _of_images(loop: Loop, tile: Tile) -> tuple[Any, ...]:
    """What a tile brings: what is handed over, the layer's outputs where units are replaced, labels and reference."""
    stage, layer = loop.method.chain.late, loop.method.stages.layer
    handed = [tile.whole[v] for v in stage.handed]
    shared = compiled(stage).share(loop.late, handed)
    ys = [tile.whole[v] for v in layer.outputs] if loop.method.name == "units" and layer else []
    return handed, shared, ys, tile.labels, tile.reference


@functools.lru_cache(maxsize=512)
def _program(
    parts: Parts,
    stage: Stage,
    target: tuple[int, ...],
    blend: Blend | None,
    *,
    apart: bool,
    mesh: Mesh | None,
) -> Callable[..., tuple[AnyArray, AnyArray, AnyArray]]:
    """The compiled ``(of lesions, of all, of images) -> (planes, logits, changed)``.

    On a mesh the results have a second axis of tiles.
    """

    def program(of_lesions: Any, of_all: Any, of_images: Any) -> tuple[AnyArray, AnyArray, AnyArray]:
        extras, leaves, reference, fixed, silent = of_all
        handed, shared, ys, labels, first = of_images

        def one(of_lesion: tuple[Values, AnyArray | None, Any]) -> tuple[AnyArray, AnyArray, AnyArray]:
            words, dead, amount = of_lesion
            arrays = [*leaves, *extras]
            own = parts.level(parts.shared(words, arrays), arrays, jax.tree.leaves(amount))
            kernel = stage.kernel_of(with_leaves(leaves, target, own))
            given = blend(ys, silent, dead) if blend and dead is not None else []
            *_, logits = stage.run(fixed, kernel, handed, shared, given)
            return planes(logits, labels, first), logits, entries_changed(reference, own)

        every = jax.lax.map(one, of_lesions) if apart else jax.vmap(one)(of_lesions)
        return every[0], every[1], every[2]

    def on_device(of_lesions: Any, of_all: Any, of_images: Any) -> Any:
        found = program(of_lesions, of_all, jax.tree.map(lambda own: own[0], of_images))
        return jax.tree.map(lambda own: own[:, None], found)

    if mesh is None:
        return jax.jit(program)
    specs = PartitionSpec(MASKS), PartitionSpec(), PartitionSpec(IMAGES)
    spread = jax.shard_map(
        on_device, mesh=mesh, in_specs=specs, out_specs=PartitionSpec(MASKS, IMAGES), check_vma=False
    )
    return jax.jit(spread)
