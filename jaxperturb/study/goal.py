"""What a study that chooses its own draws and images wants, and what it has chosen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

OF = ("accuracy", "relative")
MAX_DRAWS = 20
IMAGE_STEP = 512  # images of the first look, and of each block that the second one adds


@dataclass(frozen=True)
class Goal:
    """A wanted precision, and the limits within which a study may choose its draws and images.

    Attributes:
        half_width: of the 95 % interval of each level, in (0, 1).
        of: "accuracy", or "relative" for that relative to the reference network's.
        metric: of that accuracy.
        draws: of the first look.
        max_draws: not more draws.
        images: not more images.
    """

    half_width: float
    of: str
    metric: str
    draws: int
    max_draws: int
    images: int

    @property
    def first_images(self) -> int:
        """Images of the first look."""
        return min(IMAGE_STEP, self.images)


@dataclass(frozen=True)
class Look:
    """How many draws and images a curve gets, as its first look asked for; never changed once it is recorded.

    Attributes:
        perturbation: its text.
        target: what is lesioned.
        draws: in all.
        images: in all.
        expected: how many of its levels were expected to get the wanted half-width.
    """

    perturbation: str
    target: str
    draws: int
    images: int
    expected: int


def goal_of(fields: Mapping[str, Any] | None) -> Goal | None:
    """Returns the goal of a study's record, None where that has none."""
    return None if fields is None else Goal(**fields)


def looks_of(rows: Sequence[Mapping[str, Any]]) -> tuple[Look, ...]:
    """Returns the looks of a study's record."""
    return tuple(Look(**row) for row in rows)


def joined_looks(first: Sequence[Look], then: Sequence[Look]) -> tuple[Look, ...]:
    """Returns the looks of two records of one goal; where both decided on a curve, the first holds."""
    found = {(look.perturbation, look.target): look for look in (*then, *first)}
    return tuple(found[key] for key in sorted(found))


def range_text(numbers: Sequence[int]) -> str:
    """Returns ``"512"``, or ``"512 to 1,536"`` where they differ."""
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
