"""Half-life levels and interpolated values, against curves whose answer is known by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from jaxperturb.stats.components import cross
from jaxperturb.stats.curves import (
    NEAR_CHANCE_FLAG,
    STARTS_BELOW_FLAG,
    LevelCurve,
    accuracy_estimate,
    area,
    at_level,
    at_levels,
    chance_level,
    estimate,
    half_life,
    half_life_estimate,
    half_life_functional,
    interpolated_accuracy,
    relative_above_chance,
    relative_at,
    trapezoid_weights,
    value_at,
)
from jaxperturb.stats.intervals import Sampled


@pytest.mark.parametrize(
    ("k", "classes", "expected"), [(1, 10, 0.1), (5, 1000, 0.005), (5, 10, 0.5), (5, 3, 1.0), (1, 1, 1.0)]
)
def test_chance_counts_at_most_all_classes(k, classes, expected):
    assert chance_level(k, classes) == expected


def test_relative_is_one_for_the_intact_network_and_zero_at_chance():
    np.testing.assert_allclose(relative_above_chance(np.array([0.9, 0.5, 0.1]), 0.9, 0.1), [1, 0.5, 0])


def test_half_life_of_a_straight_line():
    # From 0.9 at level 0 to chance 0.1 at level 1: half of what is above chance, 0.5, is left at level 0.5.
    assert half_life(np.array([0.0, 1.0]), np.array([0.9, 0.1]), 0.9, 0.1) == pytest.approx(0.5)


def test_half_life_is_above_chance_not_of_the_accuracy_itself():
    # Half of 0.8 is 0.4, reached at level 2; half-way between 0.8 and chance 0.4 is 0.6, reached at level 1.
    assert half_life(np.array([0.0, 2.0]), np.array([0.8, 0.4]), 0.8, 0.4) == pytest.approx(1.0)


def test_half_life_between_two_levels_is_interpolated():
    # Relative performance 1, 0.8, 0.3: crosses 0.5 at 0.2 + 0.6 * 0.1.
    levels, accuracy = np.array([0.0, 0.2, 0.3]), np.array([1.0, 0.8, 0.3])
    assert half_life(levels, accuracy, 1.0, 0.0) == pytest.approx(0.26)


def test_half_life_is_the_first_down_crossing():
    # Down through 0.5 at 0.5 of the first step, up again, down again.
    assert half_life(np.array([0.0, 1, 2, 3]), np.array([1.0, 0.0, 1.0, 0.0]), 1.0, 0.0) == pytest.approx(0.5)


def test_half_life_sorts_the_levels():
    assert half_life(np.array([0.3, 0.0, 0.2]), np.array([0.3, 1.0, 0.8]), 1.0, 0.0) == pytest.approx(0.26)


def test_half_life_exactly_at_a_level():
    assert half_life(np.array([0.0, 0.4, 1.0]), np.array([1.0, 0.5, 0.0]), 1.0, 0.0) == pytest.approx(0.4)


def test_half_life_that_is_not_reached_is_infinite():
    assert half_life(np.array([0.0, 1.0]), np.array([0.9, 0.51]), 0.9, 0.1) == math.inf


def test_half_life_of_a_curve_that_starts_below_is_its_lowest_level():
    assert half_life(np.array([0.3, 0.6]), np.array([0.2, 0.1]), 0.9, 0.1) == 0.3


@pytest.mark.parametrize(
    ("levels", "accuracy", "intact"), [([], [], 0.9), ([0.0, 1.0], [0.1, 0.1], 0.1), ([0.0], [0.05], 0.05)]
)
def test_half_life_is_undefined_without_levels_or_above_chance_performance(levels, accuracy, intact):
    assert math.isnan(half_life(np.array(levels), np.array(accuracy), intact, 0.1))


def test_value_at_a_level_between_two():
    assert value_at(np.array([0.8, 0.6]), np.array([0.2, 0.4]), 0.7) == pytest.approx(0.3)


def test_value_at_a_tested_level_is_the_value_itself():
    assert value_at(np.array([0.0, 0.7, 1.0]), np.array([0.9, 0.123, 0.1]), 0.7) == 0.123


@pytest.mark.parametrize("level", [-0.1, 1.1])
def test_value_outside_the_tested_levels_is_not_extrapolated(level):
    assert math.isnan(value_at(np.array([0.0, 1.0]), np.array([0.9, 0.1]), level))


def test_value_without_levels_is_nan():
    assert math.isnan(value_at(np.array([]), np.array([]), 0.7))


# Numbers of a curve with their intervals.


def simulated(draws=6, images=300, levels=(0.0, 0.2, 0.4, 0.6, 1.0), chance=0.1, drop=4.0, seed=0):
    rng = np.random.default_rng(seed)
    levels = np.array(levels)
    hard, weak = rng.normal(size=images), 0.3 * rng.normal(size=(draws, 1))
    right = np.stack(
        [1.5 - drop * level + hard + level * weak + level * rng.normal(size=(draws, images)) > 0 for level in levels]
    )
    reference = np.repeat((1.5 + hard > 0)[None], draws, axis=0)
    return LevelCurve(levels, cross(np.concatenate([right, reference[None]])), chance)


def width(curve, weights):
    """W of a weighted sum of columns, from the mean products."""
    crossed = curve.crossed
    a, b, e = (weights @ m @ weights for m in (crossed.draw_squares, crossed.image_squares, crossed.rest_squares))
    t, z = stats.t.ppf(0.975, crossed.draws - 1), stats.t.ppf(0.975, crossed.images - 1)
    return math.sqrt((t**2 * a + z**2 * max(b - e, 0)) / crossed.draws / crossed.images)


def test_area_is_the_mean_of_the_curve_by_the_trapezoid_rule():
    curve = simulated()
    relative = (curve.accuracy - 0.1) / (curve.reference - 0.1)
    assert area(curve).value == pytest.approx(np.trapezoid(relative, curve.levels))
    stretched = LevelCurve(curve.levels * 7, curve.crossed, 0.1)
    assert area(stretched).value == pytest.approx(area(curve).value)


def test_area_of_one_level_is_the_value_there():
    curve = simulated(levels=(0.4,))
    assert area(curve).value == pytest.approx(((curve.accuracy - 0.1) / (curve.reference - 0.1))[0])


def test_relative_performance_is_near_fiellers_interval():
    # Fieller: all r for which accuracy - c - r (reference - c) is not significantly off zero.
    curve, unit = simulated(images=2000), np.eye(6)
    found = estimate(curve, relative_at(curve, np.eye(5)[2]))
    grid = np.linspace(found.value - 0.2, found.value + 0.2, 4001)
    sums = [unit[2] - r * unit[5] for r in grid]
    kept = [
        r for r, w in zip(grid, sums, strict=True) if abs(w @ curve.crossed.means - 0.1 * (1 - r)) <= width(curve, w)
    ]
    assert (found.low, found.high) == pytest.approx((min(kept), max(kept)), abs=0.004)


def test_a_functional_is_linear_with_its_weights():
    # Moving the accuracies a little moves the number by the weights times that.
    curve = simulated()
    shift = 1e-6 * np.array([0.3, -1.0, 0.7, 0.2, 0.5, -0.4])
    moved = LevelCurve(curve.levels, replace(curve.crossed, means=curve.crossed.means + shift), 0.1)
    for functional in (area, half_life_functional, lambda one: relative_at(one, np.eye(5)[3])):
        change = functional(moved).value - functional(curve).value
        assert change == pytest.approx(functional(curve).weights @ shift, rel=1e-3)


def test_the_half_life_interval_holds_the_levels_that_are_not_refused():
    curve, unit = simulated(), np.eye(6)
    found = half_life_estimate(curve)
    kept = []
    for level in np.linspace(0, 1, 2001):
        weights = np.array([np.interp(level, curve.levels, row) for row in np.eye(5)])
        contrast = np.append(weights, 0) - 0.5 * unit[5]
        if abs(contrast @ curve.crossed.means - 0.05) <= width(curve, contrast):
            kept.append(level)
    step = 0.4 / 64
    assert min(kept) - 1.1 * step <= found.low <= min(kept)
    assert max(kept) <= found.high <= max(kept) + 1.1 * step
    assert found.low < found.value < found.high


def test_a_half_life_beyond_the_levels_is_open():
    found = half_life_estimate(simulated(drop=0.3))
    assert (found.value, found.high) == (math.inf, math.inf)
    assert half_life_estimate(simulated(drop=4.0)).high < 1


def test_a_half_life_is_open_where_the_last_level_is_not_surely_below_half():
    curve = simulated(drop=1.5)
    last = np.eye(6)[4] - 0.5 * np.eye(6)[5]
    assert -width(curve, last) < last @ curve.crossed.means - 0.05 < 0
    found = half_life_estimate(curve)
    assert found.value < 1
    assert found.high == math.inf


def test_a_half_life_below_the_levels_is_open_downwards():
    found = half_life_estimate(simulated(levels=(0.6, 0.8, 1.0), drop=6.0))
    assert (found.value, found.low) == (0.6, -math.inf)
    assert STARTS_BELOW_FLAG in found.flags


def test_a_reference_near_chance_gives_no_interval():
    curve = simulated(chance=0.92)
    assert 0 < curve.above_chance < 0.05
    for found in (estimate(curve, area(curve)), half_life_estimate(curve)):
        assert NEAR_CHANCE_FLAG in found.flags
        assert math.isnan(found.low)


def test_a_reference_below_chance_has_no_relative_performance():
    curve = simulated(chance=0.99)
    assert math.isnan(area(curve).value)
    assert math.isnan(half_life_estimate(curve).value)


def test_the_reference_knows_no_draws():
    curve = simulated(draws=3)
    assert accuracy_estimate(curve, -1).sampled is Sampled.IMAGES
    assert accuracy_estimate(curve, -1).flags == ()
    assert accuracy_estimate(curve, 2).sampled is Sampled.BOTH


def test_columns_in_which_draws_coincide_have_images_alone():
    curve = replace(simulated(), alike=(0,))
    assert accuracy_estimate(curve, 0).sampled is Sampled.IMAGES
    assert at_level(curve, 1).draws_matter


def test_accuracy_between_levels_is_interpolated():
    curve = simulated()
    found = interpolated_accuracy(curve, 0.5)
    assert found.value == pytest.approx(np.interp(0.5, curve.levels, curve.accuracy))
    half = width(curve, np.array([0, 0, 0.5, 0.5, 0, 0]))
    assert (found.low, found.high) == pytest.approx((found.value - half, found.value + half))
    assert interpolated_accuracy(curve, 0.4) == accuracy_estimate(curve, 2)
    assert math.isnan(interpolated_accuracy(curve, 1.1).value)


def test_some_levels_are_a_curve_of_their_own():
    curve = replace(simulated(), alike=(0, 4))
    some = at_levels(curve, {0.0, 0.4, 1.0})
    assert (some.levels.tolist(), some.alike, some.reference) == ([0, 0.4, 1], (0, 2), curve.reference)
    np.testing.assert_array_equal(some.accuracy, curve.accuracy[[0, 2, 4]])


def test_weights_of_the_trapezoid_rule():
    np.testing.assert_allclose(trapezoid_weights(np.array([0.0, 1.0, 4.0])), [1 / 8, 1 / 2, 3 / 8])
