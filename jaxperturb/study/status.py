"""How far a study is: what is done, what is left, how long that will take, and who writes."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jaxperturb.engine.plan import Cell
from jaxperturb.study.lease import Holder, read_holder
from jaxperturb.study.looks import decided, own_cells
from jaxperturb.study.methods import in_short, methods_of
from jaxperturb.study.planned import Shard, images_of, undecided, with_certain_levels, work
from jaxperturb.study.provenance import shard_of
from jaxperturb.study.store import Store, StoredRun, open_store
from jaxperturb.study.study import Study


@dataclass(frozen=True)
class Progressed:
    """How far one perturbation of one target is.

    Attributes:
        perturbation: its text.
        target: its name.
        done: cells that are stored for all images.
        planned: cells; one that stands for all draws counts once.
    """

    perturbation: str
    target: str
    done: int
    planned: int


@dataclass(frozen=True)
class Status:
    """How far a study is.

    Attributes:
        study: what all runs together were asked, or the last run where all compute one share.
        shard: the share that all runs compute, None where they do not.
        rows: for each perturbation and target.
        evaluations: passes of one image through one lesioned network that are left.
        seconds: how long they will take at the pace of the last run that computed something, None before there is one.
        last: the last run, None before there is one.
        writer: who writes now, None where nobody does.
        waiting: number of curves whose first look is not all there, and which may need more than that.
        methods: how the last run computed its targets, a line for each way of each perturbation.
    """

    study: Study
    shard: Shard | None
    rows: tuple[Progressed, ...]
    evaluations: int
    seconds: float | None
    last: StoredRun | None
    writer: Holder | None
    waiting: int = 0
    methods: tuple[str, ...] = ()

    @property
    def done(self) -> int:
        """Cells that are stored for all images."""
        return sum(row.done for row in self.rows)

    @property
    def planned(self) -> int:
        """Cells; one that stands for all draws counts once."""
        return sum(row.planned for row in self.rows)


def read_status(path: Path) -> Status:
    """Reads how far the study of a store is; a run may be writing it.

    Args:
        path: of the store.

    Raises:
        StoreError: a file that is missing, empty, not a store, damaged, or of a newer schema.
    """
    holder = read_holder(path)
    with open_store(path, check=False) as store:
        runs = store.runs()
        study, shard = _asked(store, runs)
        cells = own_cells(study, shard)
        missing = {cell: store.missing(cell, images_of(study, cell)) for cell in cells}
        methods = methods_of(store.events(), runs[-1].number) if runs else []
    pace = pace_of(study, runs, holder)
    keys = {(cell.perturbation, cell.target) for cell in cells}
    left = sum(work(study, cell, images) for cell, images in missing.items())
    return Status(
        study,
        shard,
        _rows(missing),
        sum(missing.values()),
        None if pace is None else left * pace,
        runs[-1] if runs else None,
        None if holder is None or holder.is_gone() else holder,
        sum((curve.text, target) in keys for curve, target in undecided(study)),
        in_short(methods),
    )


def _asked(store: Store, runs: list[StoredRun]) -> tuple[Study, Shard | None]:
    shards = {shard_of(run.record) for run in runs}
    shard = shards.pop() if len(shards) == 1 else None
    study = Study.from_json(runs[-1].record.asked) if shard else store.study()
    return with_certain_levels(decided(study, store), store.cells()), shard


def _rows(missing: dict[Cell, int]) -> tuple[Progressed, ...]:
    left: dict[tuple[str, str], list[int]] = {}
    for cell, images in missing.items():
        left.setdefault((cell.perturbation, cell.target), []).append(images)
    return tuple(Progressed(*names, counts.count(0), len(counts)) for names, counts in left.items())


def pace_of(study: Study, runs: list[StoredRun], holder: Holder | None = None) -> float | None:
    """Returns seconds per multiplication of the last run that computed something, None where none did.

    Args:
        study: with its costs.
        runs: of its store.
        holder: who writes the store, for a run that is running.
    """
    for run in reversed(runs):
        done = sum(study.costs.get(target, 1) * images for target, images in run.images.items())
        seconds = _seconds(run, holder if run is runs[-1] else None)
        if done and seconds:
            return seconds / done
    return None


def _seconds(run: StoredRun, holder: Holder | None) -> float | None:
    """Returns how long a run has computed, None where it was killed and nobody knows when."""
    started = datetime.fromisoformat(run.started).timestamp()
    if run.ended is not None:
        return max(1.0, datetime.fromisoformat(run.ended).timestamp() - started)
    if holder is None:
        return None
    seen = holder.beat if holder.is_gone() else datetime.now(UTC).timestamp()
    return max(1.0, seen - started)
