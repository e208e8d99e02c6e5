"""Cuts a network's program at the layers that a study perturbs.

Each equation depends on the target's leaves or not, and on the images or not:

- of neither: *fixed*, made once;
- of the images alone: *before*, made once for each block of images, and what the rest reads of it is handed over;
  *shared* where it is a step of a replaced equation that also reads the target: what all kernels need of the images;
- of the target alone: *kernel*, made once for each lesion;
- of both: *after*, made for each lesion and image. Its beginning is *the layer* where it is linear in the target's
  leaves: convolutions and products with what comes before, and sums of such.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from jax.extend import core as jex

from jaxperturb.engine.steps import Steps
from jaxperturb.networks.program import variables
from jaxperturb.trees import Layer

# Linear in one argument when the others do not depend on the target's leaves.
_LINEAR = {
    *("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "neg", "reduce_sum", "reshape", "slice"),
    *("squeeze", "transpose"),
}
_BILINEAR = {"mul", "dot_general", "conv_general_dilated"}
_SUMS = {"add", "sub", "add_any"}


@dataclass(frozen=True, eq=False)
class Cut:
    """The equations of a program by what they depend on, as numbers.

    Attributes:
        steps: the program.
        target: variables of the target's leaves.
        fixed: of weights alone.
        before: of the images.
        shared: of the images, and only read by steps of an equation that reads the target.
        kernel: of the target.
        after: of both, the layer among them.
        layer: those of `shared`, `kernel` and `after` that make the layer's outputs, linear in the target's leaves.
        outputs: variables of the layer's outputs, which the rest of `after` reads.
    """

    steps: Steps
    target: tuple[Any, ...]
    fixed: frozenset[int]
    before: frozenset[int]
    shared: frozenset[int]
    kernel: frozenset[int]
    after: frozenset[int]
    layer: frozenset[int]
    outputs: tuple[Any, ...]


def cut(steps: Steps, target: Collection[int], *, everything: bool = False) -> Cut:
    """Returns the program cut at some leaves.

    Args:
        steps: of the network.
        target: indices of the perturbed leaves, in `jax.tree.leaves` order; none cuts behind the end.
        everything: whether all that depends on the images counts as after: the plain network.
    """
    weights = steps.program.weights
    hot = {weights[i] for i in target}
    seen = {steps.program.images}
    of: dict[str, set[int]] = {name: set() for name in ("fixed", "before", "kernel", "after")}
    for i, equation in enumerate(steps.equations):
        reads = variables(equation)
        is_seen = any(v in seen for v in reads)
        is_hot = any(v in hot for v in reads) or (everything and is_seen)
        of[("after" if is_seen else "kernel") if is_hot else ("before" if is_seen else "fixed")].add(i)
        hot.update(equation.outvars if is_hot else ())
        seen.update(equation.outvars if is_seen else ())
    hot_origins = {steps.origins[i] for i in of["after"]}
    shared = {i for i in of["before"] if steps.origins[i] in hot_origins}
    linear = set() if everything else _linear_origins(steps, {weights[i] for i in target})
    layer = {i for i in of["after"] | of["kernel"] | shared if steps.origins[i] in linear}
    rest = of["after"] - layer
    read = set(steps.free(rest, [steps.program.logits]))
    outputs = [v for i in sorted(layer & of["after"]) for v in steps.equations[i].outvars if v in read]
    return Cut(
        steps,
        tuple(weights[i] for i in sorted(target)),
        frozenset(of["fixed"]),
        frozenset(of["before"] - shared),
        frozenset(shared),
        frozenset(of["kernel"]),
        frozenset(of["after"]),
        frozenset(layer),
        tuple(outputs),
    )


def _linear_origins(steps: Steps, target: Collection[Any]) -> set[int]:
    """The program's own equations that are linear in the target's leaves, as numbers."""
    hot, linear, found = set(target), set(target), set()
    for number, equation in enumerate(steps.program.equations):
        reads = [v for v in variables(equation) if v in hot]
        if reads:
            hot.update(equation.outvars)
            if _is_linear(equation, reads, linear):
                linear.update(equation.outvars)
                found.add(number)
    return found


def _is_linear(equation: Any, hot: list[Any], linear: Collection[Any]) -> bool:
    name = equation.primitive.name
    if not all(v in linear for v in hot):
        return False
    if name in _SUMS:
        return len(hot) == len(equation.invars)  # a summand of another origin would be a constant
    divides = name == "div" and list(hot) == [equation.invars[0]]
    return name in _LINEAR or divides or (name in _BILINEAR and len(hot) == 1)


def unit_axes(cut: Cut, layer: Layer) -> Mapping[Any, int] | None:
    """Returns the axis of each of the layer's outputs that counts its units, or None where one has none.

    Args:
        cut: of the layer alone.
        layer: of the network.
    """
    axes = axes_of_units(cut, layer)
    found = {v: axes[v] for v in cut.outputs if v in axes}
    return found if cut.outputs and len(found) == len(cut.outputs) else None


def axes_of_units(cut: Cut, layer: Layer) -> dict[Any, int]:
    """Returns the axis that counts a layer's units, of each of its leaves and of what it makes, where there is one.

    Args:
        cut: of the layer alone.
        layer: of the network.
    """
    steps = cut.steps
    weights = steps.program.weights
    axes: dict[Any, int] = {
        weights[leaf.index]: leaf.unit_axis % len(leaf.shape) for leaf in layer.leaves(include_norm=True)
    }
    for number in sorted({steps.origins[i] for i in cut.layer}):
        equation = steps.program.equations[number]
        axis = _unit_axis(equation, axes)
        if axis is not None:
            axes.update(dict.fromkeys(equation.outvars, axis))
    return axes


def _unit_axis(equation: Any, axes: Mapping[Any, int]) -> int | None:
    """The axis of units of what an equation makes, or None where they do not stay apart on one axis."""
    known = [(i, v) for i, v in enumerate(equation.invars) if not isinstance(v, jex.Literal) and v in axes]
    if not known or (equation.primitive.name in _SUMS and len(known) < len(equation.invars)):
        return None
    (place, v), axis, parameters = known[0], axes[known[0][1]], equation.params
    match equation.primitive.name:
        case "convert_element_type" | "copy" | "neg" | "mul" | "div":
            return axis
        case "add" | "sub" | "add_any":
            return axis if len({axes[v] for _, v in known}) == 1 else None
        case "broadcast_in_dim":
            return int(parameters["broadcast_dimensions"][axis])
        case "transpose":
            return list(parameters["permutation"]).index(axis)
        case "reshape" | "squeeze" | "expand_dims":
            return _same_place(v.aval.shape, equation.outvars[0].aval.shape, axis)
        case "conv_general_dilated":
            dimensions = parameters["dimension_numbers"]
            of_kernel = place == 1 and dimensions.rhs_spec[0] == axis
            return int(dimensions.out_spec[1]) if of_kernel else None
        case "dot_general":
            return _free_place(equation, place, axis)
    return None


def _same_place(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """Where an axis stands after a reshape that leaves it as it is."""
    ahead = 1
    for size in before[:axis]:
        ahead *= size
    place = 1
    for i, size in enumerate(after):
        if place == ahead and size == before[axis] and (size > 1 or before == after):
            return i
        place *= size
    return None


def _free_place(equation: Any, place: int, axis: int) -> int | None:
    """Where an axis of an operand stands in a product, or None where it is summed over."""
    contracted, batch = equation.params["dimension_numbers"]
    if axis in contracted[place] or axis in batch[place]:
        return None
    free = [
        [i for i in range(v.aval.ndim) if i not in (*contracted[j], *batch[j])] for j, v in enumerate(equation.invars)
    ]
    return len(batch[0]) + (len(free[0]) if place else 0) + free[place].index(axis)
