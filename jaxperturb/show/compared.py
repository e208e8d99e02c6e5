"""Two studies beside each other: what differs, with intervals."""

import fnmatch
import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from jaxperturb.data.fingerprints import LINK
from jaxperturb.errors import StudyError
from jaxperturb.show.results import Results
from jaxperturb.show.summary import area_estimate, area_term, chosen_images
from jaxperturb.stats import curves
from jaxperturb.stats.compare import Term, Total, combine, difference, holm, mover_difference
from jaxperturb.stats.curves import LevelCurve, at_levels

MEAN = "mean of layers"
_COLUMNS = (
    "perturbation layer area_1 area_2 area_difference area_difference_low area_difference_high p_holm "
    "half_life_1 half_life_2 half_life_difference half_life_difference_low half_life_difference_high"
).split()

Pair = tuple[LevelCurve, LevelCurve]


def compare(
    first: Results,
    second: Results,
    metric: str | None = None,
    *,
    perturbation: str | None = None,
    layers: str = "*",
) -> pd.DataFrame:
    """Returns differences between two studies, the first minus the second.

    Areas and half-lives are of the levels that both have. Layers of one name stand beside each other; the mean over
    all chosen layers of each study closes a perturbation, also where the networks have no layer in common. Images are
    taken as the same where the shorter study's are the first of the longer one's, and then they are paired; draws are
    taken as independent.

    Args:
        first: a study.
        second: another one.
        metric: "top1" or "top5"; by default the first study's.
        perturbation: its text or name; by default all that both studies have.
        layers: pattern, or several separated by commas.

    Returns:
        Columns perturbation, layer, area_1, area_2, area_difference with its ends, p_holm (adjusted for all rows of a
        perturbation), half_life_1, half_life_2 and their difference with its ends (infinite where it is open).

    Raises:
        StudyError: no perturbation, layer or two levels in common.
    """
    metric = first.metric(metric)
    images = common_images(first, second)
    rows = []
    for text in _common_texts(first, second, perturbation):
        one, other = _at_common_levels(*(_curves(study, text, metric, layers, images) for study in (first, second)))
        if one and other:
            rows += _rows(text, one, other, paired=images is not None)
    if not rows:
        raise StudyError(f"the studies have no two levels in common at which to compare layers {layers}")
    return pd.DataFrame(rows, columns=_COLUMNS)


def common_images(first: Results, second: Results) -> int | None:
    """Returns how many images two studies share from their start, None where they are of different images."""
    one, other = first.study, second.study
    images = min(one.images, other.images)
    # The last link of a chain is of fewer images where these do not fill it, and so not that of a longer chain.
    links = None if one.images == other.images else images // LINK
    if one.dataset != other.dataset or one.identity.images[:links] != other.identity.images[:links]:
        return None
    if not first.images.iloc[:images].equals(second.images.iloc[:images]):
        return None
    return min([images, *(some for study in (first, second) if (some := _chosen_images(study)) is not None)])


def _chosen_images(results: Results) -> int | None:
    """Returns on how many images all curves of a study are that has chosen them, None for one of fixed images."""
    keys = results.cells[["perturbation", "target"]].drop_duplicates().itertuples(index=False)
    return chosen_images(results, [(str(text), str(target)) for text, target in keys])


def _common_texts(first: Results, second: Results, perturbation: str | None) -> list[str]:
    if perturbation is not None:
        text = first.curve(perturbation).text
        second.curve(text)
        return [text]
    others = {curve.text for curve in second.study.perturbations}
    found = [curve.text for curve in first.study.perturbations if curve.text in others]
    if not found:
        raise StudyError(
            "the studies have no perturbation in common: "
            + " and ".join(", ".join(curve.text for curve in one.study.perturbations) for one in (first, second))
        )
    return found


def _curves(results: Results, text: str, metric: str, layers: str, images: int | None) -> dict[str, LevelCurve]:
    patterns = [pattern.strip() for pattern in layers.split(",")]
    found = {}
    for target in results.study.targets:
        if any(fnmatch.fnmatchcase(target, pattern) for pattern in patterns):
            curve = results.level_curve(text, target, metric, images)
            if curve is not None and math.isfinite(area_estimate(curve).value):
                found[target] = curve
    return found


def _at_common_levels(
    one: dict[str, LevelCurve], other: dict[str, LevelCurve]
) -> tuple[dict[str, LevelCurve], dict[str, LevelCurve]]:
    """Returns the curves at the levels that all of them have, lest a longer grid be taken for a stronger network."""
    levels = [set(curve.levels.tolist()) for curve in (*one.values(), *other.values())]
    common = set.intersection(*levels) if levels else set()
    if len(common) < 2:
        return {}, {}
    one, other = ({name: at_levels(curve, common) for name, curve in some.items()} for some in (one, other))
    return one, other


def _rows(text: str, one: dict[str, LevelCurve], other: dict[str, LevelCurve], *, paired: bool) -> list[tuple]:
    names = [name for name in one if name in other]
    totals = [_difference(area_term(one[name]), area_term(other[name]), paired) for name in names]
    numbers = [(area_estimate(one[name]).value, area_estimate(other[name]).value) for name in names]
    halves = [_half_lives((one[name], other[name])) for name in names]
    if len(names) != 1 or len(one) != 1 or len(other) != 1:
        means = [[area_term(curve) for curve in some.values()] for some in (one, other)]
        totals.append(_mean_difference(means[0], means[1], paired))
        numbers.append((_mean(means[0]), _mean(means[1])))
        halves.append((math.nan,) * 5)
        names.append(f"{MEAN} ({len(one)}, {len(other)})")
    adjusted = holm(np.array([total.p_value() for total in totals]))
    found = [total.interval() for total in totals]
    return [
        (text, name, *two, area.value, area.low, area.high, float(p), *half)
        for name, two, area, p, half in zip(names, numbers, found, adjusted, halves, strict=True)
    ]


def _mean(terms: Sequence[Term]) -> float:
    return float(np.mean([term.value for term in terms]))


def _difference(one: Term, other: Term, paired: bool) -> Total:
    if paired and len(one.by_image) == len(other.by_image):
        return difference(one, other)
    return combine([one], [1.0]) + combine([other], [-1.0])


def _mean_difference(one: Sequence[Term], other: Sequence[Term], paired: bool) -> Total:
    factors = [[1 / len(one)] * len(one), [-1 / len(other)] * len(other)]
    if paired and len({len(term.by_image) for term in (*one, *other)}) == 1:
        return combine([*one, *other], factors[0] + factors[1])
    return combine(one, factors[0]) + combine(other, factors[1])


def _half_lives(pair: Pair) -> tuple[float, float, float, float, float]:
    one, other = (curves.half_life_estimate(curve) for curve in pair)
    both = math.isfinite(one.value) and math.isfinite(other.value)
    return one.value, other.value, one.value - other.value if both else math.nan, *mover_difference(one, other)
