"""PyTorch's poolings where Flax has others: adaptive averages, and windows that reach over the edge."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxperturb.types import AnyArray


def adaptive_average_pool(x: Float[AnyArray, "n h w c"], size: int) -> Float[Array, "n s s c"]:
    """Averages maps to size×size by PyTorch's rule: cell i covers floor(i·h/size) up to ceil((i+1)·h/size)."""
    x = jnp.asarray(x)
    height, width = x.shape[1:3]
    if (height, width) == (size, size):
        return x
    rows, columns = _averages(height, size), _averages(width, size)
    return jnp.einsum("nhwc,ih,jw->nijc", x, rows.astype(x.dtype), columns.astype(x.dtype))


def max_pool_ceil(x: Float[AnyArray, "n h w c"], size: int, stride: int) -> Float[Array, "n s t c"]:
    """Takes maxima by PyTorch's ``ceil_mode``: the last window may reach over the right and lower edges.

    The sides must be larger than size - stride, and the stride no larger than the size.
    """
    edges = [(0, -(length - size) % stride) for length in x.shape[1:3]]
    return nn.max_pool(x, (size, size), strides=(stride, stride), padding=edges)


def _averages(length: int, size: int) -> Float[np.ndarray, "s h"]:
    matrix = np.zeros((size, length), np.float32)
    for i in range(size):
        start, stop = i * length // size, -(-(i + 1) * length // size)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
