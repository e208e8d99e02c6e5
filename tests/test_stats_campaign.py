"""Sizes of fault campaigns and exact intervals, against published numbers and SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxperturb.stats.campaign import clopper_pearson, critical_share, faults_needed
from jaxperturb.stats.intervals import Sampled


def test_the_number_of_faults_in_the_limit_is_the_published_one():
    assert faults_needed(0.01, 0.99) == 16641
    assert faults_needed(0.01, 0.95) == 9604
    assert faults_needed(0.05, 0.95) == 385


@pytest.mark.parametrize("population", [1, 50, 27_648, 10**9])
def test_a_finite_population_takes_fewer(population):
    expected = population / (1 + 0.01**2 * (population - 1) / (2.58**2 * 0.25))
    assert faults_needed(0.01, 0.99, population) == math.ceil(expected - 1e-9) <= population


def test_a_known_share_takes_fewer():
    assert faults_needed(0.01, 0.95, share=0.1) == math.ceil(1.96**2 * 0.09 / 1e-4)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (10, 10), (3, 20), (1, 1)])
@pytest.mark.parametrize("confidence", [0.95, 0.99])
def test_clopper_pearson_is_scipys(successes, trials, confidence):
    expected = stats.binomtest(successes, trials).proportion_ci(confidence, "exact")
    assert clopper_pearson(successes, trials, confidence) == pytest.approx(tuple(expected))


def test_a_loss_of_exactly_the_drop_is_not_critical():
    # 0.9 - 0.89 is a little more than 0.01 in floating point.
    found = critical_share(np.array([0.89, 0.88, 0.9, 0.91]), 0.9, 0.01)
    assert found.value == 0.25
    assert (found.low, found.high) == pytest.approx(clopper_pearson(1, 4))
    assert found.sampled is Sampled.DRAWS
