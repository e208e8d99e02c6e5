"""How many faults a rate means in one draw: the binomial quantile of the draw's own uniform number.

So the mean over draws is rate times bits at every rate, and a higher rate has the same faults and more. Computed on
the host, where it is exact for 3.3e9 bits at 1e-12.
"""

from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.errors import LevelError
from jaxperturb.levels import as_level, binomial_count, check_range
from jaxperturb.perturb.scope import Count, Level, Tensor, given_count, traced_level
from jaxperturb.random.keys import Stream, stream_words
from jaxperturb.random.prng import bits as random_bits
from jaxperturb.types import AnyArray, Key, Scalar


def faults_of(key: Key, level: Level, count: Count, tensor: Tensor, n: int) -> int | Scalar:
    """Returns how many of the n bits of a tensor's population are faulty: as given, or drawn for a rate.

    A Python number where key and level are known, else the result of a call back to the host.

    Args:
        key: of the draw.
        level: rate in [0, 1]; a float32 array is clipped to it, and stands for its shortest decimal.
        count: the number itself, instead.
        tensor: whose population it is.
        n: bits of the population.

    Raises:
        LevelError: out of range, of a wrong type, both or neither given.
    """
    if count is not None:
        if level is not None:
            raise LevelError("expected either a level or a count, got both")
        return given_count(count, tensor.population, n)
    if level is None:
        raise LevelError("expected either a level or a count, got neither")
    words = _count_words(key, tensor)
    if not isinstance(level, jax.Array | np.ndarray):
        exact = check_range(as_level(level), Decimal(0), Decimal(1), "a fault rate")
        return _drawn(words, lambda words: binomial_count(exact, n, _place_of(words)))
    return _drawn(words, lambda words, rate: binomial_count(_rate_of(rate), n, _place_of(words)), traced_level(level))


def faults_drawn(key: Key, rate: Decimal, tensor: Tensor, n: int) -> int:
    """Returns the same for a known key and an exact rate."""
    return binomial_count(rate, n, _place_of(_count_words(key, tensor)))


def _drawn(words: AnyArray, number: Any, *level: Scalar) -> int | Scalar:
    """Calls the host, at once where all is known, and else when the compiled program runs."""
    if any(isinstance(x, jax.core.Tracer) for x in (words, *level)):
        shape = jax.ShapeDtypeStruct((), jnp.uint32)
        return jax.pure_callback(lambda *x: np.uint32(number(*x)), shape, words, *level, vmap_method="sequential")
    return number(words, *level)


def _count_words(key: Key, tensor: Tensor) -> AnyArray:
    return random_bits(stream_words(tensor.population_words(key), Stream.COUNT), (2,))


def _place_of(words: AnyArray) -> float:
    """A uniform number in (0, 1) from two words: the middle of one of 2**52 intervals."""
    high, low = (int(word) for word in np.asarray(words))
    return ((high << 20 | low >> 12) + 0.5) * 2.0**-52


def _rate_of(level: AnyArray) -> Decimal:
    clipped = np.float32(np.clip(np.asarray(level), 0, 1))
    return Decimal(np.format_float_scientific(clipped, unique=True))
