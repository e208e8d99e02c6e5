"""Maximum pooling as the maximum of shifted slices, one axis after another: `reduce_window` is slow on a CPU."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.types import AnyArray


@dataclass(frozen=True)
class MaximumOfSlices:
    """The maximum over windows; one number for each axis of the array.

    Attributes:
        windows: entries that a window covers.
        strides: entries between windows.
        padding: entries of the lowest value, before and after.
    """

    windows: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def __call__(self, x: AnyArray) -> jax.Array:
        """Returns the maximum over each window of an array."""
        if any(pair != (0, 0) for pair in self.padding):
            lowest = np.asarray(-np.inf, x.dtype)
            x = jax.lax.pad(x, lowest, [(before, after, 0) for before, after in self.padding])
        axes = [axis for axis, window in enumerate(self.windows) if window > 1 or self.strides[axis] > 1]
        for axis in axes:
            # Where windows overlap, XLA would compute the axis before once for each.
            shared = axis != axes[0] and self.windows[axis] > self.strides[axis]
            x = self._along(jax.lax.optimization_barrier(x) if shared else x, axis)
        return jnp.asarray(x)

    def _along(self, x: AnyArray, axis: int) -> jax.Array:
        window, stride = self.windows[axis], self.strides[axis]
        reach = (x.shape[axis] - window) // stride * stride + 1
        shifted = [jax.lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(window)]
        return functools.reduce(jnp.maximum, shifted)
