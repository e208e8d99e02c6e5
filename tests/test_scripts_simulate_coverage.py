"""The generator of the coverage tables is what it says, and a small run of it comes out as the tables do."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxperturb.stats.components import cross

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "simulate_coverage.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("simulate_coverage", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulate_coverage"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["simulate_coverage"]


def sampled(script, p, sa, sb, shape):
    rng = np.random.Generator(np.random.SFC64(0))
    repetitions, draws, images = shape
    effects = script.normal(rng, sa, (repetitions, draws), script.mu_for(p, sa, sb))
    return script.outcomes(rng, effects, script.normal(rng, sb, (repetitions, images)))


def test_outcomes_have_the_moments_that_the_quadrature_says(script):
    p, sa, sb = 0.3, 0.7, 1.0
    right = sampled(script, p, sa, sb, (400, 30, 60))
    mean, by_draw, by_image, rest = script.moments(script.mu_for(p, sa, sb), sa, sb)
    assert mean == pytest.approx(p)
    assert right.mean() == pytest.approx(p, abs=0.01)
    squares = [crossed for one in right for crossed in [cross(one[None])]]
    rests = np.mean([one.rest_squares.item() for one in squares])
    assert rests == pytest.approx(rest, rel=0.05)
    assert np.mean([one.draw_squares.item() for one in squares]) - rests == pytest.approx(60 * by_draw, rel=0.1)
    assert np.mean([one.image_squares.item() for one in squares]) - rests == pytest.approx(30 * by_image, rel=0.1)


def test_mean_squares_of_many_are_the_librarys(script):
    right = sampled(script, 0.3, 0.5, 1.0, (5, 4, 50))
    rows, *squares = script.reduced(right)
    for place, one in enumerate(right):
        crossed = cross(one[None])
        np.testing.assert_allclose(rows[place], crossed.by_draw[0])
        expected = [m.item() for m in (crossed.draw_squares, crossed.image_squares, crossed.rest_squares)]
        np.testing.assert_allclose([part[place] for part in squares], expected, rtol=1e-9)


def test_a_small_run_covers_as_promised(script):
    # 16 settings of 150 repetitions: a mean is known to about half a point, a single one to two.
    rng = np.random.Generator(np.random.SFC64(3))
    rows = [row for row in script.simulate_cells(rng, 150, quick=True) if row["draws"] == 10]
    inside = [row["coverage"] for row in rows if row["domain"] == "inside"]
    assert 0.93 <= np.mean(inside) <= 0.97
    assert min(inside) >= 0.88
    assert np.median([row["width"] for row in rows]) <= 1.15


def test_reports_have_a_table_for_each_part(script):
    rng = np.random.Generator(np.random.SFC64(3))
    rows = list(script.simulate_looks(rng, 10, quick=True))
    lines = list(script.report_looks(rows))
    assert len(lines) == 2 + 8
    assert len({line.count("|") for line in lines}) == 1
    assert any("two looks" in line for line in script.verdicts({"looks": rows}))
