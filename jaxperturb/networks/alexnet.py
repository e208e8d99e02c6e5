"""AlexNet with torchvision's topology ("one weird trick": no groups, no local response normalisation)."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxperturb.errors import NetworkError
from jaxperturb.networks.classifier import DENSE_UNITS, classify
from jaxperturb.networks.widths import scaled
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
        return classify(
            x,
            pooled_size=self.pooled_size,
            units=scaled(DENSE_UNITS, self.width if self.dense_width is None else self.dense_width),
            classes=self.classes,
            dropout=self.dropout,
            dropout_first=True,
            train=train,
        )

    def _conv(
        self, channels: int, size: int, name: str, x: AnyArray, stride: int = 1, padding: int | None = None
    ) -> jax.Array:
        around = size // 2 if padding is None else padding
        layer = nn.Conv(
            scaled(channels, self.width),
            (size, size),
            strides=stride,
            padding=around,
            name=name,
            kernel_init=nn.initializers.he_normal(),
        )
        return nn.relu(layer(x))


def _pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), strides=(2, 2))
