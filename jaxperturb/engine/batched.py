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

from jaxperturb.engine.draws import Parts
from jaxperturb.engine.lesions import entries_changed, with_leaves
from jaxperturb.engine.loop import Found, Loop, Tile, chooser, form_of
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.programs import Blend, Values, compiled, planes
from jaxperturb.engine.stages import Stage
from jaxperturb.random.prng import IMPLEMENTATION
from jaxperturb.types import AnyArray, Key


def run_batched(
    loop: Loop, cells: Sequence[Cell], keys: Sequence[Key], tiles: Sequence[Tile], masks: int
) -> Iterator[Found]:
    """Yields what comes of some cells.

    Args:
        loop: of their perturbation and target; its program must be of one size.
        cells: of any draws.
        keys: of the draws, by number.
        tiles: of images.
        masks: lesions at a time; the last call is filled up.
    """
    forms: dict[Any, list[tuple[Cell, Any]]] = {}
    for cell in cells:
        amount = loop.lesions.amount(cell, keys[cell.draw])
        forms.setdefault(form_of(amount), []).append((cell, amount))
    for some in forms.values():
        for first in range(0, len(some), masks):
            group = some[first : first + masks]
            yield from _run_group(loop, group + group[-1:] * (masks - len(group)), len(group), keys, tiles)


def _run_group(
    loop: Loop, group: Sequence[tuple[Cell, Any]], count: int, keys: Sequence[Key], tiles: Sequence[Tile]
) -> Iterator[Found]:
    found = []
    for tile in tiles:
        program, arguments = program_of(loop, group, keys, tile)
        found.append(program(*arguments))
    for i, (cell, _) in enumerate(group[:count]):
        planes_of_tiles, logits = zip(*((every[0][i], every[1][i]) for every in found), strict=True)
        yield Found(cell, planes_of_tiles, logits, found[0][2][i])


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
    amounts = [amount for _, amount in group]
    stacked = jax.tree.map(lambda *some: jnp.stack(some), *amounts)
    data = jnp.stack([jax.random.key_data(keys[cell.draw]) for cell, _ in group])
    every = jax.random.wrap_key_data(data, impl=IMPLEMENTATION)
    lesions, stage, layer = loop.lesions, loop.method.chain.late, loop.method.stages.layer
    programs = lesions.programs(amounts[0])
    units = None
    if loop.method.name == "units":
        choose = chooser(lesions.layers[0], lesions.target.scope == "joint")
        units = jnp.stack([choose(keys[cell.draw], amount) for cell, amount in group])
    program = _program(
        programs.parts,
        stage,
        lesions.leaves,
        loop.method.blend,
        apart=len(lesions.target.layers) > 1,
    )
    handed = [tile.whole[v] for v in stage.handed]
    shared = compiled(stage).share(loop.late, handed)
    ys = [tile.whole[v] for v in layer.outputs] if units is not None and layer else []
    of_images = handed, shared, ys, loop.silent, tile.labels, tile.reference
    words = jax.vmap(programs.parts.seeds)(every)
    return program, (words, units, stacked, programs.extras, loop.leaves, loop.reference, loop.late, of_images)


@functools.lru_cache(maxsize=512)
def _program(
    parts: Parts,
    stage: Stage,
    target: tuple[int, ...],
    blend: Blend | None,
    *,
    apart: bool,
) -> Callable[..., tuple[AnyArray, AnyArray, AnyArray]]:
    """The compiled ``(words, amounts, extras, leaves, reference, fixed, of images) -> (planes, logits, changed)``."""

    def program(
        words: Values,
        units: AnyArray | None,
        amounts: Any,
        extras: Values,
        leaves: Values,
        reference: Values,
        fixed: Values,
        of_images: Any,
    ) -> tuple[AnyArray, AnyArray, AnyArray]:
        handed, shared, ys, silent, labels, first = of_images

        def one(of_lesion: tuple[Values, AnyArray | None, Any]) -> tuple[AnyArray, AnyArray, AnyArray]:
            words, dead, amount = of_lesion
            arrays = [*leaves, *extras]
            own = parts.level(parts.shared(words, arrays), arrays, jax.tree.leaves(amount))
            kernel = stage.kernel_of(with_leaves(leaves, target, own))
            given = blend(ys, silent, dead) if blend and dead is not None else []
            *_, logits = stage.run(fixed, kernel, handed, shared, given)
            return planes(logits, labels, first), logits, entries_changed(reference, own)

        of_lesions = words, units, amounts
        every = jax.lax.map(one, of_lesions) if apart else jax.vmap(one)(of_lesions)
        return every[0], every[1], every[2]

    return jax.jit(program)
