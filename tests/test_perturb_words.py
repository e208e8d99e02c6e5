"""Memory words against NumPy's own arithmetic, bit for bit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxperturb.errors import PerturbationError
from jaxperturb.perturb.words import Word, check_granularity, decode, encode, scale_axis
from jaxperturb.trees import Leaf

WORDS = ("float32", "bfloat16", "float16", "int8", "int4", "fixed(1,7)", "fixed(8,8)", "fixed(3,2)", "fixed(16,16)")
SHAPE = (3, 3, 5, 8)


def weights(seed=0, shape=SHAPE, scale=0.1):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def numpy_encode(w, name, axis=None):
    """Stored bits and scale by NumPy alone."""
    if name == "float32":
        return w.view(np.uint32), np.float32(1)
    if name == "float16":
        return w.astype(np.float16).view(np.uint16), np.float32(1)
    if name == "bfloat16":
        return w.astype(ml_dtypes.bfloat16).view(np.uint16), np.float32(1)
    if name.startswith("int"):
        bits = int(name[3:])
        others = None if axis is None else tuple(i for i in range(w.ndim) if i != axis % w.ndim)
        scale = np.abs(w).max(axis=others, keepdims=axis is not None) / np.float32(2 ** (bits - 1) - 1)
        scale = np.where(scale > 0, scale, np.float32(1)).astype(np.float32)
        return np.round(w / scale).astype(np.int64).astype(np.uint8) & np.uint8(2**bits - 1), scale
    integer, fraction = (int(part) for part in name[6:-1].split(","))
    bits = integer + fraction
    whole = np.clip(np.round(w.astype(np.float64) * 2.0**fraction), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return whole.astype(np.int64) % 2**bits, np.float32(1)


def numpy_decode(stored, scale, name):
    if name == "float32":
        return stored.astype(np.uint32).view(np.float32)
    if name == "float16":
        return stored.astype(np.uint16).view(np.float16).astype(np.float32)
    if name == "bfloat16":
        return stored.astype(np.uint16).view(ml_dtypes.bfloat16).astype(np.float32)
    word = Word.of(name)
    signed = stored.astype(np.int64)
    signed = np.where(signed >= 2 ** (word.bits - 1), signed - 2**word.bits, signed)
    return signed.astype(np.float32) * (scale if name.startswith("int") else np.float32(2.0**-word.fraction))


def same(a, b):
    return np.array_equal(np.asarray(a), b, equal_nan=True) and np.array_equal(np.signbit(np.asarray(a)), np.signbit(b))


def both(function):
    """A function eager and compiled, where XLA may leave out what it takes for idle."""
    return (function, jax.jit(function))


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("seed", range(3))
def test_stored_bits_and_what_they_mean_are_numpys(name, seed):
    w, word = weights(seed, scale=(0.1, 1.0, 30.0)[seed]), Word.of(name)
    stored, scale = numpy_encode(w, name)
    for run in both(lambda w: encode(w, word)):
        ours, our_scale = run(w)
        assert ours.dtype == word.stored
        np.testing.assert_array_equal(ours, stored.astype(word.stored))
        np.testing.assert_array_equal(our_scale, scale)
    for run in both(lambda w: decode(*encode(w, word), word, jnp.float32)):
        assert same(run(w), numpy_decode(stored, scale, name))


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("axis", [-1, 0])
def test_a_scale_for_each_unit_is_numpys(name, axis):
    w = weights() * np.geomspace(1, 1000, SHAPE[axis]).astype(np.float32).reshape((-1, 1, 1, 1) if axis == 0 else -1)
    stored, scale = numpy_encode(w, name, axis)
    ours, our_scale = jax.jit(lambda w: encode(w, Word.of(name), axis))(w)
    np.testing.assert_array_equal(ours, stored)
    np.testing.assert_array_equal(our_scale, scale)
    assert same(decode(ours, our_scale, Word.of(name), jnp.float32), numpy_decode(stored, scale, name))
    assert (np.abs(numpy_decode(stored, scale, name)).reshape(-1, 8).max(0) > 0).all()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_every_half_precision_word_means_what_numpy_says(name):
    stored = np.arange(2**16, dtype=np.uint16)
    means = numpy_decode(stored, None, name)
    got = np.asarray(jax.jit(lambda s: decode(s, jnp.float32(1), Word.of(name), jnp.float32))(stored))
    number = ~np.isnan(means)
    np.testing.assert_array_equal(got.view(np.uint32)[number], means.view(np.uint32)[number])
    assert np.isnan(got[~number]).all()
    # Back again: subnormal floats of float32, which bfloat16 shares, are 0 to a processor that flushes them.
    back = np.asarray(jax.jit(lambda x: encode(x, Word.of(name))[0])(means))
    np.testing.assert_array_equal(back[number], stored[number])
    assert np.isnan(numpy_decode(back[~number], None, name)).all()


@pytest.mark.parametrize("name", ["int8", "int4", "fixed(3,5)", "fixed(1,3)"])
def test_every_integer_word_means_what_numpy_says(name):
    stored = np.arange(2 ** Word.of(name).bits)
    scale = np.float32(0.37)
    got = decode(stored.astype(np.uint8), jnp.asarray(scale), Word.of(name), jnp.float32)
    assert same(got, numpy_decode(stored, scale, name))


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=30), st.sampled_from(["float16", "bfloat16"])
)
def test_any_number_becomes_the_nearest_half(values, name):
    w = np.array(values, np.float32)
    w = w[(np.abs(w) > 1e-37) | (w == 0)]
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(encode(w, Word.of(name))[0], numpy_encode(w, name)[0])


def test_fixed_point_saturates():
    w = np.array([100, -100, 0.124, -0.126, 7.9, -8, np.inf, -np.inf], np.float32)
    stored, scale = encode(w, Word.of("fixed(4,2)"))
    np.testing.assert_array_equal(
        decode(stored, scale, Word.of("fixed(4,2)"), jnp.float32), [7.75, -8, 0, -0.25, 7.75, -8, 7.75, -8]
    )
    stored, scale = encode(np.array([1e9, -1e9, 1.5], np.float32), Word.of("fixed(16,16)"))
    np.testing.assert_array_equal(stored, [0x7FFFFFFF, 0x80000000, 0x18000])


@pytest.mark.parametrize("name", WORDS)
def test_zeros_stay_zeros(name):
    stored, scale = encode(np.zeros((4, 3), np.float32), Word.of(name), -1)
    assert not np.asarray(decode(stored, scale, Word.of(name), jnp.float32)).any()


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_tensors_keep_their_type(name, dtype):
    w = jnp.asarray(weights(), dtype)
    stored, scale = encode(w, Word.of(name))
    got = decode(stored, scale, Word.of(name), w.dtype)
    want = numpy_decode(*numpy_encode(np.asarray(w, np.float32), name), name).astype(dtype)
    assert got.dtype == dtype
    np.testing.assert_array_equal(np.asarray(got), want)


def test_biases_have_one_scale():
    assert scale_axis(Leaf("kernel", 0, (3, 3, 5, 8), -1), "unit") == -1
    assert scale_axis(Leaf("kernel", 0, (3, 3, 5, 8), -1), "tensor") is None
    assert scale_axis(Leaf("bias", 0, (8,), 0), "unit") is None
    assert scale_axis(Leaf("bias", 0, (8, 1, 1), 0), "unit") is None


@pytest.mark.parametrize("text", ["int16", "float64", "fixed(0,8)", "fixed(20,20)", "fixed(8)", "", 8, None])
def test_unknown_words_are_refused(text):
    with pytest.raises(PerturbationError, match="word"):
        Word.of(text)


def test_a_word_has_one_name():
    assert Word.of("fixed( 8, 4)") == Word.of("fixed(8,4)")
    assert (Word.of("fixed(8,4)").bits, Word.of("int4").bits, Word.of("bfloat16").bits) == (12, 4, 16)


def test_granularity_goes_with_integers():
    check_granularity("unit", Word.of("int8"))
    with pytest.raises(PerturbationError, match="'tensor' or 'unit'"):
        check_granularity("row")
    with pytest.raises(PerturbationError, match="no scale"):
        check_granularity("unit", Word.of("fixed(4,4)"))
