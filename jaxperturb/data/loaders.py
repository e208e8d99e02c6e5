"""Data sets made of what Python code yields in batches: PyTorch's and grain's loaders, generators, lists."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Num, Shaped

from jaxperturb.data.arrays import from_arrays
from jaxperturb.data.dataset import Dataset
from jaxperturb.errors import DataError

_IMAGE_KEYS, _LABEL_KEYS = ("image", "images", "x", "pixel_values"), ("label", "labels", "y")


def from_batches(
    batches: Any,
    classes: Sequence[str] | None = None,
    name: str = "batches",
    *,
    limit: int | None = None,
    channels_first: bool | None = None,
) -> Dataset:
    """Reads batches of images and labels once and keeps them in memory: a study takes them in an order of its own.

    Args:
        batches: an iterable of ``(images, labels)`` or of mappings with ``image`` and ``label``: arrays of NumPy,
            PyTorch or JAX, images (n, height, width, channels), uint8 from 0 to 255 or floats as the network takes
            them. It must not augment, and give the same order each time.
        classes: a name for each label; by default the numbers.
        name: of the set.
        limit: take only so many images, the first.
        channels_first: whether images are (n, channels, height, width); by default those in PyTorch's tensors are.

    Raises:
        DataError: a batch that is neither a pair nor such a mapping, images of different shapes, or what `from_arrays`
            refuses.
    """
    if limit is not None and limit < 1:
        raise DataError(f"limit must be at least 1, got {limit}")
    images: list[Num[np.ndarray, "n h w c"]] = []
    labels: list[Shaped[np.ndarray, " n"]] = []
    total = 0
    for number, batch in enumerate(_each(batches)):
        own_images, own_labels = _pair(batch, number)
        images.append(_channels_last(own_images, channels_first))
        labels.append(_as_array(own_labels))
        _check_batch(images, labels, number)
        total += len(images[-1])
        if limit is not None and total >= limit:
            break
    if not images:
        raise DataError("the loader yields no batches; give one that yields (images, labels)")
    return from_arrays(np.concatenate(images)[:limit], np.concatenate(labels)[:limit], classes, name)


def _each(batches: Any) -> Iterator[Any]:
    try:
        return iter(batches)
    except TypeError:
        raise DataError(f"expected an iterable of batches (images, labels), got {type(batches).__name__}") from None


def _pair(batch: Any, number: int) -> tuple[Any, Any]:
    if isinstance(batch, Mapping):
        images, labels = (next((k for k in keys if k in batch), None) for keys in (_IMAGE_KEYS, _LABEL_KEYS))
        if images is not None and labels is not None:
            return batch[images], batch[labels]
        raise DataError(f"batch {number} holds {', '.join(map(str, batch))}; expected image and label")
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    raise DataError(f"batch {number} is a {type(batch).__name__}, not a pair (images, labels) or a mapping of both")


def _channels_last(images: Any, channels_first: bool | None) -> Num[np.ndarray, "..."]:
    array = _as_array(images)
    first = _is_tensor(images) if channels_first is None else channels_first
    return np.moveaxis(array, 1, -1) if first and array.ndim == 4 else array


def _as_array(values: Any) -> Shaped[np.ndarray, "..."]:
    if _is_tensor(values):
        values = values.detach().cpu()
        # NumPy has no bfloat16.
        values = values.float().numpy() if values.is_floating_point() else values.numpy()
    try:
        return np.asarray(values)
    except ValueError:
        raise DataError("the images of a batch have different shapes; give them all one shape") from None


def _is_tensor(values: Any) -> bool:
    return type(values).__module__.partition(".")[0] == "torch"


def _check_batch(images: Sequence[np.ndarray], labels: Sequence[np.ndarray], number: int) -> None:
    if images[-1].ndim == 0 or labels[-1].ndim != 1 or len(images[-1]) != len(labels[-1]):
        shapes = f"{images[-1].shape} and {labels[-1].shape}"
        raise DataError(f"batch {number} holds arrays of shapes {shapes}; expected n images and n labels")
    if images[-1].shape[1:] != images[0].shape[1:] or images[-1].dtype != images[0].dtype:
        kinds = [f"{array.dtype} {array.shape[1:]}" for array in (images[-1], images[0])]
        raise DataError(f"batch {number} has images of {kinds[0]}, the first one of {kinds[1]}; give all one shape")
