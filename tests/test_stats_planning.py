"""Plans, against searches by brute force."""

import math

import numpy as np
import pytest
from scipy import optimize, stats
from test_stats_components import random_outcomes

from jaxperturb.stats.components import Components, components, cross
from jaxperturb.stats.planning import (
    TWO_LOOK_CONFIDENCE,
    closed_form,
    images_needed,
    plan,
    second_design,
    second_look,
)

CASES = [
    Components(1e-5, 0.15, 0.05),
    Components(4e-4, 0.1, 0.02),
    Components(2e-3, 0.05, 0.05),
    Components(0.0, 0.2, 0.0),
]


def half_width(found, draws, images, confidence=0.95):
    t, z = stats.t.ppf(0.5 + confidence / 2, draws - 1), stats.norm.ppf(0.5 + confidence / 2)
    return np.sqrt(t**2 * (found.draws / draws + found.rest / draws / images) + z**2 * found.images / images)


@pytest.mark.parametrize("found", CASES)
@pytest.mark.parametrize("image_cost", [0.0, 2.0])
def test_the_plan_is_the_cheapest_that_reaches_the_half_width(found, image_cost):
    best = plan([found], 0.03, max_draws=60, image_cost=image_cost)
    images = np.arange(1, 3000)
    costs = []
    for draws in range(5, 61):
        enough = images[half_width(found, draws, images) <= 0.03]
        costs += [(enough[0] * (draws + image_cost), draws, enough[0])] if len(enough) else []
    assert (best.cost, best.draws, best.images) == min(costs)


def test_a_known_plan():
    best = plan([CASES[0]], 0.01, max_draws=60, image_cost=2.0)
    assert (best.draws, best.images) == (5, 7724)
    assert closed_form(CASES[0], 0.01, 2.0) == pytest.approx((1.7, 8923), rel=0.01)


@pytest.mark.parametrize("found", CASES[:3])
def test_the_closed_form_is_the_minimum(found):
    variance = (0.02 / stats.norm.ppf(0.975)) ** 2

    def cost(draws):
        room = variance - found.draws / draws
        return (draws + 2) * (found.images + found.rest / draws) / room if room > 0 else math.inf

    draws, images = closed_form(found, 0.02, 2.0)
    least = optimize.minimize_scalar(cost, bounds=(found.draws / variance * 1.0001, 500), method="bounded")
    assert images * (draws + 2) == pytest.approx(least.fun, rel=1e-4)


def test_all_levels_of_a_curve_must_reach_it():
    together = plan(CASES, 0.04, max_draws=60)
    assert all(half_width(found, together.draws, together.images) <= 0.04 for found in CASES)


def test_limits_that_do_not_allow_it_give_no_plan():
    wild = Components(0.05, 0.1, 0.1)
    assert plan([wild], 0.01, max_draws=50) is None
    assert plan([CASES[0]], 0.01, max_draws=50, max_images=1000) is None
    assert images_needed(wild, 0.01, 5) == math.inf


def test_without_draws_one_is_enough():
    best = plan([Components(0.0, 0.25, 0.0)], 0.05, max_draws=50, draws_matter=False)
    assert (best.draws, best.images) == (1, math.ceil(1.959964**2 * 0.25 / 0.05**2))


@pytest.mark.parametrize("wanted", [0.01, 0.02, 0.12, 0.3])
def test_the_second_look_is_the_smallest_number_that_is_expected_to_do(wanted):
    pilot = cross(random_outcomes(3, 5, 400))
    msa, msb, mse = (np.diag(m) for m in (pilot.draw_squares, pilot.image_squares, pilot.rest_squares))
    z = stats.norm.ppf(0.5 + TWO_LOOK_CONFIDENCE / 2)
    image_part = z**2 * np.maximum(msb - mse, 0) / (5 * 400)

    def expected(draws):
        return (
            stats.t.ppf(0.5 + TWO_LOOK_CONFIDENCE / 2, draws - 1) ** 2 * msa / (draws * 400) + image_part <= wanted**2
        )

    # Columns that no number of draws can help ask for none.
    helped = image_part <= wanted**2
    needed = next((draws for draws in range(5, 31) if expected(draws)[helped].all()), 30)
    found = second_look(pilot, wanted, 30)
    assert found.draws == needed
    assert found.expected.tolist() == expected(needed).tolist()


def test_quiet_draws_need_no_second_look():
    right = np.random.default_rng(0).random((2, 1, 2000)) < 0.7
    found = second_look(cross(np.repeat(right, 5, axis=1)), 0.03, 30)
    assert found.draws == 5
    assert found.expected.all()


@pytest.mark.parametrize("wanted", [0.01, 0.02, 0.05, 0.12, 0.3])
def test_on_the_images_of_the_first_look_the_second_design_is_the_second_look(wanted):
    pilot = cross(random_outcomes(3, 5, 400))
    columns = [components(pilot, unit) for unit in np.eye(len(pilot.means))]
    assert all(min(one.draws, one.images, one.rest) >= 0 for one in columns)
    look = second_look(pilot, wanted, 30)
    found = second_design(columns, wanted, draws=5, images=400, max_draws=30, max_images=400, step=100)
    assert (found.draws, found.images, found.expected) == (look.draws, 400, tuple(look.expected))


@pytest.mark.parametrize("found", CASES)
@pytest.mark.parametrize("wanted", [0.02, 0.03, 0.06])
def test_of_all_designs_that_reach_it_the_second_is_the_cheapest(found, wanted):
    best = second_design([found], wanted, draws=5, images=500, max_draws=60, max_images=10_000, step=500)
    reach = {
        (draws, images): half_width(found, draws, images, TWO_LOOK_CONFIDENCE) <= wanted
        for draws in range(5, 61)
        for images in range(500, 10_001, 500)
    }
    possible = [draws * images for (draws, images), enough in reach.items() if enough]
    assert best.expected == (bool(possible) and best.draws * best.images == min(possible),)
    # Where no draws are enough, all are taken, on images that leave half of the square to them.
    if not possible:
        assert best.draws == 60
        assert best.images <= 2 * stats.norm.ppf(0.98) ** 2 * found.images / wanted**2 + 500


def test_where_all_images_are_too_few_all_are_taken_but_no_draws_in_vain():
    found = second_design([CASES[0]], 0.01, draws=5, images=500, max_draws=30, max_images=2000, step=500)
    assert (found.draws, found.images, found.expected) == (5, 2000, (False,))
    quiet = Components(0.0, 0.001, 0.0)
    found = second_design([CASES[0], quiet], 0.01, draws=5, images=500, max_draws=30, max_images=2000, step=500)
    assert (found.draws, found.images, found.expected) == (5, 2000, (False, True))
