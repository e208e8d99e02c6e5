"""Outcomes of a curve as one array: levels x draws x images, whatever a study holds of it by now."""

import contextlib
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from jaxperturb.engine.plan import Cell
from jaxperturb.engine.run import PLANES
from jaxperturb.levels import as_level
from jaxperturb.show.measures import Measure
from jaxperturb.stats.components import cross
from jaxperturb.stats.curves import LevelCurve
from jaxperturb.study.store import Store, open_store


@dataclass(frozen=True, eq=False)
class CurveOutcomes:
    """Whether each image counted, at each level and draw.

    Attributes:
        levels: ascending.
        texts: of the levels.
        draws: numbers of the draws; one where all coincide.
        positions: of the images, in the study's order.
        right: for each level, and the reference network last.
        draws_matter: whether any level has draws that differ.
        alike: places of the levels at which all draws coincide.
        weights: what each image counts in a mean over images, 1 in the mean; None for alike.
    """

    levels: Float[np.ndarray, " m"]
    texts: tuple[str, ...]
    draws: tuple[int, ...]
    positions: Int[np.ndarray, " i"]
    right: Bool[np.ndarray, "m+1 d i"]
    draws_matter: bool
    alike: tuple[int, ...]
    weights: Float[np.ndarray, " i"] | None = None

    def curve(self, chance: float) -> LevelCurve:
        """Returns the same reduced to what intervals need."""
        return LevelCurve(self.levels, cross(self.right, self.weights), chance, self.draws_matter, self.alike)


def on_common_draws(first: CurveOutcomes, second: CurveOutcomes) -> tuple[CurveOutcomes, CurveOutcomes]:
    """Returns two curves with the draws that both have; where all draws of one coincide, both are as they are."""
    if not (first.draws_matter and second.draws_matter):
        return first, second
    return _with_draws(first, set(second.draws)), _with_draws(second, set(first.draws))


def _with_draws(curve: CurveOutcomes, draws: Set[int]) -> CurveOutcomes:
    kept = [place for place, draw in enumerate(curve.draws) if draw in draws]
    return replace(curve, draws=tuple(curve.draws[place] for place in kept), right=curve.right[:, kept])


@dataclass(frozen=True, eq=False)
class _Column:
    """A level: for each draw the images' positions and whether they counted; draw None stands for all."""

    text: str
    draws: dict[int | None, tuple[np.ndarray, np.ndarray]]


@contextlib.contextmanager
def reading(source: Store | Path) -> Iterator[Store]:
    """Opens a store for the time of a ``with`` block, unless it is open."""
    if isinstance(source, Store):
        yield source
    else:
        with open_store(source, check=False) as store:
            yield store


def read_curve(
    store: Store, rows: pd.DataFrame, reference: Cell | None, measure: Measure, images: int | None = None
) -> CurveOutcomes | None:
    """Reads the outcomes of one perturbation and target.

    Draws and images are those that make most of what is stored: a study that is being extended may lack some cells,
    and then a level or a draw or the newest images wait until it is done.

    Args:
        store: open.
        rows: of `Results.cells`, of one perturbation and target.
        reference: the cell that stands for the reference network.
        measure: what counts.
        images: only the first so many of the study's order.

    Returns:
        None where the reference network is not stored, or nothing else.
    """
    if reference is None or rows.empty:
        return None
    levels = rows.drop_duplicates(["level_text", "draw"]).sort_values("level")
    columns = [_column(store, str(text), some, measure) for text, some in levels.groupby("level_text", sort=False)]
    known = _read(store, reference, measure)
    draws, positions, kept = _rectangle(columns, known[0] if images is None else known[0][known[0] < images])
    if not kept or not len(positions):
        return None
    stacked = [_fitted(column.draws, draws, positions) for column in (*kept, _Column("", {None: known}))]
    return CurveOutcomes(
        np.array([float(column.text) for column in kept]),
        tuple(column.text for column in kept),
        tuple(draw or 0 for draw in draws),
        positions,
        np.stack(stacked),
        draws_matter=draws != (None,),
        alike=tuple(place for place, column in enumerate(kept) if None in column.draws),
    )


def _column(store: Store, text: str, rows: pd.DataFrame, measure: Measure) -> _Column:
    key = (str(rows["perturbation"].iloc[0]), str(rows["target"].iloc[0]), as_level(text))
    if rows["shortcut"].iloc[0]:
        return _Column(text, {None: _read(store, Cell(*key, 0), measure)})
    return _Column(text, {draw: _read(store, Cell(*key, draw), measure) for draw in rows["draw"].tolist()})


def _read(store: Store, cell: Cell, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    positions, planes = store.outcomes(cell)
    return positions, planes[PLANES.index(measure.plane)] ^ measure.of_false


def _rectangle(
    columns: Sequence[_Column], reference: np.ndarray
) -> tuple[tuple[int | None, ...], np.ndarray, list[_Column]]:
    """Returns the draws, images and levels that are complete, and together hold most outcomes."""
    sizes = {len(positions) for column in columns for positions, _ in column.draws.values()}
    best: tuple[int, tuple[int | None, ...], np.ndarray, list[_Column]] = (0, (None,), reference[:0], [])
    for size in sorted(sizes):
        whole = [
            {draw for draw, (positions, _) in column.draws.items() if len(positions) >= size} for column in columns
        ]
        several = {frozenset(draws) for draws in whole if draws - {None}}
        for draws in sorted(several, key=sorted) or [frozenset({None})]:
            levels = [column for column, have in zip(columns, whole, strict=True) if draws <= have or None in have]
            positions = _common(levels, draws, reference)
            found = len(levels) * len(draws) * len(positions)
            if found > best[0]:
                best = (found, tuple(sorted(draws, key=lambda draw: draw or 0)), positions, levels)
    return best[1:]


def _common(columns: Sequence[_Column], draws: Set[int | None], reference: np.ndarray) -> np.ndarray:
    common = reference
    for column in columns:
        for draw, (positions, _) in column.draws.items():
            if (draw is None or draw in draws) and not np.array_equal(positions, common):
                common = np.intersect1d(common, positions, assume_unique=True)
    return common


def _fitted(
    stored: dict[int | None, tuple[np.ndarray, np.ndarray]], draws: Sequence[int | None], positions: np.ndarray
) -> np.ndarray:
    """Returns a level's outcomes for these draws and images; where all draws coincide, one stands for each."""
    chosen = [stored[None] if None in stored else stored[draw] for draw in draws]
    return np.stack(
        [
            right if np.array_equal(have, positions) else right[np.searchsorted(have, positions)]
            for have, right in chosen
        ]
    )
