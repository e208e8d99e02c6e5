"""Rounding to a few bits, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxperturb as jp
from jaxperturb.errors import LayerError, LevelError, PerturbationError
from jaxperturb.random import key


def tree(dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        name: {"kernel": rng.normal(size=shape).astype(dtype), "bias": rng.normal(size=shape[-1:]).astype(dtype)}
        for name, shape in {"a": (3, 3, 5, 8), "b": (40, 7)}.items()
    }


def numpy_quantized(w, bits, axis=None):
    others = None if axis is None else tuple(i for i in range(w.ndim) if i != axis % w.ndim)
    scale = np.abs(w).max(axis=others, keepdims=axis is not None) / np.float32(2 ** (bits - 1) - 1)
    return np.round(w / scale) * scale


@pytest.mark.parametrize("bits", range(2, 17))
def test_weights_are_numpys_bit_for_bit(bits):
    params = tree()
    for after in (
        jp.quantize(key(0), params, bits),
        jax.jit(jp.quantize)(key(0), params, float(bits)),
        jax.jit(lambda params: jp.quantize(key(0), params, bits))(params),
        jax.vmap(lambda level: jp.quantize(key(0), params, level))(jnp.float32([bits])),
    ):
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(params), strict=True):
            np.testing.assert_array_equal(np.asarray(a).reshape(b.shape), numpy_quantized(b, bits))
            assert len(np.unique(a)) <= 2**bits - 1


def test_each_unit_can_have_its_own_scale():
    after = jp.quantize(key(0), tree(), 3, granularity="unit")
    for name, layer in tree().items():
        np.testing.assert_array_equal(after[name]["kernel"], numpy_quantized(layer["kernel"], 3, -1))
        np.testing.assert_array_equal(after[name]["bias"], numpy_quantized(layer["bias"], 3))
    first = {"c": {"weight": tree()["b"]["kernel"].T.copy()}}
    np.testing.assert_array_equal(
        jp.quantize(key(0), first, 3, granularity="unit")["c"]["weight"], numpy_quantized(first["c"]["weight"], 3, 0)
    )


def test_one_bit_is_a_sign():
    params = tree()
    params["b"]["bias"][0] = 0
    after = jp.quantize(key(0), params, 1)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a, np.where(b >= 0, 1, -1) * np.abs(b).mean(), rtol=1e-6)
        assert len(np.unique(a)) == 2


def test_errors_shrink_with_the_bits():
    params = tree()
    error = [
        np.abs(np.asarray(jp.quantize(key(0), params, bits)["a"]["kernel"]) - params["a"]["kernel"]).max()
        for bits in (2, 4, 8, 16)
    ]
    assert error == sorted(error, reverse=True)
    assert error[-1] < 1e-4


def test_what_is_not_selected_is_the_same_object_and_nothing_is_drawn():
    params = tree()
    after = jp.quantize(key(0), params, 4, layers="b", include_bias=False)
    assert after["a"]["kernel"] is params["a"]["kernel"]
    assert after["b"]["bias"] is params["b"]["bias"]
    assert np.array_equal(after["b"]["kernel"], jp.quantize(key(1), params, 4)["b"]["kernel"])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_stays_half(dtype):
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), tree())
    for a, b in zip(jax.tree.leaves(jp.quantize(key(0), params, 4)), jax.tree.leaves(params), strict=True):
        assert a.dtype == dtype
        np.testing.assert_array_equal(np.asarray(a), numpy_quantized(np.asarray(b, np.float32), 4).astype(dtype))


def test_constant_and_empty_tensors():
    params = {"a": {"kernel": np.zeros((3, 4), np.float32), "bias": np.full(4, 2, np.float32)}}
    for bits in (1, 2, 8):
        after = jp.quantize(key(0), params, bits)["a"]
        np.testing.assert_array_equal(after["kernel"], 0)
        np.testing.assert_array_equal(after["bias"], 2)


@pytest.mark.parametrize("level", [0, 17, 2.5, -1, "x", None, float("nan"), jnp.int32(4)])
def test_levels_out_of_range_are_refused(level):
    with pytest.raises(LevelError):
        jp.quantize(key(0), tree(), level)


def test_traced_levels_are_clipped_and_nothing_recompiles():
    traces = []

    @jax.jit
    def lesion(params, level):
        traces.append(level)
        return jp.quantize(key(0), params, level)

    for level, bits in ((3.0, 3), (0.0, 1), (40.0, 16)):
        for a, b in zip(
            jax.tree.leaves(lesion(tree(), level)), jax.tree.leaves(jp.quantize(key(0), tree(), bits)), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert len(traces) == 1


def test_mistakes_get_one_clear_line():
    with pytest.raises(LayerError, match="unknown layer 'd'"):
        jp.quantize(key(0), tree(), 4, layers="d")
    with pytest.raises(PerturbationError, match="'tensor' or 'unit'"):
        jp.quantize(key(0), tree(), 4, granularity="row")


def test_divisions_are_exact():
    """XLA multiplies by an inverse where it can, which moves some of 19,200 weights by a step of 16 bits."""
    weights = np.random.default_rng(1).normal(size=(64, 300)).astype(np.float32)
    after = jp.quantize(key(0), {"a": {"kernel": weights}}, 16)["a"]["kernel"]
    np.testing.assert_array_equal(after, numpy_quantized(weights, 16))
    after = jp.quantize(key(0), {"a": {"kernel": weights}}, 16, granularity="unit")["a"]["kernel"]
    np.testing.assert_array_equal(after, numpy_quantized(weights, 16, -1))
