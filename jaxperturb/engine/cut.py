"""Cuts a network's program at the layers that a study perturbs.

Each equation either depends on the target's leaves or not. What does not is *before*: it runs once per tile of images,
and what it hands over is kept for all draws and levels. What depends on them affinely is *the layer*; the rest is
*after*. The weights stay arguments of all three, so that XLA never folds them into constants.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

from jaxperturb.networks.program import Program, as_function, variables
from jaxperturb.types import AnyArray

Values = Sequence[AnyArray]

# Affine in one argument when the others do not depend on the target's leaves.
_LINEAR = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "expand_dims",
    "neg",
    "reduce_sum",
    "reshape",
    "slice",
    "squeeze",
    "transpose",
}
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
_SUMS = {"add", "sub", "add_any"}


@dataclass(frozen=True)
class Cut:
    """A network in three parts, equal to the whole when run one after the other.

    Attributes:
        before: (leaves, images) -> values handed over.
        layer: (leaves, values handed over) -> outputs of the layer.
        after: (leaves, values handed over, outputs of the layer) -> logits.
        per_image: entries for one image of the largest value that `layer` and `after` make or are handed.
    """

    before: Callable[[Values, AnyArray], Values]
    layer: Callable[[Values, Values], Values]
    after: Callable[[Values, Values, Values], AnyArray]
    per_image: int


@dataclass(frozen=True)
class _Parts:
    """Equations by what they depend on: other weights alone, the images, the target affinely, the rest."""

    fixed: list[Any]
    before: list[Any]
    layer: list[Any]
    after: list[Any]


def cut(program: Program, target: Collection[int]) -> Cut:
    """Returns the program cut at some leaves.

    Args:
        program: of the whole network, at the batch size at which the parts will run.
        target: indices of the perturbed leaves, in `jax.tree.leaves` order.
    """
    parts = _sort(program, target)
    used_after = _reads(parts.after) | {program.logits}
    outputs = [v for equation in parts.layer for v in equation.outvars if v in used_after]
    used = used_after | _reads(parts.layer)
    available = [program.images, *(v for equation in parts.before for v in equation.outvars)]
    handed = [v for v in available if v in used]
    weights = list(program.weights)
    before = _function(program, parts.fixed + parts.before, [*weights, program.images], handed)
    layer = _function(program, parts.fixed + parts.layer, [*weights, *handed], outputs)
    after = _function(program, parts.fixed + parts.after, [*weights, *handed, *outputs], [program.logits])
    made = [
        v for equation in parts.layer + parts.after for v in equation.outvars if v.aval.shape[:1] == (program.batch,)
    ]
    return Cut(
        lambda leaves, images: before(*leaves, images),
        lambda leaves, values: layer(*leaves, *values),
        lambda leaves, values, ys: after(*leaves, *values, *ys)[0],
        max((v.aval.size // program.batch for v in [*handed, *made]), default=1),
    )


def _sort(program: Program, target: Collection[int]) -> _Parts:
    parts = _Parts([], [], [], [])
    touched = {v for index, v in enumerate(program.weights) if index in target}
    affine, seen = set(touched), {program.images}
    for equation in program.equations:
        reads = variables(equation)
        hot = [v for v in reads if v in touched]
        if hot:
            touched.update(equation.outvars)
            if _is_affine(equation, hot, affine):
                affine.update(equation.outvars)
                parts.layer.append(equation)
            else:
                parts.after.append(equation)
        elif any(v in seen for v in reads):
            seen.update(equation.outvars)
            parts.before.append(equation)
        else:
            parts.fixed.append(equation)
    return parts


def _is_affine(equation: Any, hot: Sequence[Any], affine: Collection[Any]) -> bool:
    name = equation.primitive.name
    if not all(v in affine for v in hot):
        return False
    divides = name == "div" and list(hot) == [equation.invars[0]]
    return name in _LINEAR or name in _SUMS or divides or (name in _BILINEAR and len(hot) == 1)


def _reads(equations: Sequence[Any]) -> set[Any]:
    return {v for equation in equations for v in variables(equation)}


def _function(
    program: Program, equations: list[Any], inputs: list[Any], outputs: list[Any]
) -> Callable[..., list[AnyArray]]:
    whole = program.closed.jaxpr
    part = as_function(whole, equations, [*whole.constvars, *inputs], outputs)
    return lambda *values: part(*program.closed.consts, *values)
