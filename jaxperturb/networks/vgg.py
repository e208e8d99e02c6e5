"""VGG with torchvision's topology: 11 to 19 layers, with and without batch norm."""

from collections.abc import Mapping

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxperturb.errors import NetworkError
from jaxperturb.networks.classifier import DENSE_UNITS, classify
from jaxperturb.networks.widths import scaled
from jaxperturb.types import AnyArray, Images

MIN_IMAGE_SIZE = 32
# Channels of the convolutions that follow each other between two poolings, by the number of weight layers.
BLOCKS: Mapping[int, tuple[tuple[int, ...], ...]] = {
    11: ((64,), (128,), (256,) * 2, (512,) * 2, (512,) * 2),
    13: ((64,) * 2, (128,) * 2, (256,) * 2, (512,) * 2, (512,) * 2),
    16: ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
    19: ((64,) * 2, (128,) * 2, (256,) * 4, (512,) * 4, (512,) * 4),
}


class VGG(nn.Module):
    """Five blocks of 3×3 convolutions and three dense layers; at the defaults and 224×224×3 images torchvision's.

    The convolutions are `conv1_1` to `conv5_4`, their batch norms `conv1_1_norm` and so on beside them.

    Attributes:
        depth: 11, 13, 16 or 19 weight layers.
        batch_norm: whether one follows each convolution; it runs on stored statistics unless ``train=True``.
        classes: number of logits.
        width: factor on the channels of every convolution (64 to 512).
        dense_width: factor on the 4096 units of fc6 and fc7; None takes `width`.
        pooled_size: side of the map that the first dense layer sees.
        dropout: rate behind fc6 and fc7 while training.
    """

    depth: int = 16
    batch_norm: bool = False
    classes: int = 1000
    width: float = 1.0
    dense_width: float | None = None
    pooled_size: int = 7
    dropout: float = 0.5

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Float[Array, "n k"]:
        """Returns the logits of images (n, height, width, channels), both sides at least 32 pixels.

        With ``train=True`` dropout is on and needs an rng named "dropout"; batch norms then take the batch's own
        statistics, and ``mutable=["batch_stats"]`` collects them.

        Raises:
            NetworkError: the images are too small for five poolings.
        """
        if min(images.shape[1:3]) < MIN_IMAGE_SIZE:
            raise NetworkError(f"VGG needs images of at least 32 by 32 pixels, got the shape {images.shape}")
        x: AnyArray = images
        for block, channels in enumerate(BLOCKS[self.depth], 1):
            for place, count in enumerate(channels, 1):
                x = self._conv(count, f"conv{block}_{place}", x, train)
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        return classify(
            x,
            pooled_size=self.pooled_size,
            units=scaled(DENSE_UNITS, self.width if self.dense_width is None else self.dense_width),
            classes=self.classes,
            dropout=self.dropout,
            dropout_first=False,
            train=train,
        )

    def _conv(self, channels: int, name: str, x: AnyArray, train: bool) -> jax.Array:
        units = scaled(channels, self.width)
        x = nn.Conv(units, (3, 3), padding=1, name=name, kernel_init=nn.initializers.he_normal())(x)
        if self.batch_norm:
            norm = nn.BatchNorm(use_running_average=not train, momentum=0.9, epsilon=1e-5, name=f"{name}_norm")
            x = norm(x)
        return nn.relu(x)
