"""Lesions one after another, as a CPU likes it: what they share is made once and kept."""

import functools
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import UInt32

from jaxperturb.engine.draws import Parts
from jaxperturb.engine.lesions import LesionPrograms, Lesions, entries_changed, with_leaves
from jaxperturb.engine.methods import Method
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.programs import Shape, Values, blended, carried_axes, compiled, finish, pair_of
from jaxperturb.engine.stages import Stage
from jaxperturb.engine.tiling import Tiling
from jaxperturb.perturb.choose import chosen_units
from jaxperturb.random.keys import draw_key
from jaxperturb.trees import Layer
from jaxperturb.types import AnyArray, Key

# Bytes of lesioned weights that are kept at a time, so that what lesions share of an image is made once for many.
_KEPT = 2**28


@dataclass(frozen=True, eq=False)
class Tile:
    """A tile of images, and what the intact network hands over of it.

    Attributes:
        pieces: for each piece of the small size that holds images, values by variable of the small program.
        whole: values by variable of the large program.
        labels: true classes.
        reference: first classes of the reference network.
        images: how many of them count.
    """

    pieces: Sequence[Mapping[Any, AnyArray]]
    whole: Mapping[Any, AnyArray]
    labels: AnyArray
    reference: AnyArray
    images: int

    def only(self, early: Collection[Any], late: Collection[Any]) -> "Tile":
        """Returns it with some variables' values alone: early ones of the pieces, late ones of the whole."""
        pieces = [{v: piece[v] for v in early} for piece in self.pieces]
        return replace(self, pieces=pieces, whole={v: self.whole[v] for v in late})


@dataclass(frozen=True)
class Found:
    """What came of one lesion.

    Attributes:
        cell: the lesion.
        planes: of each tile.
        logits: of each tile.
        changed: entries of the tree that differ from the reference network's.
    """

    cell: Cell
    planes: Sequence[AnyArray]
    logits: Sequence[AnyArray]
    changed: AnyArray


@dataclass(frozen=True, eq=False)
class Loop:
    """The lesions of one perturbation and target, by one method.

    Attributes:
        shape: of the study.
        lesions: of the perturbation and target.
        method: by which they are computed.
        leaves: of the intact network, on the device.
        reference: the target's leaves in the reference network.
        early: values that the early stage needs of the intact weights.
        late: likewise the late stage.
        layer: likewise the layer alone.
        silent: the layer's outputs with all units replaced.
    """

    shape: Shape
    lesions: Lesions
    method: Method
    leaves: Values
    reference: Values
    early: Values
    late: Values
    layer: Values
    silent: Values

    @property
    def blends_early(self) -> bool:
        """Whether the early stage is given the layer's outputs."""
        return self.method.blend is not None and self.method.stages.layer_is_early


@dataclass(frozen=True, eq=False)
class Lesion:
    """One lesion, made.

    Attributes:
        cell: the lesion.
        early: values that the early stage needs of the lesioned weights.
        late: likewise the late stage.
        blend: what decides how the layer's outputs are blended.
        changed: entries that differ from the reference.
    """

    cell: Cell
    early: Values
    late: Values
    blend: Any
    changed: AnyArray


def loop_of(shape: Shape, lesions: Lesions, method: Method, leaves: Values, reference: Values) -> Loop:
    """Returns the lesions of a perturbation and target, ready to be run.

    Args:
        shape: of the study.
        lesions: of the perturbation and target.
        method: by which they are computed.
        leaves: of the intact network, on the device.
        reference: the target's leaves in the reference network.
    """
    stages = (method.chain.early, method.chain.late, method.stages.layer if method.blend else None)
    fixed = [compiled(some).fixed(leaves) if some else [] for some in stages]
    silent = _silent(lesions, method, leaves, fixed[2]) if method.name == "units" else []
    early, late, layer = fixed
    return Loop(shape, lesions, method, leaves, reference, early, late, layer, silent)


def run_draw(loop: Loop, cells: Sequence[Cell], key: Key, tiles: Sequence[Tile]) -> Iterator[Found]:
    """Yields what comes of the cells of one draw.

    Args:
        loop: of their perturbation and target.
        cells: of one draw.
        key: of the draw.
        tiles: of images.
    """
    amounts = {cell: loop.lesions.amount(cell, key) for cell in cells}
    for _, some in itertools.groupby(cells, lambda cell: form_of(amounts[cell])):
        group = list(some)
        programs = loop.lesions.programs(amounts[group[0]])
        shared = programs.draw(key, loop.leaves)
        directions, kept = _directions(loop, programs, shared), _cells_at_once(loop)
        for first in range(0, len(group), kept):
            made = (_lesion(loop, cell, key, programs, shared, amounts[cell]) for cell in group[first : first + kept])
            yield from outcomes(loop, list(made), directions, tiles)


def form_of(amount: Any) -> Any:
    """Returns what the compiled lesion depends on of a level's amount: names and types."""
    leaves, structure = jax.tree.flatten(amount)
    return structure, tuple(leaf.dtype for leaf in leaves)


def _cells_at_once(loop: Loop) -> int:
    """As many lesions as may be kept: what they share of the images is made once for all of them."""
    chain = loop.method.chain
    kernel = (*(chain.early.kernel if chain.early else ()), *chain.late.kernel)
    size = sum(v.aval.size * v.aval.dtype.itemsize for v in kernel)
    return max(1, _KEPT // max(1, size))


def _lesion(loop: Loop, cell: Cell, key: Key, programs: LesionPrograms, shared: Values, amount: Any) -> Lesion:
    chain = loop.method.chain
    program = _lesion_program(programs.parts, chain.early, chain.late, loop.lesions.leaves)
    early, late, changed = program(shared, jax.tree.leaves(amount), loop.leaves, programs.extras, loop.reference)
    blend = amount if loop.method.name == "linear" else None
    if loop.method.name == "units":
        (layer,) = loop.lesions.layers
        blend = chooser(layer, loop.lesions.target.scope == "joint")(key, amount)
    return Lesion(cell, early, late, blend, changed)


def outcomes(loop: Loop, lesions: Sequence[Lesion], layer: Values, tiles: Sequence[Tile]) -> Iterator[Found]:
    """Yields what comes of some lesions.

    Args:
        loop: of their perturbation and target.
        lesions: made.
        layer: what it needs of the weights for what lesions are blended of: of their change at level 1, or of the
            reference network.
        tiles: of images.
    """
    found: list[list[tuple[AnyArray, AnyArray]]] = [[] for _ in lesions]
    for tile in tiles:
        pieces = _early(loop, lesions, layer, tile)
        for own, outcome in zip(found, _late(loop, lesions, layer, tile, pieces), strict=True):
            own.append(outcome)
    for lesion, own in zip(lesions, found, strict=True):
        planes, logits = zip(*own, strict=True)
        yield Found(lesion.cell, planes, logits, lesion.changed)


def _early(loop: Loop, lesions: Sequence[Lesion], layer: Values, tile: Tile) -> list[list[Values]]:
    """What the early stage gives: for each lesion, and each piece of the tile."""
    stage = loop.method.chain.early
    pieces: list[list[Values]] = [[] for _ in lesions]
    if stage is None:
        return pieces
    program = compiled(stage)
    for piece in tile.pieces:
        handed = [piece[v] for v in stage.handed]
        shared = program.share(loop.early, handed)
        ys, others = _blended(loop, layer, piece) if loop.blends_early else ([], [])
        for lesion, own in zip(lesions, pieces, strict=True):
            common = loop.early, lesion.early, handed, shared
            if loop.blends_early and loop.method.blend:
                own.append(blended(stage, loop.method.blend)(*common, ys, others, lesion.blend))
            else:
                own.append(program.run(*common, []))
    return [fill(own, loop.shape.tiling) for own in pieces]


def fill(pieces: Sequence[Values], tile: Tiling) -> list[Values]:
    """Returns the pieces of a whole tile: where there are fewer, the last one again, whose outcomes do not count."""
    missing = tile.large // tile.small - len(pieces)
    return [*pieces, *itertools.repeat(pieces[-1], missing)] if pieces else []


def _late(
    loop: Loop, lesions: Sequence[Lesion], layer: Values, tile: Tile, pieces: Sequence[Sequence[Values]]
) -> Iterator[tuple[AnyArray, AnyArray]]:
    """The outcomes and logits of each lesion."""
    chain = loop.method.chain
    blends = loop.method.blend is not None and not loop.blends_early
    program = finish(chain.late, carried_axes(pair_of(loop.shape), chain.early), loop.method.blend if blends else None)
    handed = [tile.whole[v] for v in chain.late.handed]
    shared = compiled(chain.late).share(loop.late, handed)
    ys, others = _blended(loop, layer, tile.whole) if blends else ([], [])
    for lesion, own in zip(lesions, pieces, strict=True):
        common = loop.late, lesion.late, handed, shared, own, ys, others, lesion.blend
        yield program(*common, tile.labels, tile.reference)


def _blended(loop: Loop, own: Values, values: Mapping[Any, AnyArray]) -> tuple[Values, Values]:
    """The layer's outputs in the reference network, and what they are blended with, for some images."""
    layer, narrow = loop.method.stages.layer, loop.method.narrow
    assert layer is not None
    if loop.method.name == "units":
        return [values[v] for v in layer.outputs], loop.silent
    program, handed = compiled(layer), [values[v] for v in layer.handed]
    made = program.run(loop.layer, own, handed, program.share(loop.layer, handed), [])
    if narrow:
        return made, [values[v] for v in narrow.handed]
    return [values[v] for v in layer.outputs], made


def _directions(loop: Loop, programs: LesionPrograms, shared: Values) -> Values:
    """What the layer needs of the weights' change at level 1, for a perturbation that is linear in its level."""
    layer = loop.method.stages.layer
    if loop.method.name != "linear" or layer is None:
        return []
    program = _direction_program(programs.parts, layer, loop.lesions.leaves)
    return program(shared, loop.leaves, programs.extras)


def _silent(lesions: Lesions, method: Method, leaves: Values, fixed: Values) -> Values:
    """The layer's outputs with all units replaced: whatever the images, since no weights are left."""
    layer, (own,) = method.stages.layer, lesions.layers
    assert layer is not None
    name = "joint" if lesions.target.scope == "joint" else own.name
    amount = {name: jnp.uint32(own.units)}
    programs = lesions.programs(amount)
    all_gone = programs.level(programs.draw(draw_key(0, 0), leaves), leaves, amount)
    kernel = jax.jit(layer.kernel_of)(with_leaves(leaves, lesions.leaves, all_gone))
    handed = [jnp.zeros(v.aval.shape, v.aval.dtype) for v in layer.handed]
    program = compiled(layer)
    outputs = program.run(fixed, kernel, handed, program.share(fixed, handed), [])
    return [y[:1] if bool(jnp.all(y == y[:1])) else y for y in outputs]  # one for all images broadcasts


@functools.lru_cache(maxsize=1024)
def _lesion_program(
    parts: Parts, early: Stage | None, late: Stage, target: tuple[int, ...]
) -> Callable[..., tuple[Values, Values, AnyArray]]:
    """The compiled ``(shared, level, leaves, extras, reference) -> (early kernel, late kernel, entries changed)``."""

    def lesion(
        shared: Values, level: Values, leaves: Values, extras: Values, reference: Values
    ) -> tuple[Values, Values, UInt32[AnyArray, ""]]:
        own = parts.level(shared, [*leaves, *extras], level)
        lesioned = with_leaves(leaves, target, own)
        kernels = [some.kernel_of(lesioned) if some else [] for some in (early, late)]
        return kernels[0], kernels[1], entries_changed(reference, own)

    return jax.jit(lesion)


@functools.lru_cache(maxsize=256)
def _direction_program(parts: Parts, layer: Stage, target: tuple[int, ...]) -> Callable[..., Values]:
    def direction(shared: Values, leaves: Values, extras: Values) -> Values:
        own = parts.level(shared, [*leaves, *extras], [jnp.float32(1)])
        moved = [a - leaves[i] for i, a in zip(target, own, strict=True)]
        return layer.kernel_of(with_leaves(leaves, target, moved))

    return jax.jit(direction)


@functools.lru_cache(maxsize=256)
def chooser(layer: Layer, joint: bool) -> Callable[[Key, Any], AnyArray]:
    """Returns the compiled ``(key, counts) -> which units of a layer are replaced``."""
    return jax.jit(lambda key, amount: chosen_units(key, [layer], None, amount, joint, False)[layer.name])
