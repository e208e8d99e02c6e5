"""Scikit-learn's 1,797 handwritten digits, 8×8 pixels, which come with the library: no download."""

import functools

import numpy as np
from jaxtyping import Int32, UInt8

from jaxperturb.data.dataset import Dataset
from jaxperturb.data.order import study_order
from jaxperturb.errors import DataError, did_you_mean

SPLITS = ("test", "train")
TEST_IMAGES = 500


def load_digits(split: str | None = None) -> Dataset:
    """Returns the digits as uint8 images (8, 8, 1).

    The split is fixed: the test images are the first 500 of all in study order, so both parts hold the classes in
    proportion. An image's identifier is its number in scikit-learn's set.

    Args:
        split: "test" (500 images, the default) or "train" (the other 1,297).

    Raises:
        DataError: an unknown split.
    """
    split = SPLITS[0] if split is None else split
    if split not in SPLITS:
        raise DataError(f"digits has no split {split!r}{did_you_mean(split, SPLITS)}; it has {' and '.join(SPLITS)}")
    images, labels = _arrays()
    order = study_order(labels)
    chosen = np.sort(order[:TEST_IMAGES] if split == "test" else order[TEST_IMAGES:])
    return Dataset(
        name="digits",
        split=split,
        classes=tuple(str(digit) for digit in range(10)),
        labels=labels[chosen],
        identifiers=tuple(f"digits/{i}" for i in chosen.tolist()),
        read=lambda i: images[chosen[i]],
    )


@functools.cache
def _arrays() -> tuple[UInt8[np.ndarray, "n 8 8 1"], Int32[np.ndarray, " n"]]:
    from sklearn import datasets

    bunch = datasets.load_digits()
    # Their greys go from 0 to 16.
    images = np.round(np.asarray(bunch["images"]) * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    labels = np.asarray(bunch["target"], np.int32)
    images.flags.writeable = labels.flags.writeable = False
    return images, labels
