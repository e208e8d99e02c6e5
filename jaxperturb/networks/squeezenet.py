"""SqueezeNet 1.0 and 1.1 with torchvision's topology."""

from collections.abc import Mapping
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxperturb.errors import NetworkError
from jaxperturb.networks.pooling import max_pool_ceil
from jaxperturb.networks.widths import scaled
from jaxperturb.types import AnyArray, Images

FIRST_FIRE = 2


@dataclass(frozen=True)
class Version:
    """What the two versions differ in.

    Attributes:
        channels: of the first convolution, at width 1.
        side: of its kernel; its stride is 2.
        fires: channels of each fire module: those of its squeeze, and of each of its two expands.
        pooled: what a max pooling follows: 1 for the first convolution, 2 to 9 for a fire module.
        min_image_size: smallest side in pixels.
    """

    channels: int
    side: int
    fires: tuple[tuple[int, int], ...]
    pooled: tuple[int, ...]
    min_image_size: int


_FIRES = ((16, 64), (16, 64), (32, 128), (32, 128), (48, 192), (48, 192), (64, 256), (64, 256))
VERSIONS: Mapping[str, Version] = {
    "1.0": Version(96, 7, _FIRES, pooled=(1, 4, 8), min_image_size=21),
    "1.1": Version(64, 3, _FIRES, pooled=(1, 3, 5), min_image_size=17),
}


class Fire(nn.Module):
    """A 1×1 convolution to few channels, then a 1×1 and a 3×3 convolution beside each other.

    Attributes:
        squeeze: channels of the first.
        expand: channels of each of the other two.
    """

    squeeze: int
    expand: int

    @nn.compact
    def __call__(self, x: Float[AnyArray, "n h w c"]) -> Float[Array, "n h w d"]:
        """Returns the two expands' maps, the 1×1 one's channels first."""
        x = nn.relu(_conv(self.squeeze, 1, "squeeze")(x))
        expanded = (_conv(self.expand, 1, "expand1x1")(x), _conv(self.expand, 3, "expand3x3", padding=1)(x))
        return jnp.concatenate([nn.relu(maps) for maps in expanded], axis=-1)


class SqueezeNet(nn.Module):
    """A convolution, eight fire modules and a last convolution, whose maps are averaged into the logits.

    The layers are `conv1`, `fire2/squeeze`, `fire2/expand1x1`, `fire2/expand3x3` … `fire9/expand3x3`, `conv_final`.

    Attributes:
        version: "1.0" or "1.1".
        classes: number of logits.
        width: factor on the channels of every convolution but the last.
        final_padding: zeros around the map that the last convolution sees: 0 in torchvision; 1 in the one published
            with Deep Compression.
        dropout: rate before the last convolution while training.
    """

    version: str = "1.0"
    classes: int = 1000
    width: float = 1.0
    final_padding: int = 0
    dropout: float = 0.5

    @nn.compact
    def __call__(self, images: Images, *, train: bool = False) -> Float[Array, "n k"]:
        """Returns the logits of images (n, height, width, channels), which end in a ReLU: none is below 0.

        Dropout is on only with ``train=True``, and then needs an rng named "dropout".

        Raises:
            NetworkError: the images are too small for three poolings.
        """
        version = VERSIONS[self.version]
        least = version.min_image_size
        if min(images.shape[1:3]) < least:
            raise NetworkError(f"SqueezeNet needs images of at least {least} by {least} pixels, got {images.shape}")
        x = nn.relu(_conv(self._units(version.channels), version.side, "conv1", stride=2)(images))
        x = max_pool_ceil(x, 3, 2)
        for number, (squeeze, expand) in enumerate(version.fires, FIRST_FIRE):
            x = Fire(self._units(squeeze), self._units(expand), name=f"fire{number}")(x)
            x = max_pool_ceil(x, 3, 2) if number in version.pooled else x
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = nn.relu(_conv(self.classes, 1, "conv_final", padding=self.final_padding)(x))
        logits: jax.Array = x.mean((1, 2))
        return logits

    def _units(self, channels: int) -> int:
        return scaled(channels, self.width)


def _conv(channels: int, side: int, name: str, *, stride: int = 1, padding: int = 0) -> nn.Conv:
    initial = nn.initializers.he_normal()
    return nn.Conv(channels, (side, side), strides=stride, padding=padding, name=name, kernel_init=initial)
