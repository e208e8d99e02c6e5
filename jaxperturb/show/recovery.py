"""A recovery as tables: each curve with its intervals, what came back of what was lost, and what training changed."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool

from jaxperturb.errors import OutputError, StoreError
from jaxperturb.recovery.change import Change
from jaxperturb.recovery.experiment import Arm, Experiment
from jaxperturb.recovery.store import AT_ONCE, INTACT, PLANES, Point, RecoveryStore, read_recovery
from jaxperturb.stats.components import Crossed, cross
from jaxperturb.stats.curves import chance_level
from jaxperturb.stats.intervals import Estimate, contrast, proportion
from jaxperturb.study.study import METRICS, check_metric

BEFORE, DAMAGED, RECOVERED = "before", "damaged", "recovered"
LEAST_LOSS = 0.01  # of accuracy, of which a share can be told


@dataclass(frozen=True, eq=False)
class Recovery:
    """What came of a recovery.

    Attributes:
        experiment: what was asked.
        points: every network that was evaluated.
        layer_changes: what training changed, by arm.
        source: of the numbers, for titles.
    """

    experiment: Experiment
    points: tuple[Point, ...]
    layer_changes: tuple[tuple[Arm, Change], ...]
    source: Path | None = None

    @property
    def cells(self) -> pd.DataFrame:
        """A row for each point: target, lesion, draw, level, step, loss, images, top1, top5, nonfinite, accuracy."""
        return pd.DataFrame([self._cell(point) for point in self.points])

    @property
    def changes(self) -> pd.DataFrame:
        """A row for each arm and tensor: see `jaxperturb.recovery.change.Change`."""
        return pd.DataFrame([asdict(arm) | asdict(change) for arm, change in self.layer_changes])

    @property
    def chance(self) -> float:
        """Accuracy of a network that says nothing."""
        return chance_level(METRICS[self.metric], self.experiment.outputs)

    @property
    def metric(self) -> str:
        """What counts as right: "top1" or "top5"."""
        return self.experiment.metric

    @property
    def intact(self) -> Estimate:
        """Accuracy of the intact network, with its interval over images."""
        return proportion(cross(self._plane(self._intact())[None, None]), draws_matter=False)

    def curve(self, target: str, lesion: str) -> pd.DataFrame:
        """Returns accuracy along one training, with 95 % intervals over draws and images.

        Args:
            target: what was damaged.
            lesion: ``held`` or ``free``.

        Returns:
            A row for each evaluation: level, step, trained (steps since the first damage), at_once (whether it is the
            lesion alone), value, low, high, draws, interval, flags.

        Raises:
            StoreError: there is no such curve.
        """
        places, outcomes = self._outcomes(target, lesion)
        crossed = cross(outcomes)
        stages, steps = self.experiment.stages, self.experiment.steps
        rows = []
        for column, (level, step) in enumerate(places):
            trained = stages.index(level) * steps + max(step, 0)
            place = {"level": level, "step": max(step, 0), "at_once": step == AT_ONCE, "trained": trained}
            rows.append(place | _columns(proportion(crossed, column)) | {"draws": outcomes.shape[1]})
        return pd.DataFrame(rows)

    def summary(self) -> pd.DataFrame:
        """Returns a row for each target and lesion: accuracy before, after damage, after training, and what came back.

        ``share`` is the share of the lost accuracy that came back, (recovered - damaged) / (before - damaged); it is
        NaN where less than `LEAST_LOSS` was lost. Its interval is linearised. Each number has ``_low`` and ``_high``.
        """
        rows = [self._summary(target, lesion) for target, lesion in self.curves()]
        return pd.DataFrame(rows)

    def curves(self) -> list[tuple[str, str]]:
        """Returns target and lesion of each curve that has an end, in the order asked."""
        ended = {(arm.target, arm.lesion) for arm, _ in self.layer_changes}
        asked = [(target, lesion) for target, lesion, _ in self.experiment.arms()]
        return [pair for pair in asked if pair in ended]

    def _summary(self, target: str, lesion: str) -> dict[str, object]:
        places, outcomes = self._outcomes(target, lesion)
        last = len(places) - 1 - [step for _, step in reversed(places)].index(self.experiment.steps)
        intact = np.broadcast_to(self._plane(self._intact()), outcomes.shape[1:])
        crossed = cross(np.stack([intact, outcomes[places.index((self.experiment.stages[0], 0))], outcomes[last]]))
        row: dict[str, object] = {"target": target or self.experiment.network, "lesion": lesion}
        found = (BEFORE, self.intact), (DAMAGED, proportion(crossed, 1)), (RECOVERED, proportion(crossed, 2))
        for name, estimate in (*found, ("share", _share(crossed))):
            row |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
        return row | {"draws": outcomes.shape[1], "images": outcomes.shape[2]}

    def _outcomes(self, target: str, lesion: str) -> tuple[list[tuple[str, int]], Bool[np.ndarray, "k d i"]]:
        """Level and step of each evaluation that all draws have, and which images were right in it."""
        by_draw: dict[int, dict[tuple[str, int], Point]] = {}
        for point in self.points:
            if (point.arm.target, point.arm.lesion) == (target, lesion):
                by_draw.setdefault(point.arm.draw, {})[point.level, point.step] = point
        if not by_draw:
            raise StoreError(f"there is no curve of {target!r}, {lesion!r} in this recovery")
        whole = [one for one in by_draw.values() if (self.experiment.stages[-1], self.experiment.steps) in one]
        some = whole or list(by_draw.values())[:1]
        order = {level: i for i, level in enumerate(self.experiment.stages)}
        places = sorted(set.intersection(*(set(one) for one in some)), key=lambda place: (order[place[0]], place[1]))
        planes = [[self._plane(one[place]) for one in some] for place in places]
        return places, np.asarray(planes)

    def _intact(self) -> Point:
        return next(point for point in self.points if point.arm == INTACT)

    def _plane(self, point: Point) -> Bool[np.ndarray, " i"]:
        return point.outcomes[PLANES.index(self.metric)]

    def _cell(self, point: Point) -> Mapping[str, object]:
        images = point.outcomes.shape[1]
        counts = dict(zip(PLANES, point.outcomes.sum(axis=1).tolist(), strict=True))
        place = asdict(point.arm) | {"level": point.level, "step": point.step, "loss": point.loss, "images": images}
        counted = {"top1": counts["top1"], "top5": counts["top5"], "nonfinite": images - counts["finite"]}
        return place | counted | {"accuracy": counts[self.metric] / images}


def load_recovery(path: str | Path, metric: str | None = None) -> Recovery:
    """Reads what `jaxperturb recover` wrote.

    Args:
        path: of its folder, or of the store in it.
        metric: "top1" or "top5"; by default that which was asked for.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    with read_recovery(Path(path)) as store:
        return recovery_of(store, Path(path), metric)


def recovery_of(store: RecoveryStore, source: Path | None = None, metric: str | None = None) -> Recovery:
    """Returns what a store holds."""
    experiment = store.experiment()
    if metric is not None:
        values = experiment.values() | {"metric": check_metric(metric, experiment.outputs)}
        experiment = Experiment(**values)
    return Recovery(experiment, tuple(store.points()), tuple(store.changes()), source)


def write_tables(recovery: Recovery, folder: Path) -> None:
    """Writes recovery.csv (the summary), curves.csv (every evaluation) and changes.csv into a folder.

    Raises:
        OutputError: they cannot be written.
    """
    tables = {"recovery.csv": recovery.summary(), "curves.csv": recovery.cells, "changes.csv": recovery.changes}
    try:
        for name, table in tables.items():
            table.to_csv(folder / name, index=False, lineterminator="\n")
    except OSError as error:
        raise OutputError(f"tables cannot be written to {folder}: {error.strerror or error}") from error


def summary_lines(recovery: Recovery) -> list[list[str]]:
    """Returns the summary as rows of text, the head first, percentages with their intervals."""
    head = ["layer damaged", "lesion", "before", "after damage", "after training", "share of the loss recovered"]
    rows = [
        [
            str(row["target"]),
            str(row["lesion"]),
            *(_percent(row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in _NUMBERS),
        ]
        for row in recovery.summary().to_dict("records")
    ]
    return [head, *rows]


_NUMBERS: Sequence[str] = (BEFORE, DAMAGED, RECOVERED, "share")


def _percent(value: float, low: float, high: float) -> str:
    if not np.isfinite(value):
        return "-"
    return f"{100 * value:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def _columns(estimate: Estimate) -> dict[str, object]:
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "interval": estimate.sampled.value,
        "flags": "; ".join(estimate.flags),
    }


def _share(crossed: Crossed) -> Estimate:
    """The share of the loss that came back, from columns before, damaged and recovered."""
    before, damaged, recovered = crossed.means.tolist()
    lost = before - damaged
    if lost < LEAST_LOSS:
        return Estimate(float("nan"), float("nan"), float("nan"))
    share = (recovered - damaged) / lost
    return contrast(crossed, share, np.array([-share, share - 1, 1.0]) / lost)
