"""Intervals over draws and images, and what they cannot promise.

The interval of an accuracy is "MOVER-Wilson": the draws' variance gets the quantile of Student's t on D - 1 degrees
of freedom, the images' its own (Zou and Donner 2008), and their sum goes into Wilson's score interval in place of a
binomial variance. `docs/statistics.md` has its simulated coverage.
"""

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np
from jaxtyping import Float
from scipy import stats

from jaxperturb.stats.components import Crossed, Spread, spread

CONFIDENCE = 0.95
_TWO_LOOK_RISK = 0.8  # what is left of the risk of error where draws were added by the first ones' spread
FEW_DRAWS = 5  # from here on coverage is 93 to 98 %
FEW_IMAGES = 10  # that decide: right where most are wrong, or the other way round
UNEVEN = 0.5  # standard deviation of the draws' accuracies, in parts of the distance to 0 or 1

UNEVEN_FLAG = "uneven draws near the edge"
FEW_IMAGES_FLAG = f"fewer than {FEW_IMAGES} deciding images"
ONE_DRAW_FLAG = "1 draw: says nothing of other draws"
ONE_IMAGE_FLAG = "1 image: says nothing of other images"


class Sampled(Enum):
    """What an interval generalises to: what it takes for a sample."""

    BOTH = "draws and images"
    IMAGES = "images alone"
    DRAWS = "draws alone"
    NOTHING = "exact"


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: NaN where it is not defined; infinite for a half-life beyond the highest level.
        low: lower end; minus infinity where it is open.
        high: upper end; infinity where it is open.
        sampled: what the interval generalises to.
        flags: what it cannot promise, in words; empty in its domain.
    """

    value: float
    low: float
    high: float
    sampled: Sampled = Sampled.BOTH
    flags: tuple[str, ...] = ()

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends."""
        return (self.high - self.low) / 2


def sampled(draws: int, draws_matter: bool, all_images: bool) -> Sampled:
    """Returns what an interval can generalise to.

    Args:
        draws: number of draws.
        draws_matter: whether draws differ at all.
        all_images: whether these very images are meant, and not what they are a sample of.
    """
    over_draws = draws > 1 and draws_matter
    if all_images:
        return Sampled.DRAWS if over_draws else Sampled.NOTHING
    return Sampled.BOTH if over_draws else Sampled.IMAGES


def half_widths(found: Spread, what: Sampled, confidence: float = CONFIDENCE) -> Float[np.ndarray, "..."]:
    """Returns W, the half-width of a symmetric interval: ``W^2 = t_{D-1}^2 V_draws + t_{I-1}^2 V_images``."""
    squares = np.zeros(np.shape(found.draws))
    if what in (Sampled.BOTH, Sampled.DRAWS) and found.draw_freedom > 0:
        squares = squares + quantile(confidence, found.draw_freedom) ** 2 * found.draws
    if what in (Sampled.BOTH, Sampled.IMAGES):
        squares = squares + quantile(confidence, max(found.image_freedom, 1)) ** 2 * found.images
    return np.asarray(np.sqrt(squares))


def wilson(
    p: Float[np.ndarray, "..."], half_width: Float[np.ndarray, "..."], units: int, confidence: float = CONFIDENCE
) -> tuple[Float[np.ndarray, "..."], Float[np.ndarray, "..."]]:
    """Returns Wilson's score interval of a proportion whose symmetric one would be ``p -+ half_width``.

    The truth pi is kept where ``(p - pi)^2 <= h pi (1 - pi)``, with ``h = W^2 / p (1 - p)``; where p is 0 or 1, and W
    therefore 0, ``h = z^2 / units``. So it is the ordinary one for ``z^2 / h`` independent trials.

    Args:
        p: proportions.
        half_width: W of each.
        units: independent trials at least: the number of images, not that of images times draws.
        confidence: between 0 and 1.
    """
    variance = p * (1 - p)
    sure = quantile(confidence, math.inf) ** 2 / units
    with np.errstate(divide="ignore", invalid="ignore"):
        h = np.where(variance > 0, half_width**2 / variance, sure)
    h = np.minimum(h, 1e12)  # an infinite half-width gives 0 to 1
    middle = (p + h / 2) / (1 + h)
    reach = np.sqrt(h * variance + h * h / 4) / (1 + h)
    return np.asarray(np.maximum(middle - reach, 0.0)), np.asarray(np.minimum(middle + reach, 1.0))


def proportion(
    crossed: Crossed,
    column: int = 0,
    *,
    draws_matter: bool = True,
    all_images: bool = False,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Returns the mean of one column with its MOVER-Wilson interval, and flags where that leaves its domain.

    Args:
        crossed: outcomes.
        column: which.
        draws_matter: whether draws differ at all; where they do not, the interval is over images alone.
        all_images: whether these very images are meant.
        confidence: between 0 and 1.
    """
    what = sampled(crossed.draws, draws_matter, all_images)
    p = float(crossed.means[column])
    if what is Sampled.NOTHING:
        return Estimate(p, p, p, what, _draw_flags(crossed.draws, draws_matter))
    weights = np.eye(len(crossed.means))[column]
    width = half_widths(spread(crossed, weights), what, confidence)
    units = crossed.draws if what is Sampled.DRAWS else crossed.images
    low, high = wilson(np.asarray(p), width, units, confidence)
    return Estimate(p, float(low), float(high), what, proportion_flags(crossed, weights, what, draws_matter))


def proportion_flags(
    crossed: Crossed, weights: Float[np.ndarray, " k"], what: Sampled, draws_matter: bool = True
) -> tuple[str, ...]:
    """Returns where a proportion, or a mean of some, leaves the domain in which its interval was found to hold.

    Args:
        crossed: outcomes.
        weights: of the columns, with sum 1.
        what: the interval generalises to.
        draws_matter: whether draws differ at all.
    """
    p = float(weights @ crossed.means)
    edge = min(p, 1 - p)
    flags = list(_draw_flags(crossed.draws, draws_matter))
    uneven = crossed.draws > 1 and (weights @ crossed.by_draw).std(ddof=1) > UNEVEN * edge
    if uneven and what in (Sampled.BOTH, Sampled.DRAWS):
        flags.append(UNEVEN_FLAG)
    if what in (Sampled.BOTH, Sampled.IMAGES):
        if crossed.images == 1:
            flags.append(ONE_IMAGE_FLAG)
        elif crossed.images * edge < FEW_IMAGES - 1e-9:  # a tenth of 100 images is a little less in floating point
            flags.append(FEW_IMAGES_FLAG)
    return tuple(flags)


def contrast(
    crossed: Crossed,
    value: float,
    weights: Float[np.ndarray, " k"],
    *,
    draws_matter: bool = True,
    all_images: bool = False,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """Returns a number with the symmetric interval of a weighted sum of columns, ``value -+ W``.

    Args:
        crossed: outcomes.
        value: of the number, which may differ from the sum by a constant.
        weights: of the columns.
        draws_matter: whether draws differ at all.
        all_images: whether these very images are meant.
        confidence: between 0 and 1.
    """
    what = sampled(crossed.draws, draws_matter, all_images)
    width = float(half_widths(spread(crossed, weights), what, confidence))
    return Estimate(value, value - width, value + width, what, sample_flags(crossed, what, draws_matter))


def sample_flags(crossed: Crossed, what: Sampled, draws_matter: bool = True) -> tuple[str, ...]:
    """Returns what the numbers of draws and images alone cannot promise."""
    one_image = crossed.images == 1 and what in (Sampled.BOTH, Sampled.IMAGES)
    return (*_draw_flags(crossed.draws, draws_matter), *((ONE_IMAGE_FLAG,) if one_image else ()))


def quantile(confidence: float, freedom: int | float) -> float:
    """Returns the two-sided quantile of Student's t; of the normal distribution for infinite degrees of freedom."""
    return float(stats.t.ppf(0.5 + confidence / 2, freedom))


def two_look(confidence: float) -> float:
    """Returns the confidence of quantiles that gives an interval a confidence after a second look: 0.96 for 0.95.

    Looking twice costs coverage; with quantiles of 96 % at both looks intervals hold 95 % of the time (simulated: 94 to
    97).
    """
    return 1 - _TWO_LOOK_RISK * (1 - confidence)


def two_look_p_value(p_value: float) -> float:
    """Returns the p-value that is below 0.05 where an interval with the quantiles of `two_look` leaves zero out."""
    return min(p_value / _TWO_LOOK_RISK, 1.0)


def _draw_flags(draws: int, draws_matter: bool) -> tuple[str, ...]:
    if not draws_matter or draws >= FEW_DRAWS:
        return ()
    return (ONE_DRAW_FLAG,) if draws == 1 else (f"{draws} draws: at least about 93 %",)
