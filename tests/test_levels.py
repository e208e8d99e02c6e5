"""Levels are exact decimals: what a person writes, not what a float makes of it."""

from decimal import Decimal
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxperturb.errors import LevelError
from jaxperturb.levels import (
    as_level,
    check_range,
    count_of,
    format_level,
    parse_level_flag,
    parse_levels,
    traced_count_of,
)


@pytest.mark.parametrize(
    "value", [0.7, "0.7", "7e-1", Decimal("0.70"), np.float32(0.7), np.float64(0.7), np.float16(0.7)]
)
def test_a_level_is_what_is_written(value):
    assert as_level(value) == Decimal("0.7")
    assert format_level(as_level(value)) == "0.7"


def test_sums_of_floats_are_the_decimals_they_mean():
    assert [as_level(x) for x in np.arange(0, 1.05, 0.1)] == [Decimal(i) / 10 for i in range(11)]


@pytest.mark.parametrize("value", ["", "x", "nan", float("inf"), -0.1, "1e-13", 1e-13, "0.1234567890123", True, 1e31])
def test_what_is_no_level_is_refused(value):
    with pytest.raises(LevelError):
        as_level(value)


@given(st.integers(0, 10**12), st.integers(0, 2**32 - 1))
def test_counts_are_floors_of_exact_products(parts, n):
    assert count_of(Decimal(parts).scaleb(-12), n) == Fraction(parts, 10**12) * n // 1


def test_seven_tenths_of_ten_are_seven():
    assert count_of(as_level(0.7), 10) == 7
    assert int(0.7 * 10) == 7
    assert [count_of(as_level(0.29), 100), int(0.29 * 100)] == [29, 28]


@pytest.mark.parametrize("n", [1, 10, 999_999, 1_000_001, 9216 * 4096, 2**32 - 1])
def test_traced_fractions_count_like_exact_ones(n):
    millionths = np.arange(1_000_001)
    fractions = jnp.asarray(millionths / 1e6, jnp.float32)
    counts = jax.jit(jax.vmap(lambda fraction: traced_count_of(fraction, n)))(fractions)
    np.testing.assert_array_equal(np.asarray(counts, np.uint64), millionths.astype(np.uint64) * n // 10**6)


def test_traced_fractions_are_clipped():
    assert [int(traced_count_of(jnp.float32(x), 50)) for x in (-1.0, 2.0)] == [0, 50]


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("0.5", ["0.5"]),
        ("0:1:0.25", ["0", "0.25", "0.5", "0.75", "1"]),
        ("1e-8:1e-5:x10", ["1e-8", "1e-7", "1e-6", "1e-5"]),
        ("0, 0.1,0:0.2:0.1", ["0", "0.1", "0.2"]),
        ("0.3:0.3:0.1", ["0.3"]),
    ],
)
def test_grids(text, levels):
    assert parse_levels(text) == tuple(Decimal(level) for level in levels)


@pytest.mark.parametrize(
    "text",
    ["", ",", "0,,1", "0:1", "0:1:0.3", "0:1:0", "1:0:0.1", "0:1:x2", "1e-8:1e-4:x1", "0:1:1e-9", "a:b:c", "0:1:-0.1"],
)
def test_what_is_no_grid_is_refused(text):
    with pytest.raises(LevelError):
        parse_levels(text)


def test_grids_by_perturbation():
    grids = parse_level_flag("gaussian_noise=0:2:1;bit_flip=1e-8:1e-7:x10;0,1", ["gaussian_noise", "bit_flip", "x"])
    assert {name: [str(level) for level in grid] for name, grid in grids.items()} == {
        "gaussian_noise": ["0", "1", "2"],
        "bit_flip": ["1E-8", "1E-7"],
        "*": ["0", "1"],
    }
    with pytest.raises(LevelError, match="did you mean 'bit_flip'"):
        parse_level_flag("bit_flp=0", ["bit_flip"])
    with pytest.raises(LevelError, match="twice"):
        parse_level_flag("0,1;0,2", [])


def test_range():
    assert check_range(Decimal(2), Decimal(0), None, "noise") == 2
    with pytest.raises(LevelError, match="level 1.1 of a knockout is out of range: expected 0 to 1"):
        check_range(Decimal("1.1"), Decimal(0), Decimal(1), "a knockout")
