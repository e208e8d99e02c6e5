"""Convolutions of large strides as convolutions of stride 1: what is skipped between two windows becomes channels.

An 11×11 kernel of stride 4 on 3 channels is a 3×3 kernel of stride 1 on 48 (space to depth), with zeros where 11 is no
multiple of 4.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxperturb.engine.winograd import TILE, Kernel, Outputs, Padding, Transformed, Winograd
from jaxperturb.types import AnyArray, Images


@dataclass(frozen=True)
class Folded:
    """A convolution of images (n, h, w, c) with a kernel (r, r, c, k) and a stride.

    Attributes:
        inner: the convolution of stride 1.
        stride: down and across.
        padding: zeros before and after, for height and width.
    """

    inner: Winograd
    stride: int
    padding: Padding

    @classmethod
    def of(
        cls,
        images: tuple[int, int, int],
        kernel: tuple[int, int, int, int],
        stride: int,
        padding: Padding,
        tile: int = TILE,
    ) -> "Folded":
        """Returns the convolution of images (height, width, c) with a kernel (r, r, c, k), for so many at a time."""
        size = folded_size(kernel[0], stride)
        height, width = (
            (length + sum(pair) - kernel[0]) // stride + size for length, pair in zip(images[:2], padding, strict=True)
        )
        channels = images[2] * stride**2
        inner = Winograd.of((height, width, channels), (size, size, channels, kernel[3]), ((0, 0), (0, 0)), tile)
        return cls(inner, stride, padding)

    def __call__(self, images: Images, kernel: Kernel) -> Outputs:
        """Returns the convolution of the images with the kernel."""
        return self.join(self.share(images), self.transform(kernel))

    def share(self, images: Images) -> Transformed | Float[AnyArray, "n fh fw fc"]:
        """Returns what all kernels need of the images."""
        sides = (self.inner.height, self.inner.width)
        around = [
            (before, side * self.stride - length - before, 0)
            for side, length, (before, _) in zip(sides, images.shape[1:3], self.padding, strict=True)
        ]
        x = jax.lax.pad(images, np.zeros((), images.dtype), [(0, 0, 0), *around, (0, 0, 0)])
        return self.inner.share(jax.lax.optimization_barrier(_folded(x, self.stride)))

    def transform(self, kernel: Kernel) -> Float[AnyArray, "a f k"]:
        """Returns what all images need of the kernel."""
        missing = self.inner.size * self.stride - kernel.shape[0]
        padded = jnp.pad(kernel, ((0, missing), (0, missing), (0, 0), (0, 0)))
        size, stride = self.inner.size, self.stride
        cells = padded.reshape(size, stride, size, stride, *kernel.shape[2:]).transpose(0, 2, 1, 3, 4, 5)
        return self.inner.transform(cells.reshape(size, size, -1, kernel.shape[-1]))

    def join(self, shared: Transformed | Images, transformed: Float[AnyArray, "a f k"]) -> Outputs:
        """Returns the convolution, from what `share` and `transform` gave."""
        return self.inner.join(shared, transformed)


def folded_size(size: int, stride: int) -> int:
    """Returns the size of the kernel of stride 1."""
    return -(-size // stride)


def _folded(x: jax.Array, stride: int) -> jax.Array:
    """(n, h·s, w·s, c) -> (n, h, w, s·s·c)."""
    height, width = (side // stride for side in x.shape[1:3])
    cells = x.reshape(-1, height, stride, width, stride, x.shape[-1]).transpose(0, 1, 3, 2, 4, 5)
    return cells.reshape(*cells.shape[:3], -1)
