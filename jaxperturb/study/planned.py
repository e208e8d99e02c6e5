"""The cells of a study, from its record alone, and how they are divided among several machines."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from jaxperturb.engine.plan import Cell
from jaxperturb.errors import StudyError
from jaxperturb.levels import as_level, format_level
from jaxperturb.stats.planning import PILOT_DRAWS
from jaxperturb.study.goal import OF, Goal
from jaxperturb.study.rows import CellCounts
from jaxperturb.study.study import Curve, Study

T = TypeVar("T")


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
    """Returns the cells of a study in the engine's order; one that stands for all draws is there once, as draw 0.

    Where a study chooses its draws, those are there that it has decided on: of the first look, or of both.
    """
    return tuple(
        cell for target in study.targets for curve in study.perturbations for cell in _own(study, curve, target)
    )


def images_of(study: Study, cell: Cell) -> int:
    """Returns on how many images, the first of the study's order, a cell is to be computed."""
    if study.goal is None:
        return study.images
    look = study.look_of.get((cell.perturbation, cell.target))
    return study.goal.first_images if look is None else look.images


def undecided(study: Study) -> tuple[tuple[Curve, str], ...]:
    """Returns the curves, with their targets, that wait for their first look; none where nothing is to be chosen."""
    if study.goal is None:
        return ()
    pairs = [(curve, target) for target in study.targets for curve in study.perturbations]
    return tuple((curve, target) for curve, target in pairs if (curve.text, target) not in study.look_of)


def check_goal(half_width: object, of: str, study: Study, draws: int, max_draws: int) -> Goal:
    """Returns a goal that can be worked for.

    Args:
        half_width: wanted.
        of: "accuracy" or "relative".
        study: with the images that may be taken.
        draws: of the first look.
        max_draws: not more draws.

    Raises:
        StudyError: a half-width outside (0, 1), an unknown `of`, or too few draws or images to look at.
    """
    if isinstance(half_width, bool) or not (isinstance(half_width, int | float) and 0 < half_width < 1):
        raise StudyError(f"expected a half_width between 0 and 1, such as 0.02, got {half_width!r}")
    if of not in OF:
        raise StudyError(f"expected half_width_of {' or '.join(OF)}, got {of!r}")
    if draws < PILOT_DRAWS and any(cell.draw for cell in planned_cells(replace(study, draws=2))):
        raise StudyError(f"half_width looks first at {PILOT_DRAWS} draws or more, not at {draws}; give more draws")
    if max_draws < draws:
        raise StudyError(f"the first look takes {draws} draws, more than max_draws={max_draws}; give fewer or more")
    if study.images < 2:
        raise StudyError("half_width needs 2 images or more, and this is 1")
    return Goal(float(half_width), of, study.metric, draws, max_draws, study.images)


def share(study: Study, shard: Shard) -> frozenset[Cell]:
    """Returns the cells of one share.

    The cells stand in the engine's order, each as long as its cost, and the whole is cut into pieces of one length: a
    cell belongs to the piece that its middle lies in. So a share has few layers, and shares cost about the same. Where
    a study chooses its draws, a curve stays whole, since all its levels decide on them, and counts as its first look.

    Args:
        study: what is asked; all shares must ask for the same.
        shard: which one.
    """
    cells = planned_cells(study)
    if study.goal is None:
        return frozenset(_piece([(cell, _cost(study, cell)) for cell in cells], shard))
    first = _by_curve(planned_cells(replace(study, looks=())))
    curves = _piece([(key, sum(_cost(study, cell) for cell in some)) for key, some in first.items()], shard)
    return frozenset(cell for key, some in _by_curve(cells).items() if key in curves for cell in some)


def _by_curve(cells: Iterable[Cell]) -> dict[tuple[str, str], list[Cell]]:
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        found.setdefault((cell.perturbation, cell.target), []).append(cell)
    return found


def _piece(costs: Sequence[tuple[T, int]], shard: Shard) -> set[T]:
    """Returns those whose middle lies in one of several pieces of one length, when all stand one after another."""
    total, before, own = max(1, sum(cost for _, cost in costs)), 0, set()
    for item, cost in costs:
        if min(shard.of - 1, (2 * before + cost) * shard.of // (2 * total)) == shard.number - 1:
            own.add(item)
        before += cost
    return own


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


def _own(study: Study, curve: Curve, target: str) -> Iterator[Cell]:
    look = study.look_of.get((curve.text, target)) if study.goal is not None else None
    first = study.draws if study.goal is None else study.goal.draws
    return _cells(curve, target, first if look is None else look.draws)


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
