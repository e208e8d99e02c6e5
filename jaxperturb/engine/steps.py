"""A network's program with some equations replaced by faster equal ones, and what its equations need of one another."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
from jax.extend import core as jex

from jaxperturb.networks.program import Program, as_function, flatten, variables
from jaxperturb.types import AnyArray

# For an equation: a function of what it reads that gives what it makes, or None where the equation stays.
Replacement = Callable[[Any], Callable[..., Sequence[AnyArray]] | None]

# Cheaper to make again, fused into what reads it, than to keep: most of them only spread or rename what they read.
_LIGHT = {
    *("broadcast_in_dim", "iota", "convert_element_type", "reshape", "squeeze", "expand_dims", "copy"),
    "bitcast_convert_type",
}


@dataclass(frozen=True, eq=False)
class Steps:
    """The equations that the engine runs.

    Attributes:
        program: the network's own.
        equations: its equations, some of them replaced by several; they make the same variables.
        origins: for each, the number of the program's equation that it stems from.
        constants: values of constants, by variable.
    """

    program: Program
    equations: tuple[Any, ...]
    origins: tuple[int, ...]
    constants: Mapping[Any, AnyArray]

    @cached_property
    def makers(self) -> dict[Any, int]:
        """The number of the equation that makes a variable."""
        return {v: i for i, equation in enumerate(self.equations) for v in equation.outvars}

    def made(self, chosen: Collection[int]) -> set[Any]:
        """The variables that some equations make."""
        return {v for i in chosen for v in self.equations[i].outvars}

    def free(self, chosen: Collection[int], outputs: Sequence[Any] = ()) -> list[Any]:
        """The variables that some equations (and the outputs asked of them) take from elsewhere, in order of use."""
        made = self.made(chosen)
        reads = [v for i in sorted(chosen) for v in variables(self.equations[i])]
        outside = [v for v in (*reads, *outputs) if not isinstance(v, jex.Literal)]
        return list(dict.fromkeys(v for v in outside if v not in made))

    def needed(self, outputs: Iterable[Any], among: Collection[int]) -> frozenset[int]:
        """Those of some equations on which variables depend."""
        found: set[int] = set()
        todo = list(outputs)
        while todo:
            i = self.makers.get(todo.pop(), -1)
            if i in among and i not in found:
                found.add(i)
                todo.extend(variables(self.equations[i]))
        return frozenset(found)

    def with_light(self, chosen: Collection[int], among: Collection[int]) -> frozenset[int]:
        """Some equations, and the light ones among others that make what they read."""
        light = {i for i in among if self.equations[i].primitive.name in _LIGHT}
        return frozenset(chosen) | self.needed(self.free(chosen), light)

    def function(
        self, chosen: Collection[int], inputs: Sequence[Any], outputs: Sequence[Any]
    ) -> Callable[..., list[AnyArray]]:
        """Some equations as a function of variables; constants need not be given."""
        constants = [v for v in self.free(chosen, outputs) if v in self.constants]
        equations = [self.equations[i] for i in sorted(chosen)]
        run = as_function(self.program.closed.jaxpr, equations, [*constants, *inputs], outputs)
        values = [self.constants[v] for v in constants]
        return lambda *given: run(*values, *given)


def steps_of(program: Program, replacement: Replacement | None = None) -> Steps:
    """Returns the steps of a program.

    Args:
        program: of a network.
        replacement: what is replaced; None for nothing.
    """
    constants = dict(zip(program.closed.jaxpr.constvars, program.closed.consts, strict=True))
    equations: list[Any] = []
    origins: list[int] = []
    for number, equation in enumerate(program.equations):
        function = replacement(equation) if replacement else None
        new = _spelt_out(equation, function, constants) if function else [equation]
        equations += new
        origins += [number] * len(new)
    return Steps(program, tuple(equations), tuple(origins), constants)


def _spelt_out(equation: Any, function: Callable[..., Sequence[AnyArray]], constants: dict[Any, AnyArray]) -> list[Any]:
    """The equations of a function that stands for one equation, in that one's variables."""
    inside = flatten(jax.make_jaxpr(function)(*(_shape(v) for v in equation.invars)))
    names: dict[Any, Any] = dict(zip(inside.jaxpr.invars, equation.invars, strict=True))
    constants.update(zip(inside.jaxpr.constvars, inside.consts, strict=True))
    made = {v for inner in inside.jaxpr.eqns for v in inner.outvars}
    if len(set(inside.jaxpr.outvars)) != len(inside.jaxpr.outvars) or not made.issuperset(inside.jaxpr.outvars):
        return [equation]  # it hands over what it was given: nothing to gain
    names.update(zip(inside.jaxpr.outvars, equation.outvars, strict=True))
    return [
        inner.replace(
            invars=[v if isinstance(v, jex.Literal) else names.get(v, v) for v in inner.invars],
            outvars=[names.get(v, v) for v in inner.outvars],
        )
        for inner in inside.jaxpr.eqns
    ]


def _shape(v: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype)
