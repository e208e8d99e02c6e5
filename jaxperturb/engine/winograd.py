"""Stride-1 convolutions by Winograd's minimal filtering, in plain JAX: on a CPU faster than any library's.

F(m×m, r×r) by Cook and Toom (Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2016): m×m outputs
take (m+r-1)² products instead of m²r². Three steps, of which the first depends on the images alone and the second on
the kernel alone, so that each is done once for all that uses it: `share`, `transform`, `join`.

Barriers stand between the rows and the columns of each transform: without them XLA computes the rows again for every
column, five times slower. One product for each of the (m+r-1)² positions is faster than one product with a batch axis.
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

SIZES = (3, 5)  # of kernels
OUTPUTS = 4  # m: more would save products and lose digits

# Where the polynomials are evaluated, by kernel size, besides infinity: chosen for the smallest errors in float32,
# 2e-6 and 8e-6 of the largest output. The usual 0, ±1, ±2 give 1e-5 for size 3.
_POINTS = {3: "0 3/4 -3/4 3/2 -3/2", 5: "0 1 -1 7/4 -7/4 9/16 -9/16"}

# Bytes between the steps, for all images together. More leave the processor's caches: then some images at a time, which
# is slower where the products become small.
_SHARED = 56 * 2**20
_IN_TURN = 32 * 2**20
TILE = 16  # images that a convolution is given at least on a CPU

Kernel = Float[AnyArray, "r r c k"]
Outputs = Float[jax.Array, "n i j k"]
Padding = tuple[tuple[int, int], tuple[int, int]]
Matrix = Float[np.ndarray, "_ _"]
Transformed = list[jax.Array]  # a matrix (tiles, c) for each position of a tile


@dataclass(frozen=True)
class Winograd:
    """A convolution of images (n, height, width, c) with a kernel (r, r, c, k), stride 1.

    Attributes:
        size: r, one of `SIZES`.
        height: of the images.
        width: of the images.
        padding: zeros before and after, for height and width.
        at_once: images that are taken in turn, and whose transform is not shared; None for all at once.
    """

    size: int
    height: int
    width: int
    padding: Padding
    at_once: int | None = None

    @classmethod
    def of(
        cls, images: tuple[int, int, int], kernel: tuple[int, int, int, int], padding: Padding, tile: int = TILE
    ) -> "Winograd":
        """Returns the convolution of images (height, width, c) with a kernel (r, r, c, k).

        How many are taken at once hangs on the tile, not on the images of a call: a network's program has the same
        equations at all batch sizes.
        """
        size, _, channels, units = kernel
        whole = cls(size, *images[:2], padding)
        (_, rows), (_, columns) = whole._sides
        each = 4 * (size + OUTPUTS - 1) ** 2 * rows * columns * (channels + units)
        if each * tile <= _SHARED:
            return whole
        return replace(whole, at_once=2 ** max(0, (_IN_TURN // each).bit_length() - 1))

    def __call__(self, images: Images, kernel: Kernel) -> Outputs:
        """Returns the convolution of the images with the kernel."""
        return self.join(self.share(images), self.transform(kernel))

    def share(self, images: Images) -> Transformed | Images:
        """Returns what all kernels need of the images: their transform, or they themselves where it is too large."""
        return images if self.at_once else optimization_barrier(self._transform_images(images))

    def transform(self, kernel: Kernel) -> Float[AnyArray, "a c k"]:
        """Returns what all images need of the kernel: a matrix (c, k) for each position of a tile."""
        _, g, _ = transforms(self.size)
        both = np.kron(g, g).astype(np.float32)
        matrix = kernel.reshape(self.size**2, -1)
        return jnp.dot(both, matrix, precision="highest").reshape(-1, *kernel.shape[2:])

    def join(self, shared: Transformed | Images, transformed: Float[AnyArray, "a c k"]) -> Outputs:
        """Returns the convolution, from what `share` and `transform` gave."""
        if isinstance(shared, list):
            return self._multiply(shared, transformed)
        assert self.at_once

        def part(images: AnyArray) -> jax.Array:
            return self._multiply(self._transform_images(images), transformed)

        return _in_turn(part, shared, self.at_once)

    @property
    def _sides(self) -> tuple[tuple[int, int], ...]:
        """For height and width: outputs, and tiles that cover them."""
        (top, bottom), (left, right) = self.padding
        outputs = (self.height + top + bottom - self.size + 1, self.width + left + right - self.size + 1)
        return tuple((side, -(-side // OUTPUTS)) for side in outputs)

    def _transform_images(self, images: Images) -> list[jax.Array]:
        (_, rows), (_, columns) = self._sides
        _, _, bt = transforms(self.size)
        span = len(bt)
        (top, _), (left, _) = self.padding
        below = (rows - 1) * OUTPUTS + span - self.height - top
        right = (columns - 1) * OUTPUTS + span - self.width - left
        zeros = np.zeros((), images.dtype)
        x = optimization_barrier(jax.lax.pad(images, zeros, ((0, 0, 0), (top, below, 0), (left, right, 0), (0, 0, 0))))
        at = [slice(i, i + OUTPUTS * (rows - 1) + 1, OUTPUTS) for i in range(span)]
        across = [slice(i, i + OUTPUTS * (columns - 1) + 1, OUTPUTS) for i in range(span)]
        lines = optimization_barrier(_combinations(bt, [x[:, some] for some in at]))
        cells = [cell for line in lines for cell in _combinations(bt, [line[:, :, some] for some in across])]
        return [cell.reshape(-1, images.shape[-1]) for cell in cells]

    def _multiply(self, values: Sequence[jax.Array], transformed: AnyArray) -> jax.Array:
        (height, rows), (width, columns) = self._sides
        at, _, _ = transforms(self.size)
        span = at.shape[1]
        products = [jnp.dot(value, transformed[i], precision="highest") for i, value in enumerate(values)]
        tiles = [product.reshape(-1, rows, columns, product.shape[-1]) for product in products]
        lines = [_combinations(at, tiles[i::span]) for i in range(span)]  # along the columns of a tile's positions
        lines = optimization_barrier([[line[i] for line in lines] for i in range(OUTPUTS)])
        cells = optimization_barrier([_combinations(at, line) for line in lines])
        y = jnp.stack([jnp.stack(row, 3) for row in cells], 2)
        y = y.reshape(-1, rows * OUTPUTS, columns * OUTPUTS, y.shape[-1])
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
def transforms(size: int) -> tuple[Matrix, Matrix, Matrix]:
    """Returns A^T (m, a), G (a, r) and B^T (a, a) with a = m + r - 1: y = A^T [(G g) * (B^T d)].

    Row i of G evaluates the kernel's polynomial at point i, column i of A^T holds the point's powers, and row i of B^T
    is the polynomial whose roots are all other points (Lagrange); its norm is put in G. The last point is infinity.
    """
    points = [Fraction(point) for point in _POINTS[size].split()]
    others = [points[:i] + points[i + 1 :] for i in range(len(points))]
    norms = [math.prod(point - other for other in rest) for point, rest in zip(points, others, strict=True)]
    g = [[power / norm for power in row] for row, norm in zip(_powers(points, size), norms, strict=True)]
    bt = [[*_polynomial(rest), Fraction(0)] for rest in others]
    at = np.array([*_powers(points, OUTPUTS), _infinity(OUTPUTS)], float).T
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
