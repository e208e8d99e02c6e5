"""What there is to compute: the cells of a study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

from jaxperturb.perturb.catalogue import Asked


@dataclass(frozen=True)
class Cell:
    """One lesion of a study.

    Attributes:
        perturbation: its name with options.
        target: what is perturbed: ``conv1``, ``fc6+fc7``, ``joint:conv1+conv2``.
        level: of damage.
        draw: number of the draw, from 0.
    """

    perturbation: str
    target: str
    level: Decimal
    draw: int


INTACT = Cell("", "", Decimal(0), 0)  # the network by itself, where no cell of a study is undamaged


@dataclass(frozen=True)
class Work:
    """The cells of one perturbation and target that are computed, one after another.

    Attributes:
        asked: the perturbation.
        target: what is perturbed.
        intact: cells for which the intact network stands.
        cells: cells to compute.
    """

    asked: Asked
    target: str
    intact: tuple[Cell, ...]
    cells: tuple[Cell, ...]


def plan(
    asked: Sequence[Asked],
    levels: Mapping[str, Sequence[Decimal]],
    targets: Sequence[str],
    draws: int,
    *,
    intact: bool = False,
) -> tuple[Work, ...]:
    """Returns the work of a study, targets outermost, so that a target's cut is made once.

    A cell in which all draws coincide is computed for draw 0 alone.

    Args:
        asked: the perturbations.
        levels: of each, by its text.
        targets: their texts.
        draws: number of draws.
        intact: whether `INTACT` is among the first one's cells.
    """
    work = [_work(item, target, levels[item.text], draws) for target in targets for item in asked]
    if intact:
        work[0] = replace(work[0], intact=(INTACT, *work[0].intact))
    return tuple(work)


def cells_of(work: Sequence[Work], draws: int) -> int:
    """Returns the number of cells that a plan stands for, coinciding draws counted one by one."""
    return sum(
        draws if item.asked.coincides(cell.level) else 1 for item in work for cell in (*item.intact, *item.cells)
    )


def _work(asked: Asked, target: str, levels: Sequence[Decimal], draws: int) -> Work:
    intact = tuple(Cell(asked.text, target, level, 0) for level in levels if asked.is_intact(level))
    damaged = [level for level in levels if not asked.is_intact(level)]
    certain = [Cell(asked.text, target, level, 0) for level in damaged if asked.coincides(level)]
    uncertain = [level for level in damaged if not asked.coincides(level)]
    drawn = [Cell(asked.text, target, level, draw) for draw in range(draws) for level in uncertain]
    return Work(asked, target, intact, tuple(drawn + certain))
