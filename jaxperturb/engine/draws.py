"""A lesion's program in three parts: what a draw's key gives, what its levels share, and what one level adds.

What is random, a permutation of all entries or a normal number for each, does not depend on the level: it is made once
for a draw and kept while the draw's levels are computed. The few words that are folded from the key have a program of
their own: fused into what reads them, they would be computed anew for every entry, by code that takes minutes to
compile where keys are batched.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core as jex

from jaxperturb.engine.steps import Steps, steps_of
from jaxperturb.networks.program import Program, flatten, variables
from jaxperturb.types import AnyArray, Key

_FEW = 1024  # entries


@dataclass(frozen=True, eq=False)
class Parts:
    """A function of a key, arrays and a level, compiled in three parts.

    Attributes:
        seeds: ``(key) -> words``.
        shared: ``(words, arrays) -> values``.
        level: ``(values, arrays, level) -> results``.
    """

    seeds: Callable[[Key], list[AnyArray]]
    shared: Callable[[Sequence[AnyArray], Sequence[AnyArray]], list[AnyArray]]
    level: Callable[[Sequence[AnyArray], Sequence[AnyArray], Sequence[AnyArray]], list[AnyArray]]


def parts_of(function: Callable[..., Any], key: Any, arrays: Sequence[Any], level: Sequence[Any]) -> Parts:
    """Splits ``function(key, *arrays, *level)``.

    Args:
        function: giving a flat list of arrays.
        key: its shape and type.
        arrays: likewise of those that all levels share.
        level: likewise of those that a level brings.
    """
    closed = flatten(jax.make_jaxpr(function)(key, *arrays, *level))
    first, *rest = closed.jaxpr.invars
    own, later = rest[: len(arrays)], rest[len(arrays) :]
    steps = steps_of(Program(closed, tuple(rest), None, 0))
    every = frozenset(range(len(steps.equations)))
    at_level = _reached(steps, later)
    of_key = _small(steps, every - at_level - _reached(steps, own))
    between = every - at_level - of_key
    results = closed.jaxpr.outvars
    computed = [v for v in results if not isinstance(v, jex.Literal)]
    body = steps.with_light(steps.needed(computed, at_level), between)
    known = {*later, *own, *steps.constants}
    handed = [v for v in steps.free(body, computed) if v not in known]
    sharing = steps.needed(handed, between)
    words = [v for v in steps.free(sharing, handed) if v not in {*own, *steps.constants}]
    seeds = steps.function(steps.needed(words, of_key), [first], words)
    shared = steps.function(sharing, [*words, *own], handed)
    at_last = steps.function(body, [*handed, *own, *later], results)
    return Parts(
        jax.jit(seeds),
        jax.jit(lambda words, arrays: shared(*words, *arrays)),
        jax.jit(lambda values, arrays, level: at_last(*values, *arrays, *level)),
    )


def _small(steps: Steps, chosen: Collection[int]) -> frozenset[int]:
    """Those of some equations that make few entries, and depend on no others."""
    found: set[int] = set()
    made = steps.made(chosen)
    kept: set[Any] = set()
    for i in sorted(chosen):
        equation = steps.equations[i]
        if all(v.aval.size <= _FEW for v in equation.outvars) and all(
            v in kept or v not in made for v in variables(equation)
        ):
            found.add(i)
            kept.update(equation.outvars)
    return frozenset(found)


def _reached(steps: Steps, arguments: Sequence[Any]) -> frozenset[int]:
    """The equations that depend on some arguments."""
    touched, found = set(arguments), set()
    for i, equation in enumerate(steps.equations):
        if any(v in touched for v in variables(equation)):
            touched.update(equation.outvars)
            found.add(i)
    return frozenset(found)
