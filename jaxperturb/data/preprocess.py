"""How images become a network's inputs: torchvision's recipe on Pillow images, and a study's images in its order."""

import dataclasses
import functools
import hashlib

import numpy as np
from jaxtyping import Float32, Int32, Int64, Num, UInt8
from PIL import Image

from jaxperturb.data.dataset import Dataset
from jaxperturb.data.order import study_order as study_order
from jaxperturb.errors import DataError
from jaxperturb.networks.preprocessing import Preprocessing

LINK = 256


def to_pixels(image: UInt8[np.ndarray, "h w c"], preprocessing: Preprocessing) -> UInt8[np.ndarray, "h2 w2 c2"]:
    """Converts channels, resizes and crops, as torchvision does with a Pillow image.

    Args:
        image: (height, width, channels) with 1 channel (grey), 3 (RGB) or 4 (RGB and alpha, which is dropped).
        preprocessing: what to do.

    Returns:
        Pixels from 0 to 255, channels in the order that `preprocessing` names.

    Raises:
        DataError: another number of channels.
    """
    if image.shape[2] not in (1, 3, 4):
        raise DataError(f"an image has {image.shape[2]} channels; expected 1 (grey), 3 (RGB) or 4 (RGB and alpha)")
    picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    picture = picture.convert("L" if preprocessing.channels == "L" else "RGB")
    picture = _crop(_resize(picture, preprocessing), preprocessing.crop)
    pixels = np.asarray(picture).reshape(picture.height, picture.width, -1)
    return pixels[..., ::-1] if preprocessing.channels == "BGR" else pixels


def normalise(pixels: Num[np.ndarray, "*n h w c"], preprocessing: Preprocessing) -> Float32[np.ndarray, "*n h w c"]:
    """Returns ``(pixels * scale - mean) / std`` in float32."""
    mean, std = np.asarray(preprocessing.mean, np.float32), np.asarray(preprocessing.std, np.float32)
    return (pixels.astype(np.float32) * np.float32(preprocessing.scale) - mean) / std


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedImages:
    """The images of a study in its order, preprocessed when they are read.

    Attributes:
        labels: class numbers, shape (n,).
        identifiers: a name for each image.
        positions: where each image stands in the data set, shape (n,).
        image_shape: (height, width, channels) of every preprocessed image.
        classes: a name for each label.
        dataset: where they come from.
        preprocessing: what is done to them; None takes float images as they are.
    """

    labels: Int32[np.ndarray, " n"]
    identifiers: tuple[str, ...]
    positions: Int64[np.ndarray, " n"]
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    dataset: Dataset
    preprocessing: Preprocessing | None

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "m h w c"]:
        """Returns images start … stop-1 of the study's order, ready for the network.

        Raises:
            DataError: an image has another shape than the first.
        """
        images = [_input(self.dataset, int(p), self.preprocessing) for p in self.positions[start:stop]]
        for identifier, image in zip(self.identifiers[start:stop], images, strict=True):
            if image.shape != self.image_shape:
                raise DataError(
                    f"the image {identifier} has the shape {image.shape}, the first one {self.image_shape};"
                    " give all one shape, or a preprocessing with a crop"
                )
        if not images:
            return np.empty((0, *self.image_shape), np.float32)
        stacked = np.stack(images)
        return stacked if self.preprocessing is None else normalise(stacked, self.preprocessing)

    @functools.cached_property
    def chain(self) -> tuple[str, ...]:
        """A SHA-256 for each 256 images in study order, of their pixels, labels and identifiers and all hashes before.

        The last link reaches past the study's images to its full 256, or to the end of the set. So of two studies of
        one set, whatever their numbers of images, the shorter chain is the beginning of the longer one.
        """
        return image_chain(self.dataset, len(self))


def prepare(dataset: Dataset, preprocessing: Preprocessing | None, limit: int | None = None) -> PreparedImages:
    """Puts the images of a data set, or a first part of them, into study order.

    Args:
        dataset: labelled images.
        preprocessing: the network's; None for a network that takes float images as they are.
        limit: how many images, or None for all: a prefix of the fixed order, which keeps the classes' proportions.

    Raises:
        DataError: `limit` is below 1 or more than there are, or the kind of images does not fit the preprocessing.
    """
    count = len(dataset) if limit is None else _checked_limit(dataset, limit)
    positions = study_order(dataset.labels)[:count]
    first = _input(dataset, int(positions[0]), preprocessing)
    return PreparedImages(
        labels=dataset.labels[positions],
        identifiers=tuple(dataset.identifiers[p] for p in positions),
        positions=positions,
        image_shape=(first.shape[0], first.shape[1], first.shape[2]),
        classes=dataset.classes,
        dataset=dataset,
        preprocessing=preprocessing,
    )


def image_chain(dataset: Dataset, count: int) -> tuple[str, ...]:
    """Returns the hashes of `PreparedImages.chain` for the first `count` images in study order."""
    order = study_order(dataset.labels)
    links: list[str] = []
    for start in range(0, count, LINK):
        links.append(_link(dataset, order[start : start + LINK], links[-1] if links else ""))
    return tuple(links)


def split_fingerprint(dataset: Dataset) -> str:
    """Returns a SHA-256 of all images of a data set with their labels and identifiers, before any preprocessing."""
    return image_chain(dataset, len(dataset))[-1]


def _checked_limit(dataset: Dataset, limit: int) -> int:
    if limit < 1:
        raise DataError(f"the number of images must be at least 1, got {limit}")
    if limit > len(dataset):
        where = f"{dataset.name} {dataset.split}".strip()
        raise DataError(f"{limit} images were asked for, but {where} has {len(dataset)}")
    return limit


def _input(dataset: Dataset, position: int, preprocessing: Preprocessing | None) -> Num[np.ndarray, "h w c"]:
    image = dataset.read(position)
    if (image.dtype == np.uint8) != (preprocessing is not None):
        raise DataError(_misfit(dataset, image.dtype))
    return image if preprocessing is None else to_pixels(image, preprocessing)


def _misfit(dataset: Dataset, dtype: np.dtype) -> str:
    if dtype == np.uint8:
        return (
            f"{dataset.name} has uint8 images, but the network says no preprocessing; give the network a Preprocessing,"
            " or float images that are its inputs"
        )
    return (
        f"{dataset.name} has {dtype} images, but the network preprocesses uint8 images from 0 to 255; give those,"
        " or set the network's preprocessing to None if the images are its inputs"
    )


def _resize(picture: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    resize = preprocessing.resize
    if resize is None:
        return picture
    if isinstance(resize, tuple):
        height, width = resize
    else:
        short, long = sorted(picture.size)
        other = int(resize * long / short)
        width, height = (resize, other) if picture.width <= picture.height else (other, resize)
    return picture.resize((width, height), Image.Resampling[preprocessing.interpolation.upper()])


def _crop(picture: Image.Image, side: int | None) -> Image.Image:
    if side is None:
        return picture
    left, top = (_offset(length, side) for length in picture.size)
    # Pillow fills what lies outside the picture with black, as torchvision's padding does.
    return picture.crop((left, top, left + side, top + side))


def _offset(length: int, side: int) -> int:
    # torchvision pads a smaller image first, the odd pixel after it; in a larger one it rounds halves to even.
    return -((side - length) // 2) if length < side else round((length - side) / 2)


def _link(dataset: Dataset, positions: Int64[np.ndarray, " m"], before: str) -> str:
    digest = hashlib.sha256(before.encode())
    for position in positions.tolist():
        image = np.ascontiguousarray(dataset.read(position))
        head = f"{image.dtype.name} {image.shape} {dataset.labels[position]} {dataset.identifiers[position]!r}"
        for part in (head.encode(), image.astype(image.dtype.newbyteorder("<"), copy=False).tobytes()):
            digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()
