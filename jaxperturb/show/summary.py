"""The numbers of a study with their intervals, as data frames."""

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jaxperturb.errors import StudyError
from jaxperturb.show.measures import CRITICAL, Measure, find_measure
from jaxperturb.show.met import reached
from jaxperturb.show.outcomes import on_common_draws
from jaxperturb.stats import curves
from jaxperturb.stats.campaign import critical_share
from jaxperturb.stats.compare import Term, Total, difference, holm, pairwise_p_values, rank_intervals, term
from jaxperturb.stats.components import cross
from jaxperturb.stats.curves import LevelCurve
from jaxperturb.stats.intervals import CONFIDENCE, Estimate, Sampled, contrast, sampled, two_look
from jaxperturb.study.study import METRICS

if TYPE_CHECKING:
    from jaxperturb.show.results import Results

REPORTED_LEVEL = 0.7  # the paper's: "70 % of the connections removed"
AT = f"at_{REPORTED_LEVEL}"
IMAGES_ARE = ("sample", "all")
BETWEEN = ("layers", "perturbations")

_NUMBERS = ("intact", "half_life", AT, "area")


def means_all(images_are: str) -> bool:
    """Returns whether just these images are meant, and not what they are a sample of.

    Raises:
        StudyError: neither "sample" nor "all".
    """
    if images_are not in IMAGES_ARE:
        raise StudyError(f"expected images_are of {' or '.join(IMAGES_ARE)}, got {images_are!r}")
    return images_are == "all"


def summary(results: "Results", metric: str | None = None, all_images: bool = False) -> pd.DataFrame:
    """Returns a row for each perturbation and target; see `Results.summary`."""
    metric = results.metric(metric)
    rows = [_summary_row(results, *key, metric, all_images) for key in _curves_of(results)]
    numbers = [name for number in _NUMBERS for name in (*_with_ends(number), f"{number}_flags")]
    columns = ["perturbation", "target", "metric", "images", "draws", *numbers]
    table = pd.DataFrame(rows, columns=[*columns, "highest_level", "interval"])
    if results.study.goal is not None:
        got = [reached(results, *key, metric) for key in _curves_of(results)]
        table["levels"] = [len(some) for some in got]
        table["levels_met"] = [sum(one.met for one in some) for some in got]
    ranks = [_ranks(results, str(text), metric, all_images) for text in table["perturbation"].unique()]
    known = {key: value for some in ranks for key, value in some.items()}
    keys = list(zip(table["perturbation"], table["target"], strict=True))
    for place, name in enumerate(("rank_low", "rank_high")):
        found = [known[key][place] if key in known else None for key in keys]
        table[name] = pd.array(found, dtype="Int64")
    return table


def by_level(
    results: "Results",
    metric: str | None = None,
    all_images: bool = False,
    critical_drop: float = 0.01,
    confidence: float = CONFIDENCE,
    perturbation: str | None = None,
) -> pd.DataFrame:
    """Returns a row for each perturbation, target and level; see `Results.by_level`."""
    keys = [key for key in _curves_of(results) if perturbation in (None, key[0])]
    if metric == CRITICAL:
        rows = [row for key in keys for row in _critical_rows(results, *key, critical_drop, confidence)]
    else:
        measure = find_measure(metric, results.study.metric, results.study.identity.outputs)
        rows = [row for key in keys for row in _level_rows(results, *key, measure, all_images, confidence)]
    names = ["value", *(("relative", "relative_above_chance") if metric != CRITICAL and measure.right else ())]
    ends = [name for one in names for name in ((one, "low", "high") if one == "value" else _with_ends(one))]
    columns = ["perturbation", "target", "level", "level_text", "metric", "images", "draws", *ends]
    table = pd.DataFrame(rows, columns=[*columns, "interval", "flags"])
    if results.study.goal is not None and metric in (None, *METRICS):
        got = {(key, one.level): one.met for key in keys for one in reached(results, *key, metric)}
        places = zip(table["perturbation"], table["target"], table["level_text"], strict=True)
        table["met"] = [got[(text, target), level] for text, target, level in places]
    return table


def ranking(
    results: "Results", perturbation: str, metric: str | None = None, *, output_layer: bool = False
) -> pd.DataFrame:
    """Returns the targets of one perturbation, the most fragile first; see `Results.ranking`."""
    metric = results.metric(metric)
    found = _ranked(results, perturbation, metric, False, output_layer)
    ranks = _rank_table([term for _, _, term in found], False)
    rows = [
        (target, *_ends(area_estimate(curve)), *ranks[place], "; ".join(area_estimate(curve).flags))
        for place, (target, curve, _) in enumerate(found)
    ]
    table = pd.DataFrame(rows, columns=["target", *_with_ends("area"), "rank_low", "rank_high", "flags"])
    return table.sort_values("area", kind="stable", ignore_index=True)


def area_estimate(curve: LevelCurve, all_images: bool = False) -> Estimate:
    """Returns the area under a curve with its interval."""
    return curves.estimate(curve, curves.area(curve), all_images=all_images)


def area_term(curve: LevelCurve) -> Term:
    """Returns the area under a curve as a term of differences and means."""
    return term(curve.crossed, curves.area(curve), draws_matter=curve.draws_matter, two_looks=curve.two_looks)


def silences_classes(results: "Results", perturbation: str, target: str) -> bool:
    """Returns whether a perturbation takes units of the output layer away: a unit there is a class."""
    return perturbation.partition("(")[0] == "node_knockout" and target == results.study.layers[-1]


def differences(results: "Results", metric: str | None, between: str) -> pd.DataFrame:
    """Returns differences of areas, Holm-adjusted within a perturbation or a layer; see `Results.differences`."""
    if between not in BETWEEN:
        raise StudyError(f"expected between of {' or '.join(BETWEEN)}, got {between!r}")
    metric = results.metric(metric)
    found = _layer_pairs(results, metric) if between == "layers" else _perturbation_pairs(results, metric)
    columns = ["of", "first", "second", *_with_ends("difference"), "p_holm"]
    return pd.DataFrame(_adjusted(found), columns=columns)


def _layer_pairs(results: "Results", metric: str) -> Iterable[tuple[str, str, str, Estimate, float]]:
    for text in dict.fromkeys(text for text, _ in _curves_of(results)):
        terms = _ranked(results, text, metric, False, output_layer=True)
        for (first, _, one), (second, _, other) in itertools.combinations(terms, 2):
            total = _aligned_difference(one, other)
            if total:
                yield text, first, second, total.interval(), total.p_value()


def _perturbation_pairs(results: "Results", metric: str) -> Iterable[tuple[str, str, str, Estimate, float]]:
    levels = {curve.text: set(curve.levels) for curve in results.study.perturbations}
    known = set(_curves_of(results))
    for target in results.study.targets:
        for first, second in itertools.combinations(levels, 2):
            if levels[first] == levels[second] and {(first, target), (second, target)} <= known:
                found = _paired(results, first, second, target, metric)
                if found:
                    yield target, first, second, *found


def _paired(results: "Results", first: str, second: str, target: str, metric: str) -> tuple[Estimate, float] | None:
    """Returns the difference of two areas on common draws, which two perturbations of one layer have."""
    chosen, images = results.study.goal is not None, chosen_images(results, [(first, target), (second, target)])
    one, other = (results.curve_outcomes(text, target, metric, images) for text in (first, second))
    if chosen and one is not None and other is not None:
        one, other = on_common_draws(one, other)
    if one is None or other is None or one.texts != other.texts or not np.array_equal(one.positions, other.positions):
        return None
    if one.draws_matter and other.draws_matter and one.draws != other.draws:
        return None
    draws = max(len(one.draws), len(other.draws))
    right = np.concatenate(
        [np.broadcast_to(some.right, (len(some.right), draws, len(some.positions))) for some in (one, other)]
    )
    crossed, chance = cross(right, one.weights), results.chance(metric)
    areas = [curves.area(some.curve(chance)) for some in (one, other)]
    weights = np.concatenate([areas[0].weights, -areas[1].weights])
    value = areas[0].value - areas[1].value
    if not math.isfinite(value):
        return None
    matter = one.draws_matter or other.draws_matter
    sure = two_look(CONFIDENCE) if chosen and matter else CONFIDENCE
    found = contrast(crossed, value, weights, draws_matter=matter, confidence=sure)
    functional = curves.Functional(value, weights)
    total = difference(term(crossed, functional, draws_matter=matter, two_looks=chosen), _nothing(crossed.images))
    return found, total.p_value()


def _nothing(images: int) -> Term:
    return Term(0.0, np.zeros(images), 0.0, 0, 0.0)


def _adjusted(found: Iterable[tuple[str, str, str, Estimate, float]]) -> list[tuple]:
    rows = []
    for _, group in itertools.groupby(found, key=lambda row: row[0]):
        some = list(group)
        adjusted = holm(np.array([p for *_, p in some]))
        rows += [(*names, *_ends(found), float(p)) for (*names, found, _), p in zip(some, adjusted, strict=True)]
    return rows


def _aligned_difference(first: Term, second: Term) -> Total | None:
    """Returns the difference where both have the same number of images, the first of the study's order."""
    return difference(first, second) if len(first.by_image) == len(second.by_image) else None


def _curves_of(results: "Results") -> list[tuple[str, str]]:
    """Returns perturbation and target of each curve that has cells, in the order of the study."""
    keys = results.cells[["perturbation", "target"]].drop_duplicates()
    return [(str(text), str(target)) for text, target in keys.itertuples(index=False)]


def _summary_row(results: "Results", text: str, target: str, metric: str, all_images: bool) -> tuple:
    curve = results.level_curve(text, target, metric)
    if curve is None:
        rows = results.cells[(results.cells["perturbation"] == text) & (results.cells["target"] == target)]
        sizes = int(rows["images"].max()), rows["draw"].nunique()
        unknown = (math.nan, math.nan, math.nan, "reference not computed yet") * len(_NUMBERS)
        return (text, target, metric, *sizes, *unknown, float(rows["level"].max()), "")
    reported = curves.interpolated_accuracy(curve, REPORTED_LEVEL, all_images=all_images)
    found = (
        curves.accuracy_estimate(curve, -1, all_images=all_images),
        curves.half_life_estimate(curve, all_images=all_images),
        reported,
        area_estimate(curve, all_images),
    )
    what = sampled(curve.crossed.draws, curve.draws_matter, all_images)
    return (
        *(text, target, metric, curve.crossed.images, curve.crossed.draws),
        *(item for one in found for item in (*_ends(one), "; ".join(one.flags))),
        *(float(curve.levels[-1]), what.value),
    )


def _level_rows(
    results: "Results", text: str, target: str, measure: Measure, all_images: bool, confidence: float
) -> Iterable[tuple]:
    curve = results.level_curve(text, target, measure.name)
    if curve is None:
        return
    for column, level in enumerate(curve.levels.tolist()):
        here = curves.at_level(curve, column)
        found = [curves.accuracy_estimate(here, column, all_images=all_images, confidence=confidence)]
        if measure.right:
            at = np.eye(len(curve.levels))[column]
            found += [
                curves.estimate(one, curves.relative_at(one, at), all_images=all_images, confidence=confidence)
                for one in (replace(here, chance=0.0), here)
            ]
        flags = dict.fromkeys(flag for one in found for flag in one.flags)
        yield (
            *(text, target, level, f"{level:.12g}", measure.name, curve.crossed.images, curve.crossed.draws),
            *(number for one in found for number in _ends(one)),
            *(found[0].sampled.value, "; ".join(flags)),
        )


def _critical_rows(results: "Results", text: str, target: str, drop: float, confidence: float) -> Iterable[tuple]:
    curve = results.level_curve(text, target)
    if curve is None:
        return
    for column, level in enumerate(curve.levels.tolist()):
        accuracy = curve.crossed.by_draw[column]
        found = critical_share(accuracy, curve.reference, drop, confidence)
        if not curves.at_level(curve, column).draws_matter:
            found = Estimate(found.value, found.value, found.value, Sampled.NOTHING)
        sizes = curve.crossed.images, curve.crossed.draws
        yield text, target, level, f"{level:.12g}", CRITICAL, *sizes, *_ends(found), found.sampled.value, ""


def _ranked(
    results: "Results", text: str, metric: str, all_images: bool, output_layer: bool
) -> list[tuple[str, LevelCurve, Term]]:
    """Returns target, curve and area of what is ranked: on as many images as most, and where something can be lost.

    Where a study has chosen its images for each curve, those are taken that all curves have.
    """
    found, keys = [], [key for key in _curves_of(results) if key[0] == text]
    images = chosen_images(results, keys)
    for _, target in keys:
        curve = results.level_curve(text, target, metric, images)
        if curve is None or (silences_classes(results, text, target) and not output_layer):
            continue
        if math.isfinite(area_estimate(curve, all_images).low):
            found.append((target, curve, area_term(curve)))
    # An unfinished curve is of other levels or images than the rest, and waits.
    sizes = {target: (len(curve.levels), curve.crossed.images) for target, curve, _ in found}
    return [one for one in found if sizes[one[0]] == max(sizes.values())]


def chosen_images(results: "Results", keys: Sequence[tuple[str, str]]) -> int | None:
    """Returns on how many images some curves all are, where each has chosen its own; None for a study of fixed ones."""
    goal = results.study.goal
    if goal is None:
        return None
    looks = [results.study.look_of.get(key) for key in keys]
    return min((goal.first_images if look is None else look.images for look in looks), default=None)


def _ranks(results: "Results", text: str, metric: str, all_images: bool) -> dict[tuple[str, str], tuple[int, int]]:
    found = _ranked(results, text, metric, all_images, output_layer=False)
    ranks = _rank_table([term for _, _, term in found], all_images)
    return {(text, target): rank for (target, _, _), rank in zip(found, ranks, strict=True)}


def _rank_table(terms: Sequence[Term], all_images: bool) -> list[tuple[int, int]]:
    if not terms:
        return []
    values = np.array([term.value for term in terms])
    found = rank_intervals(values, pairwise_p_values(terms, all_images=all_images))
    return [(int(low), int(high)) for low, high in found]


def _ends(found: Estimate) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def _with_ends(name: str) -> tuple[str, str, str]:
    return name, f"{name}_low", f"{name}_high"
