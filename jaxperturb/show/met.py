"""Which levels got the half-width that was wanted of a study that chose its draws and images."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from jaxperturb.show.results import Results
from jaxperturb.stats import curves
from jaxperturb.stats.curves import LevelCurve
from jaxperturb.study.goal import Goal

_LISTED = 6
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Reached:
    """The half-width that one level of a curve got.

    Attributes:
        target: what was lesioned.
        level: as text.
        half_width: of its 95 % interval; NaN where that has none.
        met: whether it is not above the one that was wanted.
    """

    target: str
    level: str
    half_width: float
    met: bool


def reached(results: Results, perturbation: str, target: str, metric: str | None = None) -> tuple[Reached, ...]:
    """Returns what each level of a curve got; nothing for a study of fixed draws and images.

    Args:
        results: of a study.
        perturbation: its text.
        target: a layer.
        metric: "top1", "top5" or "balanced"; by default the study's.
    """
    goal, curve = results.study.goal, results.level_curve(perturbation, target, results.metric(metric))
    if goal is None or curve is None:
        return ()
    found = zip(curve.levels.tolist(), half_widths(curve, goal.of), strict=True)
    return tuple(Reached(target, f"{level:.12g}", width, _is_met(width, goal)) for level, width in found)


def half_widths(curve: LevelCurve, of: str) -> Iterator[float]:
    """Yields the half-width of the 95 % interval at each level: of the accuracy, or relative to the reference's."""
    for column in range(len(curve.levels)):
        here = curves.at_level(curve, column)
        if of == "accuracy":
            yield curves.accuracy_estimate(here, column).half_width
        else:
            plain = replace(here, chance=0.0)
            yield curves.estimate(plain, curves.relative_at(plain, np.eye(len(curve.levels))[column])).half_width


def met_text(results: Results, metric: str | None = None) -> str | None:
    """Returns how many levels got the wanted half-width, one line; None for a study of fixed draws and images."""
    goal = results.study.goal
    if goal is None:
        return None
    every = _all(results, metric)
    within = f"within {goal.max_draws} draws and {goal.images:,} images"
    return f"{_wanted(goal)}: met by {sum(one.met for one in every):,} of {len(every):,} levels, {within}"


def missed_text(results: Results, perturbation: str, metric: str | None = None) -> str | None:
    """Returns which levels of a perturbation missed the wanted half-width, None where none did."""
    missed = [one for one in _all(results, metric, perturbation) if not one.met]
    if results.study.goal is None or not missed:
        return None
    named = (
        f"{target} at {', '.join(f'{one.level} ({_shown(one.half_width)})' for one in some)}"
        for target, some in itertools.groupby(missed[:_LISTED], key=lambda one: one.target)
    )
    more = f"; and {len(missed) - _LISTED} more" if len(missed) > _LISTED else ""
    return f"wider than the wanted {_wanted(results.study.goal)}: {'; '.join(named)}{more}"


def _all(results: Results, metric: str | None, perturbation: str | None = None) -> list[Reached]:
    keys = results.cells[["perturbation", "target"]].drop_duplicates().itertuples(index=False)
    return [
        one
        for text, target in keys
        if perturbation in (None, text)
        for one in reached(results, str(text), str(target), metric)
    ]


def _is_met(width: float, goal: Goal) -> bool:
    return width <= goal.half_width + _ROUNDING


def _wanted(goal: Goal) -> str:
    return f"half-width {goal.half_width:g}" + (" relative to the reference" if goal.of == "relative" else "")


def _shown(width: float) -> str:
    return "none" if math.isnan(width) else f"{width:.3f}"
