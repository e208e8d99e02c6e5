"""What a curve of accuracy against level says: the level that halves it, and its value at a level.

Every curve is the piecewise linear one through the tested levels, on the level's own scale, also where a figure's
axis is logarithmic.
"""

import math

import numpy as np
from jaxtyping import Float

HALF = 0.5


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
