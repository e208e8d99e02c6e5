"""The one interface of all data sets."""

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Int32, Num

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
        read: gives image i as (height, width, channels): uint8 from 0 to 255, or float32 that is used as it is. Raises
            ImageError for an image that cannot be read.
        digest: gives a SHA-256 of image i as it is stored, where that is quicker than decoding it; None otherwise.
            Raises ImageError, too.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    labels: Int32[np.ndarray, " n"]
    identifiers: tuple[str, ...]
    read: Callable[[int], Image]
    digest: Callable[[int], str] | None = None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)
