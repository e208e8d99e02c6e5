"""Differences, Holm and ranks, against statsmodels and formulas written out."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.multitest import multipletests
from test_stats_components import mean_squares, random_outcomes

from jaxperturb.stats.compare import (
    combine,
    difference,
    holm,
    mover_difference,
    pairwise_p_values,
    rank_intervals,
    term,
)
from jaxperturb.stats.components import cross
from jaxperturb.stats.curves import Functional
from jaxperturb.stats.intervals import Estimate, Sampled, contrast


def accuracy(outcomes, **options):
    crossed = cross(outcomes[None])
    return term(crossed, Functional(float(crossed.means[0]), np.ones(1)), **options)


def layers(number=4, draws=5, images=60, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.normal(size=images)
    return [rng.normal(size=(draws, images)) + hard + 0.4 * shift > 0 for shift in range(number)]


@pytest.mark.parametrize("number", [1, 2, 3, 10, 28])
def test_holm_is_that_of_statsmodels(number):
    rng = np.random.default_rng(number)
    for scale in (1.0, 0.1, 0.001):
        p_values = np.round(scale * rng.random(number), 4)  # with ties among many
        expected = multipletests(p_values, method="holm")[1]
        np.testing.assert_allclose(holm(p_values), expected, rtol=1e-12)


def test_a_difference_on_common_images_is_the_formula():
    a, b = layers(2)
    (msa, _, mse_a), (msb, _, mse_b) = mean_squares(a.astype(float)), mean_squares(b.astype(float))
    va, vb = msa / 300, msb / 300
    images = max((a.mean(0) - b.mean(0)).var(ddof=1) / 60 - mse_a / 300 - mse_b / 300, 0)
    nu = (va + vb) ** 2 / (va**2 / 4 + vb**2 / 4)
    width = math.sqrt(stats.t.ppf(0.975, nu) ** 2 * (va + vb) + stats.t.ppf(0.975, 59) ** 2 * images)
    found = difference(accuracy(a), accuracy(b))
    middle = a.mean() - b.mean()
    assert (found.interval().low, found.interval().high) == pytest.approx((middle - width, middle + width))
    variance = va + vb + images
    freedom = variance**2 / (va**2 / 4 + vb**2 / 4 + images**2 / 59)
    assert found.p_value() == pytest.approx(2 * stats.t.sf(abs(middle) / math.sqrt(variance), freedom))


def test_images_in_common_make_a_difference_surer():
    a, b = layers(2, images=400)
    paired = difference(accuracy(a), accuracy(b))
    unpaired = combine([accuracy(a)], [1.0]) + combine([accuracy(b)], [-1.0])
    assert paired.value == pytest.approx(unpaired.value)
    assert paired.interval().half_width < unpaired.interval().half_width


def test_a_single_term_has_the_interval_of_its_contrast():
    crossed = cross(random_outcomes(3, 5, 40))
    weights = np.array([0.5, -1.0, 2.0])
    alone = combine([term(crossed, Functional(0.3, weights))], [1.0]).interval()
    expected = contrast(crossed, 0.3, weights)
    assert (alone.low, alone.high) == pytest.approx((expected.low, expected.high))


def test_without_draws_it_is_the_paired_test_of_the_images():
    a, b = (layer[:1] for layer in layers(2))
    found = difference(accuracy(a, draws_matter=False), accuracy(b, draws_matter=False))
    expected = stats.ttest_rel(a[0].astype(float), b[0].astype(float))
    assert found.p_value() == pytest.approx(expected.pvalue)
    assert (found.interval().low, found.interval().high) == pytest.approx(tuple(expected.confidence_interval()))
    assert found.interval().sampled is Sampled.IMAGES


def test_just_these_images_leave_welchs_test_of_the_draws():
    a, b = layers(2)
    found = difference(accuracy(a), accuracy(b[:3]), all_images=True)
    expected = stats.ttest_ind(a.mean(1), b[:3].mean(1), equal_var=False)
    assert found.p_value() == pytest.approx(expected.pvalue)
    assert (found.interval().low, found.interval().high) == pytest.approx(tuple(expected.confidence_interval()))


def test_alike_is_no_difference():
    (a,) = layers(1)
    assert difference(accuracy(a, draws_matter=False), accuracy(a, draws_matter=False)).p_value() == 1


def test_the_mean_of_layers_is_the_mean_and_surer_than_each():
    some = [accuracy(layer) for layer in layers(4, images=500)]
    mean = combine(some, [0.25] * 4)
    assert mean.value == pytest.approx(np.mean([one.value for one in some]))
    draws = sum(variance for variance, _ in mean.draws)
    assert draws == pytest.approx(sum(one.draws for one in some) / 16)


def test_pairs_are_adjusted_together():
    terms = [accuracy(layer) for layer in layers()]
    raw = [difference(*pair).p_value() for pair in itertools.combinations(terms, 2)]
    found = pairwise_p_values(terms)
    np.testing.assert_allclose(found[np.triu_indices(4, 1)], multipletests(raw, method="holm")[1])
    np.testing.assert_array_equal(found, found.T)
    assert pairwise_p_values(terms[:1]).tolist() == [[1.0]]


def test_ranks_leave_room_for_what_is_not_told_apart():
    values = np.array([0.5, 0.2, 0.52, 0.9])
    adjusted = np.ones((4, 4))
    for pair in ((0, 1), (1, 2), (1, 3), (0, 3)):
        adjusted[pair] = adjusted[pair[::-1]] = 0.01
    # 0.2 is below all; 0.5 is below 0.9 only; 0.52 and 0.9 are not told apart.
    assert rank_intervals(values, adjusted).tolist() == [[2, 3], [1, 1], [2, 4], [3, 4]]


def test_a_difference_of_two_intervals_is_movers():
    a, b = Estimate(0.5, 0.4, 0.7), Estimate(0.3, 0.25, 0.32)
    assert mover_difference(a, b) == pytest.approx((0.2 - math.hypot(0.1, 0.02), 0.2 + math.hypot(0.2, 0.05)))


def test_an_open_interval_leaves_the_difference_open():
    closed = Estimate(0.3, 0.25, 0.32)
    assert mover_difference(Estimate(math.inf, 0.9, math.inf), closed) == pytest.approx((0.58, math.inf))
    assert mover_difference(Estimate(0.8, 0.7, math.inf), closed)[1] == math.inf
    assert mover_difference(*[Estimate(math.inf, 0.9, math.inf)] * 2) == (-math.inf, math.inf)
