"""Numbers of a fault campaign: how many faults to inject, and shares of draws.

A single trial is one draw: one set of faults in the weights, met by all images.
"""

import math

import numpy as np
from jaxtyping import Float
from scipy import stats

from jaxperturb.stats.intervals import CONFIDENCE, Estimate, Sampled, quantile


def faults_needed(margin: float, confidence: float, population: int | float = math.inf, share: float = 0.5) -> int:
    """Returns how many faults of a population must be injected to know a share of them to within a margin.

    ``n = N / (1 + e^2 (N - 1) / (t^2 p (1 - p)))`` (Leveugle, Calvez, Maistre and Vanhauwaert 2009), t rounded to two
    places as there: 16,641 of infinitely many faults for a margin of 0.01 at 99 %.

    Args:
        margin: half-width of the interval, in (0, 1).
        confidence: between 0 and 1.
        population: number of possible faults: stored bits, times the images where each meets its own.
        share: expected; one half is the worst case.
    """
    limit = round(quantile(confidence, math.inf), 2) ** 2 * share * (1 - share) / margin**2
    if math.isinf(population):
        return math.ceil(limit - 1e-9)
    return min(math.ceil(population / (1 + (population - 1) / limit) - 1e-9), int(population))


def clopper_pearson(successes: int, trials: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Returns the exact interval of a share of independent trials (Clopper and Pearson 1934).

    Args:
        successes: from 0 to `trials`.
        trials: at least 1.
        confidence: between 0 and 1.
    """
    tail = (1 - confidence) / 2
    low = stats.beta.ppf(tail, successes, trials - successes + 1) if successes else 0.0
    high = stats.beta.ppf(1 - tail, successes + 1, trials - successes) if successes < trials else 1.0
    return float(low), float(high)


def critical_share(
    accuracy: Float[np.ndarray, " d"], reference: float, drop: float, confidence: float = CONFIDENCE
) -> Estimate:
    """Returns the share of draws that lose more accuracy than `drop`, with its exact interval over draws.

    Args:
        accuracy: of each draw, on the same images.
        reference: accuracy of the reference network on these.
        drop: what may be lost, 0.01 for a point.
        confidence: between 0 and 1.
    """
    # Counts of images are whole: a loss of exactly `drop` must not become more by rounding.
    lost = int((reference - accuracy > drop + 1e-9).sum())
    low, high = clopper_pearson(lost, len(accuracy), confidence)
    return Estimate(lost / len(accuracy), low, high, Sampled.DRAWS)
