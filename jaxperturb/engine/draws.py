"""A perturbation's program in two parts: what all levels of a draw share, and what one level adds.

What is random, a permutation of all entries or a normal number for each, does not depend on the level: it is made once
for a draw and kept while the draw's levels are computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax.extend import core as jex

from jaxperturb.engine.steps import Steps, steps_of
from jaxperturb.networks.program import Program, flatten, variables
from jaxperturb.types import AnyArray


@dataclass(frozen=True, eq=False)
class TwoParts:
    """A function of early and late arguments, compiled in two parts.

    Attributes:
        first: ``(early arguments) -> values``.
        second: ``(values, late arguments) -> results``, both flat lists.
    """

    first: Callable[[Sequence[Any]], list[AnyArray]]
    second: Callable[[Sequence[AnyArray], Sequence[Any]], list[AnyArray]]


def two_parts(function: Callable[..., Any], early: Sequence[Any], late: Sequence[Any]) -> TwoParts:
    """Splits ``function(*early, *late)``.

    Args:
        function: of arrays, giving a flat list of arrays.
        early: shapes and types of the arguments that the first part is given.
        late: likewise of those that only the second part is.
    """
    closed = flatten(jax.make_jaxpr(function)(*early, *late))
    arguments = tuple(closed.jaxpr.invars)
    steps = steps_of(Program(closed, arguments, None, 0))
    given, later = list(arguments[: len(early)]), list(arguments[len(early) :])
    at_level = _reached(steps, later)
    outputs = closed.jaxpr.outvars
    computed = [v for v in outputs if not isinstance(v, jex.Literal)]
    apart = frozenset(range(len(steps.equations))) - at_level
    body = steps.with_light(steps.needed(computed, at_level), apart)
    handed = [v for v in steps.free(body, computed) if v not in later and v not in steps.constants]
    first = steps.function(steps.needed(handed, apart), given, handed)
    second = steps.function(body, [*handed, *later], outputs)
    return TwoParts(jax.jit(lambda values: first(*values)), jax.jit(lambda values, amounts: second(*values, *amounts)))


def _reached(steps: Steps, arguments: Sequence[Any]) -> frozenset[int]:
    """The equations that depend on some arguments."""
    touched, found = set(arguments), set()
    for i, equation in enumerate(steps.equations):
        if any(v in touched for v in variables(equation)):
            touched.update(equation.outvars)
            found.add(i)
    return frozenset(found)
