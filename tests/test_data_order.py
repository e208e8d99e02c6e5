"""The study order: a permutation whose prefixes hold the classes in proportion."""

import numpy as np
import pytest

from jaxperturb.data.order import study_order

SETS = {
    "balanced": np.repeat(np.arange(10), 50),
    "shuffled": np.random.default_rng(0).integers(0, 7, 500),
    "one class": np.zeros(20, np.int32),
    "one image": np.array([3]),
    "rare classes": np.concatenate([np.zeros(300, int), np.arange(1, 301)]),
    "unbalanced": np.repeat(np.arange(5), [1, 3, 17, 200, 1000]),
    "numbers with gaps": np.repeat([2, 900, 7], [4, 40, 400]),
}


@pytest.mark.parametrize("name", SETS)
def test_every_prefix_is_within_one_image_of_the_proportion(name):
    labels = SETS[name]
    order = study_order(labels)
    assert sorted(order.tolist()) == list(range(len(labels)))
    sizes = np.arange(1, len(labels) + 1)
    for label in np.unique(labels):
        here = np.cumsum(labels[order] == label)
        assert np.abs(here - sizes * (labels == label).mean()).max() < 1


def test_blocks_of_a_balanced_set_hold_each_class_once():
    labels = SETS["balanced"]
    for block in labels[study_order(labels)].reshape(-1, 10):
        assert sorted(block.tolist()) == list(range(10))


def test_the_order_depends_on_nothing_but_the_labels():
    labels = SETS["shuffled"]
    expected = study_order(labels)
    np.random.seed(1)  # the global state must not matter
    for dtype in (np.int8, np.int32, np.int16, np.int64):
        np.testing.assert_array_equal(study_order(labels.astype(dtype)), expected)


def test_within_a_class_the_order_is_unrelated_to_the_set_s():
    order = study_order(np.zeros(2000, np.int32))
    assert abs(np.corrcoef(order, np.arange(2000))[0, 1]) < 0.08
    assert 900 < (order[:1000] < 1000).sum() * 2 < 1100


def test_the_order_is_pinned():
    # Stored studies hang on it: another order would make them unreadable.
    assert study_order(np.repeat([0, 1, 2], [2, 3, 5])).tolist() == PINNED


PINNED = [7, 3, 6, 1, 9, 4, 5, 2, 0, 8]
