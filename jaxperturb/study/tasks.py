"""How a study is cut into tasks for several workers: large enough that what each costs beside its lesions vanishes."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from jaxperturb.engine.plan import Cell, Work
from jaxperturb.study.cost import WHOLE

PER_WORKER = 8  # tasks that each worker gets at least, so that all of them end at about the same time
_PASSES = 20  # of the intact network that a task is worth at least, since it begins with one


@dataclass(frozen=True)
class Task:
    """Some lesions on one block of images: what a worker takes at a time.

    Attributes:
        start: first image, in the study's order.
        stop: after the last image.
        cells: lesions, in the engine's order.
        work: what they cost, in multiplications.
    """

    start: int
    stop: int
    cells: tuple[Cell, ...]
    work: int

    @property
    def targets(self) -> tuple[str, ...]:
        """What is lesioned."""
        return tuple(dict.fromkeys(cell.target for cell in self.cells))

    def without(self, found: Iterable[tuple[Cell, int, int]]) -> "Task | None":
        """Returns what is left of a task, or None.

        Args:
            found: lesions with the ranges of images on which they are computed.
        """
        images: dict[Cell, int] = {}
        for cell, start, stop in found:
            images[cell] = images.get(cell, 0) + stop - start
        left = tuple(cell for cell in self.cells if images.get(cell, 0) < self.stop - self.start)
        return replace(self, cells=left) if left else None


def tasks_of(
    work: Sequence[Work],
    blocks: Sequence[tuple[int, int]],
    missing: Callable[[Cell, int, int], bool],
    costs: Mapping[str, int],
    workers: int,
) -> list[Task]:
    """Returns the tasks of a study, the costliest first.

    A task is the lesions of one layer on one block of images, or of several layers where they are cheap; a layer that
    is worth several tasks is cut between draws, which share their masks among levels.

    Args:
        work: of the study, in the engine's order.
        blocks: (start, stop) of the engine's blocks of images.
        missing: whether a lesion is to be computed on a block.
        costs: multiplications per image, of a lesion of each target, and of the whole network under ``"*"``.
        workers: how many there are.
    """
    left = [(start, stop, _missing(work, missing, start, stop)) for start, stop in blocks]
    total = sum((stop - start) * costs[one.target] * len(one.cells) for start, stop, some in left for one in some)
    tasks = []
    for start, stop, some in left:
        images, computed = stop - start, {cell for one in some for cell in one.cells}
        least = max(total // (workers * PER_WORKER), _PASSES * costs[WHOLE] * images, 1)
        for cells in _groups(some, {name: cost * images for name, cost in costs.items()}, least):
            cost = sum(costs[cell.target] * images for cell in cells if cell in computed)
            tasks.append(Task(start, stop, cells, cost))
    return sorted(tasks, key=lambda task: -task.work)


def choose(tasks: Sequence[Task], own: frozenset[str], taken: frozenset[str]) -> Task:
    """Returns the task that suits a worker best: of a layer whose programs it has compiled, else of one nobody has.

    Args:
        tasks: there are to choose from, the costliest first.
        own: targets of this worker's tasks so far.
        taken: targets of any worker's tasks so far.
    """
    return min(tasks, key=lambda task: 0 if own.issuperset(task.targets) else 1 + (not taken.isdisjoint(task.targets)))


def _missing(work: Sequence[Work], missing: Callable[[Cell, int, int], bool], start: int, stop: int) -> list[Work]:
    return [
        replace(
            one,
            intact=tuple(cell for cell in one.intact if missing(cell, start, stop)),
            cells=tuple(cell for cell in one.cells if missing(cell, start, stop)),
        )
        for one in work
    ]


def _groups(work: Sequence[Work], costs: Mapping[str, int], least: int) -> Iterator[tuple[Cell, ...]]:
    """Yields the lesions of each task on one block.

    Args:
        work: with what is missing on the block.
        costs: of a lesion of each target on the block.
        least: what a task costs at least, but for the last one.
    """
    gathered: list[Cell] = []
    cost = 0
    for target, group in itertools.groupby(work, lambda one: one.target):
        some = list(group)
        own = costs[target] * sum(len(one.cells) for one in some)
        pieces = own // least
        if pieces > 1:
            yield from _pieces(some, pieces)
            continue
        gathered += [cell for one in some for cell in (*one.intact, *one.cells)]
        cost += own
        if cost >= least:
            yield tuple(gathered)
            gathered, cost = [], 0
    if gathered:
        yield tuple(gathered)


def _pieces(work: Sequence[Work], pieces: int) -> Iterator[tuple[Cell, ...]]:
    """Yields the lesions of one target in so many pieces, or fewer where it has fewer draws; none is empty."""
    units = [
        tuple(cells)
        for one in work
        for _, cells in itertools.groupby((*one.intact, *one.cells), lambda cell: (cell.perturbation, cell.draw))
    ]
    total, before = sum(len(unit) for unit in units), 0
    found: dict[int, list[Cell]] = {}
    for unit in units:
        found.setdefault((2 * before + len(unit)) * pieces // (2 * total), []).extend(unit)
        before += len(unit)
    yield from map(tuple, found.values())
