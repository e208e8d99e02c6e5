"""Faults in stored words: which bits are chosen, exactly k of n, and what becomes of them.

The population of a tensor's faults is every selected bit of every word, in the order of words and, in each, of bits.
The chosen ones are those of the k lowest ranks under the keyed permutation, so that faults of one key nest. Few are
placed by the inverse permutation of 0..k-1, some at a time; many by asking each bit. Both are in the compiled program,
which takes k as an argument.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Shaped, UInt32

from jaxperturb.errors import LevelError, PerturbationError
from jaxperturb.random.permutation import HASHED_UP_TO, Permutation
from jaxperturb.types import AnyArray, Scalar, Words

Bits = int | str | Sequence[int]
# (entries, bits) -> (entries that are hit, their values after)
Struck = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]

AT_A_TIME = 2**12  # faults placed by one step: its sort is cheap, and few steps are needed
_FEW = 16  # one fault costs as much to place as so many bits to ask (measured on a CPU: 200 ns against 8)
_MOST = 2**32


@dataclass(frozen=True)
class Memory:
    """The bits of a tensor that may be faulty, as a part of their population.

    Attributes:
        bits: the selected bits of a word, ascending; 0 is the least significant.
        words: number of words of the population.
        first: place of the tensor's first word in it.
    """

    bits: tuple[int, ...]
    words: int
    first: int = 0

    @property
    def n(self) -> int:
        """Number of bits of the population."""
        return self.words * len(self.bits)

    def check(self, name: str) -> "Memory":
        """Returns itself, or raises `LevelError` where there are more bits than can be counted."""
        if self.n >= _MOST:
            raise LevelError(f"{name!r} has {self.n} bits, at most {_MOST - 1} can be drawn from; select fewer bits")
        return self


def parse_bits(asked: object, length: int) -> tuple[int, ...]:
    """Reads which bits of a word are meant: ``"all"``, one bit, a list of bits, or ``"0:8"`` for bits 0 to 7.

    Args:
        asked: bits, of which 0 is the least significant.
        length: of the word.

    Raises:
        PerturbationError: not of this form, none, or a bit that the word does not have.
    """
    if isinstance(asked, str):
        start, colon, stop = asked.partition(":")
        if asked != "all" and not (colon and start.strip().isdigit() and stop.strip().isdigit()):
            raise PerturbationError(f"expected bits as 'all', a bit, a list [0,7] or a range 0:8, got {asked!r}")
        found: list[object] = list(range(length)) if asked == "all" else list(range(int(start), int(stop)))
    else:
        found = list(asked) if isinstance(asked, Sequence) else [asked]
    for bit in found:
        if isinstance(bit, bool) or not isinstance(bit, int) or not 0 <= bit < length:
            raise PerturbationError(f"expected bits from 0 to {length - 1}, got {bit!r} in {asked!r}")
    if not found:
        raise PerturbationError(f"expected at least one bit, got {asked!r}")
    return tuple(sorted({int(bit) for bit in found}))  # type: ignore[call-overload]  # whole numbers, as seen above


def format_bits(bits: Sequence[int], length: int) -> Bits:
    """Returns the one form in which selected bits are written: ``"all"``, a bit, ``"0:8"``, or a list."""
    if len(bits) == length:
        return "all"
    if len(bits) == 1:
        return bits[0]
    return f"{bits[0]}:{bits[-1] + 1}" if len(bits) == bits[-1] - bits[0] + 1 else tuple(bits)


def inject(
    stored: Shaped[AnyArray, "..."], select: Words, k: Scalar, memory: Memory, value: int | None
) -> Shaped[AnyArray, "..."]:
    """Returns stored words with those of the population's k faults that are theirs.

    Args:
        stored: words, in an unsigned type.
        select: key words of the choice.
        k: faults of the population, ``uint32``.
        memory: where they may be.
        value: what a faulty bit is stuck at, or None where it is flipped.
    """
    if memory.n <= HASHED_UP_TO:
        return _ask_each(stored, select, k, memory, value)
    branches = [
        lambda words: _place(words, select, k, memory, value),
        lambda words: _ask_each(words, select, k, memory, value),
    ]
    return jax.lax.switch((k > jnp.uint32(memory.n // _FEW)).astype(jnp.int32), branches, stored)


def places(select: Words, k: int, memory: Memory, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the entries of the tensor and the bits of its faults, sorted, as `inject` chooses them.

    Args:
        select: key words of the choice.
        k: faults of the population.
        memory: where they may be.
        size: number of the tensor's words.
    """
    if not k:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    chosen = np.sort(np.asarray(_first_entries(memory.n, room_for(k), select))[:k]).astype(np.int64)
    width = len(memory.bits)
    own = chosen - memory.first * width
    own = own[(own >= 0) & (own < size * width)]
    return own // width, np.array(memory.bits, np.int64)[own % width]


def room_for(count: int) -> int:
    """Returns for how many faults a program is compiled that handles a few: powers of two, so that there are few."""
    return int(max(64, 1 << (count - 1).bit_length()))


@partial(jax.jit, static_argnums=(0, 1))
def _first_entries(n: int, room: int, select: Words) -> UInt32[AnyArray, " room"]:
    ranks = jnp.arange(room, dtype=jnp.uint32)
    return Permutation(select, n).entries(jnp.minimum(ranks, jnp.uint32(n - 1)))


def changed_bits(value: int | None) -> Callable[[AnyArray, AnyArray], AnyArray]:
    """Returns ``(words, masks of bits) -> words`` after faults: stuck at a value, or flipped where that is None."""
    match value:
        case None:
            return lambda old, mask: old ^ mask
        case 1:
            return lambda old, mask: old | mask
        case _:
            return lambda old, mask: old & ~mask


def _ask_each(stored: AnyArray, select: Words, k: Scalar, memory: Memory, value: int | None) -> AnyArray:
    width = len(memory.bits)
    chosen = Permutation(select, memory.n).mask(k, (*stored.shape, width), memory.first * width)
    weights = jnp.asarray([1 << bit for bit in memory.bits], stored.dtype)
    mask = jnp.sum(jnp.where(chosen, weights, jnp.zeros((), stored.dtype)), axis=-1, dtype=stored.dtype)
    return changed_bits(value)(stored, mask)


def _place(stored: AnyArray, select: Words, k: Scalar, memory: Memory, value: int | None) -> AnyArray:
    permutation, change = Permutation(select, memory.n), changed_bits(value)
    # More are not placed here; but a batch of programs (`jax.vmap`) runs both branches for every k.
    k = jnp.minimum(k, jnp.uint32(memory.n // _FEW))
    steps = (k + jnp.uint32(AT_A_TIME - 1)) // jnp.uint32(AT_A_TIME)

    def step(i: AnyArray, flat: AnyArray) -> AnyArray:
        ranks = i * jnp.uint32(AT_A_TIME) + jnp.arange(AT_A_TIME, dtype=jnp.uint32)
        chosen = permutation.entries(jnp.minimum(ranks, jnp.uint32(memory.n - 1)))
        words, masks = _words_of(chosen, ranks < k, memory, flat.size)
        masks = masks.astype(flat.dtype)
        return jnp.asarray(flat).at[words].set(change(flat[words], masks), mode="drop")

    return jax.lax.fori_loop(jnp.uint32(0), steps, step, stored.ravel()).reshape(stored.shape)


def _words_of(
    chosen: UInt32[AnyArray, " m"], real: Shaped[AnyArray, " m"], memory: Memory, size: int
) -> tuple[AnyArray, AnyArray]:
    """The tensor's word of each chosen bit (or `size`, which is none) and the mask of all chosen bits of that word."""
    width = len(memory.bits)
    own = chosen - jnp.uint32(memory.first * width)  # wraps around for bits before the tensor's, to above its last
    word = jnp.where(real & (own < jnp.uint32(size * width)), own // jnp.uint32(width), jnp.uint32(size))
    bit = jnp.asarray([1 << bit for bit in memory.bits], jnp.uint32)[own % jnp.uint32(width)]
    word, bit = jax.lax.sort((word, bit), num_keys=1)
    # Two faults of one word would overwrite each other: each of them gets the mask of both.
    group = jnp.cumsum(jnp.concatenate([jnp.zeros(1, bool), word[1:] != word[:-1]]).astype(jnp.int32))
    return word, jax.ops.segment_sum(bit, group, len(chosen), indices_are_sorted=True)[group]
