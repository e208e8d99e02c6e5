"""How many draws and images a wanted half-width takes, from a pilot's variance components.

The pilot knows the draws' component on its number of draws less one; from five draws, the truth lies anywhere between
a third and eight times of it. So a plan is a guess, and the interval of the final data is what counts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from jaxperturb.stats.components import Components, Crossed, spread
from jaxperturb.stats.intervals import CONFIDENCE, quantile, two_look

PILOT_DRAWS = 5
TWO_LOOK_CONFIDENCE = two_look(CONFIDENCE)


@dataclass(frozen=True)
class Plan:
    """A design that is expected to reach a half-width.

    Attributes:
        draws: number of draws.
        images: number of images.
        cost: of one cell: draws times images times the cost of an evaluation, and images times that of an image.
    """

    draws: int
    images: int
    cost: float


@dataclass(frozen=True, eq=False)
class SecondLook:
    """What the first look at some columns, which share their draws, says of the number of draws.

    Attributes:
        draws: in all, those of the first look included.
        expected: for each column, whether that number is expected to reach the half-width.
    """

    draws: int
    expected: Bool[np.ndarray, " k"]


@dataclass(frozen=True)
class Design:
    """What the second look at a curve asks for.

    Attributes:
        draws: in all.
        images: in all.
        expected: for each level, whether its interval is expected to get the wanted half-width.
    """

    draws: int
    images: int
    expected: tuple[bool, ...]


def closed_form(found: Components, half_width: float, image_cost: float = 0.0) -> tuple[float, float]:
    """Returns the cheapest draws and images, not rounded, for normal quantiles at 95 %.

    With the wanted variance ``V = (w / z)^2`` and the cost of an image per evaluation c:
    ``D = (va + sqrt((va vb + ve V) (va + c V) / vb)) / V`` and ``I = (vb + ve / D) / (V - va / D)``.

    Args:
        found: va of draws, vb of images (above 0), ve of the rest.
        half_width: wanted, in (0, 1).
        image_cost: what an image costs once, in evaluations.
    """
    va, vb, ve = max(found.draws, 0.0), found.images, max(found.rest, 0.0)
    variance = (half_width / quantile(CONFIDENCE, math.inf)) ** 2
    draws = (va + math.sqrt((va * vb + ve * variance) * (va + image_cost * variance) / vb)) / variance
    return draws, (vb + ve / draws) / (variance - va / draws)


def images_needed(
    found: Components, half_width: float, draws: int, confidence: float = CONFIDENCE, *, draws_matter: bool = True
) -> float:
    """Returns the number of images that reach a half-width with so many draws; infinity where none does.

    Args:
        found: components of a pilot.
        half_width: wanted, in (0, 1).
        draws: at least 2, or 1 where draws do not matter.
        confidence: between 0 and 1.
        draws_matter: whether draws differ at all.
    """
    z = quantile(confidence, math.inf) ** 2
    t = quantile(confidence, draws - 1) ** 2 if draws_matter else 0.0
    va, vb, ve = max(found.draws, 0.0), max(found.images, 0.0), max(found.rest, 0.0)
    room = half_width**2 - t * va / draws
    return float(max(math.ceil((z * vb + t * ve / draws) / room - 1e-9), 1)) if room > 0 else math.inf


def plan(
    columns: Sequence[Components],
    half_width: float,
    *,
    max_draws: int,
    max_images: int | float = math.inf,
    min_draws: int = PILOT_DRAWS,
    image_cost: float = 0.0,
    draws_matter: bool = True,
    confidence: float = CONFIDENCE,
) -> Plan | None:
    """Returns the cheapest draws and images with which all columns of a curve reach a half-width.

    Args:
        columns: components of a pilot, one for each level.
        half_width: wanted, in (0, 1).
        max_draws: not more draws.
        max_images: not more images.
        min_draws: not fewer draws, at least 2.
        image_cost: what an image costs once, whatever the draws, in evaluations of one cell.
        draws_matter: whether draws differ at all; one is enough where they do not.
        confidence: between 0 and 1.

    Returns:
        None where the limits do not allow it.
    """
    plans = []
    for draws in range(min_draws, max_draws + 1) if draws_matter else (1,):
        needed = (images_needed(found, half_width, draws, confidence, draws_matter=draws_matter) for found in columns)
        images = max(needed)
        if images <= max_images and math.isfinite(images):
            plans.append(Plan(draws, int(images), images * (draws + image_cost)))
    return min(plans, key=lambda found: found.cost, default=None)


def second_look(pilot: Crossed, half_width: float, max_draws: int) -> SecondLook:
    """Returns how many draws all columns need, by their first draws: the two-look rule.

    N is the smallest number with ``t_{N-1}^2 MSA / (N I) + z^2 max(MSB - MSE, 0) / (D I) <= w^2``, where MSA, MSB and
    MSE are mean squares of the D draws of the pilot. After drawing up to N, intervals are made of all N draws, with
    `TWO_LOOK_CONFIDENCE` in place of 95 %, and are 95 % ones.

    Args:
        pilot: the first draws, at least 2, of columns that share them (the levels of a layer).
        half_width: wanted, in (0, 1).
        max_draws: not more than these, at least those of the pilot.
    """
    found = spread(pilot, np.eye(len(pilot.means)))
    image_part = quantile(TWO_LOOK_CONFIDENCE, math.inf) ** 2 * found.images
    one_draw = found.draws * pilot.draws  # variance of a single draw
    # Where the images alone are too few, more draws do not help.
    reachable = image_part <= half_width**2
    for draws in range(pilot.draws, max_draws + 1):
        expected = _draw_part(one_draw, draws) + image_part <= half_width**2
        if expected[reachable].all():
            break
    return SecondLook(draws, expected)


def second_design(
    columns: Sequence[Components],
    half_width: float,
    *,
    draws: int,
    images: int,
    max_draws: int,
    max_images: int,
    step: int,
    draws_matter: bool = True,
) -> Design:
    """Returns how many draws and images the levels of a curve need, by their first ones: the two-look rule.

    For each number of images I there is the rule of `second_look`: N is the smallest number of draws with
    ``t_{N-1}^2 (va + ve / I) / N + z^2 vb / I <= w^2`` for all levels that N can help. Of these designs it is the
    cheapest, N times I, among those with which most levels are expected to reach it. No more images are thought of than
    leave the draws half of ``w^2``: so are they shared where both are free, and more of them would make up for missing
    draws at a high price. Where all images are too few for a level, all are taken.

    Args:
        columns: components of each level, from the first look.
        half_width: w, in (0, 1).
        draws: of the first look, which are there.
        images: of the first look, which are there.
        max_draws: not more draws, at least those of the first look.
        max_images: not more images, at least those of the first look.
        step: images are added by so many.
        draws_matter: whether draws differ at all; the images alone are looked at where they do not.
    """
    confidence = TWO_LOOK_CONFIDENCE if draws_matter else CONFIDENCE
    z2, wanted = quantile(confidence, math.inf) ** 2, half_width**2
    va, vb, ve = (np.array([max(getattr(one, name), 0.0) for one in columns]) for name in ("draws", "images", "rest"))
    numbers = np.arange(draws, max_draws + 1) if draws_matter else np.array([draws])
    t2 = np.array([quantile(confidence, number - 1) ** 2 if draws_matter else 0.0 for number in numbers.tolist()])
    designs = []
    for size in _sizes(z2 * vb.max() / wanted, images, max_images, step):
        image_part = z2 * vb / size
        expected = np.outer(t2 / numbers, va + ve / size) + image_part <= wanted
        enough = expected[:, image_part <= wanted].all(axis=1)
        place = int(enough.argmax()) if enough.any() else len(numbers) - 1
        designs.append(Design(int(numbers[place]), size, tuple(expected[place].tolist())))
    return min(designs, key=lambda found: (-sum(found.expected), found.draws * found.images))


def _sizes(needed: float, images: int, max_images: int, step: int) -> tuple[int, ...]:
    """Returns the numbers of images to think of: all where those are too few, else up to twice what is needed."""
    if needed > max_images:
        return (max_images,)
    most = min(images + max(math.ceil((2 * needed - images) / step), 0) * step, max_images)
    return tuple(dict.fromkeys([*range(images, most, step), most]))


def _draw_part(one_draw: np.ndarray, draws: int) -> np.ndarray:
    return quantile(TWO_LOOK_CONFIDENCE, draws - 1) ** 2 * one_draw / draws
