"""Data sets made of arrays."""

import numpy as np
import pytest

from jaxperturb.data import from_arrays
from jaxperturb.errors import DataError

GREY = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5)


def test_uint8_images_are_read_as_they_are():
    data = from_arrays(GREY[..., np.newaxis], [0, 2, 1], classes=["a", "b", "c"], name="mine")
    assert (data.name, data.split, data.classes, len(data)) == ("mine", "", ("a", "b", "c"), 3)
    assert data.labels.dtype == np.int32
    assert data.labels.tolist() == [0, 2, 1]
    assert len(set(data.identifiers)) == 3
    np.testing.assert_array_equal(data.read(1), GREY[1][..., np.newaxis])
    assert data.read(1).dtype == np.uint8


def test_grey_images_may_leave_their_channel_out():
    assert from_arrays(GREY, [0, 0, 0]).read(0).shape == (4, 5, 1)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_read_as_float32(dtype):
    image = from_arrays(GREY.astype(dtype) / 2, [0, 1, 0]).read(2)
    assert image.dtype == np.float32
    np.testing.assert_array_equal(image[..., 0], GREY[2].astype(np.float32) / 2)


def test_classes_are_numbered_by_default():
    assert from_arrays(GREY, np.array([0, 4, 1], np.uint8)).classes == ("0", "1", "2", "3", "4")


def test_images_are_not_copied():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    assert np.shares_memory(from_arrays(images, [0, 1]).read(0), images)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (GREY, [0, 1], "there are 3 images but 2 labels"),
        (GREY[:0], [], "there are no images"),
        (GREY[0], [0], r"images must have the shape \(n, height, width, channels\), got \(4, 5\)"),
        (GREY[:, :0], [0, 0, 0], "images must have the shape"),
        (GREY[None, None], [0], "images must have the shape"),
        (GREY.astype(np.int64), [0, 1, 2], "images must be uint8 .* or floats, got int64"),
        (GREY > 3, [0, 1, 2], "images must be uint8"),
        (GREY.astype(object), [0, 1, 2], "images hold Python objects"),
        ([np.zeros((2, 2)), np.zeros((3, 3))], [0, 1], "images have different shapes"),
        (GREY, [[0], [1], [2]], r"labels must have the shape \(n,\), got \(3, 1\)"),
        (GREY, [0.0, 1.0, 2.0], "labels must be whole numbers, got float64"),
        (GREY, ["a", "b", "c"], "labels must be whole numbers"),
        (GREY, np.array([0, 1, None], object), "labels hold Python objects"),
        (GREY, [0, -1, 2], "label -1 of image 1 is out of range"),
    ],
)
def test_what_does_not_fit_is_refused(images, labels, message):
    with pytest.raises(DataError, match=message) as caught:
        from_arrays(images, labels)
    assert "\n" not in str(caught.value)


def test_a_label_without_a_class_is_refused():
    with pytest.raises(DataError, match=r"label 2 of image 1 is out of range: there are 2 classes, so .* from 0 to 1"):
        from_arrays(GREY, [0, 2, 1], classes=["a", "b"])
