"""AlexNet with torchvision's topology ("one weird trick": no groups, no local response normalisation)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxperturb.errors import NetworkError
from jaxperturb.types import AnyArray, Images

MIN_IMAGE_SIZE = 63


class AlexNet(nn.Module):
    """Five convolutions and three dense layers; at the defaults and 224×224×3 images it is torchvision's, exactly.

    Attributes:
        classes: number of logits.
        width: factor on the channels of every convolution (64, 192, 384, 256, 256).
        dense_width: factor on the 4096 units of fc6 and fc7; None takes `width`.
        pooled_size: side of the map that the first dense layer sees.
        dropout: rate before fc6 and fc7 while training.
    """

    classes: int = 1000
    width: float = 1.0
    dense_width: float | None = None
    pooled_size: int = 6
    dropout: float = 0.5

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Float[Array, "n k"]:
        """Returns the logits of images (n, height, width, channels), both sides at least 63 pixels.

        Dropout is on only with ``train=True``, and then needs an rng named "dropout".

        Raises:
            NetworkError: the images are too small for three poolings.
        """
        if min(images.shape[1:3]) < MIN_IMAGE_SIZE:
            raise NetworkError(f"AlexNet needs images of at least 63 by 63 pixels, got the shape {images.shape}")
        x = _pool(self._conv(64, 11, "conv1", images, stride=4, padding=2))
        x = _pool(self._conv(192, 5, "conv2", x))
        x = self._conv(384, 3, "conv3", x)
        x = self._conv(256, 3, "conv4", x)
        x = _pool(self._conv(256, 3, "conv5", x))
        x = adaptive_average_pool(x, self.pooled_size)
        x = x.reshape(x.shape[0], -1)
        units = _scaled(4096, self.width if self.dense_width is None else self.dense_width)
        for name in ("fc6", "fc7"):
            x = nn.Dropout(self.dropout, deterministic=not train)(x)
            x = nn.relu(nn.Dense(units, name=name, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(self.classes, name="fc8")(x)

    def _conv(
        self, channels: int, size: int, name: str, x: AnyArray, stride: int = 1, padding: int | None = None
    ) -> jax.Array:
        around = size // 2 if padding is None else padding
        layer = nn.Conv(
            _scaled(channels, self.width),
            (size, size),
            strides=stride,
            padding=around,
            name=name,
            kernel_init=nn.initializers.he_normal(),
        )
        return nn.relu(layer(x))


def adaptive_average_pool(x: Float[Array, "n h w c"], size: int) -> Float[Array, "n s s c"]:
    """Averages maps to size×size by PyTorch's rule: cell i covers floor(i·h/size) up to ceil((i+1)·h/size)."""
    height, width = x.shape[1:3]
    if (height, width) == (size, size):
        return x
    rows, columns = _averages(height, size), _averages(width, size)
    return jnp.einsum("nhwc,ih,jw->nijc", x, rows.astype(x.dtype), columns.astype(x.dtype))


def _averages(length: int, size: int) -> Float[np.ndarray, "s h"]:
    matrix = np.zeros((size, length), np.float32)
    for i in range(size):
        start, stop = i * length // size, -(-(i + 1) * length // size)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


def _pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2))


def _scaled(channels: int, width: float) -> int:
    # Halves go up, not to the even neighbour: a width names one network in every language that rebuilds it.
    return max(1, math.floor(channels * width + 0.5))
