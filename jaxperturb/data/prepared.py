"""A study's images, in its order."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Int32, Int64, Num

from jaxperturb.data.dataset import Dataset
from jaxperturb.data.fingerprints import LINK, image_chain
from jaxperturb.data.labels import ClassMap
from jaxperturb.data.order import study_order
from jaxperturb.data.preprocess import normalise, to_pixels
from jaxperturb.errors import DataError, ImageError, did_you_mean
from jaxperturb.networks.preprocessing import Preprocessing

ON_BAD_IMAGE = ("raise", "skip")


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedImages:
    """The images of a study in its order, preprocessed when they are read.

    An image that cannot be read keeps its place. It is an error, or black, and told to `on_skip`, before anything is
    computed from its block.

    Attributes:
        labels: class numbers, shape (n,): the place of the true class among the network's logits.
        identifiers: a name for each image.
        positions: where each image stands in the data set, shape (n,).
        image_shape: (height, width, channels) of every preprocessed image.
        classes: a name for each of the data set's own labels.
        dataset: where they come from.
        preprocessing: what is done to them; None takes float images as they are.
        class_map: which of the network's classes those of the data set are; None where they are the same.
        on_bad_image: "raise" or "skip", for an image that cannot be read.
        on_skip: called with the place in study order and the reason for each image that is skipped.
        reader: gives images start … stop-1 of the study's order, or why they cannot be read; None reads them one by
            one.
    """

    labels: Int32[np.ndarray, " n"]
    identifiers: tuple[str, ...]
    positions: Int64[np.ndarray, " n"]
    image_shape: tuple[int, int, int]
    classes: tuple[str, ...]
    dataset: Dataset
    preprocessing: Preprocessing | None
    class_map: ClassMap | None = None
    on_bad_image: str = "raise"
    on_skip: Callable[[int, str], None] | None = None
    reader: Callable[["PreparedImages", int, int], Sequence[Num[np.ndarray, "h w c"] | ImageError]] | None = None
    # The longest chain so far by `on_bad_image`, shared by copies of the record.
    _links: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        """Number of images, skipped ones among them."""
        return len(self.labels)

    @property
    def own_labels(self) -> Int32[np.ndarray, " n"]:
        """The data set's own class numbers, which `classes` names, shape (n,)."""
        return self.dataset.labels[self.positions]

    def block(self, start: int, stop: int) -> Float32[np.ndarray, "m h w c"]:
        """Returns images start … stop-1 of the study's order, ready for the network, skipped ones black.

        Raises:
            DataError: an image has another shape than the first.
            ImageError: an image cannot be read, and none is to be skipped.
        """
        return self.read_block(start, stop)[0]

    def read_block(self, start: int, stop: int) -> tuple[Float32[np.ndarray, "m h w c"], Bool[np.ndarray, " m"]]:
        """Returns the same as `block`, and which of the images could be read."""
        pixels, readable = self.read_pixels(start, stop)
        return (pixels if self.preprocessing is None else normalise(pixels, self.preprocessing)), readable

    def read_pixels(
        self, start: int, stop: int, on_skip: Callable[[int, str], None] | None = None
    ) -> tuple[Num[np.ndarray, "m h w c"], Bool[np.ndarray, " m"]]:
        """Returns the same as `read_block` before normalisation: uint8 from 0 to 255, where there is preprocessing.

        Images that are skipped are told to `on_skip`, where it is given, instead of the study's own.
        """
        found = (self.reader or _attempt_each)(self, start, stop)
        pixels = np.zeros((len(found), *self.image_shape), np.float32 if self.preprocessing is None else np.uint8)
        readable = np.ones(len(found), bool)
        for place, image in enumerate(found):
            if isinstance(image, ImageError):
                readable[place] = False
                self._skip(start + place, image, on_skip or self.on_skip)
            else:
                self._check_shape(start + place, image)
                pixels[place] = image
        return pixels, readable

    @property
    def chain(self) -> tuple[str, ...]:
        """A SHA-256 for each 256 images in study order, of their content, labels and identifiers and all hashes before.

        The content is the file where there is one, else the pixels. The last link reaches past the study's images to
        its full 256, or to the end of the set. So of two studies of one set, whatever their numbers of images, the
        shorter chain is the beginning of the longer one.
        """
        known = self._links.get(self.on_bad_image, ())
        if len(known) * LINK < len(self):
            known = image_chain(self.dataset, len(self), self.on_bad_image, known)
            self._links[self.on_bad_image] = known
        return known[: -(-len(self) // LINK)]

    def with_classes(self, class_map: ClassMap) -> "PreparedImages":
        """Returns the same images with the labels that a network gives their classes."""
        return dataclasses.replace(self, labels=class_map.apply(self.own_labels), class_map=class_map)

    def first(self, count: int) -> "PreparedImages":
        """Returns the first so many images of the whole data set's order; of skipped ones nobody is told again."""
        positions = study_order(self.dataset.labels)[:count]
        labels = self.dataset.labels[positions]
        return dataclasses.replace(
            self,
            labels=labels if self.class_map is None else self.class_map.apply(labels),
            identifiers=tuple(self.dataset.identifiers[p] for p in positions),
            positions=positions,
            on_skip=None,
        )

    def _skip(self, place: int, error: ImageError, on_skip: Callable[[int, str], None] | None) -> None:
        if self.on_bad_image == "raise":
            raise error
        if on_skip is not None:
            on_skip(place, str(error))

    def _check_shape(self, place: int, image: Num[np.ndarray, "h w c"]) -> None:
        if image.shape != self.image_shape:
            raise DataError(
                f"the image {self.identifiers[place]} has the shape {image.shape}, the first one {self.image_shape};"
                " give all one shape, or a preprocessing with a crop (--preprocessing=crop=SIDE)"
            )


def prepare(
    dataset: Dataset, preprocessing: Preprocessing | None, limit: int | None = None, on_bad_image: str = "raise"
) -> PreparedImages:
    """Puts the images of a data set, or a first part of them, into study order.

    Args:
        dataset: labelled images.
        preprocessing: the network's; None for a network that takes float images as they are.
        limit: how many images, or None for all: a prefix of the fixed order, which keeps the classes' proportions.
        on_bad_image: "raise" or "skip", for an image that cannot be read.

    Raises:
        DataError: `limit` is below 1 or more than there are, or the kind of images does not fit the preprocessing.
        ImageError: the first image cannot be read, or none can.
    """
    if on_bad_image not in ON_BAD_IMAGE:
        known = " or ".join(ON_BAD_IMAGE)
        raise DataError(f"on_bad_image must be {known}, got {on_bad_image!r}{did_you_mean(on_bad_image, ON_BAD_IMAGE)}")
    count = len(dataset) if limit is None else _checked_limit(dataset, limit)
    positions = study_order(dataset.labels)[:count]
    return PreparedImages(
        labels=dataset.labels[positions],
        identifiers=tuple(dataset.identifiers[p] for p in positions),
        positions=positions,
        image_shape=_first_shape(dataset, positions, preprocessing, on_bad_image),
        classes=dataset.classes,
        dataset=dataset,
        preprocessing=preprocessing,
        on_bad_image=on_bad_image,
    )


def attempt(
    dataset: Dataset, position: int, preprocessing: Preprocessing | None
) -> Num[np.ndarray, "h w c"] | ImageError:
    """Returns one image of a data set, resized and cropped, or why it cannot be read."""
    try:
        return _input(dataset, position, preprocessing)
    except ImageError as error:
        return error


def _attempt_each(images: PreparedImages, start: int, stop: int) -> list[Num[np.ndarray, "h w c"] | ImageError]:
    return [attempt(images.dataset, int(p), images.preprocessing) for p in images.positions[start:stop]]


def _first_shape(
    dataset: Dataset, positions: Int64[np.ndarray, " n"], preprocessing: Preprocessing | None, on_bad_image: str
) -> tuple[int, int, int]:
    """The shape of the first preprocessed image that can be read."""
    for position in positions.tolist():
        image = attempt(dataset, position, preprocessing)
        if not isinstance(image, ImageError):
            height, width, channels = image.shape
            return height, width, channels
        if on_bad_image == "raise":
            raise image
    raise ImageError(f"none of the {len(positions)} images can be read; the last: {image}")


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
    if preprocessing is None:
        return image
    try:
        return to_pixels(image, preprocessing)
    except ImageError as error:
        raise ImageError(f"{dataset.identifiers[position]}: {error}") from None


def _misfit(dataset: Dataset, dtype: np.dtype) -> str:
    if dtype == np.uint8:
        return (
            f"{dataset.name} has uint8 images, but the network says no preprocessing; say how they become its inputs"
            " (--preprocessing=imagenet, or 'resize=256;crop=224'), or give float images that are"
        )
    return (
        f"{dataset.name} has {dtype} images, but the network preprocesses uint8 images from 0 to 255; give those,"
        " or leave preprocessing out (--preprocessing=none) if the images are its inputs"
    )
