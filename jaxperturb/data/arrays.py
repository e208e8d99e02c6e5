"""Data sets made of arrays: from Python, or from an .npz file."""

import dataclasses
import functools
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jaxtyping import Int, Num, Shaped

from jaxperturb.data.dataset import Dataset
from jaxperturb.errors import DataError

_NAMES = (("images", "labels"), ("x", "y"), ("arr_0", "arr_1"))
_CLASSES = "classes"
_DEFAULT_SPLITS = ("", "test", "val", "validation")


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
        read=functools.partial(_read_row, pixels),
    )


def load_npz(path: str | Path, split: str | None = None) -> Dataset:
    """Returns the arrays of an .npz file as a data set; objects in it are never unpickled.

    Images are called images, x or arr_0, labels labels, y or arr_1; those of a split have its name behind
    (``x_test``). An array of texts called classes names the classes.

    Args:
        path: of the file.
        split: such as "test"; by default the arrays without a split's name, else those for testing.

    Raises:
        DataError: it is missing or damaged, or does not hold such arrays.
    """
    path = Path(path).expanduser()
    try:
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, np.lib.npyio.NpzFile):
                raise DataError("it holds one array; save images and labels by numpy.savez")
            images, labels, found = _find_arrays(arrays.files, split)
            classes = [str(name) for name in arrays[_CLASSES]] if _CLASSES in arrays.files else None
            dataset = from_arrays(arrays[images], arrays[labels], classes, path.stem)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    except (OSError, ValueError, EOFError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} {_why(error)}") from error
    return dataclasses.replace(dataset, split=found)


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


def _find_arrays(names: Sequence[str], split: str | None) -> tuple[str, str, str]:
    """The names of images and labels, and of their split."""
    for part in _DEFAULT_SPLITS if split is None else (split,):
        for pair in _NAMES:
            images, labels = (f"{name}_{part}" if part else name for name in pair)
            if images in names and labels in names:
                return images, labels, part
    wanted = "images and labels, or x and y" if split is None else f"images_{split} and labels_{split}, or x and y"
    raise DataError(f"it holds {', '.join(names) or 'nothing'}; expected arrays called {wanted}")


def _why(error: Exception) -> str:
    if "allow_pickle" in str(error):
        return (
            "holds Python objects, which are never unpickled: save arrays of numbers (images of different shapes make"
            " objects), or text that is not an .npz file"
        )
    return f"is damaged or not an .npz file ({' '.join(str(error).split()) or type(error).__name__})"


def _read_row(pixels: Num[np.ndarray, "n h w c"], i: int) -> Num[np.ndarray, "h w c"]:
    return pixels[i] if pixels.dtype == np.uint8 else np.asarray(pixels[i], np.float32)


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
