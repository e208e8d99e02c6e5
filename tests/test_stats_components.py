"""Mean squares of crossed outcomes, against loops, contrasts made by hand, and statsmodels."""

import numpy as np
import pytest
import statsmodels.api as sm
from hypothesis import given
from hypothesis import strategies as st
from statsmodels.stats.sandwich_covariance import cov_cluster_2groups

from jaxperturb.stats import components as module
from jaxperturb.stats.components import components, cross, select_columns, spread


def random_outcomes(columns=3, draws=4, images=17, seed=0):
    rng = np.random.default_rng(seed)
    hard, weak = rng.normal(size=images), rng.normal(size=(columns, draws, 1))
    return rng.normal(size=(columns, draws, images)) + hard + weak > 0.2


def mean_squares(table):
    """Mean squares of one table of draws x images, by loops."""
    draws, images = table.shape
    mean = sum(sum(row) for row in table) / (draws * images)
    rows = [sum(row) / images for row in table]
    columns = [sum(table[d][i] for d in range(draws)) / draws for i in range(images)]
    by_draw = images * sum((row - mean) ** 2 for row in rows) / (draws - 1)
    by_image = draws * sum((column - mean) ** 2 for column in columns) / (images - 1)
    rest = sum((table[d][i] - rows[d] - columns[i] + mean) ** 2 for d in range(draws) for i in range(images))
    return by_draw, by_image, rest / ((draws - 1) * (images - 1))


def test_mean_squares_of_a_column_are_those_of_loops():
    outcomes = random_outcomes()
    crossed = cross(outcomes)
    for column, table in enumerate(outcomes.astype(float)):
        found = [m[column, column] for m in (crossed.draw_squares, crossed.image_squares, crossed.rest_squares)]
        np.testing.assert_allclose(found, mean_squares(table), rtol=1e-12)


@given(
    weights=st.lists(st.floats(-2, 2), min_size=3, max_size=3),
    draws=st.integers(2, 6),
    images=st.integers(2, 30),
    seed=st.integers(0, 1000),
)
def test_a_weighted_sum_of_columns_has_the_mean_squares_of_its_own_table(weights, draws, images, seed):
    outcomes, w = random_outcomes(3, draws, images, seed), np.array(weights)
    crossed = cross(outcomes)
    found = [w @ m @ w for m in (crossed.draw_squares, crossed.image_squares, crossed.rest_squares)]
    np.testing.assert_allclose(found, mean_squares(np.tensordot(w, outcomes.astype(float), 1)), atol=1e-9)


def test_means_are_those_of_draws_and_images():
    outcomes = random_outcomes()
    crossed = cross(outcomes)
    np.testing.assert_allclose(crossed.means, outcomes.mean((1, 2)))
    np.testing.assert_allclose(crossed.by_draw, outcomes.mean(2))
    np.testing.assert_allclose(crossed.by_image, outcomes.mean(1))
    assert (crossed.draws, crossed.images) == (4, 17)


def test_products_are_exact_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch):
    outcomes = random_outcomes(images=100)
    whole = cross(outcomes)
    monkeypatch.setattr(module, "_CHUNK", 28)
    np.testing.assert_array_equal(cross(outcomes).rest_squares, whole.rest_squares)


@pytest.mark.parametrize("seed", range(3))
def test_the_plain_two_way_cluster_variance_is_that_of_statsmodels(seed):
    table = random_outcomes(1, 5, 40, seed)[0].astype(float)
    draws, images = table.shape
    n = draws * images
    fit = sm.OLS(table.ravel(), np.ones(n)).fit()
    groups = np.repeat(np.arange(draws), images), np.tile(np.arange(images), draws)
    expected = cov_cluster_2groups(fit, *groups, use_correction=False)[0].item()
    crossed = cross(table[None] > 0.5)
    between_draws, between_images = crossed.draw_squares.item(), crossed.image_squares.item()
    squares = ((table - table.mean()) ** 2).sum()
    found = ((draws - 1) / draws * between_draws + (images - 1) / images * between_images) / n - squares / n**2
    assert found == pytest.approx(expected, abs=1e-12)


def test_the_unbiased_variance_is_found_on_average():
    # Of the mean over draws and images, whose true variance is that of many repetitions of the whole design.
    rng = np.random.default_rng(1)
    means, variances = [], []
    for _ in range(3000):
        score = rng.normal(size=(1, 5, 60)) + rng.normal(size=(1, 1, 60)) + 0.7 * rng.normal(size=(1, 5, 1))
        found = components(crossed := cross(score > 0), np.ones(1))
        means.append(crossed.means[0])
        variances.append(found.draws / 5 + found.images / 60 + found.rest / 300)
    assert np.mean(variances) == pytest.approx(np.var(means, ddof=1), rel=0.08)


def test_the_spread_is_never_below_what_the_draws_say():
    crossed = cross(random_outcomes(2, 3, 8))
    found = spread(crossed, np.eye(2))
    np.testing.assert_allclose(found.draws, np.diag(crossed.draw_squares) / 24)
    difference = np.diag(crossed.image_squares - crossed.rest_squares)
    np.testing.assert_allclose(found.images, np.maximum(difference, 0) / 24)
    assert (found.draw_freedom, found.image_freedom) == (2, 7)


def test_one_draw_leaves_the_variance_of_the_images():
    outcomes = random_outcomes(1, 1, 30)
    found = spread(cross(outcomes), np.ones(1))
    assert found.draws == 0
    assert found.images == pytest.approx(outcomes[0, 0].var(ddof=1) / 30)


def test_one_image_says_nothing_of_others():
    found = spread(cross(random_outcomes(2, 4, 1)), np.array([[1.0, 0.0], [0.0, 0.0]]))
    assert found.images.tolist() == [np.inf, 0]


def test_a_repeated_column_has_no_spread_by_draws():
    row = random_outcomes(1, 1, 25)
    found = spread(cross(np.repeat(row, 6, axis=1)), np.ones(1))
    assert found.draws == pytest.approx(0, abs=1e-15)
    assert found.images == pytest.approx(row[0, 0].var(ddof=1) / 25)


def test_some_columns_are_as_if_the_others_were_not_there():
    outcomes = random_outcomes(4)
    some, alone = select_columns(cross(outcomes), [3, 1]), cross(outcomes[[3, 1]])
    for name in vars(alone):
        np.testing.assert_allclose(getattr(some, name), getattr(alone, name), rtol=1e-12)
