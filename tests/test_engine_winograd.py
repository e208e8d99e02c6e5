"""Winograd's convolution and the folding of strides agree with the direct sum in double precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperturb.engine.folding import Folded
from jaxperturb.engine.winograd import Winograd, transforms


def direct(images: np.ndarray, kernel: np.ndarray, stride: int, padding) -> np.ndarray:
    """The convolution by its definition, float64."""
    x = np.pad(images.astype(np.float64), ((0, 0), *padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("nhwcab,abck->nhwk", windows, kernel.astype(np.float64), optimize=True)


def sample(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def error(got, want: np.ndarray) -> float:
    """The largest, as a share of the largest output."""
    assert got.shape == want.shape
    return float(np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max())


ALGORITHMS = [(4, 3), (5, 3), (4, 5)]  # outputs of a tile, size of the kernel
ANY = [
    (13, 13, ((1, 1), (1, 1)), 1),
    (12, 7, ((0, 3), (4, 1)), 2),
    (9, 11, ((2, 2), (2, 2)), 2),
    (6, 14, ((4, 0), (1, 3)), 3),
]


@pytest.mark.parametrize(("outputs", "size"), ALGORITHMS)
@pytest.mark.parametrize(("height", "width", "padding", "count"), ANY)
def test_any_size_padding_and_number_of_images(outputs: int, size: int, height: int, width: int, padding, count: int):
    images, kernel = sample((count, height, width, 7)), sample((size, size, 7, 5))
    got = jax.jit(Winograd(size, height, width, padding, outputs))(images, kernel)
    assert error(got, direct(images, kernel, 1, padding)) < 1e-5


@pytest.mark.parametrize(("channels", "units"), [(1, 1), (1, 300), (300, 8)])
def test_any_number_of_channels(channels: int, units: int):
    images, kernel = np.maximum(sample((2, 13, 13, channels)), 0), sample((3, 3, channels, units))
    padding = ((1, 1), (1, 1))
    got = jax.jit(Winograd(3, 13, 13, padding))(images, kernel)
    assert error(got, direct(images, kernel, 1, padding)) < 1e-5


@pytest.mark.parametrize("how", [{"at_once": 2}, {"parts": 2}, {"parts": 4}])
@pytest.mark.parametrize("count", [2, 5])
def test_images_in_turn_are_all_there_in_order(count: int, how: dict[str, int]):
    images, kernel, padding = sample((count, 9, 6, 4)), sample((3, 3, 4, 8)), ((1, 1), (0, 1))
    few = Winograd(3, 9, 6, padding, **how)
    assert error(jax.jit(few)(images, kernel), direct(images, kernel, 1, padding)) < 1e-5


def test_what_is_between_the_steps_is_bounded():
    one = Winograd.of((13, 13, 384), (3, 3, 384, 256), ((1, 1), (1, 1)))
    assert (one.at_once, one.parts) == (None, 1)
    two = Winograd.of((27, 27, 64), (5, 5, 64, 192), ((2, 2), (2, 2)))
    assert (two.at_once, two.parts) == (None, 2)
    large = Winograd.of((224, 224, 64), (3, 3, 64, 64), ((1, 1), (1, 1)))
    assert large.at_once == 1
    images = jnp.zeros((2, 224, 224, 64))
    assert large.share(images) is images


@pytest.mark.parametrize("step", ["share", "transform", "join"])
def test_each_step_does_its_own_part(step: str):
    """The steps are bilinear, so that doubling what goes into one doubles the result."""
    conv, images, kernel = Winograd(3, 4, 4, ((1, 1), (1, 1))), sample((1, 4, 4, 3)), sample((3, 3, 3, 4))
    shared, transformed = conv.share(images), conv.transform(kernel)
    doubled = {
        "share": lambda: conv.join(conv.share(2 * images), transformed),
        "transform": lambda: conv.join(shared, conv.transform(2 * kernel)),
        "join": lambda: 2 * conv.join(shared, transformed),
    }[step]()
    assert error(doubled, 2 * direct(images, kernel, 1, ((1, 1), (1, 1)))) < 1e-5


@pytest.mark.parametrize(("side", "outputs"), [(12, 4), (13, 5), (15, 5), (16, 4)])
def test_the_outputs_of_a_tile_are_those_that_take_fewest_products(side: int, outputs: int):
    """Products of F(4×4, 3×3) and F(5×5, 3×3) on these sides: 324 and 441, 576 and 441, 576 and 441, 576 and 784."""
    assert Winograd.of((side, side, 8), (3, 3, 8, 8), ((1, 1), (1, 1))).outputs == outputs


@pytest.mark.parametrize(("outputs", "size"), ALGORITHMS)
def test_the_transforms_compute_correlations_exactly(outputs: int, size: int):
    """Lavin and Gray, equation 5: y = A^T [(G g) * (B^T d)], in double precision."""
    at, g, bt = transforms(outputs, size)
    d, kernel = np.arange(outputs + size - 1) ** 2.0 - 7, np.arange(size) + 3.0
    np.testing.assert_allclose(at @ ((g @ kernel) * (bt @ d)), np.correlate(d, kernel, "valid"), rtol=1e-12)


@pytest.mark.parametrize("outputs", [4, 5])
def test_the_points_of_size_three_err_least(outputs: int):
    """The usual points 0, ±1, ±2 (and 1/2) err four (two) times as much; so would any slip in the choice."""
    images, kernel = np.maximum(sample((4, 16, 16, 256)), 0), sample((3, 3, 256, 64))
    want = direct(images, kernel, 1, ((0, 0), (0, 0)))
    most = {4: 5e-6, 5: 8e-6}[outputs]
    assert error(jax.jit(Winograd(3, 16, 16, ((0, 0), (0, 0)), outputs))(images, kernel), want) < most


FOLDED = [(11, 4, 2, 63, 3), (11, 4, 0, 64, 3), (6, 2, 1, 21, 1), (9, 3, 1, 25, 2)]


@pytest.mark.parametrize(("size", "stride", "around", "side", "channels"), FOLDED)
def test_folded_strides(size: int, stride: int, around: int, side: int, channels: int):
    padding, shape = ((around, around), (around, 0)), (size, size, channels, 6)
    images, kernel = sample((2, side, side + 1, channels)), sample(shape)
    got = jax.jit(Folded.of((side, side + 1, channels), shape, stride, padding))(images, kernel)
    assert error(got, direct(images, kernel, stride, padding)) < 1e-5


def test_no_image_mixes_with_another():
    images, kernel, conv = sample((3, 9, 9, 4)), sample((3, 3, 4, 4)), jax.jit(Winograd(3, 9, 9, ((1, 1), (1, 1))))
    whole = np.asarray(conv(images, kernel))
    images[1] = np.nan
    other = np.asarray(conv(images, kernel))
    assert np.isnan(other[1]).all()
    np.testing.assert_array_equal(other[[0, 2]], whole[[0, 2]])
