"""Replaced equations equal those of XLA, SciPy and PyTorch, and only what is meant is replaced."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from scipy import ndimage, signal

from jaxperturb.engine.programs import Shape, pair_of
from jaxperturb.engine.rewrite import Convolution, Rewrites, replacement, rewrites
from jaxperturb.engine.tiling import Tiling
from jaxperturb.errors import StudyError
from jaxperturb.networks.alexnet import AlexNet
from jaxperturb.networks.network import specification
from jaxperturb.networks.vgg import VGG

ALL = Rewrites("all", slices=True)
NHWC = ("NHWC", "HWIO", "NHWC")


def equation_of(function, *arguments):
    (equation,) = jax.make_jaxpr(function)(*arguments).jaxpr.eqns
    return equation


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def close(got, want, digits: float = 1e-5) -> None:
    assert got.shape == want.shape
    assert np.abs(np.asarray(got) - want).max() <= digits * np.abs(want).max()


def convolved(images, kernel, layouts=NHWC, strides=(1, 1), padding=((1, 1), (1, 1)), **options):
    return lax.conv_general_dilated(images, kernel, strides, padding, dimension_numbers=layouts, **options)


LAYOUTS = [NHWC, ("NCHW", "OIHW", "NCHW"), ("HWNC", "OIHW", "CNHW"), ("CNHW", "IHWO", "WHCN")]


@pytest.mark.parametrize("layouts", LAYOUTS, ids=" ".join)
def test_any_layout(layouts):
    sides, shape = {"N": 3, "C": 4, "H": 9, "W": 7}, {"O": 5, "I": 4, "H": 3, "W": 3}
    images, kernel = normal(*(sides[axis] for axis in layouts[0])), normal(*(shape[axis] for axis in layouts[1]))
    replaced = replacement(equation_of(lambda x, k: convolved(x, k, layouts), images, kernel), ALL)
    (got,) = jax.jit(replaced)(images, kernel)
    by_image = images.transpose([layouts[0].index(axis) for axis in "NCHW"])
    by_unit = kernel.transpose([layouts[1].index(axis) for axis in "OIHW"])
    want = np.array(
        [
            [sum(signal.correlate2d(*pair, "same") for pair in zip(image, unit, strict=True)) for unit in by_unit]
            for image in by_image
        ]
    )
    close(got, want.transpose(["NCHW".index(axis) for axis in layouts[2]]))


def test_as_pytorch_does(torch):
    images, kernel = normal(2, 70, 70, 3), normal(11, 11, 3, 8)
    around = ((2, 2), (2, 2))
    equation = equation_of(lambda x, k: convolved(x, k, strides=(4, 4), padding=around), images, kernel)
    (got,) = jax.jit(replacement(equation, ALL))(images, kernel)
    there = (torch.tensor(array.transpose(axes)) for array, axes in ((images, (0, 3, 1, 2)), (kernel, (3, 2, 0, 1))))
    close(got, torch.nn.functional.conv2d(*there, stride=4, padding=2).numpy().transpose(0, 2, 3, 1))


@pytest.mark.parametrize("batch", [1, 17])
def test_any_number_of_images(batch: int):
    """The equation was traced with four."""
    kernel = normal(3, 3, 8, 16)
    replaced = replacement(equation_of(convolved, normal(4, 6, 6, 8), kernel), ALL)
    images = normal(batch, 6, 6, 8)
    (got,) = jax.jit(replaced)(images, kernel)
    close(got, np.asarray(convolved(images, kernel)))


def test_steps_are_the_whole():
    images, kernel = normal(2, 6, 6, 3), normal(3, 3, 3, 4)
    replaced = replacement(equation_of(convolved, images, kernel), ALL)
    assert isinstance(replaced, Convolution)
    shared = jax.jit(replaced.share)(images)
    whole = jax.jit(replaced)(images, kernel)
    finished = jax.jit(replaced.finish)(shared, kernel)
    joined = jax.jit(replaced.join)(shared, replaced.transform(kernel))
    want = np.asarray(convolved(images, kernel))
    for (got,) in (whole, finished, joined):
        close(got, want)


def test_inside_loops_and_over_masks():
    images, kernels = normal(3, 2, 6, 6, 3), normal(4, 3, 3, 3, 4)
    replaced = replacement(equation_of(convolved, images[0], kernels[0]), ALL)

    def block(x):
        shared = replaced.share(x)
        return lax.map(lambda kernel: replaced.finish(shared, kernel)[0], kernels)

    want = np.array([[convolved(x, kernel) for kernel in kernels] for x in images])
    close(jax.jit(lambda x: lax.map(block, x))(images), want)
    over_masks = jax.vmap(lambda kernel: replaced(images[0], kernel)[0])
    close(jax.jit(over_masks)(kernels), want[0])


STAY = {
    "groups": lambda x: convolved(x, normal(3, 3, 2, 4), feature_group_count=2),
    "dilated kernel": lambda x: convolved(x, normal(3, 3, 4, 4), rhs_dilation=(2, 2)),
    "dilated images": lambda x: convolved(x, normal(3, 3, 4, 4), lhs_dilation=(2, 2)),
    "cropped": lambda x: convolved(x, normal(3, 3, 4, 4), padding=((-1, 0), (0, 0))),
    "not square": lambda x: convolved(x, normal(3, 5, 4, 4)),
    "uneven strides": lambda x: convolved(x, normal(3, 3, 4, 4), strides=(1, 2)),
    "stride of two, seven by seven": lambda x: convolved(x, normal(7, 7, 4, 4), strides=(2, 2)),
    "one by one": lambda x: convolved(x, normal(1, 1, 4, 4)),
    "stride of two": lambda x: convolved(x, normal(3, 3, 4, 4), strides=(2, 2)),
    "average": lambda x: lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
    "dilated window": lambda x: lax.reduce_window(
        x, -np.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID", window_dilation=(1, 2, 2, 1)
    ),
    "sum": jnp.negative,
}


@pytest.mark.parametrize("function", STAY.values(), ids=STAY)
def test_what_cannot_be_replaced_stays(function):
    closed = jax.make_jaxpr(function)(normal(2, 8, 8, 4))
    assert [replacement(equation, ALL) for equation in closed.jaxpr.eqns] == [None] * len(closed.jaxpr.eqns)


def test_half_precision_stays():
    images, kernel = jnp.zeros((1, 8, 8, 4), jnp.bfloat16), jnp.zeros((3, 3, 4, 4), jnp.bfloat16)
    assert replacement(equation_of(convolved, images, kernel), ALL) is None


POOLS = [
    ((2, 9, 8, 3), (3, 3), (2, 2), "VALID"),
    ((2, 9, 8, 3), (2, 2), (2, 2), "SAME"),
    ((1, 7, 7, 2), (3, 2), (1, 3), "SAME"),
    ((2, 8, 8, 3), (1, 3), (1, 1), "SAME"),
    ((2, 5, 5, 3), (1, 1), (2, 2), "VALID"),
    ((1, 6, 6, 1), (6, 6), (1, 1), "VALID"),
]


@pytest.mark.parametrize(("shape", "window", "strides", "padding"), POOLS)
def test_pooling_is_bit_for_bit_that_of_xla(shape, window, strides, padding):
    x = normal(*shape)
    (got,) = jax.jit(replacement(equation_of(lambda x: nn.max_pool(x, window, strides, padding), x), ALL))(x)
    np.testing.assert_array_equal(got, nn.max_pool(x, window, strides, padding))


def test_pooling_is_that_of_scipy():
    x = normal(1, 9, 9, 2)
    (got,) = replacement(equation_of(lambda x: nn.max_pool(x, (3, 3), (1, 1), "SAME"), x), ALL)(x)
    np.testing.assert_array_equal(got, ndimage.maximum_filter(x, (1, 3, 3, 1), mode="constant", cval=-np.inf))


def test_pooling_keeps_what_is_no_number():
    x = normal(1, 6, 6, 1)
    x[0, 2, 3] = np.nan
    (got,) = replacement(equation_of(lambda x: nn.max_pool(x, (3, 3), (3, 3)), x), ALL)(x)
    np.testing.assert_array_equal(np.isnan(got)[0, :, :, 0], [[False, True], [False, False]])


RULES = [
    ("cpu", "auto", "winograd+slices"),
    ("cpu", "xla", "xla"),
    ("cpu", "winograd", "winograd_all+slices"),
    ("gpu", "auto", "xla"),
    ("tpu", "auto", "xla"),
    ("gpu", "winograd", "winograd_all"),
]


@pytest.mark.parametrize(("backend", "word", "name"), RULES)
def test_the_rule_by_backend(backend, word, name):
    assert rewrites(backend, word).name == name
    assert hash(rewrites(backend, word)) == hash(rewrites(backend, word))


def test_another_word_is_refused():
    with pytest.raises(StudyError, match="expected convolutions of auto, xla, winograd, got 'fft'"):
        rewrites("cpu", "fft")


SHAPES = [
    ((13, 13, 384), (3, 3, 384, 256), 1, True),
    ((27, 27, 64), (5, 5, 64, 192), 1, True),
    ((228, 228, 3), (11, 11, 3, 64), 4, True),
    ((224, 224, 3), (3, 3, 3, 64), 1, False),
    ((32, 32, 16), (3, 3, 16, 16), 1, False),
    ((32, 32, 32), (3, 3, 32, 32), 1, False),
    ((32, 32, 64), (3, 3, 64, 64), 1, True),
    ((4, 4, 512), (3, 3, 512, 512), 1, False),
]


@pytest.mark.parametrize(("images", "kernel", "stride", "faster"), SHAPES)
def test_the_rule_by_shape(images, kernel, stride, faster):
    shapes = (jax.ShapeDtypeStruct((16, *images), jnp.float32), jax.ShapeDtypeStruct(kernel, jnp.float32))
    equation = equation_of(lambda x, k: convolved(x, k, strides=(stride, stride)), *shapes)
    assert (replacement(equation, Rewrites("faster")) is not None) == faster
    assert replacement(equation, Rewrites()) is None
    assert replacement(equation, Rewrites(slices=True)) is None


@pytest.mark.parametrize("module", [AlexNet(), VGG(batch_norm=False)], ids=["alexnet", "vgg16"])
@pytest.mark.parametrize("rules", [Rewrites("faster", slices=True), ALL], ids=["faster", "all"])
def test_convolutions_run_at_the_small_size_and_dense_layers_at_the_large_one(module, rules):
    """A replacement that hung on the number of images would make two programs of one network, which cannot be split."""
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(module.init, jax.random.key(0), images)
    both = pair_of(Shape(module.apply, specification(params), images.shape[1:], Tiling(16, 128, rewrites=rules)))
    assert (both.small.program.batch, both.large.program.batch) == (16, 128)
    late = {equation.primitive.name for equation in both.small.program.equations[both.split :]}
    assert "dot_general" in late
    assert not late & {"conv_general_dilated", "reduce_window_max"}
