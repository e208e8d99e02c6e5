"""Half-life levels and interpolated values, against curves whose answer is known by hand."""

import math

import numpy as np
import pytest

from jaxperturb.stats.curves import chance_level, half_life, relative_above_chance, value_at


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
