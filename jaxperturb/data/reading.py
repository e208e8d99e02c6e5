"""How a study's images are read fast: decoded by several threads, kept on disk, the next block while one is used."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int32, Num

from jaxperturb.data.cache import PixelCache, entry_name, pixel_cache
from jaxperturb.data.fingerprints import LINK
from jaxperturb.data.order import study_order
from jaxperturb.data.parallel import each
from jaxperturb.data.prepared import PreparedImages, attempt
from jaxperturb.data.preprocess import normalise
from jaxperturb.errors import ImageError
from jaxperturb.networks.preprocessing import CHANNELS, Preprocessing
from jaxperturb.types import AnyArray

Attempt = Num[np.ndarray, "h w c"] | ImageError


@dataclasses.dataclass(frozen=True)
class Reader:
    """Reads images of a study: what `PreparedImages.reader` takes.

    Attributes:
        cache: where pixels are kept, or None. Only images that must be decoded are: others are quicker to read anew.
        workers: number of threads, by default one for each processor.
    """

    cache: PixelCache | None = None
    workers: int | None = None

    def __call__(self, images: PreparedImages, start: int, stop: int) -> list[Attempt]:
        """Returns images start … stop-1 of the study's order, or why they cannot be read."""
        if self.cache is None or images.dataset.digest is None or images.preprocessing is None:
            return self._decode(images, images.positions[start:stop])
        found: list[Attempt] = []
        for first in range(start - start % LINK, stop, LINK):
            found += self._link(images, first // LINK)[max(start - first, 0) : stop - first]
        return found

    def _link(self, images: PreparedImages, number: int) -> list[Attempt]:
        """The 256 images of one link of the chain, of which a study's last one may use a part."""
        assert self.cache is not None
        assert images.preprocessing is not None
        first = number * LINK
        count = min(LINK, len(images.dataset) - first)
        entry = entry_name(f"{images.dataset.name}-{images.dataset.split}", images.preprocessing)
        key, shape = images.chain[number], (count, *images.image_shape)
        kept = self.cache.load(entry, key, shape)
        if kept is not None:
            return list(np.asarray(kept))
        inside = first + count <= len(images)
        order = images.positions if inside else study_order(images.dataset.labels)
        found = self._decode(images, order[first : first + count])
        # Whole or not at all: an image that cannot be read says why each time.
        if all(not isinstance(image, ImageError) and image.shape == images.image_shape for image in found):
            self.cache.save(entry, key, np.stack([np.asarray(image) for image in found]))
        return found

    def _decode(self, images: PreparedImages, positions: Sequence[int] | np.ndarray) -> list[Attempt]:
        read = functools.partial(attempt, images.dataset, preprocessing=images.preprocessing)
        # Images that are in memory already take longer to hand to a thread than to read.
        workers = self.workers if images.dataset.digest is not None else 1
        return each(lambda position: read(int(position)), list(positions), workers)


def read_fast(images: PreparedImages, workers: int | None = None) -> PreparedImages:
    """Returns the same images, read by several threads and through the user's cache.

    Raises:
        DataError: the environment states no sensible limit for the cache.
        OutputError: there is no place for a cache.
    """
    return dataclasses.replace(images, reader=Reader(pixel_cache(), workers))


@dataclasses.dataclass(frozen=True)
class Block:
    """Some images of a study on the device, ready for the network.

    Attributes:
        start: first image, in the study's order.
        stop: after the last image.
        inputs: for the network, skipped ones black.
        labels: class numbers.
        skipped: the place in the study's order, and the reason, of each that could not be read.
    """

    start: int
    stop: int
    inputs: Float[Array, "m h w c"]
    labels: Int32[np.ndarray, " m"]
    skipped: tuple[tuple[int, str], ...]


def read_blocks(images: PreparedImages, bounds: Iterable[tuple[int, int]]) -> Iterator[Block]:
    """Yields blocks of images: while one is used, the next is read, put on the device and normalised there.

    Two blocks are in memory, whatever the number of images. The inputs are, bit for bit, those of
    `PreparedImages.block`.

    Args:
        images: prepared, in the study's order.
        bounds: (start, stop) of each block; taken one ahead.

    Raises:
        DataError: an image has another shape than the first.
        ImageError: an image cannot be read, and none is to be skipped.
    """
    rest = iter(bounds)
    with ThreadPoolExecutor(1) as background:
        following = _submitted(background, images, rest)
        while following is not None:
            block = following.result()
            following = _submitted(background, images, rest)
            if images.on_skip is not None:
                # Told here, since it may write to what belongs to this thread.
                for place, reason in block.skipped:
                    images.on_skip(place, reason)
            yield block


def _submitted(
    background: ThreadPoolExecutor, images: PreparedImages, rest: Iterator[tuple[int, int]]
) -> Future[Block] | None:
    bounds = next(rest, None)
    return None if bounds is None else background.submit(_read_block, images, *bounds)


def _read_block(images: PreparedImages, start: int, stop: int) -> Block:
    skipped: list[tuple[int, str]] = []
    pixels, _ = images.read_pixels(start, stop, lambda place, reason: skipped.append((place, reason)))
    inputs = jax.device_put(pixels)
    if images.preprocessing is not None:
        inputs = _look_up(_normal_values(images.preprocessing), inputs)
    return Block(start, stop, inputs, images.labels[start:stop], tuple(skipped))


def _normal_values(preprocessing: Preprocessing) -> Float32[np.ndarray, "v c"]:
    """What each of the 256 values of a pixel becomes in each channel."""
    values = np.arange(256, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    return normalise(np.repeat(values, CHANNELS[preprocessing.channels], axis=2), preprocessing)[:, 0]


@jax.jit
def _look_up(table: AnyArray, pixels: AnyArray) -> jax.Array:
    # Computed, the last bit would depend on the compiler, which joins a product and a sum where it can.
    channels = table.shape[1]
    return table.reshape(-1)[pixels.astype(jnp.int32) * channels + jnp.arange(channels)]
