"""Data sets made of arrays, from Python and from .npz files."""

from pathlib import Path

import numpy as np
import pytest

from jaxperturb.data import from_arrays, load_dataset
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


COLOUR = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)


def saved(path: Path, **arrays: object) -> str:
    np.savez_compressed(path / "mine.npz", **arrays)
    return f"npz:{path / 'mine.npz'}"


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("arr_0", "arr_1")])
def test_an_npz_file_is_its_arrays(tmp_path: Path, names):
    data = load_dataset(saved(tmp_path, **dict(zip(names, (COLOUR, [1, 0, 2, 1]), strict=True))))
    assert (data.name, data.split, data.classes) == ("mine", "", ("0", "1", "2"))
    assert data.labels.tolist() == [1, 0, 2, 1]
    np.testing.assert_array_equal(data.read(2), COLOUR[2])


def test_an_npz_file_may_name_its_classes_and_hold_splits(tmp_path: Path):
    arrays = {"x_train": COLOUR, "y_train": [0, 1, 0, 1], "x_test": COLOUR[:2] / 2, "y_test": [1, 0]}
    name = saved(tmp_path, **arrays, classes=["cat", "dog"])
    test, train = load_dataset(name), load_dataset(name, "train")
    assert (test.split, len(test), train.split, len(train)) == ("test", 2, "train", 4)
    assert test.classes == ("cat", "dog")
    np.testing.assert_array_equal(test.read(1), (COLOUR[1] / 2).astype(np.float32))


class Boom:
    """What runs code when it is unpickled."""

    def __reduce__(self):
        return (Path("pwned").touch, ())


@pytest.mark.parametrize(
    ("arrays", "split", "message"),
    [
        ({"a": COLOUR, "b": [0]}, None, "it holds a, b; expected arrays called images and labels, or x and y"),
        ({"images": COLOUR, "labels": [0] * 4}, "val", "expected arrays called images_val and labels_val"),
        ({"images": COLOUR, "labels": [0, 1]}, None, "there are 4 images but 2 labels"),
        ({"images": COLOUR, "labels": [0, 1, -1, 0]}, None, "label -1 of image 2 is out of range"),
        ({"images": COLOUR, "labels": [0, 1, 2, 0], "classes": ["a", "b"]}, None, "label 2 of image 2 is out of range"),
        ({"images": COLOUR[:0], "labels": np.zeros(0, int)}, None, "there are no images"),
        ({"images": COLOUR, "labels": np.eye(4)}, None, "labels must have the shape"),
    ],
)
def test_an_npz_file_that_does_not_fit_is_one_line(tmp_path: Path, arrays, split, message):
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(saved(tmp_path, **arrays), split)
    assert "mine.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("thing", [Boom(), np.zeros((2, 2, 3))])
def test_objects_in_an_npz_file_are_never_unpickled(tmp_path: Path, thing: object):
    images = np.array([thing, None], object)  # also what images of different shapes become
    with pytest.raises(DataError, match="holds Python objects, which are never unpickled"):
        load_dataset(saved(tmp_path, images=images, labels=[0, 1]))
    assert not Path("pwned").exists()


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04nonsense", b"no zip"])
def test_a_damaged_npz_file_is_one_line(tmp_path: Path, damage: bytes):
    (tmp_path / "mine.npz").write_bytes(damage)
    with pytest.raises(DataError, match=r"mine\.npz .*not an \.npz file") as caught:
        load_dataset(f"npz:{tmp_path}/mine.npz")
    assert "\n" not in str(caught.value)


def test_a_truncated_npz_file_is_one_line(tmp_path: Path):
    name = saved(tmp_path, images=COLOUR, labels=[0, 1, 2, 0])
    content = (tmp_path / "mine.npz").read_bytes()
    for cut in (len(content) // 3, len(content) - 30):
        (tmp_path / "mine.npz").write_bytes(content[:cut])
        with pytest.raises(DataError, match="is damaged"):
            load_dataset(name)


def test_places_that_do_not_hold_arrays_are_said(tmp_path: Path):
    np.save(tmp_path / "one.npy", COLOUR)
    with pytest.raises(DataError, match="it holds one array"):
        load_dataset(f"npz:{tmp_path}/one.npy")
    with pytest.raises(DataError, match="there is no file"):
        load_dataset(f"npz:{tmp_path}/none.npz")
    with pytest.raises(DataError, match="expected npz:PATH, got 'npz:'"):
        load_dataset("npz:")
    with pytest.raises(DataError, match="names its place itself; leave out data_dir"):
        load_dataset(f"npz:{tmp_path}/none.npz", data_dir="/data")
    with pytest.raises(DataError, match="leave out labels_file .*which is for folder:PATH"):
        load_dataset(f"npz:{tmp_path}/none.npz", labels_file="val.txt")
