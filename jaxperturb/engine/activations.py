"""Where a network's program holds the activation of a layer's units: what the next layer receives of them.

That is the value after the unit's shift was added (the bias, or that of its norm) and after the ReLU that follows it,
at once or behind a maximum pooling. Where a layer stands without ReLU before another, before a sum or at the end, it is
the value itself; after any other function no shift is known that would give the mean, and the layer is refused.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from jaxperturb.errors import NetworkError
from jaxperturb.networks.program import Program, as_function, variables
from jaxperturb.perturb.ablation import shift_of
from jaxperturb.trees import Layer
from jaxperturb.types import AnyArray

_SUMS = {"add", "add_any", "sub"}
_BOUNDS = {"max", "min", "clamp"}  # leave a mean as it is that lies between their bounds
_CARRIERS = {"convert_element_type", "copy", "reduce_window_max"}  # leave every constant as it is
# What combines or moves values of different places, though the shape may stay; all else works entry by entry.
_NOT_BY_ENTRY = {
    *("conv_general_dilated", "dot_general", "concatenate", "gather", "dynamic_slice", "pad", "rev", "sort", "top_k"),
    *("reduce_window", "reduce_window_sum", "reduce_window_max", "cumsum", "cumprod", "cummax", "reshape", "transpose"),
    *("scan", "while", "cond", "custom_vjp_call", "pure_callback"),
}


@dataclass(frozen=True)
class Activation:
    """The activation of a layer.

    Attributes:
        variable: of the program.
        axis: that counts the layer's units; the first axis counts images, the others are positions.
    """

    variable: Any
    axis: int


@dataclass(frozen=True)
class _Flow:
    """What the search needs of a program: who reads a variable, and which variables depend on the images."""

    readers: dict[Any, list[Any]]
    of_images: set[Any]

    @classmethod
    def of(cls, program: Program) -> "_Flow":
        readers: dict[Any, list[Any]] = {}
        of_images = {program.images}
        for equation in program.equations:
            for v in dict.fromkeys(variables(equation)):
                readers.setdefault(v, []).append(equation)
            if any(v in of_images for v in variables(equation)):
                of_images.update(equation.outvars)
        return cls(readers, of_images)

    def by_entry(self, program: Program, start: Any) -> set[Any]:
        """The variables that are made of one entry by entry, and of nothing else that depends on the images."""
        found = {start}
        for equation in program.equations:
            reads = [v for v in variables(equation) if v in self.of_images]
            same = all(v.aval.shape == start.aval.shape for v in equation.outvars)
            if reads and same and found.issuperset(reads) and equation.primitive.name not in _NOT_BY_ENTRY:
                found.update(equation.outvars)
        return found


def find_activation(program: Program, layer: Layer) -> Activation:
    """Returns where a program holds the activation of a layer.

    Raises:
        LayerError: the layer has no shift.
        NetworkError: its shift is not added once, or what follows it is not known to keep a constant.
    """
    flow = _Flow.of(program)
    activation = v = _shifted(program, flow, layer)
    bounded = False
    while (equation := _only_reader(program, flow, v)) is not None and _keeps_constants(equation):
        (v,) = equation.outvars
        if equation.primitive.name in _BOUNDS:
            activation, bounded = v, True
    if not bounded:
        _check_not_bent(program, flow, layer, v)
    return Activation(activation, _unit_axis(activation.aval.shape, layer))


def activations_function(
    program: Program, found: Sequence[Activation]
) -> Callable[[Sequence[AnyArray], AnyArray], list[AnyArray]]:
    """Returns ``(leaves, images) -> activations``."""
    whole = program.closed.jaxpr
    outputs = [activation.variable for activation in found]
    inputs = [*whole.constvars, *program.weights, program.images]
    function = as_function(whole, _needed(program.equations, outputs), inputs, outputs)
    return lambda leaves, images: function(*program.closed.consts, *leaves, images)


def _needed(equations: Sequence[Any], outputs: Iterable[Any]) -> list[Any]:
    wanted, kept = set(outputs), []
    for equation in reversed(equations):
        if any(v in wanted for v in equation.outvars):
            wanted.update(variables(equation))
            kept.append(equation)
    return kept[::-1]


def _shifted(program: Program, flow: _Flow, layer: Layer) -> Any:
    """The variable to which the layer's shift was just added."""
    shift = shift_of(layer)
    from_shift, found = {program.weights[shift.index]}, []
    for equation in program.equations:
        if any(v in from_shift for v in variables(equation)):
            if any(v in flow.of_images for v in variables(equation)):
                found.append(equation)
            else:
                from_shift.update(equation.outvars)
    if len(found) != 1 or found[0].primitive.name not in _SUMS:
        how = f"used in {', '.join(equation.primitive.name for equation in found) or 'nothing'}"
        raise _unknown(layer, f"expected its {shift.name} to be added once, and it is {how}")
    return found[0].outvars[0]


def _only_reader(program: Program, flow: _Flow, v: Any) -> Any | None:
    readers = flow.readers.get(v, [])
    return readers[0] if len(readers) == 1 and v is not program.logits else None


def _keeps_constants(equation: Any) -> bool:
    name, number = equation.primitive.name, len(variables(equation))
    return number == 1 and (name in _CARRIERS or name in _BOUNDS)


def _check_not_bent(program: Program, flow: _Flow, layer: Layer, v: Any) -> None:
    """Raises where a variable goes through a function of its own before anything else reads it."""
    alone, readers = flow.by_entry(program, v), flow.readers.get(v, [])
    if v is not program.logits and readers and all(alone.issuperset(equation.outvars) for equation in readers):
        names = ", ".join(dict.fromkeys(equation.primitive.name for equation in readers))
        raise _unknown(
            layer, f"expected ReLU or another layer after its shift, got {names}; a norm of another name goes in norms="
        )


def _unit_axis(shape: tuple[int, ...], layer: Layer) -> int:
    """Units are the last axis where the layer's weight has them last, else the first after the images."""
    order = range(len(shape) - 1, 0, -1) if layer.weight.unit_axis == -1 else range(1, len(shape))
    axis = next((axis for axis in order if shape[axis] == layer.units), None)
    if axis is None:
        raise _unknown(layer, f"its activation has shape {shape}, and no axis of {layer.units} units")
    return axis


def _unknown(layer: Layer, why: str) -> NetworkError:
    return NetworkError(f"the activation of layer {layer.name!r} cannot be found: {why}")
