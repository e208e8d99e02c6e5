"""A network as one flat program of JAX equations: calls opened, loops left closed.

What comes of it: the order in which a network uses its layers, and the place where the engine cuts it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import core as jex

from jaxperturb.errors import NetworkError
from jaxperturb.types import AnyArray, Apply, Params

# Calls that only wrap equations: primitive name -> the parameter that holds them. Scans, whiles and conds stay closed.
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "checkpoint": "jaxpr",
    "remat": "jaxpr",
    "remat2": "jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}


@dataclass(frozen=True)
class Program:
    """The equations of a network at one batch size, or of a function of arrays alone.

    Attributes:
        closed: the flat program.
        weights: the variable of each leaf of the params, in `jax.tree.leaves` order.
        images: the variable of the images, or None where it takes none.
        batch: number of images that it was traced with.
    """

    closed: jex.ClosedJaxpr
    weights: tuple[Any, ...]
    images: Any
    batch: int

    @property
    def equations(self) -> Sequence[Any]:
        """The equations, in order."""
        return self.closed.jaxpr.eqns

    @property
    def logits(self) -> Any:
        """The variable of the logits."""
        return self.closed.jaxpr.outvars[0]


def trace(apply: Apply, params: Params, image_shape: tuple[int, int, int], batch: int) -> Program:
    """Returns the flat program of ``apply(params, images)`` for float32 images of shape (batch, h, w, c).

    Products are traced in full float32: an accelerator's default would silently be less.

    Raises:
        NetworkError: the network does not take such images, or does not return logits (batch, classes).
    """
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)), params)
    images = jax.ShapeDtypeStruct((batch, *image_shape), jnp.float32)
    with jax.default_matmul_precision("highest"):
        try:
            called = jax.make_jaxpr(apply)(shapes, images)
        except Exception as error:  # a user's network may raise anything; it stays the cause
            raise NetworkError(
                f"the network does not take images of shape {image_shape}: {_first_line(error)}"
            ) from error
        flat = flatten(called)
    outputs = [v.aval.shape for v in flat.jaxpr.outvars]
    if len(outputs) != 1 or len(outputs[0]) != 2 or outputs[0][0] != batch:
        raise NetworkError(f"expected one array of logits (images, classes), got shapes {outputs} for {batch} images")
    *weights, pixels = flat.jaxpr.invars
    return Program(flat, tuple(weights), pixels, batch)


def flatten(closed: jex.ClosedJaxpr) -> jex.ClosedJaxpr:
    """Returns the program with its calls opened; scans, whiles and conds stay closed."""
    arguments = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in closed.jaxpr.invars]
    return jax.make_jaxpr(lambda *args: _evaluate(closed.jaxpr, closed.consts, args))(*arguments)


def variables(equation: Any) -> list[Any]:
    """Returns what an equation reads, literals left out."""
    return [v for v in equation.invars if not isinstance(v, jex.Literal)]


def as_function(
    whole: jex.Jaxpr, equations: Sequence[Any], inputs: Sequence[Any], outputs: Sequence[Any]
) -> Callable[..., list[AnyArray]]:
    """Returns some equations of a program as a function of their inputs; its constants must be among these."""
    # Names of the whole program's arguments and results do not fit those of a part.
    info = whole.debug_info._replace(arg_names=None, result_paths=None)
    return jex.jaxpr_as_fun(
        jex.ClosedJaxpr(jex.Jaxpr([], list(inputs), list(outputs), list(equations), debug_info=info), [])
    )


def first_uses(program: Program) -> list[int]:
    """Returns, for each leaf, the number of the equation that first reads it (that of the end if none does)."""
    never = len(program.equations)
    first: dict[Any, int] = {}
    for i, equation in enumerate(program.equations):
        for v in variables(equation):
            first.setdefault(v, i)
    return [first.get(v, never) for v in program.weights]


def _evaluate(jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Any]) -> list[Any]:
    """Evaluates equations one by one, those inside calls too; under a trace, this writes the flat program."""
    known = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*constants, *arguments), strict=True))

    def read(v: Any) -> Any:
        return v.val if isinstance(v, jex.Literal) else known[v]

    for equation in jaxpr.eqns:
        values = [read(v) for v in equation.invars]
        name = equation.primitive.name
        if name in _CALLS:
            inner = equation.params[_CALLS[name]]
            constants = inner.consts if isinstance(inner, jex.ClosedJaxpr) else ()
            results = _evaluate(getattr(inner, "jaxpr", inner), constants, values)
        else:
            inputs = list(dict.fromkeys(variables(equation)))
            results = as_function(jaxpr, [equation], inputs, equation.outvars)(*[known[v] for v in inputs])
        known.update(zip(equation.outvars, results, strict=True))
    return [read(v) for v in jaxpr.outvars]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
