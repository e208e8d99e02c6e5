"""The cells of a study, from its record alone, and how they are divided among several machines."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from jaxperturb.engine.plan import Cell
from jaxperturb.errors import StudyError
from jaxperturb.levels import as_level, format_level
from jaxperturb.study.rows import CellCounts
from jaxperturb.study.study import Curve, Study


@dataclass(frozen=True)
class Shard:
    """One of several shares of a study.

    Attributes:
        number: of the share, 1 ... `of`.
        of: number of shares.
    """

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Reads ``"3/16"``.

        Raises:
            StudyError: text of another form, or a number out of range.
        """
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text.strip())
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise StudyError(f"expected a share of the cells such as 3/16, from 1/16 to 16/16, got {text!r}")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        """Returns the text that `parse` reads."""
        return f"{self.number}/{self.of}"


def planned_cells(study: Study) -> tuple[Cell, ...]:
    """Returns the cells of a study in the engine's order; one that stands for all draws is there once, as draw 0."""
    return tuple(
        cell for target in study.targets for curve in study.perturbations for cell in _cells(curve, target, study.draws)
    )


def share(study: Study, shard: Shard) -> frozenset[Cell]:
    """Returns the cells of one share.

    The cells stand in the engine's order, each as long as its cost, and the whole is cut into pieces of one length: a
    cell belongs to the piece that its middle lies in. So a share has few layers, and shares cost about the same.

    Args:
        study: what is asked; all shares must ask for the same.
        shard: which one.
    """
    cells = planned_cells(study)
    costs = [_cost(study, cell) for cell in cells]
    total, before, own = max(1, sum(costs)), 0, set()
    for cell, cost in zip(cells, costs, strict=True):
        if min(shard.of - 1, (2 * before + cost) * shard.of // (2 * total)) == shard.number - 1:
            own.add(cell)
        before += cost
    return frozenset(own)


def work(study: Study, cell: Cell, images: int) -> int:
    """Returns what a cell costs on some images, in multiplications."""
    return _cost(study, cell) * images


def with_certain_levels(study: Study, stored: Sequence[CellCounts]) -> Study:
    """Returns a study whose record does not say where all draws coincide, with what its stored cells say of it."""
    once: dict[str, list[str]] = {}
    for counts in stored:
        if counts.shortcut:
            once.setdefault(counts.cell.perturbation, []).append(format_level(counts.cell.level))
    curves = [
        replace(curve, once=tuple(dict.fromkeys([*curve.once, *once.get(curve.text, ())])))
        for curve in study.perturbations
    ]
    return replace(study, perturbations=tuple(curves))


def _cells(curve: Curve, target: str, draws: int) -> Iterator[Cell]:
    intact = [level for level in curve.levels if _is_intact(curve, level)]
    certain = [level for level in curve.levels if level in curve.once and level not in intact]
    drawn = [level for level in curve.levels if level not in curve.once and level not in intact]
    yield from (Cell(curve.text, target, as_level(level), 0) for level in intact)
    yield from (Cell(curve.text, target, as_level(level), draw) for draw in range(draws) for level in drawn)
    yield from (Cell(curve.text, target, as_level(level), 0) for level in certain)


def _is_intact(curve: Curve, level: str) -> bool:
    return level == curve.no_damage and not curve.encodes


def _cost(study: Study, cell: Cell) -> int:
    """Returns what a cell costs per image; the intact network is computed once for all layers."""
    curve = next(curve for curve in study.perturbations if curve.text == cell.perturbation)
    return 0 if _is_intact(curve, format_level(cell.level)) else study.costs.get(cell.target, 1)
