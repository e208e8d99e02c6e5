"""Differences between curves, and which of them stand after many comparisons.

Two curves share their images, and may or may not share their draws. Where they do (two perturbations of one layer),
their columns are crossed together and the difference is one more weighted sum. Where they do not (two layers), each
has a draws' variance of its own, with Welch's degrees of freedom, and the images' is that of the difference itself.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy import stats

from jaxperturb.stats.components import Crossed
from jaxperturb.stats.curves import Functional
from jaxperturb.stats.intervals import CONFIDENCE, Estimate, Sampled, quantile, two_look, two_look_p_value


@dataclass(frozen=True, eq=False)
class Term:
    """A functional of one curve, ready to be added to those of others on the same images.

    Attributes:
        value: of the functional.
        by_image: its share by each image, up to a constant.
        draws: variance by the draws.
        freedom: their degrees of freedom; 0 where draws do not matter.
        rest: variance that the shares by image hold beside the images' own.
        two_looks: whether the first draws decided on how many there are.
    """

    value: float
    by_image: Float[np.ndarray, " i"]
    draws: float
    freedom: int
    rest: float
    two_looks: bool = False


@dataclass(frozen=True)
class Total:
    """A sum of functionals, with the variances of its independent parts.

    Attributes:
        value: of the sum.
        draws: pairs (variance, degrees of freedom) of the draws of each curve.
        images: pairs (variance, degrees of freedom) of the images of each set of images.
        two_looks: whether the first draws of any curve decided on how many there are.
    """

    value: float
    draws: tuple[tuple[float, int], ...]
    images: tuple[tuple[float, int], ...]
    two_looks: bool = False

    def interval(self, confidence: float = CONFIDENCE, flags: tuple[str, ...] = ()) -> Estimate:
        """Returns the sum with its symmetric interval: ``W^2 = t_nu^2 V_draws + t^2 V_images``, nu by Welch."""
        sure = two_look(confidence) if self.two_looks else confidence
        draws, images = self._part(self.draws, sure), self._part(self.images, sure)
        width = math.sqrt(draws + images)
        return Estimate(self.value, self.value - width, self.value + width, self._sampled(), flags)

    def p_value(self) -> float:
        """Returns the two-sided p-value of zero, by Student's t with Satterthwaite's degrees of freedom."""
        parts = [part for part in (*self.draws, *self.images) if part[0] > 0]
        if not parts:
            return 1.0 if self.value == 0 else 0.0
        if any(math.isinf(variance) for variance, _ in parts) or math.isnan(self.value):
            return 1.0
        variance = sum(variance for variance, _ in parts)
        found = float(2 * stats.t.sf(abs(self.value) / math.sqrt(variance), _welch(parts)))
        return two_look_p_value(found) if self.two_looks else found

    def __add__(self, other: "Total") -> "Total":
        """Returns the sum of two that share neither draws nor images."""
        two_looks = self.two_looks or other.two_looks
        return Total(self.value + other.value, self.draws + other.draws, self.images + other.images, two_looks)

    @staticmethod
    def _part(parts: Sequence[tuple[float, int]], confidence: float) -> float:
        some = [part for part in parts if part[0] > 0]
        variance = sum((variance for variance, _ in some), 0.0)
        if not some or math.isinf(variance):
            return variance
        return quantile(confidence, _welch(some)) ** 2 * variance

    def _sampled(self) -> Sampled:
        return {
            (True, True): Sampled.BOTH,
            (True, False): Sampled.DRAWS,
            (False, True): Sampled.IMAGES,
            (False, False): Sampled.NOTHING,
        }[bool(self.draws), bool(self.images)]


def term(crossed: Crossed, functional: Functional, *, draws_matter: bool = True, two_looks: bool = False) -> Term:
    """Returns a functional as a term of a sum.

    Args:
        crossed: outcomes of its curve.
        functional: with weights for its columns.
        draws_matter: whether draws differ at all.
        two_looks: whether the first draws decided on how many there are.
    """
    weights, n = functional.weights, crossed.draws * crossed.images
    matter = draws_matter and crossed.draws > 1
    return Term(
        functional.value,
        weights @ crossed.by_image,
        max(float(weights @ crossed.draw_squares @ weights), 0.0) / n if matter else 0.0,
        crossed.draws - 1 if matter else 0,
        float(weights @ crossed.rest_squares @ weights) / n,
        two_looks and matter,
    )


def combine(terms: Sequence[Term], factors: Sequence[float], *, all_images: bool = False) -> Total:
    """Returns the sum of terms on the same images and independent draws, each times its factor.

    Args:
        terms: at least one.
        factors: 1 and -1 for a difference, 1/n for a mean.
        all_images: whether these very images are meant, and not what they are a sample of.
    """
    pairs = list(zip(terms, factors, strict=True))
    value = sum(factor * one.value for one, factor in pairs)
    draws = tuple((factor**2 * one.draws, one.freedom) for one, factor in pairs if one.freedom)
    two_looks = any(one.two_looks for one in terms)
    if all_images:
        return Total(value, draws, (), two_looks)
    by_image = sum((factor * one.by_image for one, factor in pairs), np.zeros(len(terms[0].by_image)))
    images = len(by_image)
    rest = sum(factor**2 * one.rest for one, factor in pairs)
    variance = max(float(by_image.var(ddof=1)) / images - rest, 0.0) if images > 1 else math.inf
    return Total(value, draws, ((variance, max(images - 1, 1)),), two_looks)


def difference(first: Term, second: Term, *, all_images: bool = False) -> Total:
    """Returns the difference of two functionals on the same images and independent draws."""
    return combine((first, second), (1.0, -1.0), all_images=all_images)


def mover_difference(first: Estimate, second: Estimate) -> tuple[float, float]:
    """Returns an interval of a difference from two separate ones, also open ones (Zou and Donner 2008).

    Images in common are not made use of, so it is wider than need be.
    """
    value = first.value - second.value if math.isfinite(first.value) and math.isfinite(second.value) else math.nan
    if math.isnan(value):
        return first.low - second.high, first.high - second.low
    return (
        value - math.hypot(first.value - first.low, second.high - second.value),
        value + math.hypot(first.high - first.value, second.value - second.low),
    )


def holm(p_values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Returns p-values adjusted for all comparisons together (Holm 1979)."""
    order = np.argsort(p_values, kind="stable")
    steps = np.maximum.accumulate((len(p_values) - np.arange(len(p_values))) * p_values[order])
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(steps, 1.0)
    return adjusted


def rank_intervals(
    values: Float[np.ndarray, " n"], adjusted: Float[np.ndarray, "n n"], confidence: float = CONFIDENCE
) -> Int[np.ndarray, "n 2"]:
    """Returns for each of n values the lowest and highest rank that it may have, all holding together.

    Rank 1 is the smallest value. A value's lowest rank is one more than the number that are significantly smaller.

    Args:
        values: to be ranked.
        adjusted: p-values of their differences, adjusted for all of them.
        confidence: between 0 and 1.
    """
    order = np.sign(values[:, None] - values[None, :]) * (adjusted < 1 - confidence)
    low, high = 1 + (order > 0).sum(axis=1), len(values) - (order < 0).sum(axis=1)
    return np.stack([low, high], axis=1)


def pairwise_p_values(terms: Sequence[Term], *, all_images: bool = False) -> Float[np.ndarray, "n n"]:
    """Returns the p-values of all differences of terms on common images, adjusted by Holm; 1 on the diagonal."""
    rows, columns = np.triu_indices(len(terms), 1)
    p_values = np.array(
        [
            difference(terms[i], terms[j], all_images=all_images).p_value()
            for i, j in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
    )
    table = np.ones((len(terms), len(terms)))
    table[rows, columns] = table[columns, rows] = holm(p_values) if len(p_values) else p_values
    return table


def _welch(parts: Sequence[tuple[float, int]]) -> float:
    """Returns the degrees of freedom of a sum of variances, by Welch and Satterthwaite."""
    weight = sum(variance**2 / freedom for variance, freedom in parts)
    return sum(variance for variance, _ in parts) ** 2 / weight if weight > 0 else math.inf
