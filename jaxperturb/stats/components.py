"""Outcomes of draws crossed with images, reduced to what every interval needs.

Two things are drawn at random in a study: the lesions, and the images out of all that could have been taken. Both
make an accuracy uncertain, and every draw sees every image. The mean squares of a two-way layout tell the two apart.
Columns are levels of one curve: they share their draws and their images, so any weighted sum of columns has its
mean squares from three small matrices, w'Mw.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

_CHUNK = 1 << 21  # outcomes that are turned into float32 at a time; their counts stay exact below 2**24


@dataclass(frozen=True, eq=False)
class Crossed:
    """Columns of outcomes on the same draws and images.

    Attributes:
        means: of each column, over draws and images.
        by_draw: mean of each column and draw.
        by_image: mean of each column and image, over draws.
        draw_squares: mean products between draws; zero where there is one draw.
        image_squares: mean products between images; zero where there is one image.
        rest_squares: mean products of what neither explains; zero where there is one draw.
    """

    means: Float[np.ndarray, " k"]
    by_draw: Float[np.ndarray, "k d"]
    by_image: Float[np.ndarray, "k i"]
    draw_squares: Float[np.ndarray, "k k"]
    image_squares: Float[np.ndarray, "k k"]
    rest_squares: Float[np.ndarray, "k k"]

    @property
    def draws(self) -> int:
        """Number of draws."""
        return self.by_draw.shape[1]

    @property
    def images(self) -> int:
        """Number of images."""
        return self.by_image.shape[1]


@dataclass(frozen=True, eq=False)
class Spread:
    """How uncertain weighted sums of columns are, as variances of their estimates.

    Attributes:
        draws: variance by the draws (what they share with the images included), on `draws - 1` degrees of freedom.
        images: variance by the images alone.
        draw_freedom: degrees of freedom of the first.
        image_freedom: degrees of freedom of the second.
    """

    draws: Float[np.ndarray, "..."]
    images: Float[np.ndarray, "..."]
    draw_freedom: int
    image_freedom: int


@dataclass(frozen=True)
class Components:
    """Variance components of one outcome: of draws, of images, and of the rest. Unbiased, so they may be below zero."""

    draws: float
    images: float
    rest: float


def cross(outcomes: Bool[np.ndarray, "k d i"], weights: Float[np.ndarray, " i"] | None = None) -> Crossed:
    """Reduces outcomes to means and mean products.

    Args:
        outcomes: of K columns on D draws and I images, at least one of each. A column in which all draws coincide
            is repeated over the draws.
        weights: what each image counts, 1 in the mean; None for alike.
    """
    return _cross(outcomes if weights is None else outcomes * weights)


def _cross(outcomes: np.ndarray) -> Crossed:
    columns, draws, images = outcomes.shape
    rows = outcomes.mean(axis=2, dtype=np.float64)
    by_image = outcomes.mean(axis=1, dtype=np.float64)
    means = rows.mean(axis=1)
    row_part, image_part = rows - means[:, None], by_image - means[:, None]
    between_draws = images * row_part @ row_part.T
    between_images = draws * image_part @ image_part.T
    total = _products(outcomes) - draws * images * np.outer(means, means)
    rest = total - between_draws - between_images
    return Crossed(
        means,
        rows,
        by_image,
        between_draws / (draws - 1) if draws > 1 else np.zeros((columns, columns)),
        between_images / (images - 1) if images > 1 else np.zeros((columns, columns)),
        rest / ((draws - 1) * (images - 1)) if draws > 1 and images > 1 else np.zeros((columns, columns)),
    )


def select_columns(crossed: Crossed, columns: Sequence[int]) -> Crossed:
    """Returns some of the columns."""
    some = np.asarray(columns, np.intp)
    square = np.ix_(some, some)
    return Crossed(
        crossed.means[some],
        crossed.by_draw[some],
        crossed.by_image[some],
        crossed.draw_squares[square],
        crossed.image_squares[square],
        crossed.rest_squares[square],
    )


def spread(crossed: Crossed, weights: Float[np.ndarray, "... k"]) -> Spread:
    """Returns the variances of weighted sums of columns.

    The draws' part is ``w'Aw / DI``, the images' ``max(w'Bw - w'Ew, 0) / DI`` with the mean products between draws,
    between images and of the rest: their sum is never below the unbiased variance of a crossed design (Gallas,
    Pennello and Myers 2007).
    """
    n = crossed.draws * crossed.images
    draws, rest = _form(weights, crossed.draw_squares), _form(weights, crossed.rest_squares)
    if crossed.images > 1:
        images = np.maximum(_form(weights, crossed.image_squares) - rest, 0) / n
    else:  # nothing is known of other images, unless the sum does not hang on them
        images = np.where(np.any(weights != 0, axis=-1), np.inf, 0.0)
    return Spread(np.asarray(np.maximum(draws, 0) / n), np.asarray(images), crossed.draws - 1, crossed.images - 1)


def components(crossed: Crossed, weights: Float[np.ndarray, " k"]) -> Components:
    """Returns the variance components of a weighted sum of columns.

    With one draw all that is not by images counts as theirs, and with one image as the draws'.
    """
    squares = (crossed.draw_squares, crossed.image_squares, crossed.rest_squares)
    draws, images, rest = (float(_form(weights, one)) for one in squares)
    return Components((draws - rest) / crossed.images, (images - rest) / crossed.draws, rest)


def _form(weights: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    return np.asarray(((weights @ matrix) * weights).sum(axis=-1))


def _products(outcomes: np.ndarray) -> np.ndarray:
    """Returns for each two columns the number of outcomes in which both are right."""
    columns, draws, images = outcomes.shape
    step = max(1, _CHUNK // draws)
    total = np.zeros((columns, columns))
    for start in range(0, images, step):
        some = outcomes[:, :, start : start + step].reshape(columns, -1).astype(np.float32)
        total += some @ some.T
    return total
