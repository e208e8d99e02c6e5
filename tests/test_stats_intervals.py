"""Intervals, against statsmodels, formulas written out, and cases whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.proportion import proportion_confint
from test_stats_components import random_outcomes

from jaxperturb.stats.components import cross
from jaxperturb.stats.intervals import (
    FEW_IMAGES_FLAG,
    ONE_DRAW_FLAG,
    ONE_IMAGE_FLAG,
    UNEVEN_FLAG,
    Sampled,
    contrast,
    half_widths,
    proportion,
    sampled,
    wilson,
)


def column(*right, images=100):
    """One column in which each draw is right on so many of the first images."""
    return cross(np.arange(images) < np.array(right)[None, :, None])


@pytest.mark.parametrize(("p", "trials"), [(0.3, 50), (0.02, 400), (0.999, 1000), (0.5, 10.7)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_wilson_is_that_of_so_many_independent_trials(p, trials, confidence):
    z = stats.norm.ppf(0.5 + confidence / 2)
    found = wilson(np.array(p), np.array(z * math.sqrt(p * (1 - p) / trials)), 5, confidence)
    np.testing.assert_allclose(found, proportion_confint(p * trials, trials, 1 - confidence, "wilson"), rtol=1e-12)


@pytest.mark.parametrize("p", [0.0, 1.0])
def test_wilson_at_the_edge_counts_the_images(p):
    found = wilson(np.array(p), np.array(0.0), 200)
    np.testing.assert_allclose(found, proportion_confint(p * 200, 200, method="wilson"), atol=1e-12)


def test_a_half_width_without_end_leaves_everything_open():
    np.testing.assert_allclose(wilson(np.array([0.2, 0.5]), np.full(2, np.inf), 1), [[0, 0], [1, 1]], atol=1e-5)


def test_the_half_width_is_movers():
    crossed = cross(random_outcomes(1, 6, 40))
    msa, msb, mse = (m.item() for m in (crossed.draw_squares, crossed.image_squares, crossed.rest_squares))
    squares = (stats.t.ppf(0.975, 5) ** 2 * msa + stats.t.ppf(0.975, 39) ** 2 * max(msb - mse, 0)) / 240
    found = proportion(crossed)
    expected = wilson(np.array(found.value), np.array(math.sqrt(squares)), 40)
    assert (found.low, found.high) == pytest.approx([end.item() for end in expected])
    assert found.sampled is Sampled.BOTH
    assert contrast(crossed, 0.0, np.ones(1)).high == pytest.approx(math.sqrt(squares))


def test_just_these_images_leave_the_draws_students_t():
    crossed = cross(random_outcomes(1, 6, 40))
    found = contrast(crossed, crossed.means[0], np.ones(1), all_images=True)
    expected = stats.ttest_1samp(crossed.by_draw[0], 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx(tuple(expected))
    assert found.sampled is Sampled.DRAWS


def test_where_draws_do_not_matter_it_is_wilsons_of_the_images():
    crossed = column(73)
    found = proportion(crossed, draws_matter=False)
    # The sample variance has n - 1, and Student's t stands for the normal: a little wider than Wilson's own.
    low, high = proportion_confint(73, 100, method="wilson")
    assert found.low < low < high < found.high
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.003)
    assert found.sampled is Sampled.IMAGES
    assert found.flags == ()


def test_repeated_draws_are_as_one():
    many, one = proportion(column(73, 73, 73), draws_matter=False), proportion(column(73), draws_matter=False)
    assert (many.low, many.high) == pytest.approx((one.low, one.high))


def test_just_these_images_without_draws_are_exact():
    found = proportion(column(73), draws_matter=False, all_images=True)
    assert (found.low, found.value, found.high) == (0.73, 0.73, 0.73)
    assert found.sampled is Sampled.NOTHING


@pytest.mark.parametrize(
    ("draws", "matter", "everything", "what"),
    [
        (5, True, False, Sampled.BOTH),
        (5, True, True, Sampled.DRAWS),
        (1, True, False, Sampled.IMAGES),
        (5, False, False, Sampled.IMAGES),
        (1, False, True, Sampled.NOTHING),
    ],
)
def test_what_an_interval_generalises_to(draws, matter, everything, what):
    assert sampled(draws, matter, everything) is what


@pytest.mark.parametrize(
    ("right", "flags"),
    [
        ((50, 52, 51, 49, 50), ()),
        ((50, 52, 51), ("3 draws: at least about 93 %",)),
        ((50,), (ONE_DRAW_FLAG,)),
        ((95, 93, 96, 94, 94), (FEW_IMAGES_FLAG,)),
        ((5, 60, 20, 0, 90), (UNEVEN_FLAG,)),
        ((0, 0, 0, 0, 0), (FEW_IMAGES_FLAG,)),
        ((90, 90, 90, 90, 90), ()),
    ],
)
def test_what_cannot_be_promised_is_said(right, flags):
    assert proportion(column(*right)).flags == flags


def test_one_image_is_said_and_left_open():
    found = proportion(cross(np.array([[[True], [False], [True], [True], [True]]])))
    assert ONE_IMAGE_FLAG in found.flags
    assert (found.low, found.high) == pytest.approx((0, 1), abs=1e-5)


def test_more_confidence_is_wider():
    crossed = cross(random_outcomes(1, 6, 40))
    narrow, wide = (proportion(crossed, confidence=confidence) for confidence in (0.9, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_many_half_widths_are_those_of_each():
    from jaxperturb.stats.components import spread

    crossed = cross(random_outcomes(3))
    rows = np.random.default_rng(0).normal(size=(7, 3))
    together = half_widths(spread(crossed, rows), Sampled.BOTH)
    alone = [half_widths(spread(crossed, row), Sampled.BOTH).item() for row in rows]
    np.testing.assert_allclose(together, alone)
