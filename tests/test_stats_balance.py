"""Balance of classes: closed forms, and scikit-learn's balanced accuracy."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from jaxperturb.stats.balance import balanced_accuracy, commonest_share, is_near_chance, is_unbalanced


def test_balanced_accuracy_is_scikit_learn_s():
    rng = np.random.default_rng(0)
    truth = rng.choice([0, 3, 7, 9], 500, p=[0.7, 0.2, 0.05, 0.05])
    answers = np.where(rng.random(500) < 0.6, truth, 0)
    assert balanced_accuracy(answers == truth, truth) == pytest.approx(balanced_accuracy_score(truth, answers))


def test_always_the_commonest_class_is_worth_one_class():
    labels = np.repeat([2, 5, 6], [90, 8, 2])
    assert balanced_accuracy(labels == 2, labels) == pytest.approx(1 / 3)
    assert commonest_share(labels) == 0.9
    assert commonest_share(labels, 2) == pytest.approx(0.98)
    assert commonest_share(labels, 5) == 1


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ([50, 50, 50], False),
        ([51, 50, 49], False),
        ([2, 1, 1, 1], False),  # a part of a balanced set
        ([60, 50, 40], False),
        ([70, 40, 40], True),
        ([30, 1], True),
        ([30], True),
        ([1], False),
    ],
)
def test_what_counts_as_unbalanced(counts: list[int], expected: bool):
    assert is_unbalanced(np.repeat(np.arange(len(counts)), counts)) is expected


@pytest.mark.parametrize(
    ("right", "images", "chance", "expected"),
    [
        (50, 500, 0.1, True),
        (10, 500, 0.1, True),  # far below: labels in another order
        (70, 500, 0.1, True),  # 0.1 + 3 * 0.0134 = 0.1402
        (71, 500, 0.1, False),
        (1, 1, 0.001, False),
        (0, 100, 0.001, True),
    ],
)
def test_near_chance_is_within_three_standard_errors(right: int, images: int, chance: float, expected: bool):
    assert is_near_chance(right, images, chance) is expected
