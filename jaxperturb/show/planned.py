"""What a study would take to reach a wanted half-width, by a pilot of it."""

import math

import numpy as np
import pandas as pd

from jaxperturb.errors import StudyError
from jaxperturb.show.outcomes import reading
from jaxperturb.show.results import Results
from jaxperturb.stats.components import Components, components
from jaxperturb.stats.curves import LevelCurve, relative_at
from jaxperturb.stats.planning import Plan, plan
from jaxperturb.study.status import pace_of

OF = ("accuracy", "relative")
_COLUMNS = "perturbation layer levels draws images evaluations passes of_pilot seconds".split()


def plan_study(
    results: Results,
    half_width: float,
    metric: str | None = None,
    *,
    of: str = "accuracy",
    max_draws: int = 50,
    max_images: int | float = math.inf,
) -> pd.DataFrame:
    """Returns for each curve how many draws and images give each level's 95 % interval a half-width.

    Args:
        results: the pilot, with two draws and two images or more; five and some hundreds say more.
        half_width: wanted, in (0, 1).
        metric: "top1" or "top5"; by default the study's.
        of: "accuracy", or "relative" to the reference network.
        max_draws: not more draws.
        max_images: not more images.

    Returns:
        Columns perturbation, layer, levels (at which something is computed), draws and images (missing where the
        limits do not allow it), evaluations (of one image by one lesioned network), passes (the same work in passes
        of the whole network, since what comes before a layer is computed once; missing where not known), of_pilot
        (evaluations in parts of the pilot's), seconds (at the pace of the pilot's last run that computed something;
        missing where not known).

    Raises:
        StudyError: a half-width outside (0, 1), or a pilot that is too small.
    """
    if not 0 < half_width < 1:
        raise StudyError(f"expected a half-width between 0 and 1, such as 0.02, got {half_width:g}")
    rows, pace = [], _pace(results)
    for text, target in results.cells[["perturbation", "target"]].drop_duplicates().itertuples(index=False):
        curve = results.level_curve(text, target, results.metric(metric))
        if curve is not None:
            _check_pilot(curve)
            found = _plan(curve, half_width, of, max_draws, max_images)
            rows.append((text, target, *_numbers(curve, found, _cost(results, target), pace)))
    if not rows:
        raise StudyError("the study holds no outcomes yet to plan by; run it first, for a pilot with --draws=5")
    return pd.DataFrame(rows, columns=_COLUMNS).astype({"draws": "Int64", "images": "Int64", "evaluations": "Int64"})


def _check_pilot(curve: LevelCurve) -> None:
    for number, noun, better in ((curve.crossed.draws, "draw", 5), (curve.crossed.images, "image", 500)):
        if number < 2 and (noun == "image" or curve.draws_matter):
            raise StudyError(
                f"a pilot needs 2 {noun}s or more, and this study has 1; extend it with --{noun}s={better}, say"
            )


def _plan(curve: LevelCurve, half_width: float, of: str, max_draws: int, max_images: int | float) -> Plan | None:
    columns = [_components(curve, column, of) for column in range(len(curve.levels))]
    return plan(columns, half_width, max_draws=max_draws, max_images=max_images, draws_matter=curve.draws_matter)


def _components(curve: LevelCurve, column: int, of: str) -> Components:
    unit = np.eye(len(curve.crossed.means))[column]
    if of == "relative":
        plain = LevelCurve(curve.levels, curve.crossed, 0.0)
        unit = relative_at(plain, np.eye(len(curve.levels))[column]).weights
    return components(curve.crossed, unit)


def _cost(results: Results, target: str) -> float:
    """Returns what a lesion of a layer costs, in passes of the whole network; NaN where that is not known."""
    costs = results.study.costs
    return costs[target] / costs["*"] if target in costs and costs.get("*") else math.nan


def _pace(results: Results) -> float:
    """Returns how long a pass of the whole network took in the pilot, in seconds; NaN where that is not known."""
    with reading(results.source) as store:
        pace = pace_of(results.study, store.runs())
    return math.nan if pace is None else pace * results.study.costs.get("*", math.nan)


def _numbers(curve: LevelCurve, found: Plan | None, cost: float, pace: float) -> tuple:
    drawn = len(curve.levels) - len(curve.alike) if curve.draws_matter else len(curve.levels)
    alike = len(curve.alike) if curve.draws_matter else 0
    pilot = curve.crossed.images * (drawn * curve.crossed.draws + alike)
    if found is None:
        return drawn + alike, None, None, None, math.nan, math.nan, math.nan
    evaluations = found.images * (drawn * found.draws + alike)
    passes = evaluations * cost
    return drawn + alike, found.draws, found.images, evaluations, passes, evaluations / pilot, passes * pace
