"""Precision: weights rounded to a few bits."""

from collections.abc import Mapping
from decimal import Decimal
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.errors import LevelError
from jaxperturb.levels import as_level
from jaxperturb.perturb.scope import Layers, Level, Norms, Where, touched, traced_level
from jaxperturb.perturb.words import check_granularity, scale_axis, symmetric
from jaxperturb.trees import replace_leaves
from jaxperturb.types import AnyArray, Key, Params, Scalar

LONGEST = 16  # bits that `quantize` takes


def quantize(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    granularity: str = "tensor",
    norms: Norms = None,
) -> Params:
    """Rounds every weight to ``level`` bits: how precisely must a weight be known?

    With 2 bits or more, to a whole multiple of ``max|w| / (2**(bits - 1) - 1)``, symmetric about 0, halves to even.
    With 1 bit, to plus or minus the mean of ``|w|`` (0 becomes plus), since those multiples would all be 0. Nothing is
    drawn. Computed in float32 and returned in the tensor's own type.

    Source: Jacob et al. (2018), "Quantization and training of neural networks for efficient integer-arithmetic-only
    inference", without a zero point; 1 bit as in Rastegari et al. (2016), "XNOR-Net".

    Args:
        key: not used; it is there so that all perturbations are called alike.
        params: a tree of weights (see `jaxperturb.trees`).
        level: bits, a whole number from 1 to 16; a float32 array is rounded and clipped to that.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases are rounded too.
        include_norm: whether scale and shift of a layer's norm are.
        granularity: ``unit`` gives the weights of each unit a scale of their own; biases and norms have one each.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: not a whole number from 1 to 16.
        LayerError: a pattern that matches no layer, or a tree without layers.
    """
    del key
    check_granularity(granularity)
    number = _bits_of_level(level)
    changed = {
        tensor.leaf.index: _quantized(number, array, scale_axis(tensor.leaf, granularity))
        for tensor, array in touched(params, Where(layers, include_bias, include_norm, norms=norms))
    }
    return replace_leaves(params, changed)


def quantize_variants(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the options of `quantize`, or raises `PerturbationError` where one does not fit."""
    check_granularity(options["granularity"])
    return [dict(options)]


def check_whole_bits(level: Decimal) -> Decimal:
    """Returns a number of bits that `quantize` takes, or raises `LevelError`."""
    if level != level.to_integral_value() or not 1 <= level <= LONGEST:
        raise LevelError(f"expected a whole number of bits from 1 to {LONGEST}, got {level}")
    return level


@partial(jax.jit, static_argnums=2)
def _quantized(number: Scalar, array: AnyArray, axis: int | None) -> AnyArray:
    wide = array.astype(jnp.float32)
    highest = ((jnp.int32(1) << (number - 1)) - 1).astype(jnp.float32)
    integers, scale = symmetric(wide, jnp.maximum(highest, 1), axis)
    others = None if axis is None else tuple(i for i in range(wide.ndim) if i != axis % wide.ndim)
    size = jnp.mean(jnp.abs(wide), axis=others, keepdims=axis is not None)
    one_bit = jnp.where(wide >= 0, size, -size)
    return jnp.where(number == 1, one_bit, integers.astype(jnp.float32) * scale).astype(array.dtype)


def _bits_of_level(level: Level) -> Scalar:
    if level is None:
        raise LevelError(f"expected a number of bits from 1 to {LONGEST}, got none")
    if isinstance(level, jax.Array | np.ndarray):
        return jnp.clip(jnp.round(traced_level(level)), 1, LONGEST).astype(jnp.int32)
    return jnp.int32(int(check_whole_bits(as_level(level))))
