"""The digits against scikit-learn's own arrays, and data sets by name."""

import numpy as np
import pytest
from sklearn.datasets import load_digits as sklearn_digits

from jaxperturb.data import datasets, load_dataset
from jaxperturb.errors import DataError


@pytest.mark.parametrize(("split", "count"), [("test", 500), ("train", 1297)])
def test_images_are_scikit_learn_s(split, count):
    data, original = load_dataset("digits", split), sklearn_digits()
    assert (len(data), data.split, data.classes) == (count, split, tuple("0123456789"))
    for i in range(0, count, 7):
        number = int(data.identifiers[i].removeprefix("digits/"))
        expected = original.images[number] * 255 / 16
        image = data.read(i)
        assert (image.shape, image.dtype) == ((8, 8, 1), np.uint8)
        assert np.abs(image[..., 0] - expected).max() <= 0.5
        assert data.labels[i] == original.target[number]


def test_splits_share_no_image_and_leave_none_out():
    test, train = load_dataset("digits", "test"), load_dataset("digits", "train")
    assert len({*test.identifiers, *train.identifiers}) == 1797


def test_splits_hold_the_classes_in_proportion():
    shares = np.bincount(sklearn_digits().target) / 1797
    counts = np.bincount(load_dataset("digits").labels)
    assert np.abs(counts - 500 * shares).max() < 1


def test_the_test_split_is_the_default():
    assert load_dataset("digits").identifiers == load_dataset("digits", "test").identifiers


def test_the_list_has_one_line_each():
    assert "digits" in datasets()
    assert all(line and "\n" not in line for line in datasets().values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("digit",), r"unknown data set 'digit'; did you mean 'digits'\?"),
        (("nothing",), r"unknown data set 'nothing' \(known: digits,"),
        (("digits", "tets"), r"digits has no split 'tets'; did you mean 'test'\?; it has test and train"),
        (("digits", ""), "digits has no split ''"),
        (("digits", "test", "/data"), r"leave out data_dir \(/data\)"),
    ],
)
def test_unknown_names_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        load_dataset(*arguments)
