"""What is learnt from: batches in an order that seed and step alone decide, and how their images are varied."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Int32, Num

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.data.preprocess import normalise
from jaxperturb.data.reading import Reader
from jaxperturb.errors import DataError, RecoveryError, did_you_mean
from jaxperturb.random import key as seed_key
from jaxperturb.random.keys import name_word
from jaxperturb.random.permutation import Permutation
from jaxperturb.random.prng import fold, words_of
from jaxperturb.types import AnyArray, Key

AUGMENTATIONS = ("crop", "flip")
SHIFT = 1 / 8  # the most that a crop moves an image, as a share of its sides
_SHOWN = 3


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """The images that a network learns from.

    Pixels are kept once they were decoded, where all of them would fit the room for it.

    Attributes:
        images: prepared, in the study's order.
        pixels: what was decoded, (n, h, w, c); None where nothing is kept.
        known: which of these were.
    """

    images: PreparedImages
    pixels: Num[np.ndarray, "n h w c"] | None
    known: Bool[np.ndarray, " n"]

    @classmethod
    def of(cls, images: PreparedImages, room: int) -> "TrainingImages":
        """Returns the images, which may take so many bytes of memory."""
        dtype = np.dtype(np.float32 if images.preprocessing is None else np.uint8)
        shape = (len(images), *images.image_shape)
        fits = int(np.prod(shape)) * dtype.itemsize <= room
        # Memory of an empty array is taken when its parts are written.
        return cls(images, np.empty(shape, dtype) if fits else None, np.zeros(len(images), bool))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    def read(self, places: Int[np.ndarray, " b"]) -> tuple[Float32[np.ndarray, "b h w c"], Int32[np.ndarray, " b"]]:
        """Returns some images, ready for the network, and their classes.

        Raises:
            ImageError: one of them cannot be read.
        """
        return self._inputs(self._pixels(places)), self.images.labels[places]

    def _pixels(self, places: Int[np.ndarray, " b"]) -> Num[np.ndarray, "b h w c"]:
        if self.pixels is None:
            return self._decoded(places)
        new = places[~self.known[places]]
        if new.size:
            self.pixels[new] = self._decoded(new)
            self.known[new] = True
        return self.pixels[places]

    def _decoded(self, places: Int[np.ndarray, " b"]) -> Num[np.ndarray, "b h w c"]:
        own = self.images
        some = replace(
            own,
            labels=own.labels[places],
            identifiers=tuple(own.identifiers[place] for place in places),
            positions=own.positions[places],
            reader=Reader(),
            on_bad_image="raise",
        )
        return some.read_pixels(0, len(places))[0]

    def _inputs(self, pixels: Num[np.ndarray, "b h w c"]) -> Float32[np.ndarray, "b h w c"]:
        preprocessing = self.images.preprocessing
        return pixels.astype(np.float32) if preprocessing is None else normalise(pixels, preprocessing)


def batch_places(seed: int, step: int, images: int, batch_size: int) -> Int[np.ndarray, " b"]:
    """Returns which images a step learns from: each of them once per pass, in an order of that pass's own.

    Args:
        seed: of the training.
        step: number of the step, from 0.
        images: number of images, at least a batch.
        batch_size: images per step; those that do not fill a batch are left out of their pass.
    """
    of_a_pass, place = divmod(step, images // batch_size)
    return _order(seed, of_a_pass, images)[place * batch_size : (place + 1) * batch_size]


def stream_key(seed: int, name: str, step: int | AnyArray) -> Key:
    """Returns the key of one use of randomness in one step, the same for all draws."""
    return jax.random.fold_in(jax.random.fold_in(seed_key(seed), jnp.uint32(name_word(f"recovery/{name}"))), step)


def check_classes_covered(train: PreparedImages, test: PreparedImages, batch_size: int) -> None:
    """Refuses a training set that cannot give back what is tested.

    Raises:
        DataError: it lacks a class that test images are of, or does not fill a batch.
    """
    missing = sorted(set(test.labels.tolist()) - set(train.labels.tolist()))
    if missing:
        names = [_class_name(test, label) for label in missing[:_SHOWN]]
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise DataError(
            f"the training set {train.dataset.name} has no images of {', '.join(names)}{more}, which test images are "
            "of; give a training set with all classes"
        )
    if len(train) < batch_size:
        raise DataError(f"the training set has {len(train)} images, less than a batch of {batch_size}; give more")


def parse_augmentations(text: str | Sequence[str]) -> tuple[str, ...]:
    """Reads ``"crop,flip"``; an empty text or ``none`` is nothing.

    Raises:
        RecoveryError: another word.
    """
    words = [word.strip() for word in (text.split(",") if isinstance(text, str) else text)]
    wanted = [word for word in words if word not in ("", "none")]
    for word in wanted:
        if word not in AUGMENTATIONS:
            near = did_you_mean(word, AUGMENTATIONS)
            raise RecoveryError(f"unknown augmentation {word!r}{near} (known: {', '.join(AUGMENTATIONS)}, none)")
    return tuple(name for name in AUGMENTATIONS if name in wanted)


def augmented(key: Key, images: Float[AnyArray, "b h w c"], ways: tuple[str, ...]) -> Float[AnyArray, "b h w c"]:
    """Moves each image by its own amount, edges repeated (crop), and mirrors half of them (flip)."""
    cropping, flipping = jax.random.split(key)
    if "crop" in ways:
        images = _cropped(cropping, images)
    if "flip" in ways:
        mirrored = jax.random.bernoulli(flipping, 0.5, (images.shape[0], 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images


def _cropped(key: Key, images: Float[AnyArray, "b h w c"]) -> Float[AnyArray, "b h w c"]:
    count, height, width, _ = images.shape
    most = round(height * SHIFT), round(width * SHIFT)
    around = jnp.pad(images, ((0, 0), (most[0], most[0]), (most[1], most[1]), (0, 0)), mode="edge")
    spans = 2 * np.asarray(most) + 1
    corners = jax.random.randint(key, (count, 2), 0, spans)
    cut = jax.vmap(lambda image, corner: jax.lax.dynamic_slice(image, (*corner, 0), (height, width, image.shape[-1])))
    return cut(around, corners)


@functools.lru_cache(maxsize=2)
def _order(seed: int, number: int, images: int) -> Int[np.ndarray, " n"]:
    words = fold(fold(words_of(seed_key(seed)), name_word("recovery/batches")), number)
    ranks = np.asarray(Permutation(words, images).ranks((images,)))
    order = np.empty(images, np.int64)
    order[ranks] = np.arange(images)
    return order


def _class_name(images: PreparedImages, label: int) -> str:
    own = images.own_labels[np.flatnonzero(images.labels == label)[0]]
    return repr(images.classes[own])
