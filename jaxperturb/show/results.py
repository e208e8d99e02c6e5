"""The outcomes of a study, to be read as tables, figures or arrays."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Int

from jaxperturb.engine.plan import INTACT, Cell
from jaxperturb.engine.run import PLANES
from jaxperturb.errors import PerturbationError, StoreError, did_you_mean
from jaxperturb.levels import LevelLike, as_level, format_level
from jaxperturb.show.cells import cell_table
from jaxperturb.show.measures import find_measure
from jaxperturb.show.outcomes import CurveOutcomes, read_curve, reading
from jaxperturb.stats.balance import balanced_accuracy, class_weights
from jaxperturb.stats.curves import LevelCurve, chance_level
from jaxperturb.stats.intervals import CONFIDENCE
from jaxperturb.study.store import CellCounts, Store, open_store
from jaxperturb.study.study import METRICS, Curve, Study, check_metric

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STORE_NAME = "results.sqlite"


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
        skipped: why an image could not be read, by its position; it is in no count.
    """

    study: Study
    cells: pd.DataFrame
    images: pd.DataFrame
    intact: CellCounts | None
    source: Store | Path
    skipped: Mapping[int, str] = field(default_factory=dict)
    _curves: dict[tuple, LevelCurve | None] = field(default_factory=dict, repr=False)

    def summary(self, metric: str | None = None, *, images_are: str = "sample") -> pd.DataFrame:
        """Returns a row for each perturbation and target.

        Args:
            metric: "top1" or "top5"; by default the study's.
            images_are: "sample", where the images stand for all that could have been taken; "all", where just these
                are meant and intervals are over draws alone.

        Returns:
            Columns perturbation, target, metric, images, draws; with ends of a 95 % interval (``_low``, ``_high``) and
            what that cannot promise (``_flags``) each: intact (accuracy of the reference network), half_life (level
            at which half of the above-chance accuracy is gone, by linear interpolation of the mean over draws;
            infinity when the tested levels do not reach it), at_0.7 (accuracy at level 0.7, interpolated; NaN when
            the levels do not bracket it), area (under the curve of relative performance above chance: its mean over
            the tested levels); highest_level; interval (what the intervals are over); rank_low and rank_high (among
            the targets by area, 1 the most fragile; all of a perturbation hold together).

        Raises:
            StudyError: an unknown metric.
        """
        from jaxperturb.show import summary

        return summary.summary(self, metric, summary.means_all(images_are))

    def by_level(
        self,
        metric: str | None = None,
        *,
        images_are: str = "sample",
        critical_drop: float = 0.01,
        confidence: float = CONFIDENCE,
    ) -> pd.DataFrame:
        """Returns a row for each perturbation, target and level.

        Args:
            metric: "top1" or "top5" (accuracy); "same1" or "same5" (first class is the reference network's, or among
                its five); "sdc1" or "sdc5" (it is not); "due" (a logit is not finite); "critical" (share of draws
                that lose more than `critical_drop` of the study's metric). By default the study's metric.
            images_are: "sample" or "all", as in `summary`.
            critical_drop: 0.01 for one point of accuracy.
            confidence: of the intervals, between 0 and 1.

        Returns:
            Columns perturbation, target, level, level_text, metric, images, draws, value, low, high; for accuracies
            relative (to the reference network) and relative_above_chance, each with its ends; interval and flags.

        Raises:
            StudyError: an unknown metric.
        """
        from jaxperturb.show import summary

        return summary.by_level(self, metric, summary.means_all(images_are), critical_drop, confidence)

    def ranking(
        self, perturbation: str | None = None, metric: str | None = None, *, output_layer: bool = False
    ) -> pd.DataFrame:
        """Returns the targets of one perturbation, the most fragile first, with ranks that hold all together at 95 %.

        Args:
            perturbation: its text; may be left out where there is one.
            metric: "top1" or "top5"; by default the study's.
            output_layer: whether to rank the output layer too where units are silenced: a unit there is a class.

        Returns:
            Columns target, area, area_low, area_high, rank_low, rank_high, flags.
        """
        from jaxperturb.show import summary

        return summary.ranking(self, self.curve(perturbation).text, metric, output_layer=output_layer)

    def differences(self, metric: str | None = None, *, between: str = "layers") -> pd.DataFrame:
        """Returns differences of areas, with intervals, and p-values that Holm adjusted for all of them.

        Args:
            metric: "top1" or "top5"; by default the study's.
            between: "layers" of one perturbation, or "perturbations" of one layer with the same levels, whose draws
                are taken pairwise.
        """
        from jaxperturb.show import summary

        return summary.differences(self, metric, between)

    def by_class(self, metric: str | None = None) -> pd.DataFrame:
        """Returns the accuracy, or another share of images, by true class: a row for each cell's level and class."""
        from jaxperturb.show import by_image

        return by_image.by_class(self, metric)

    def by_image(self, perturbation: str | None = None, metric: str | None = None) -> pd.DataFrame:
        """Returns which images survive: a row for each target and image.

        Args:
            perturbation: its text; may be left out where there is one.
            metric: as in `by_level`, but "critical"; by default the study's.

        Returns:
            Columns target, position, data_index, identifier, label, reference (whether it counts there), a column for
            each level with the share of draws in which it counts, and survives_to: the highest level up to which
            that is at least half at each (missing where it is so at none).
        """
        from jaxperturb.show import by_image

        return by_image.by_image(self, self.curve(perturbation).text, metric)

    def level_curve(
        self, perturbation: str, target: str, metric: str | None = None, images: int | None = None
    ) -> LevelCurve | None:
        """Returns what intervals of one curve are made of, None where its reference network is not stored.

        Args:
            perturbation: its text.
            target: a layer.
            metric: any share of images, as in `by_level`.
            images: only the first so many of the study's order.
        """
        measure = find_measure(metric, self.study.metric, self.study.identity.outputs)
        key = (perturbation, target, measure.name, images)
        if key not in self._curves:
            found = self.curve_outcomes(perturbation, target, measure.name, images)
            chance = self.chance(measure.name) if measure.right else 0.0
            two_looks = self.study.goal is not None
            self._curves[key] = None if found is None else replace(found.curve(chance), two_looks=two_looks)
        return self._curves[key]

    def curve_outcomes(
        self, perturbation: str, target: str, metric: str | None = None, images: int | None = None
    ) -> CurveOutcomes | None:
        """Returns the outcomes of one curve on every draw and image; arguments as those of `level_curve`."""
        measure = find_measure(metric, self.study.metric, self.study.identity.outputs)
        rows = self._rows(perturbation, target)
        with reading(self.source) as store:
            found = read_curve(store, rows, self._reference(perturbation, target), measure, images)
        if found is None or not measure.balanced:
            return found
        return replace(found, weights=class_weights(self.labels[found.positions]) * len(found.positions))

    def draws_matter(self, perturbation: str, target: str | None = None) -> bool:
        """Returns whether any stored cell of a perturbation has draws that differ."""
        return bool((self._rows(perturbation, target)["shortcut"] == "").any())

    def plot(self, perturbation: str | None = None, metric: str | None = None) -> "Figure":
        """Returns a matplotlib figure of accuracy against level, one line per target.

        Args:
            perturbation: its text, as in `cells`; may be left out where there is one.
            metric: "top1" or "top5"; by default the study's.

        Raises:
            PerturbationError: a perturbation that is not in the study.
        """
        from jaxperturb.show import figures

        return figures.curves_figure(self, self.curve(perturbation).text, metric)

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
        with reading(self.source) as store:
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
        reference = self._reference(perturbation, target)
        return math.nan if reference is None else self._accuracy(reference, self.metric(metric))

    def plain_accuracy(self, metric: str | None = None) -> float | None:
        """Returns the accuracy of the intact network without any encoding, None where it was not computed yet."""
        name = self.metric(metric)
        if self.intact is not None:
            return self._accuracy(INTACT, name)
        for curve in self.study.perturbations:
            rows = self._rows(curve.text)
            rows = rows[rows["level_text"] == curve.no_damage]
            if len(rows) and not curve.encodes:
                return self.intact_accuracy(curve.text, str(rows["target"].iloc[0]), name)
        return None

    @functools.cached_property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The network's class of each image, in the study's order; `images` has the data set's own."""
        own = self.images["label"].to_numpy(int)
        targets = self.study.identity.class_map
        return own if targets is None else np.asarray(targets, int)[own]

    def _accuracy(self, cell: Cell, metric: str) -> float:
        with reading(self.source) as store:
            positions, planes = store.outcomes(cell)
        if metric == "balanced":
            return balanced_accuracy(planes[PLANES.index("top1")], self.labels[positions])
        return float(planes[PLANES.index(metric)].mean())

    def _reference(self, perturbation: str, target: str) -> Cell | None:
        """Returns the cell that stands for the reference network, None where it is not stored."""
        rows = self._undamaged(perturbation, target)
        if len(rows):
            return Cell(perturbation, target, as_level(rows["level_text"].iloc[0]), 0)
        return INTACT if self.intact else None

    def _undamaged(self, perturbation: str, target: str) -> pd.DataFrame:
        rows = self._rows(perturbation, target)
        return rows[rows["level_text"] == self.curve(perturbation).no_damage]

    def _rows(self, perturbation: str, target: str | None = None) -> pd.DataFrame:
        rows = self.cells[self.cells["perturbation"] == perturbation]
        return rows if target is None else rows[rows["target"] == target]


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
        study,
        cell_table(study, [counts for counts in stored if counts.cell != INTACT]),
        images,
        intact,
        source,
        store.skipped(),
    )
