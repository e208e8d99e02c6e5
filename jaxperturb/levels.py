"""Levels of damage: exact decimals, grids of them, and how many entries a fraction means."""

import math
import re
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from numbers import Integral, Real

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt32

from jaxperturb.errors import LevelError, did_you_mean
from jaxperturb.types import AnyArray

PLACES = 12
MAX_LEVELS = 10_000

# Wide enough for 12 places times a count below 2**32, and for any grid's arithmetic.
_EXACT = Context(prec=60)
_SMALLEST = Decimal(1).scaleb(-PLACES)
_HALF = Decimal("0.5")

LevelLike = int | float | str | Decimal | Real


def as_level(value: LevelLike) -> Decimal:
    """Returns a level as an exact decimal of at most 12 places.

    A float stands for its shortest text (0.7 is 0.7, not 0.69999...), of any NumPy width, rounded to 12 places, so
    that ``0.1 + 0.2`` is 0.3.

    Raises:
        LevelError: not a finite number, negative, a text of more than 12 places, or so small that 12 places
            would make it 0.
    """
    decimal = _decimal(value)
    if not decimal.is_finite():
        raise LevelError(f"expected a finite number as a level, got {value!r}")
    if decimal < 0:
        raise LevelError(f"expected a level of 0 or more, got {value}")
    if decimal >= Decimal(10) ** 30:
        raise LevelError(f"expected a level below 1e30, got {value}")
    rounded = decimal.quantize(_SMALLEST, rounding=ROUND_HALF_EVEN, context=_EXACT)
    if decimal and not rounded:
        raise LevelError(f"level {value} has more than {PLACES} decimal places, and is not 0: use at least 1e-{PLACES}")
    if rounded != decimal and not _is_binary(value):
        raise LevelError(f"level {value} has more than {PLACES} decimal places; shorten it")
    return _normal(rounded)


def format_level(level: Decimal) -> str:
    """Returns the one text of a level, without an exponent: ``"0.7"``, ``"0"``, ``"0.0000001"``."""
    return format(_normal(level), "f")


def parse_levels(text: str) -> tuple[Decimal, ...]:
    """Reads a grid: ``"0,0.5,1"``, ``"0:1:0.1"`` (both ends), ``"1e-8:1e-4:x10"`` (factors), and lists of these.

    Returns:
        The levels in the order given, without repetitions.

    Raises:
        LevelError: an empty grid, a number that cannot be read, or a step that does not lead from start to end.
    """
    items = [item.strip() for item in str(text).split(",")]
    if not any(items):
        raise LevelError("expected levels such as 0.1,0.5 or 0:1:0.1, got none")
    levels = [level for item in items for level in _parse_item(item, text)]
    return tuple(dict.fromkeys(levels))


def parse_level_flag(text: str, names: Sequence[str]) -> dict[str, tuple[Decimal, ...]]:
    """Reads levels for all perturbations, or for each by name.

    Args:
        text: one grid (``"0:1:0.1"``), or ``"gaussian_noise=0:2:0.2;bit_flip=1e-8:1e-4:x10"``.
        names: the perturbations of the study, as their names without options.

    Returns:
        A grid for each name given; the key ``"*"`` stands for all others.

    Raises:
        LevelError: a grid that cannot be read, or one for a perturbation that is not in the study.
    """
    grids: dict[str, tuple[Decimal, ...]] = {}
    for item in filter(None, (part.strip() for part in text.split(";"))):
        name, equals, grid = item.partition("=")
        name = name.strip() if equals else "*"
        if name in grids:
            raise LevelError(f"levels are given twice for {name!r}")
        if name != "*" and name not in names:
            raise LevelError(
                f"levels are given for {name!r}, which is not in the study ({', '.join(names)})"
                + did_you_mean(name, names)
            )
        grids[name] = parse_levels(grid if equals else item)
    if not grids:
        raise LevelError("expected levels such as 0.1,0.5 or 0:1:0.1, got none")
    return grids


def count_of(level: Decimal, n: int) -> int:
    """Returns floor(level * n), exactly: how many of n entries a fraction selects.

    Args:
        level: fraction in [0, 1].
        n: number of entries, below 2**32.
    """
    return int(_EXACT.multiply(level, Decimal(n)).to_integral_value(rounding="ROUND_FLOOR", context=_EXACT))


def traced_count_of(fraction: Float[AnyArray, ""], n: int | UInt32[AnyArray, ""]) -> UInt32[AnyArray, ""]:
    """Returns floor(fraction * n) for a traced float32 fraction, rounded to millionths and clipped to [0, 1].

    In 32-bit arithmetic, and equal to `count_of` for each of the 1,000,001 fractions.

    Args:
        fraction: float32 scalar.
        n: number of entries, below 2**32; may be traced.
    """
    million = 1_000_000
    m = jnp.round(jnp.clip(fraction, 0.0, 1.0) * million).astype(jnp.uint32)
    n = jnp.asarray(n, jnp.uint32)
    quotient, remainder = n // million, n % million
    # floor(m * remainder / 10**6) from halves of three digits, each product below 2**32.
    high, low = m // 1000, m % 1000
    r_high, r_low = remainder // 1000, remainder % 1000
    cross = (high * r_low + low * r_high) * 1000 + low * r_low
    return m * quotient + high * r_high + cross // million


def binomial_count(rate: Decimal, n: int, place: float) -> int:
    """Returns the Binomial(n, rate) quantile of a uniform number: how many of n entries a rate selects in one draw.

    The mean over draws is n * rate, however small the rate, and for one place the count never falls as the rate grows.

    Args:
        rate: probability of each entry, in [0, 1].
        n: number of entries, below 2**32.
        place: uniform number in (0, 1); a higher one gives no more entries.
    """
    from scipy.special import betainc

    if rate in (0, 1):
        return n * int(rate)
    low, high = 0, n
    while low < high:
        k = (low + high) // 2
        # P(X > k) <= place. Where the rate is near 1, its distance from 1 is what is exact.
        if rate <= _HALF:
            enough = betainc(k + 1, n - k, float(rate)) <= place
        else:
            enough = betainc(n - k, k + 1, float(1 - rate)) >= 1 - place
        low, high = (low, k) if enough else (k + 1, high)
    return low


def check_range(level: Decimal, low: Decimal, high: Decimal | None, what: str) -> Decimal:
    """Returns the level if it lies in [low, high], and raises `LevelError` naming `what` otherwise."""
    if level < low or (high is not None and level > high):
        upper = "infinity" if high is None else format_level(high)
        raise LevelError(
            f"level {format_level(level)} of {what} is out of range: expected {format_level(low)} to {upper}"
        )
    return level


def _decimal(value: LevelLike) -> Decimal:
    if isinstance(value, bool | np.bool_) or not isinstance(value, str | Decimal | Real):
        raise LevelError(f"expected a number as a level, got {value!r}")
    if isinstance(value, Decimal):
        return value
    if isinstance(value, Integral):
        return Decimal(int(value))
    if isinstance(value, str):
        text = value.strip()
    else:
        text = np.format_float_scientific(value if isinstance(value, np.floating) else float(value), unique=True)
    try:
        return Decimal(text)
    except InvalidOperation:
        raise LevelError(f"expected a number as a level, got {value!r}") from None


def _is_binary(value: LevelLike) -> bool:
    return isinstance(value, Real) and not isinstance(value, Integral)


def _normal(level: Decimal) -> Decimal:
    return level.normalize(_EXACT) if level else Decimal(0)


def _parse_item(item: str, text: str) -> list[Decimal]:
    if not item:
        raise LevelError(f"expected numbers between the commas of the levels, got {text!r}")
    parts = [part.strip() for part in item.split(":")]
    if len(parts) == 1:
        return [as_level(item)]
    if len(parts) != 3:
        raise LevelError(f"expected START:END:STEP or START:END:xFACTOR as levels, got {item!r}")
    start, end = as_level(parts[0]), as_level(parts[1])
    factor = re.fullmatch(r"x\s*(.+)", parts[2])
    levels = (
        _geometric(start, end, as_level(factor[1]), item) if factor else _linear(start, end, as_level(parts[2]), item)
    )
    if levels[-1] != end:
        last = format_level(levels[-1])
        raise LevelError(f"the levels {item!r} do not end at {format_level(end)} but at {last}; change the step")
    return levels


def _linear(start: Decimal, end: Decimal, step: Decimal, item: str) -> list[Decimal]:
    if not step or end < start:
        raise LevelError(f"expected levels START:END:STEP with a step above 0 and END not below START, got {item!r}")
    steps = math.floor((end - start) / step)
    if steps >= MAX_LEVELS:
        raise LevelError(f"the levels {item!r} are {steps + 1}; at most {MAX_LEVELS} are accepted")
    return [_normal(start + i * step) for i in range(steps + 1)]


def _geometric(start: Decimal, end: Decimal, factor: Decimal, item: str) -> list[Decimal]:
    if factor <= 1 or not start or end < start:
        raise LevelError(f"expected levels START:END:xFACTOR with START above 0 and a factor above 1, got {item!r}")
    levels = [start]
    while (after := _EXACT.multiply(levels[-1], factor)) <= end:
        if len(levels) >= MAX_LEVELS:
            raise LevelError(f"the levels {item!r} are more than {MAX_LEVELS}")
        levels.append(as_level(after))
    return levels
