"""Lesions of few weights: only the units that they touch are computed, the others stay those of the reference."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jaxperturb.engine.lesions import Lesions, with_leaves
from jaxperturb.engine.loop import Found, Lesion, Loop, Tile, outcomes
from jaxperturb.engine.narrow import Narrow
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.programs import Values
from jaxperturb.engine.stages import Stage
from jaxperturb.perturb.inject import Struck
from jaxperturb.types import Key

# Lesions are filled up to one of these numbers of units, so that few programs are compiled.
_SIZES = (1, 8, 64)
MOST_FAULTS = _SIZES[-1]
_AT_A_TIME = 16  # lesions, which share what the reference network makes of the images


def units_touched(lesions: Lesions, cell: Cell, key: Key, narrow: Narrow) -> Int[np.ndarray, " units"] | None:
    """Returns the units of the layer that a lesion touches, or None where it touches many, or more than the layer.

    Args:
        lesions: of one layer.
        cell: the lesion, of at most `MOST_FAULTS`.
        key: of its draw.
        narrow: the layer at some of its units.
    """
    return _units_at(_places(lesions, cell, key), lesions, narrow)


def _units_at(
    places: Mapping[int, tuple[np.ndarray, np.ndarray]], lesions: Lesions, narrow: Narrow
) -> Int[np.ndarray, " units"] | None:
    (layer,) = lesions.layers
    shapes = {leaf.index: leaf.shape for leaf in layer.leaves(include_norm=True)}
    found: set[int] = set()
    for index, (entries, _) in places.items():
        if index not in narrow.leaves:
            return None
        found.update(np.unravel_index(entries, shapes[index])[narrow.leaves[index]].tolist())
    return np.array(sorted(found), np.int32) if 2 * _size(len(found)) <= layer.units else None


def _places(lesions: Lesions, cell: Cell, key: Key) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The faults of a lesion, for the leaves that have any."""
    found = lesions.asked.places(lesions.request(cell, key)) or {}
    return {index: (entries, bits) for index, (entries, bits) in found.items() if len(entries)}


def run_few(loop: Loop, cells: Sequence[Cell], keys: Mapping[int, Key], tiles: Sequence[Tile]) -> Iterator[Found]:
    """Yields what comes of some cells, each of which touches few units.

    Args:
        loop: of their perturbation and target.
        cells: the lesions.
        keys: of the draws, by number.
        tiles: of images.
    """
    stages = loop.method.chain.early, loop.method.chain.late, loop.method.stages.layer
    early, late, layer = _kernels_program(stages, loop.lesions.leaves)(loop.leaves, loop.reference)
    tensors = _tensors(loop)
    for first in range(0, len(cells), _AT_A_TIME):
        made = []
        for cell in cells[first : first + _AT_A_TIME]:
            blend, changed = _at_units(loop, cell, keys[cell.draw], tensors)
            made.append(Lesion(cell, early, late, blend, jnp.uint32(changed)))
        damaged = [lesion for lesion in made if int(lesion.changed)]
        spared = [lesion for lesion in made if not int(lesion.changed)]  # the reference network, whatever was selected
        found = {found.cell: found for found in outcomes(loop, [*damaged, *spared[:1]], layer, tiles)}
        for lesion in made:
            yield found[lesion.cell] if int(lesion.changed) else replace(found[spared[0].cell], cell=lesion.cell)


@dataclass(frozen=True, eq=False)
class _Tensor:
    """A tensor of the layer.

    Attributes:
        axis: of units.
        reference: its values in the reference network.
        struck: what becomes of its faulty words.
    """

    axis: int
    reference: np.ndarray
    struck: Struck


def _tensors(loop: Loop) -> dict[int, _Tensor]:
    narrow, (layer,), target = loop.method.narrow, loop.lesions.layers, loop.lesions.leaves
    assert narrow is not None
    leaves = {leaf.index: leaf for leaf in layer.leaves(include_norm=True)}
    return {
        index: _Tensor(
            axis,
            np.asarray(loop.reference[target.index(index)]),
            loop.lesions.asked.struck(leaves[index], loop.leaves[index]),
        )
        for index, axis in narrow.leaves.items()  # in the order in which the layer takes them
    }


def _at_units(loop: Loop, cell: Cell, key: Key, tensors: Mapping[int, _Tensor]) -> tuple[tuple[Any, Values], int]:
    """The units that a lesion touches, with the layer's leaves there; and how many entries it changes.

    Units that only fill up are numbers that the layer does not have: what is computed for them goes nowhere.
    """
    narrow, (layer,) = loop.method.narrow, loop.lesions.layers
    assert narrow is not None
    places, leaves, changed = _places(loop.lesions, cell, key), [], 0
    units = _units_at(places, loop.lesions, narrow)
    assert units is not None
    missing = (0, _size(len(units)) - len(units))
    for index, tensor in tensors.items():
        own = np.take(tensor.reference, np.pad(units, missing), tensor.axis)
        if index in places:
            hit, after = tensor.struck(*places[index])
            at = list(np.unravel_index(hit, tensor.reference.shape))
            before = tensor.reference[tuple(at)]
            changed += int(np.sum(_bits(before) != _bits(after)))
            at[tensor.axis] = np.searchsorted(units, at[tensor.axis])
            own[tuple(at)] = after
        leaves.append(jnp.asarray(own))
    return (jnp.asarray(np.pad(units, missing, constant_values=layer.units)), leaves), changed


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")


def _size(units: int) -> int:
    return next((size for size in _SIZES if size >= units), units)


@functools.lru_cache(maxsize=256)
def _kernels_program(stages: tuple[Stage | None, ...], target: tuple[int, ...]) -> Callable[..., list[Values]]:
    """The compiled ``(leaves, the target's in the reference network) -> what each stage needs of the latter``."""

    def kernels(leaves: Values, reference: Values) -> list[Values]:
        every = with_leaves(leaves, target, reference)
        return [stage.kernel_of(every) if stage else [] for stage in stages]

    return jax.jit(kernels)
