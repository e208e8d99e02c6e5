"""The project's own counter-based hash, as plain functions and as an implementation of JAX's random keys.

``value = hash(key, flat index)``: no state, so a number depends on its place alone. It fuses into its consumer and is
the same under `jit`, `vmap`, chunks and sharding, and several times faster than threefry on a CPU. Not for
cryptography.
"""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random as jex_random
from jaxtyping import Float, UInt32

from jaxperturb.errors import SeedError
from jaxperturb.types import AnyArray, Key, Words

_GOLDEN = 0x9E3779B9  # 2**32 over the golden ratio: spreads small integers
# What a key is used for, so that a child key never equals a number drawn from its parent.
_DRAW, _FOLD, _SPLIT, _SEED = 0x00000000, 0x243F6A88, 0x85A308D3, 0x13198A2E


def mix(x: UInt32[AnyArray, "..."]) -> UInt32[AnyArray, "..."]:
    """A bijection of the 32-bit words with full avalanche.

    Source: Chris Wellons, "Prospecting for Hash Functions" (2018), "lowbias32".
    """
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def hash_word(
    words: tuple[UInt32[AnyArray, "..."], UInt32[AnyArray, "..."]],
    index: UInt32[AnyArray, "..."],
    tag: int | UInt32[AnyArray, "..."] = _DRAW,
) -> UInt32[AnyArray, "..."]:
    """Returns a pseudo-random word for each index: a bijection of the index under each pair of key words.

    Three rounds, with a key word before each: two would give keys that share a word the same numbers in other places.
    """
    first, second = words
    x = mix(index * jnp.uint32(_GOLDEN) + (first ^ jnp.uint32(tag)))
    x = mix(x ^ second)
    return mix(x + first)


def words_of(key: Key) -> Words:
    """Returns the two words of a key of any implementation: our own as they are, others' data hashed.

    Args:
        key: a single typed key, or the words of an untyped one (``uint32``, one axis).

    Raises:
        SeedError: not a key, or several of them.
    """
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        data, ours = jax.random.key_data(key), jax.random.key_impl(key) == IMPLEMENTATION
        if key.ndim:
            raise SeedError(f"expected one key, got {key.shape}; use jax.vmap over keys")
    elif key.dtype == jnp.uint32 and key.ndim == 1 and key.shape[0] >= 2:
        data, ours = jnp.asarray(key), False
    else:
        raise SeedError(
            f"expected a key such as jaxperturb.random.key(0) or jax.random.key(0), got {key.dtype}{list(key.shape)}"
        )
    if ours:
        return data[0], data[1]
    words = (jnp.uint32(_SEED), jnp.uint32(data.shape[0]))
    for i in range(data.shape[0]):
        words = fold(words, data[i])
    return words


def fold(words: Words, data: int | UInt32[AnyArray, ""]) -> Words:
    """Returns the words of a child key, one for each 32-bit `data`."""
    return _child(words, jnp.asarray(data, jnp.uint32), _FOLD)


def bits(words: Words, shape: tuple[int, ...]) -> UInt32[AnyArray, "..."]:
    """Returns uniform 32-bit words of a shape: the hash of each flat index (row-major), below 2**32 of them."""
    return hash_word(words, flat_index(shape))


def uniform(words: Words, shape: tuple[int, ...]) -> Float[AnyArray, "..."]:
    """Returns float32 numbers uniform in (-1, 1): the 2**23 odd multiples of 2**-23, so symmetric and never 0 or 1."""
    odd = 2 * (bits(words, shape) >> 9).astype(jnp.int32) + (1 - 2**23)
    return odd.astype(jnp.float32) * jnp.float32(2.0**-23)


def normal(words: Words, shape: tuple[int, ...]) -> Float[AnyArray, "..."]:
    """Returns standard normal float32 numbers, within 5.3 of 0, by inversion of the distribution function."""
    return jnp.float32(math.sqrt(2)) * jax.lax.erf_inv(uniform(words, shape))


def flat_index(shape: tuple[int, ...]) -> UInt32[AnyArray, "..."]:
    """Returns the row-major position of each entry. Sums of iotas, so that it fuses and shards."""
    index = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        index = index + jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return index


@partial(jax.jit, static_argnums=2)
def _child(
    words: Words, data: UInt32[AnyArray, "*s"], tag: int
) -> tuple[UInt32[AnyArray, "*s"], UInt32[AnyArray, "*s"]]:
    return hash_word(words, data, tag), hash_word((words[1], words[0]), data, tag ^ _GOLDEN)


def _child_data(
    key: UInt32[jax.Array, "... 2"], data: UInt32[jax.Array, "..."], tag: int
) -> UInt32[jax.Array, "... 2"]:
    """`_child` for keys as arrays of two words, computed as one array.

    Stacking the two words instead would make LLVM, as of XLA in JAX 0.10 and 0.12, compile `vmap` over 16 keys or more
    for hours: it looks at all paths through two values that are stored side by side.
    """
    tags = jnp.array([tag, tag ^ _GOLDEN], jnp.uint32)
    return jnp.asarray(hash_word((key, key[..., ::-1]), data[..., None], tags))


def _seed(seed: jax.Array) -> UInt32[jax.Array, "2"]:
    return _child_data(jnp.array([0, _SEED], jnp.uint32), seed.astype(jnp.uint32), _SEED)


def _fold_in(key: UInt32[jax.Array, "2"], data: Any) -> UInt32[jax.Array, "2"]:
    return _child_data(key, jnp.asarray(data, jnp.uint32), _FOLD)


def _split(key: UInt32[jax.Array, "2"], shape: tuple[int, ...]) -> UInt32[jax.Array, "... 2"]:
    return _child_data(key, jnp.asarray(flat_index(shape)), _SPLIT)


def _random_bits(key: UInt32[jax.Array, "2"], bit_width: int, shape: tuple[int, ...]) -> jax.Array:
    words = (key[0], key[1])
    if bit_width == 64:
        low, high = bits(words, (2, *shape)).astype(jnp.uint64)
        return (high << 32) | low
    return jax.lax.convert_element_type(bits(words, shape) >> (32 - bit_width), f"uint{bit_width}")


# `jax.random.key(0, impl=IMPLEMENTATION)`: everything in jax.random then draws from this hash.
IMPLEMENTATION = jex_random.define_prng_impl(
    key_shape=(2,),
    seed=_seed,
    split=_split,
    random_bits=_random_bits,
    fold_in=_fold_in,
    name="jaxperturb_hash",
    tag="jp",
)
