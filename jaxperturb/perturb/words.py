"""The words that a memory holds: how a weight is written in bits, and what the bits mean when they are read.

Floats are stored in their IEEE form (``bfloat16``: the upper half of a float32), integers and fixed point in two's
complement. Computed with 32-bit integers and single float32 operations alone, so that the bits are NumPy's.
"""

import re
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int32, Shaped, UInt32

from jaxperturb.errors import PerturbationError
from jaxperturb.trees import Leaf
from jaxperturb.types import AnyArray

Kind = Literal["float32", "bfloat16", "float16", "integer", "fixed"]

MOST_BITS = 32
_KNOWN = "float32, bfloat16, float16, int8, int4 or fixed(i,f)"
_FIXED = re.compile(r"fixed\(\s*(\d+)\s*,\s*(\d+)\s*\)")


@dataclass(frozen=True)
class Word:
    """A number format.

    Attributes:
        name: as asked for.
        kind: how its bits are read.
        bits: length, from 1 to 32; bit 0 is the least significant.
        fraction: bits behind the binary point, of fixed point.
    """

    name: str
    kind: Kind
    bits: int
    fraction: int = 0

    @classmethod
    def of(cls, text: object) -> "Word":
        """Reads ``float32``, ``bfloat16``, ``float16``, ``int8``, ``int4``, or ``fixed(i,f)``.

        ``fixed(i,f)`` has i integer bits, the sign among them, and f fraction bits.

        Raises:
            PerturbationError: none of these, or fixed point of no integer bit or of more than 32 bits.
        """
        match text:
            case "float32":
                return cls(text, text, 32)
            case "bfloat16" | "float16":
                return cls(text, text, 16)
            case "int8" | "int4":
                return cls(text, "integer", int(text[3:]))
        found = _FIXED.fullmatch(text) if isinstance(text, str) else None
        if not found:
            raise PerturbationError(f"unknown word {text!r}: expected {_KNOWN}")
        integer, fraction = int(found[1]), int(found[2])
        if not 1 <= integer <= integer + fraction <= MOST_BITS:
            raise PerturbationError(
                f"word {text!r}: expected at least 1 integer bit (the sign) and at most {MOST_BITS} bits in all"
            )
        return cls(f"fixed({integer},{fraction})", "fixed", integer + fraction, fraction)

    @property
    def stored(self) -> str:
        """The unsigned type that a word is kept in; bits above its length are 0."""
        return f"uint{next(width for width in (8, 16, 32) if self.bits <= width)}"


def check_granularity(granularity: object, word: Word | None = None) -> None:
    """Raises `PerturbationError` where a granularity is unknown, or means nothing for a word."""
    if granularity not in ("tensor", "unit"):
        raise PerturbationError(f"expected granularity 'tensor' or 'unit', got {granularity!r}")
    if granularity == "unit" and word is not None and word.kind != "integer":
        raise PerturbationError(f"word {word.name} has no scale; granularity 'unit' goes with int8 and int4")


def scale_axis(leaf: Leaf, granularity: str) -> int | None:
    """Returns the axis along which each entry has a scale of its own, or None where one scale serves the tensor.

    A tensor of one entry for each unit (a bias) always has one scale: with a scale of its own each entry would be
    the largest, and nothing would be rounded.
    """
    one_each = leaf.size == leaf.shape[leaf.unit_axis]
    return None if granularity == "tensor" or one_each else leaf.unit_axis


def encode(
    array: Shaped[AnyArray, "..."], word: Word, axis: int | None = None
) -> tuple[Shaped[AnyArray, "..."], Float[AnyArray, "..."]]:
    """Returns the stored bits of each entry, in `Word.stored`, and the scale that integers are counted in.

    Integers: ``q = round(w / scale)``, halves to even, with ``scale = max|w| / (2**(bits - 1) - 1)``; the lowest
    integer, -2**(bits - 1), never comes of a weight, only of a fault. Fixed point: ``round(w * 2**fraction)``, and what
    is out of range becomes the nearest that is in it. The scale of other words is 1.

    Args:
        array: weights of any float type.
        word: the format.
        axis: along which integers have a scale of their own (see `scale_axis`), or None.
    """
    scale = scale_of(array, word, axis)
    return stored_with(array, scale, word), scale


def scale_of(array: Shaped[AnyArray, "..."], word: Word, axis: int | None = None) -> Float[AnyArray, "..."]:
    """Returns what one of the integers is worth that a tensor is stored in, as `encode` does; 1 for other words."""
    if word.kind != "integer":
        return jnp.float32(1)
    return symmetric_scale(array.astype(jnp.float32), _highest(word), axis)


def stored_with(array: Shaped[AnyArray, "..."], scale: Float[AnyArray, "..."], word: Word) -> Shaped[AnyArray, "..."]:
    """Returns the stored bits of each entry, as `encode` does, for a scale that is known."""
    wide = array.astype(jnp.float32)
    match word.kind:
        case "float32":
            stored = _bits_of(wide)
        case "bfloat16":
            stored = _upper_half(wide)
        case "float16":
            stored = jax.lax.bitcast_convert_type(wide.astype(jnp.float16), jnp.uint16)
        case "integer":
            stored = _complement(_integers(wide, scale, _highest(word)), word.bits)
        case "fixed":
            stored = _complement(_saturated(jnp.round(wide * jnp.float32(2.0**word.fraction)), word.bits), word.bits)
    return stored.astype(word.stored)


def decode(
    stored: Shaped[AnyArray, "..."], scale: Float[AnyArray, "..."], word: Word, dtype: jax.typing.DTypeLike
) -> Float[AnyArray, "..."]:
    """Returns what stored bits mean, in a float type.

    Args:
        stored: as `encode` gives it.
        scale: the same.
        word: the format.
        dtype: of the weights.
    """
    bits = stored.astype(jnp.uint32)
    match word.kind:
        case "float32":
            wide = _float_of(bits)
        case "bfloat16":
            wide = _float_of(bits << 16)
        case "float16":
            wide = _half(bits)
        case "integer":
            wide = _signed(bits, word.bits).astype(jnp.float32) * scale
        case "fixed":
            wide = _signed(bits, word.bits).astype(jnp.float32) * jnp.float32(2.0**-word.fraction)
    return wide.astype(dtype)


def symmetric(
    wide: Float[AnyArray, "..."], highest: Float[AnyArray, ""], axis: int | None
) -> tuple[Int32[AnyArray, "..."], Float[AnyArray, "..."]]:
    """Returns the integers from -highest to highest that weights are rounded to, and what one of them is worth.

    Args:
        wide: weights in float32.
        highest: 1 or more; may be traced.
        axis: along which there is a scale for each entry, or None for one scale.
    """
    scale = symmetric_scale(wide, highest, axis)
    return _integers(wide, scale, highest), scale


def symmetric_scale(
    wide: Float[AnyArray, "..."], highest: Float[AnyArray, ""], axis: int | None
) -> Float[AnyArray, "..."]:
    """Returns what one of the integers of `symmetric` is worth."""
    others = None if axis is None else tuple(i for i in range(wide.ndim) if i != axis % wide.ndim)
    scale = _quotient(jnp.max(jnp.abs(wide), axis=others, keepdims=axis is not None), highest)
    return jnp.where(scale > 0, scale, jnp.float32(1))  # weights that are all 0 stay so


def _integers(
    wide: Float[AnyArray, "..."], scale: Float[AnyArray, "..."], highest: Float[AnyArray, ""]
) -> Int32[AnyArray, "..."]:
    return jnp.clip(jnp.round(_quotient(wide, scale)), -highest, highest).astype(jnp.int32)


def _highest(word: Word) -> Float[AnyArray, ""]:
    return jnp.float32(2 ** (word.bits - 1) - 1)


def _quotient(a: Float[AnyArray, "..."], b: Float[AnyArray, "..."]) -> Float[AnyArray, "..."]:
    """The quotient as IEEE rounds it. XLA divides by one number as it multiplies by its inverse: wrong by a bit.

    So it must not see that the divisor is one: it is looked at entry by entry.
    """
    return a / jnp.where(jnp.isnan(a), jnp.float32(1), b)


def _bits_of(wide: Float[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
    return jax.lax.bitcast_convert_type(wide, jnp.uint32)


def _float_of(bits: UInt32[AnyArray, "..."]) -> Float[AnyArray, "..."]:
    return jax.lax.bitcast_convert_type(bits, jnp.float32)


def _upper_half(wide: Float[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
    """Bits of the nearest bfloat16, halves to even. Not a conversion and back, which XLA may leave out as too exact."""
    bits = _bits_of(wide)
    rounded = (bits + jnp.uint32(0x7FFF) + ((bits >> 16) & 1)) >> 16
    return jnp.where(jnp.isnan(wide), (bits >> 16) | jnp.uint32(0x40), rounded)


def _half(bits: UInt32[AnyArray, "..."]) -> Float[AnyArray, "..."]:
    """What 16 bits mean as a float16; by its parts, for the same reason."""
    sign, exponent, rest = (bits >> 15) << 31, (bits >> 10) & 0x1F, bits & jnp.uint32(0x3FF)
    wider = jnp.where(exponent == 0x1F, jnp.uint32(0xFF), exponent + 112) << 23  # 127 - 15 between the two offsets
    small = _bits_of(rest.astype(jnp.float32) * jnp.float32(2.0**-24))
    return _float_of(sign | jnp.where(exponent == 0, small, wider | (rest << 13)))


def _saturated(whole: Float[AnyArray, "..."], bits: int) -> Int32[AnyArray, "..."]:
    """Whole numbers as integers of so many bits. Compared as floats, since 2**31 - 1 is none."""
    limit = 2 ** (bits - 1)
    above, below = whole >= jnp.float32(limit), whole < jnp.float32(-limit)
    inside = jnp.where(above | below, jnp.float32(0), whole).astype(jnp.int32)
    return jnp.where(above, jnp.int32(limit - 1), jnp.where(below, jnp.int32(-limit), inside))


def _complement(integers: Int32[AnyArray, "..."], bits: int) -> UInt32[AnyArray, "..."]:
    return jax.lax.bitcast_convert_type(integers, jnp.uint32) & jnp.uint32(2**bits - 1)


def _signed(stored: UInt32[AnyArray, "..."], bits: int) -> Int32[AnyArray, "..."]:
    high = jax.lax.bitcast_convert_type(stored << (32 - bits), jnp.int32)
    return high >> (32 - bits)  # arithmetic: copies of the sign come in
