"""From a seed to the numbers of one tensor: seed -> draw -> layer -> leaf -> stream.

A key never depends on a level (so masks nest), nor on a position in a loop, the batch, the device or the number of
workers (so that one layer alone gets the masks of the whole study).
"""

import hashlib
from enum import IntEnum
from numbers import Integral

import jax
import jax.numpy as jnp
from jaxtyping import UInt32

from jaxperturb.errors import SeedError
from jaxperturb.random.prng import IMPLEMENTATION, fold, words_of
from jaxperturb.types import AnyArray, Key, Words


class Stream(IntEnum):
    """What a tensor's numbers are for. The values are part of the semantics."""

    SELECT = 0
    VALUES = 1
    NOISE = 2
    COUNT = 3


def key(seed: int | UInt32[AnyArray, ""]) -> Key:
    """Returns a JAX key of the project's own implementation, for `jax.random` and for every perturbation.

    Args:
        seed: from 0 to 2**32 - 1; may be a traced ``uint32``.

    Raises:
        SeedError: a seed outside that range, or not an integer.
    """
    return jax.random.key(check_seed(seed), impl=IMPLEMENTATION)


def draw_key(seed: int | UInt32[AnyArray, ""], draw: int | UInt32[AnyArray, ""]) -> Key:
    """Returns the key of one draw of a study: ``jax.random.fold_in(key(seed), draw)``."""
    return jax.random.fold_in(key(seed), check_seed(draw, "draw"))


def check_seed(seed: int | UInt32[AnyArray, ""], what: str = "seed") -> UInt32[AnyArray, ""]:
    """Returns a seed or a draw's number as ``uint32``, or raises `SeedError`."""
    if isinstance(seed, jax.Array) and seed.dtype == jnp.uint32:
        return seed
    if isinstance(seed, bool) or not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise SeedError(f"expected a {what} from 0 to {2**32 - 1}, got {seed!r}")
    return jnp.uint32(int(seed))


def layer_words(key: Key, layer: str) -> Words:
    """Returns the key words of a layer, by its name."""
    return fold(words_of(key), name_word(layer))


def leaf_words(layer: Words, leaf: str) -> Words:
    """Returns the key words of a layer's tensor, by its name (``kernel``, ``bias``)."""
    return fold(layer, name_word(leaf))


def stream_words(words: Words, stream: Stream) -> Words:
    """Returns the key words of one use of a tensor's or layer's randomness."""
    return fold(words, int(stream))


def name_word(name: str) -> int:
    """Returns a 32-bit word for a name: the first four bytes of its SHA-256, little-endian."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "little")
