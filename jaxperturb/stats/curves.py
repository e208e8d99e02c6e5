"""What a curve of accuracy against level says: the level that halves it, and its value at a level.

Every curve is the piecewise linear one through the tested levels, on the level's own scale, also where a figure's
axis is logarithmic.
"""

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float

from jaxperturb.stats.components import Crossed, select_columns, spread
from jaxperturb.stats.intervals import (
    CONFIDENCE,
    Estimate,
    contrast,
    half_widths,
    proportion,
    proportion_flags,
    sample_flags,
    sampled,
    two_look,
)

HALF = 0.5
NEAR_CHANCE_FLAG = "intact network hardly above chance"
STARTS_BELOW_FLAG = "less than half is left at the lowest level"
_SURE = 3.0  # half-widths that the intact network must be above chance, for a share of that to mean anything
_STEPS = 64  # between two levels, when the half-life's interval is sought


@dataclass(frozen=True, eq=False)
class LevelCurve:
    """The outcomes of one curve: of one perturbation of one target, at several levels.

    Attributes:
        levels: tested, ascending.
        crossed: a column for each level, and a last one for the reference network.
        chance: accuracy of a network that says nothing; 0 for performance relative to the reference alone.
        draws_matter: whether draws differ at all.
        alike: columns in which all draws coincide, though they differ in others.
        two_looks: whether the first draws decided on how many there are; intervals then have the quantiles of
            `intervals.two_look`.
    """

    levels: Float[np.ndarray, " m"]
    crossed: Crossed
    chance: float
    draws_matter: bool = True
    alike: tuple[int, ...] = ()
    two_looks: bool = False

    def quantiles(self, confidence: float) -> float:
        """Returns the confidence of the quantiles that give an interval a confidence."""
        return two_look(confidence) if self.two_looks and self.draws_matter else confidence

    @property
    def reference(self) -> float:
        """Accuracy of the reference network."""
        return float(self.crossed.means[-1])

    @property
    def accuracy(self) -> Float[np.ndarray, " m"]:
        """Accuracy at each level."""
        return self.crossed.means[:-1]

    @property
    def above_chance(self) -> float:
        """What can be lost: the reference network's accuracy above chance."""
        return self.reference - self.chance


def at_levels(curve: LevelCurve, levels: Collection[float]) -> LevelCurve:
    """Returns the curve at some of its levels, with the reference network."""
    kept = [place for place, level in enumerate(curve.levels.tolist()) if level in levels]
    alike = tuple(place for place, column in enumerate(kept) if column in curve.alike)
    crossed = select_columns(curve.crossed, [*kept, len(curve.levels)])
    return replace(curve, levels=curve.levels[kept], crossed=crossed, alike=alike)


@dataclass(frozen=True, eq=False)
class Functional:
    """A number that a curve gives, made linear at the estimate: its error is that of ``weights @ means``.

    Attributes:
        value: NaN or infinity where it is not defined.
        weights: of the columns of a `LevelCurve`.
    """

    value: float
    weights: Float[np.ndarray, " k"]


def at_level(curve: LevelCurve, column: int) -> LevelCurve:
    """Returns the curve as it is looked at in one column, -1 for the reference network: do draws matter there?"""
    column %= len(curve.crossed.means)
    alike = column in curve.alike or column == len(curve.levels)
    return replace(curve, draws_matter=curve.draws_matter and not alike)


def relative_at(curve: LevelCurve, weights: Float[np.ndarray, " m"]) -> Functional:
    """Returns a weighted mean over levels of the performance relative to the reference, above the curve's chance.

    Args:
        curve: with chance 0 for the plain ratio of accuracies.
        weights: of the levels, with sum 1: one of them for a tested level, two for one in between.
    """
    if not curve.above_chance > 0:
        return Functional(math.nan, np.zeros(len(weights) + 1))
    value = float(weights @ (curve.accuracy - curve.chance)) / curve.above_chance
    return Functional(value, np.append(weights, -value) / curve.above_chance)


def area(curve: LevelCurve) -> Functional:
    """Returns the area under the curve of relative performance above chance, divided by the range of the levels.

    It is the mean over the tested range, by the trapezoid rule: 1 where nothing is ever lost, 0 where everything is
    at once. With one level it is the value there.
    """
    return relative_at(curve, trapezoid_weights(curve.levels))


def trapezoid_weights(levels: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """Returns the weights of the trapezoid rule, with sum 1."""
    if len(levels) == 1:
        return np.ones(1)
    steps = np.diff(levels) / (levels[-1] - levels[0])
    return (np.append(steps, 0) + np.append(0, steps)) / 2


def interpolation_weights(levels: Float[np.ndarray, " m"], level: float) -> Float[np.ndarray, " m"] | None:
    """Returns the weights of the levels beside a level, None where the tested ones do not bracket it."""
    if not len(levels) or not levels[0] <= level <= levels[-1]:
        return None
    return np.array([np.interp(level, levels, unit) for unit in np.eye(len(levels))])


def half_life_functional(curve: LevelCurve) -> Functional:
    """Returns the half-life level, made linear on the segment that crosses half."""
    value = half_life(curve.levels, curve.accuracy, curve.reference, curve.chance)
    none = Functional(value, np.zeros(len(curve.levels) + 1))
    if not math.isfinite(value) or len(curve.levels) < 2 or value <= curve.levels[0]:
        return none
    after = int(np.searchsorted(curve.levels, value, side="left"))
    weights, step = (
        _at_fractions(len(curve.levels), after - 1, _fraction(curve.levels, after, value)),
        np.diff(curve.levels),
    )
    slope = (curve.accuracy[after] - curve.accuracy[after - 1]) / step[after - 1]
    return Functional(value, -weights[0] / slope)


def estimate(
    curve: LevelCurve, functional: Functional, *, all_images: bool = False, confidence: float = CONFIDENCE
) -> Estimate:
    """Returns a functional with its symmetric interval; NaN throughout where nothing can be lost.

    Where the reference network is less than three half-widths above chance, the interval of what is relative to that
    is not to be trusted, and not given.
    """
    if not math.isfinite(functional.value):
        what = sampled(curve.crossed.draws, curve.draws_matter, all_images)
        return Estimate(functional.value, math.nan, math.nan, what, _near_chance(curve, all_images))
    found = contrast(
        curve.crossed,
        functional.value,
        functional.weights,
        draws_matter=curve.draws_matter,
        all_images=all_images,
        confidence=curve.quantiles(confidence),
    )
    if flags := _near_chance(curve, all_images):
        return replace(found, low=math.nan, high=math.nan, flags=(*found.flags, *flags))
    return found


def accuracy_estimate(
    curve: LevelCurve, column: int, *, all_images: bool = False, confidence: float = CONFIDENCE
) -> Estimate:
    """Returns the accuracy of one column, -1 for the reference network, with its MOVER-Wilson interval."""
    here = at_level(curve, column)
    sure = here.quantiles(confidence)
    return proportion(curve.crossed, column, draws_matter=here.draws_matter, all_images=all_images, confidence=sure)


def interpolated_accuracy(
    curve: LevelCurve, level: float, *, all_images: bool = False, confidence: float = CONFIDENCE
) -> Estimate:
    """Returns the accuracy at a level: MOVER-Wilson where it was tested, linear between two, NaN outside."""
    at = np.flatnonzero(curve.levels == level)
    if len(at):
        return accuracy_estimate(curve, int(at[0]), all_images=all_images, confidence=confidence)
    weights = interpolation_weights(curve.levels, level)
    if weights is None:
        what = sampled(curve.crossed.draws, curve.draws_matter, all_images)
        return Estimate(math.nan, math.nan, math.nan, what)
    weights = np.append(weights, 0.0)
    found = contrast(
        curve.crossed,
        float(weights @ curve.crossed.means),
        weights,
        draws_matter=curve.draws_matter,
        all_images=all_images,
        confidence=curve.quantiles(confidence),
    )
    flags = proportion_flags(curve.crossed, weights, found.sampled, curve.draws_matter)
    return replace(found, low=max(found.low, 0.0), high=min(found.high, 1.0), flags=flags)


def half_life_estimate(curve: LevelCurve, *, all_images: bool = False, confidence: float = CONFIDENCE) -> Estimate:
    """Returns the half-life level of the curve through the tested levels, with its interval by inversion of a test.

    A level h is kept where the accuracy there is not significantly off the half between the reference network and
    chance; the interval reaches from the lowest level kept to the highest. It is open, with infinity, where the
    accuracy at the highest level is not significantly below half; and downwards where the lowest is not above.
    """
    value = half_life(curve.levels, curve.accuracy, curve.reference, curve.chance)
    what = sampled(curve.crossed.draws, curve.draws_matter, all_images)
    flags = (*sample_flags(curve.crossed, what, curve.draws_matter), *_near_chance(curve, all_images))
    if math.isnan(value) or NEAR_CHANCE_FLAG in flags:
        return Estimate(value, math.nan, math.nan, what, flags)
    grid, weights = _grid(curve.levels)
    off = weights @ curve.crossed.means - (1 - HALF) * curve.chance
    width = half_widths(spread(curve.crossed, weights), what, curve.quantiles(confidence))
    low, high = _hull(grid, np.abs(off) <= width, value)
    if off[-1] + width[-1] >= 0:
        high = math.inf
    if off[0] <= width[0]:
        low = -math.inf
    if off[0] < -width[0]:
        flags = (*flags, STARTS_BELOW_FLAG)
    return Estimate(value, min(low, value), max(high, value), what, flags)


def _near_chance(curve: LevelCurve, all_images: bool) -> tuple[str, ...]:
    """Says where the reference network is too near to chance for a share of the difference to have an interval."""
    what = sampled(curve.crossed.draws, draws_matter=False, all_images=all_images)
    reference = np.eye(len(curve.crossed.means))[-1]
    width = float(half_widths(spread(curve.crossed, reference), what))
    return () if curve.above_chance > 0 and curve.above_chance >= _SURE * width else (NEAR_CHANCE_FLAG,)


def _grid(levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns levels in fine steps on each segment, and the weights of the columns that put half at zero."""
    if len(levels) == 1:
        return levels, np.array([[1.0, -HALF]])
    fractions = np.arange(_STEPS) / _STEPS
    pieces = [_at_fractions(len(levels), before, fractions) for before in range(len(levels) - 1)]
    weights = np.concatenate([*pieces, _at_fractions(len(levels), len(levels) - 2, np.ones(1))])
    return weights[:, :-1] @ levels, weights


def _at_fractions(levels: int, before: int, fractions: np.ndarray) -> np.ndarray:
    """Returns the weights for points between a level and the next, less half of the reference."""
    weights = np.zeros((len(fractions), levels + 1))
    weights[:, before], weights[:, before + 1], weights[:, -1] = 1 - fractions, fractions, -HALF
    return weights


def _fraction(levels: np.ndarray, after: int, level: float) -> np.ndarray:
    return np.array([(level - levels[after - 1]) / (levels[after] - levels[after - 1])])


def _hull(grid: np.ndarray, kept: np.ndarray, value: float) -> tuple[float, float]:
    """Returns the ends of what is kept, a step wider on each side, since the true end lies within the step."""
    at = np.flatnonzero(kept)
    if not len(at):
        return value, value
    return float(grid[max(at[0] - 1, 0)]), float(grid[min(at[-1] + 1, len(grid) - 1)])


def chance_level(k: int, classes: int) -> float:
    """Returns the accuracy of a network that says nothing: ``min(k, classes) / classes``.

    Args:
        k: an image counts as right when its class is among the first k, at least 1.
        classes: number of classes, at least 1.
    """
    return min(k, classes) / classes


def relative_above_chance(accuracy: Float[np.ndarray, " m"], intact: float, chance: float) -> Float[np.ndarray, " m"]:
    """Returns ``(accuracy - chance) / (intact - chance)``: 1 is the intact network, 0 is chance.

    NaN throughout where the intact network is not above chance, since nothing can be lost there.
    """
    if not intact > chance:
        return np.full(np.shape(accuracy), np.nan)
    return (np.asarray(accuracy, np.float64) - chance) / (intact - chance)


def half_life(
    levels: Float[np.ndarray, " m"], accuracy: Float[np.ndarray, " m"], intact: float, chance: float
) -> float:
    """Returns the half-life level: where half of the above-chance performance is gone for the first time.

    Args:
        levels: tested levels, in any order.
        accuracy: mean accuracy at each, in [0, 1].
        intact: accuracy of the intact network, in [0, 1].
        chance: accuracy by chance, in [0, 1].

    Returns:
        The first down-crossing of 0.5 by the linear interpolant of the relative performance above chance; infinity
        when the tested levels do not reach it; the lowest level when the curve starts below it; NaN without a
        level, or when the intact network is not above chance.
    """
    levels, relative = _sorted(levels, relative_above_chance(accuracy, intact, chance))
    if not len(levels) or np.isnan(relative).any():
        return math.nan
    below = np.flatnonzero(relative <= HALF)
    if not len(below):
        return math.inf
    after = int(below[0])
    if after == 0:
        return float(levels[0])
    fraction = (relative[after - 1] - HALF) / (relative[after - 1] - relative[after])
    return float(levels[after - 1] + fraction * (levels[after] - levels[after - 1]))


def value_at(levels: Float[np.ndarray, " m"], values: Float[np.ndarray, " m"], level: float) -> float:
    """Returns the value at a level by linear interpolation, NaN outside the tested levels."""
    levels, values = _sorted(levels, values)
    if not len(levels):
        return math.nan
    return float(np.interp(level, levels, values, left=np.nan, right=np.nan))


def _sorted(levels: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    levels, values = np.asarray(levels, np.float64), np.asarray(values, np.float64)
    order = np.argsort(levels, kind="stable")
    return levels[order], values[order]
