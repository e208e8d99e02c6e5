"""What a lesion costs: a deep layer's is much cheaper than an early one's, since what comes before is computed once.

The cost follows from the network's equations alone, so that every machine divides a study alike.
"""

import math
from collections.abc import Sequence
from typing import Any

from jaxperturb.networks.network import ImageShape, Network
from jaxperturb.networks.program import Program, variables
from jaxperturb.perturb.targets import Target
from jaxperturb.trees import layers_of

WHOLE = "*"  # stands for the network as it is
_IMAGES_PER_MASK = 1000  # a mask is drawn anew for each block of about so many images
_PRODUCTS_PER_ENTRY = 256  # drawing one entry of a mask takes as long as so many multiplications of a product


def costs(network: Network, image_shape: ImageShape, targets: Sequence[str]) -> dict[str, int]:
    """Returns multiplications per image: of a lesion of each target, and of the whole network under ``"*"``.

    Args:
        network: intact.
        image_shape: of the images.
        targets: what is lesioned.
    """
    program = network.program(network.shape_of_images(image_shape))
    known = layers_of(network.params, network.norms)
    found = {WHOLE: _multiplications(program, {*program.weights, program.images})}
    for target in targets:
        layers = [known[name] for name in Target.of(target).layers]
        leaves = {program.weights[leaf.index] for layer in layers for leaf in layer.leaves(include_norm=True)}
        entries = sum(math.prod(leaf.aval.shape) for leaf in leaves)
        found[target] = _multiplications(program, leaves) + entries * _PRODUCTS_PER_ENTRY // _IMAGES_PER_MASK
    return found


def _multiplications(program: Program, touched: set[Any]) -> int:
    """Returns the multiplications per image of all equations that depend on some variables."""
    touched, total = set(touched), 0
    for equation in program.equations:
        if any(v in touched for v in variables(equation)):
            touched.update(equation.outvars)
            total += _of_equation(equation)
    return max(1, total // program.batch)


def _of_equation(equation: Any) -> int:
    """Returns the multiplications of one equation; of others than products, the entries that it makes."""
    made = sum(math.prod(v.aval.shape) for v in equation.outvars)
    name = equation.primitive.name
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return made * math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
    if name == "conv_general_dilated":
        kernel, numbers = equation.invars[1].aval.shape, equation.params["dimension_numbers"]
        return made * math.prod(kernel) // kernel[numbers.rhs_spec[0]]
    inner = [_inner(value) for value in equation.params.values()]
    times = equation.params.get("length", 1) if name == "scan" else 1
    return max(made, times * sum(map(_of_equation, (one for some in inner for one in some))))


def _inner(value: Any) -> Sequence[Any]:
    """Returns the equations of a loop's or branch's body that is an equation's parameter."""
    if isinstance(value, tuple | list):
        return [equation for one in value for equation in _inner(one)]
    return getattr(getattr(value, "jaxpr", value), "eqns", ())
