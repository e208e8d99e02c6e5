"""What one lesion asks of a perturbation, and how much that selects: computed on the host, exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import jax
import numpy as np

from jaxperturb.levels import count_of
from jaxperturb.perturb.choose import chosen_units
from jaxperturb.perturb.nonzero import nonzero_counts
from jaxperturb.perturb.scope import JOINT, Norms, Where
from jaxperturb.perturb.targets import Target
from jaxperturb.trees import Layer
from jaxperturb.types import Key, Params


@dataclass(frozen=True)
class Request:
    """One lesion: a perturbation of a target at a level.

    Attributes:
        params: the intact tree.
        target: what is perturbed.
        level: of damage.
        options: all options of the perturbation.
        key: of the draw.
        norms: names of norms, as for `jaxperturb.trees.layers_of`.
    """

    params: Params
    target: Target
    level: Decimal
    options: Mapping[str, Any]
    key: Key
    norms: Norms = None

    @property
    def where(self) -> Where:
        """What is touched."""
        bias, norm = (
            self.options.get(name, default) for name, default in (("include_bias", True), ("include_norm", False))
        )
        return Where(self.target.layers, bias, norm, self.target.scope, self.norms)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the target, sorted by name."""
        return self.where.chosen(self.params)


def entry_counts(request: Request) -> dict[str, int]:
    """Returns how many entries of each population a fraction selects."""
    tensors = request.where.tensors(request.layers)
    if request.options.get("among") == "nonzero":
        leaves = jax.tree.leaves(request.params)
        return nonzero_counts([leaves[tensor.leaf.index] for tensor in tensors], tensors, request.level)
    return {tensor.population: count_of(request.level, tensor.n) for tensor in tensors}


def entries_selected(request: Request) -> int:
    """Returns how many entries a fraction selects."""
    return sum(entry_counts(request).values())


def unit_counts(request: Request) -> dict[str, int]:
    """Returns how many units (or inputs) of each population a fraction selects."""
    sizes = {layer.name: layer.inputs if _of_inputs(request) else layer.units for layer in request.layers}
    if request.target.scope == "joint":
        return {JOINT: count_of(request.level, sum(sizes.values()))}
    return {name: count_of(request.level, size) for name, size in sizes.items()}


def units_selected(request: Request) -> int:
    """Returns how many entries belong to the units (or inputs) that a fraction selects."""
    inputs, joint, layers = _of_inputs(request), request.target.scope == "joint", request.layers
    chosen = chosen_units(request.key, layers, None, unit_counts(request), joint, inputs)
    return sum(int(np.sum(chosen[layer.name])) * _entries_of_a_unit(request, layer) for layer in layers)


def all_selected(request: Request) -> int:
    """Returns the number of all entries that are touched, and 0 at level 0."""
    return sum(tensor.leaf.size for tensor in request.where.tensors(request.layers)) if request.level else 0


def _of_inputs(request: Request) -> bool:
    return request.options.get("axis") == "in"


def _entries_of_a_unit(request: Request, layer: Layer) -> int:
    if _of_inputs(request):
        return layer.weight.size // layer.inputs
    bias = request.where.include_bias
    return sum(leaf.size // layer.units for leaf in layer.leaves(bias, bias))
