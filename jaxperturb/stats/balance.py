"""How evenly a data set's images are spread over its classes, and what an accuracy is worth in the light of it."""

import math

import numpy as np
from jaxtyping import Bool, Int

STANDARD_ERRORS = 3
_MUCH = 1.25


def balanced_accuracy(right: Bool[np.ndarray, " n"], labels: Int[np.ndarray, " n"]) -> float:
    """Returns the mean over the classes that occur of the share of their images that are right.

    Args:
        right: whether each image is right.
        labels: class of each, n at least 1.
    """
    return float(np.sum(class_weights(labels) * right))


def class_weights(labels: Int[np.ndarray, " n"]) -> np.ndarray:
    """Returns a weight for each image, in all 1, such that the classes that occur weigh alike."""
    _, place, counts = np.unique(labels, return_inverse=True, return_counts=True)
    return 1 / (len(counts) * counts[place])


def commonest_share(labels: Int[np.ndarray, " n"], k: int = 1) -> float:
    """Returns the share of images that are of the k commonest classes: the accuracy of always answering these."""
    counts = np.sort(np.unique(labels, return_counts=True)[1])
    return float(counts[-k:].sum() / len(labels))


def is_unbalanced(labels: Int[np.ndarray, " n"]) -> bool:
    """Returns whether the commonest class has over a quarter more images than the mean of the classes that occur.

    One image more than the rarest is no lack of balance: so it is in a part of a balanced set. One class alone is.
    """
    counts = np.unique(labels, return_counts=True)[1]
    if len(counts) == 1:
        return len(labels) > 1
    return bool(counts.max() > _MUCH * counts.mean() and counts.max() - counts.min() > 1)


def is_near_chance(right: int, images: int, chance: float) -> bool:
    """Returns whether an accuracy is less than 3 standard errors above chance, or below it.

    Args:
        right: number of images that are right.
        images: number of images, at least 1.
        chance: accuracy of a network that says nothing.
    """
    return right / images < chance + STANDARD_ERRORS * math.sqrt(chance * (1 - chance) / images)
