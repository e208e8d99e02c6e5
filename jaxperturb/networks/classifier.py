"""The three dense layers at the end of AlexNet and VGG, which differ only in where dropout stands."""

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxperturb.networks.pooling import adaptive_average_pool
from jaxperturb.types import AnyArray

DENSE_UNITS = 4096  # of fc6 and fc7 at width 1


def classify(
    maps: Float[AnyArray, "n h w c"],
    *,
    pooled_size: int,
    units: int,
    classes: int,
    dropout: float,
    dropout_first: bool,
    train: bool,
) -> Float[Array, "n k"]:
    """Returns logits: adaptive pooling, then fc6, fc7 and fc8 of the module that is being called.

    Args:
        maps: what the convolutions made.
        pooled_size: side of the map that fc6 sees, flattened in the order of its axes.
        units: of fc6 and fc7.
        classes: of fc8.
        dropout: rate of both dropouts.
        dropout_first: whether they stand before fc6 and fc7 (AlexNet) or behind them (VGG).
        train: whether they act.
    """
    x = adaptive_average_pool(maps, pooled_size)
    x = x.reshape(x.shape[0], -1)
    for name in ("fc6", "fc7"):
        dropped = nn.Dropout(dropout, deterministic=not train)
        x = dropped(x) if dropout_first else x
        x = nn.relu(_dense(units, name)(x))
        x = x if dropout_first else dropped(x)
    logits: jax.Array = nn.Dense(classes, name="fc8")(x)
    return logits


def _dense(units: int, name: str) -> nn.Dense:
    return nn.Dense(units, name=name, kernel_init=nn.initializers.he_normal())
