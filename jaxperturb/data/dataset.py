"""The one interface of all data sets, and data sets made of arrays."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from jaxtyping import Int, Int32, Num, Shaped

from jaxperturb.errors import DataError

Image = Num[np.ndarray, "h w c"]


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, read one at a time.

    Attributes:
        name: of the set, as in tables and file names.
        split: the part of it, or "" where there are none.
        classes: a name for each label.
        labels: class numbers, 0 … len(classes)-1, shape (n,).
        identifiers: a name for each image that stays the same wherever the set lies.
        read: gives image i as (height, width, channels): uint8 from 0 to 255, or float32 that is used as it is.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    identifiers: tuple[str, ...]
    read: Callable[[int], Image]

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)


def from_arrays(
    images: npt.ArrayLike, labels: npt.ArrayLike, classes: Sequence[str] | None = None, name: str = "arrays"
) -> Dataset:
    """Makes a data set of arrays, which are not copied.

    Args:
        images: (n, height, width, channels), or (n, height, width) for one channel: uint8 from 0 to 255, which the
            network's preprocessing turns into its inputs, or floats, which a network without preprocessing takes as
            they are.
        labels: whole numbers from 0, shape (n,).
        classes: a name for each label; by default the numbers.
        name: of the set.

    Raises:
        DataError: shapes or types do not fit, lengths differ, there is no image, or a label has no class.
    """
    pixels, numbers = _as_images(images), _as_labels(labels)
    if len(pixels) != len(numbers):
        raise DataError(f"there are {len(pixels)} images but {len(numbers)} labels; give one label for each image")
    if len(numbers) == 0:
        raise DataError("there are no images; give at least one")
    names = tuple(str(i) for i in range(int(numbers.max()) + 1)) if classes is None else tuple(classes)
    check_labels(numbers, len(names))
    return Dataset(
        name=name,
        split="",
        classes=names,
        labels=numbers.astype(np.int32),
        identifiers=tuple(f"{name}/{i}" for i in range(len(numbers))),
        read=lambda i: pixels[i] if pixels.dtype == np.uint8 else np.asarray(pixels[i], np.float32),
    )


def check_labels(labels: Int[np.ndarray, " n"], classes: int) -> None:
    """Refuses labels outside 0 … classes-1.

    Raises:
        DataError: naming the first such label.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= classes))
    if wrong.size:
        raise DataError(
            f"label {labels[wrong[0]]} of image {wrong[0]} is out of range: there are {classes} classes,"
            f" so labels go from 0 to {classes - 1}"
        )


def _as_images(images: npt.ArrayLike) -> Num[np.ndarray, "n h w c"]:
    array = _as_array(images, "images")
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"images must be uint8 (0 to 255) or floats, got {array.dtype}; convert them with .astype")
    if array.ndim not in (3, 4) or 0 in array.shape[1:]:
        raise DataError(f"images must have the shape (n, height, width, channels), got {array.shape}")
    return array[..., np.newaxis] if array.ndim == 3 else array


def _as_labels(labels: npt.ArrayLike) -> Int[np.ndarray, " n"]:
    array = _as_array(labels, "labels")
    if array.ndim != 1:
        raise DataError(f"labels must have the shape (n,), got {array.shape}")
    if not np.issubdtype(array.dtype, np.integer) and array.size:
        raise DataError(f"labels must be whole numbers, got {array.dtype}; convert them with .astype(int)")
    return array.astype(np.int64)


def _as_array(values: npt.ArrayLike, what: str) -> Shaped[np.ndarray, "..."]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise DataError(f"{what} have different shapes; give them all one shape") from None
    if array.dtype.hasobject:
        raise DataError(f"{what} hold Python objects, not numbers; give an array of numbers, all of one shape")
    return array
