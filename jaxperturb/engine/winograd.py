"""Stride-1 convolutions by Winograd's minimal filtering, in plain JAX: on a CPU faster than any library's.

F(m×m, r×r) by Cook and Toom (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016): m×m outputs
take (m+r-1)² products instead of m²r². Three steps, of which the first depends on the images alone and the second on
the kernel alone, so that each is done once for all that uses it: `share`, `transform`, `join`.

Positions of a tile are kept as (column, row): each transform is a few large sums over the leading axis, rows first.
Barriers stand between the rows and the columns of each: without them XLA computes the rows again for every column, five
times slower.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import optimization_barrier
from jaxtyping import Float

from jaxperturb.types import AnyArray, Images

# Where the polynomials are evaluated, by m and r, besides infinity: chosen for the smallest errors in float32, 2e-6,
# 4e-6 and 8e-6 of the largest output. The usual 0, ±1, ±2 give 1e-5 for F(4×4, 3×3). A larger m loses digits.
_POINTS = {
    (4, 3): "0 3/4 -3/4 3/2 -3/2",
    (5, 3): "5/16 -5/16 7/8 -7/8 25/16 -25/16",
    (4, 5): "0 1 -1 7/4 -7/4 9/16 -9/16",
}
SIZES = tuple(dict.fromkeys(size for _, size in _POINTS))  # of kernels

# Bytes between the steps, for all images together. What leaves the processor's caches is slower: of more than the
# first, images are taken in turn and no transform is shared; up to it, their products are taken in parts. Fewer at a
# time are slower too, as products become small.
_SHARED = 56 * 2**20
_AT_ONCE = 32 * 2**20
TILE = 16  # images that a convolution is given at least on a CPU

Kernel = Float[AnyArray, "r r c k"]
Outputs = Float[jax.Array, "n i j k"]
Padding = tuple[tuple[int, int], tuple[int, int]]
Matrix = Float[np.ndarray, "_ _"]
Transformed = Float[AnyArray, "a tiles channels"]  # a matrix for each position of a tile


@dataclass(frozen=True)
class Winograd:
    """A convolution of images (n, height, width, c) with a kernel (r, r, c, k), stride 1.

    Attributes:
        size: r, one of `SIZES`.
        height: of the images.
        width: of the images.
        padding: zeros before and after, for height and width.
        outputs: m, of a tile.
        parts: in which images are multiplied, one after another.
        at_once: images that are taken in turn, and whose transform is not shared; None for all at once.
    """

    size: int
    height: int
    width: int
    padding: Padding
    outputs: int = 4
    parts: int = 1
    at_once: int | None = None

    @classmethod
    def of(
        cls, images: tuple[int, int, int], kernel: tuple[int, int, int, int], padding: Padding, tile: int = TILE
    ) -> "Winograd":
        """Returns the convolution of images (height, width, c) with a kernel (r, r, c, k) that takes fewest products.

        How many are taken at once hangs on the tile, not on the images of a call: a network's program has the same
        equations at all batch sizes.
        """
        size, _, channels, units = kernel
        every = [cls(size, *images[:2], padding, outputs) for outputs, of_size in _POINTS if of_size == size]
        whole = min(every, key=lambda some: some._products)
        each = 4 * whole._products * (channels + units)
        if each * tile <= _SHARED:
            return replace(whole, parts=2 ** ((each * tile - 1) // _AT_ONCE).bit_length())
        return replace(whole, at_once=2 ** max(0, (_AT_ONCE // each).bit_length() - 1))

    def __call__(self, images: Images, kernel: Kernel) -> Outputs:
        """Returns the convolution of the images with the kernel."""
        return self.join(self.share(images), self.transform(kernel))

    def share(self, images: Images) -> Transformed | Images:
        """Returns what all kernels need of the images: their transform, or they themselves where it is too large."""
        return images if self.at_once else self._transform_images(images)

    def transform(self, kernel: Kernel) -> Float[AnyArray, "a c k"]:
        """Returns what all images need of the kernel: a matrix (c, k) for each position of a tile."""
        _, g, _ = transforms(self.outputs, self.size)
        both = np.einsum("ir,js->jirs", g, g).reshape(len(g) ** 2, -1).astype(np.float32)
        matrix = kernel.reshape(self.size**2, -1)
        return jnp.dot(both, matrix, precision="highest").reshape(-1, *kernel.shape[2:])

    def join(self, shared: Transformed | Images, transformed: Float[AnyArray, "a c k"]) -> Outputs:
        """Returns the convolution, from what `share` and `transform` gave."""
        if not self.at_once:
            return self._multiply_parts(shared, transformed)

        def part(images: AnyArray) -> jax.Array:
            return self._multiply(self._transform_images(images), transformed)

        return _in_turn(part, shared, self.at_once)

    @property
    def _sides(self) -> tuple[tuple[int, int], ...]:
        """For height and width: outputs, and tiles that cover them."""
        (top, bottom), (left, right) = self.padding
        outputs = (self.height + top + bottom - self.size + 1, self.width + left + right - self.size + 1)
        return tuple((side, -(-side // self.outputs)) for side in outputs)

    @property
    def _products(self) -> int:
        """For one image, channel and unit."""
        (_, rows), (_, columns) = self._sides
        return (self.outputs + self.size - 1) ** 2 * rows * columns

    def _transform_images(self, images: Images) -> Transformed:
        (_, rows), (_, columns) = self._sides
        _, _, bt = transforms(self.outputs, self.size)
        span, step = len(bt), self.outputs
        (top, _), (left, _) = self.padding
        below = (rows - 1) * step + span - self.height - top
        right = (columns - 1) * step + span - self.width - left
        zeros = np.zeros((), images.dtype)
        x = optimization_barrier(jax.lax.pad(images, zeros, ((0, 0, 0), (top, below, 0), (left, right, 0), (0, 0, 0))))
        down = [x[:, i : i + step * (rows - 1) + 1 : step] for i in range(span)]
        lines = optimization_barrier(jnp.stack(_combinations(bt, down)))
        across = [lines[:, :, :, i : i + step * (columns - 1) + 1 : step] for i in range(span)]
        cells = jnp.stack(_combinations(bt, across))
        return optimization_barrier(cells.reshape(span**2, -1, images.shape[-1]))

    def _multiply_parts(self, values: Transformed, transformed: AnyArray) -> jax.Array:
        (_, rows), (_, columns) = self._sides
        count = values.shape[1] // (rows * columns)
        step = -(-count // self.parts) * rows * columns
        found: list[jax.Array] = []
        for start in range(0, values.shape[1], step):
            own = values[:, start : start + step]
            if found:  # not at the same time: what is between the steps would leave the caches
                own, found[-1] = optimization_barrier((own, found[-1]))
            found.append(self._multiply(own, transformed))
        return jnp.concatenate(found) if len(found) > 1 else found[0]

    def _multiply(self, values: Transformed, transformed: AnyArray) -> jax.Array:
        (height, rows), (width, columns) = self._sides
        at, _, _ = transforms(self.outputs, self.size)
        span = at.shape[1]
        products = jnp.einsum("atc,ack->atk", values, transformed, precision="highest")
        tiles = products.reshape(span, span, -1, rows, columns, products.shape[-1])
        lines = optimization_barrier(_combinations(at, list(tiles)))  # for each column of outputs
        cells = [[_combination(row, list(line)) for line in lines] for row in at]
        y = jnp.stack(optimization_barrier([jnp.stack(row, 3) for row in cells]), 2)
        y = y.reshape(-1, rows * self.outputs, columns * self.outputs, y.shape[-1])
        return y[:, :height, :width]


def _in_turn(function: Callable[[AnyArray], jax.Array], images: AnyArray, at_once: int) -> jax.Array:
    """Applies a function of images to some at a time."""
    whole = len(images) // at_once * at_once
    parts = [function(images[whole:])] if whole < len(images) else []
    if whole:
        groups = images[:whole].reshape(-1, at_once, *images.shape[1:])
        found = jax.lax.map(function, groups) if len(groups) > 1 else function(groups[0])
        parts.insert(0, found.reshape(whole, *found.shape[-3:]))
    return jnp.concatenate(parts) if len(parts) > 1 else parts[0]


@functools.cache
def transforms(outputs: int, size: int) -> tuple[Matrix, Matrix, Matrix]:
    """Returns A^T (m, a), G (a, r) and B^T (a, a) with a = m + r - 1, of m and r: y = A^T [(G g) * (B^T d)].

    Row i of G evaluates the kernel's polynomial at point i, column i of A^T holds the point's powers, and row i of B^T
    is the polynomial whose roots are all other points (Lagrange); its norm is put in G. The last point is infinity.
    """
    points = [Fraction(point) for point in _POINTS[outputs, size].split()]
    others = [points[:i] + points[i + 1 :] for i in range(len(points))]
    norms = [math.prod(point - other for other in rest) for point, rest in zip(points, others, strict=True)]
    g = [[power / norm for power in row] for row, norm in zip(_powers(points, size), norms, strict=True)]
    bt = [[*_polynomial(rest), Fraction(0)] for rest in others]
    at = np.array([*_powers(points, outputs), _infinity(outputs)], float).T
    return at, np.array([*g, _infinity(size)], float), np.array([*bt, _polynomial(points)], float)


def _powers(points: Sequence[Fraction], count: int) -> list[list[Fraction]]:
    return [[point**i for i in range(count)] for point in points]


def _infinity(count: int) -> list[Fraction]:
    """A polynomial's value at infinity is its last coefficient."""
    return [Fraction(i == count - 1) for i in range(count)]


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of the product of (x - root), the constant first."""
    found = [Fraction(1)]
    for root in roots:
        found = [up - root * same for up, same in zip([Fraction(0), *found], [*found, Fraction(0)], strict=True)]
    return found


def _combinations(matrix: Matrix, arrays: Sequence[jax.Array]) -> list[jax.Array]:
    """The matrix times a vector of arrays."""
    return [_combination(row, arrays) for row in matrix]


def _combination(row: np.ndarray, arrays: Sequence[jax.Array]) -> jax.Array:
    terms = [array if c == 1 else array * np.float32(c) for c, array in zip(row, arrays, strict=True) if c]
    return functools.reduce(jnp.add, terms)
