"""The outcomes of a study, to be read as tables, figures or arrays."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from jaxperturb.engine.plan import Cell
from jaxperturb.engine.run import PLANES
from jaxperturb.errors import PerturbationError, StoreError, did_you_mean
from jaxperturb.levels import LevelLike, as_level, format_level
from jaxperturb.stats.curves import chance_level, half_life, value_at
from jaxperturb.study.store import INTACT, CellCounts, Store, open_store
from jaxperturb.study.study import METRICS, Curve, Study, check_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STORE_NAME = "results.sqlite"
REPORTED_LEVEL = 0.7  # the paper's: "70 % of the connections removed"

_COUNTS = ("top1", "top5", "same1", "same5", "nonfinite")


@dataclass(frozen=True, eq=False)
class CellOutcomes:
    """What happened to each image in one cell. All arrays have one entry per image, in the study's order.

    Attributes:
        positions: in the study's order, rows of `Results.images`.
        top1: the true class comes first.
        top5: the true class is among the first five.
        same1: the first class is the reference network's.
        same5: the first class is among the reference network's first five.
        finite: all logits are finite.
    """

    positions: Int[np.ndarray, " n"]
    top1: Bool[np.ndarray, " n"]
    top5: Bool[np.ndarray, " n"]
    same1: Bool[np.ndarray, " n"]
    same5: Bool[np.ndarray, " n"]
    finite: Bool[np.ndarray, " n"]


@dataclass(frozen=True, eq=False)
class Results:
    """A study as it stood when it was read.

    Attributes:
        study: what was asked.
        cells: a row for each perturbation, target, level and draw, also where one draw stands for all. Counts of
            images: top1, top5 (the true class comes first, or among five), same1, same5 (agreement with the reference
            network), nonfinite; entries of the weights: selected, changed (missing where not known).
        images: a row for each image in the study's order: its index in the data set, identifier and label.
        intact: counts of the intact network, where no cell is undamaged; None otherwise.
        source: the store.
    """

    study: Study
    cells: pd.DataFrame
    images: pd.DataFrame
    intact: CellCounts | None
    source: Store | Path

    def summary(self, metric: str | None = None) -> pd.DataFrame:
        """Returns a row for each perturbation and target.

        Args:
            metric: "top1" or "top5"; by default the study's.

        Returns:
            Columns perturbation, target, metric, images, draws, intact (accuracy of the intact network), half_life
            (level at which half of the above-chance accuracy is gone, by linear interpolation of the mean over
            draws; infinity when the tested levels do not reach it), at_0.7 (accuracy at level 0.7, interpolated;
            NaN when the levels do not bracket it) and highest_level.

        Raises:
            StudyError: an unknown metric.
        """
        metric = self.metric(metric)
        groups = self.cells.groupby(["perturbation", "target"], sort=False)
        rows = [self._summary_row(str(key[0]), str(key[1]), rows, metric) for key, rows in groups]
        columns = [
            "perturbation",
            "target",
            "metric",
            "images",
            "draws",
            "intact",
            "half_life",
            _at_name(),
            "highest_level",
        ]
        return pd.DataFrame(rows, columns=columns)

    def plot(self, perturbation: str | None = None, metric: str | None = None) -> "Figure":
        """Returns a matplotlib figure of accuracy against level, one line per target.

        Args:
            perturbation: its text, as in `cells`; may be left out where there is one.
            metric: "top1" or "top5"; by default the study's.

        Raises:
            PerturbationError: a perturbation that is not in the study.
        """
        from jaxperturb.show import plots

        return plots.make_figure(self, self.curve(perturbation).text, metric)

    def outcomes(self, perturbation: str, target: str, level: LevelLike, draw: int = 0) -> CellOutcomes:
        """Returns what happened to each image in one cell.

        Raises:
            StoreError: a cell that is not in the study.
        """
        text = format_level(as_level(level))
        cells = self.cells
        found = cells[
            (cells["perturbation"] == perturbation)
            & (cells["target"] == target)
            & (cells["level_text"] == text)
            & (cells["draw"] == draw)
        ]
        if found.empty:
            raise StoreError(f"the study has no cell {perturbation} of {target} at level {text}, draw {draw}")
        stored = Cell(perturbation, target, as_level(level), 0 if found["shortcut"].iloc[0] else draw)
        if isinstance(self.source, Store):
            positions, planes = self.source.outcomes(stored)
        else:
            with open_store(self.source, check=False) as store:
                positions, planes = store.outcomes(stored)
        return CellOutcomes(positions, *planes)

    def unchanged(self, perturbation: str) -> tuple[str, ...]:
        """Returns the targets of which no cell above the level of no damage changed a weight: their curve is flat.

        A target is not among them where no such cell was computed, or where what it changed is not known.
        """
        cells = self.cells[self.cells["perturbation"] == perturbation]
        damaged = cells[cells["level_text"] != self.curve(perturbation).no_damage]
        changed = damaged.groupby("target", sort=False)["changed"]
        nothing = changed.max().eq(0) & changed.count().eq(changed.size())
        return tuple(target for target in self.study.targets if nothing.get(target, False))

    def metric(self, metric: str | None = None) -> str:
        """Returns the metric asked for, or the study's.

        Raises:
            StudyError: an unknown metric.
        """
        return check_metric(metric or self.study.metric, self.study.identity.outputs)

    def chance(self, metric: str | None = None) -> float:
        """Returns the accuracy of a network that says nothing."""
        return chance_level(METRICS[self.metric(metric)], self.study.identity.outputs)

    def curve(self, perturbation: str | None = None) -> Curve:
        """Returns what is known of a perturbation of the study, by its text or its name where that is enough.

        Raises:
            PerturbationError: one that is not in the study, or a name that stands for several.
        """
        curves = {curve.text: curve for curve in self.study.perturbations}
        if perturbation in curves:
            return curves[perturbation]
        near = [
            curve for text, curve in curves.items() if perturbation is None or text.partition("(")[0] == perturbation
        ]
        if len(near) == 1:
            return near[0]
        asked = "which perturbation is meant?" if perturbation is None else f"{perturbation!r} is not in the study"
        raise PerturbationError(f"{asked}{did_you_mean(perturbation or '', curves)} (there: {', '.join(curves)})")

    def intact_accuracy(self, perturbation: str, target: str, metric: str | None = None) -> float:
        """Returns the accuracy of the intact network, NaN where it was not computed yet."""
        name = self.metric(metric)
        rows = self.cells[
            (self.cells["perturbation"] == perturbation)
            & (self.cells["target"] == target)
            & (self.cells["level_text"] == self.curve(perturbation).no_damage)
        ]
        if len(rows):
            return float(rows[name].sum() / rows["images"].sum())
        return math.nan if self.intact is None else self.intact.counts[name] / self.intact.images

    def _summary_row(self, perturbation: str, target: str, rows: pd.DataFrame, metric: str) -> tuple:
        mean = mean_curve(rows, metric)
        levels, accuracy = mean["level"].to_numpy(), mean["mean"].to_numpy()
        intact = self.intact_accuracy(perturbation, target, metric)
        return (
            perturbation,
            target,
            metric,
            int(rows["images"].max()),
            rows["draw"].nunique(),
            intact,
            half_life(levels, accuracy, intact, self.chance(metric)),
            value_at(levels, accuracy, REPORTED_LEVEL),
            float(levels.max()),
        )


def mean_curve(rows: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Returns the curve of one perturbation and target: level, and mean, low and high of the accuracy over draws."""
    accuracy = (rows[metric] / rows["images"]).groupby(rows["level"])
    return accuracy.agg(mean="mean", low="min", high="max").reset_index()


def results_of(store: Store) -> Results:
    """Reads the results of an open store; outcomes are read from it when they are asked for."""
    return _read(store, store)


def load_results(path: str | Path) -> Results:
    """Reads a study.

    Args:
        path: its folder, or the file ``results.sqlite`` itself.

    Raises:
        StoreError: a file that is missing, empty, not a store, damaged, or of a newer schema.
    """
    file = Path(path)
    file = file / STORE_NAME if file.is_dir() else file
    with open_store(file) as store:
        return _read(store, file)


def _read(store: Store, source: Store | Path) -> Results:
    study, stored = store.study(), store.cells()
    intact = next((counts for counts in stored if counts.cell == INTACT), None)
    images = pd.DataFrame(store.images(), columns=["data_index", "identifier", "label"])
    return Results(
        study, _cell_table(study, [counts for counts in stored if counts.cell != INTACT]), images, intact, source
    )


def _cell_table(study: Study, stored: list[CellCounts]) -> pd.DataFrame:
    draws: dict[tuple[str, str], set[int]] = {}
    for counts in stored:
        if not counts.shortcut:
            draws.setdefault((counts.cell.perturbation, counts.cell.target), set()).add(counts.cell.draw)
    rows = [row for counts in stored for row in _rows_of(study, counts, draws)]
    columns = [
        "perturbation",
        "target",
        "level",
        "level_text",
        "draw",
        "seed",
        "images",
        *_COUNTS,
        "selected",
        "changed",
    ]
    table = pd.DataFrame(rows, columns=[*columns, "shortcut"]).astype(
        {"level": float, "selected": "Int64", "changed": "Int64"}
    )
    places = {
        "perturbation": {curve.text: place for place, curve in enumerate(study.perturbations)},
        "target": {target: place for place, target in enumerate(study.targets)},
    }
    by = ["perturbation", "target", "level", "draw"]
    return table.sort_values(by, key=lambda c: c.map(places[str(c.name)]) if c.name in places else c, ignore_index=True)


def _rows_of(study: Study, counts: CellCounts, draws: dict[tuple[str, str], set[int]]) -> Iterator[tuple]:
    cell = counts.cell
    same_curve = draws.get((cell.perturbation, cell.target), set(range(study.draws)))
    for draw in sorted(same_curve) if counts.shortcut else (cell.draw,):
        yield (
            cell.perturbation,
            cell.target,
            float(cell.level),
            format_level(cell.level),
            draw,
            study.identity.seed,
            counts.images,
            *(counts.counts[plane] for plane in PLANES[:-1]),
            counts.images - counts.counts[PLANES[-1]],
            counts.selected,
            counts.changed,
            counts.shortcut,
        )


def _at_name() -> str:
    return f"at_{REPORTED_LEVEL}"
