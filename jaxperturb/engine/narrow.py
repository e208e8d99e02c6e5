"""A layer at some of its units alone: its own equations, made narrower along the axis of units."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jax.extend import core as jex

from jaxperturb.engine.cut import Cut, axes_of_units
from jaxperturb.networks.program import variables
from jaxperturb.trees import Layer
from jaxperturb.types import AnyArray

Values = Sequence[AnyArray]


@dataclass(frozen=True, eq=False)
class Narrow:
    """A layer at some of its units.

    Attributes:
        leaves: the layer's leaves that it reads, by index, with their axes of units.
        handed: variables of the images that it reads.
        axes: of units, of each of the layer's outputs.
        run: ``(leaves at these units, handed) -> the layer's outputs at these units``.
    """

    leaves: Mapping[int, int]
    handed: tuple[Any, ...]
    axes: tuple[int, ...]
    run: Callable[[Values, Values], list[AnyArray]]


def narrow_layer(cut: Cut, layer: Layer) -> Narrow | None:
    """Returns a layer that is faster at some of its units; None where it is not, or where they do not stay apart.

    Args:
        cut: of the layer alone.
        layer: of the network.
    """
    steps, axes = cut.steps, axes_of_units(cut, layer)
    numbers = {steps.origins[i] for i in steps.needed(cut.outputs, cut.layer)}
    equations = [steps.program.equations[number] for number in sorted(numbers)]
    if not cut.outputs or not all(_stays_apart(equation, axes) for equation in equations):
        return None
    if not cut.before and any(equation.primitive.name == "conv_general_dilated" for equation in equations):
        return None  # of images of few channels, reading the windows takes the time, however few the units
    made = {v for equation in equations for v in equation.outvars}
    read = [v for v in dict.fromkeys(v for e in equations for v in variables(e)) if v not in made]
    leaves = [v for v in read if v in cut.target]
    handed = [v for v in read if v not in cut.target]
    if not set(handed) <= {steps.program.images, *steps.made(cut.before | cut.shared)}:
        return None
    places = {v: i for i, v in enumerate(steps.program.weights)}

    def run(own: Values, images: Values) -> list[AnyArray]:
        known = dict(zip((*leaves, *handed), (*own, *images), strict=True))
        units = next(a.shape[axes[v]] for v, a in zip(leaves, own, strict=True))
        for equation in equations:
            given = [v.val if isinstance(v, jex.Literal) else known[v] for v in equation.invars]
            (made,) = equation.outvars
            known[made] = equation.primitive.bind(*given, **_narrowed(equation, axes[made], units))
        return [known[v] for v in cut.outputs]

    return Narrow({places[v]: axes[v] for v in leaves}, tuple(handed), tuple(axes[v] for v in cut.outputs), run)


def _stays_apart(equation: Any, axes: Mapping[Any, int]) -> bool:
    """Whether each unit of what an equation makes is that of what it reads."""
    match equation.primitive.name:
        case "conv_general_dilated":
            groups = equation.params["feature_group_count"], equation.params["batch_group_count"]
            simple = groups == (1, 1)
        case "dot_general":
            simple = True
        case _:
            simple = all(v in axes for v in variables(equation))
    return simple and len(equation.outvars) == 1 and equation.outvars[0] in axes


def _narrowed(equation: Any, axis: int, units: int) -> dict[str, Any]:
    """The parameters of an equation, of which those that name a shape name that of some units."""
    parameters = dict(equation.params)
    for name in ("shape", "new_sizes"):
        if name in parameters:
            shape = list(parameters[name])
            shape[axis] = units
            parameters[name] = tuple(shape)
    return parameters
