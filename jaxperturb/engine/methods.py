"""How a perturbation of a target is computed: the shortest exact way that its cut allows."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.engine.cut import unit_axes
from jaxperturb.engine.lesions import Lesions
from jaxperturb.engine.narrow import Narrow, narrow_layer
from jaxperturb.engine.programs import Blend, Shape, Values, cuts_of, pair_of, stages_of
from jaxperturb.engine.stages import Chain, Stages
from jaxperturb.perturb.choose import along
from jaxperturb.types import AnyArray

Name = Literal["units", "linear", "touched", "product", "rest", "everything"]

# What each does, for the line at a study's start and its record.
MEANING = {
    "units": "units are replaced in the layer's output, which is computed once",
    "linear": "one further product serves all levels of a draw",
    "touched": "where few weights change, the units that they touch are computed, all others once",
    "product": "starts at the layer",
    "rest": "starts where the weights are first used",
    "everything": "runs the whole network",
}


@dataclass(frozen=True, eq=False)
class Method:
    """How a perturbation of a target is computed.

    Attributes:
        name: of the way.
        stages: of the cut.
        blend: how the layer's outputs are made of the reference network's; None where they are computed.
        narrow: the layer at the units that a lesion touches, where only those are computed.
    """

    name: Name
    stages: Stages
    blend: Blend | None = None
    narrow: Narrow | None = None

    @property
    def chain(self) -> Chain:
        """The stages that run for each lesion."""
        if self.blend is None:
            return self.stages.whole
        assert self.stages.rest is not None
        return self.stages.rest


def method_of(shape: Shape, lesions: Lesions, *, plain: bool = False) -> Method:
    """Returns the shortest way of computing a perturbation of a target.

    Args:
        shape: of the study.
        lesions: of the perturbation and target.
        plain: whether nothing is to be cut.
    """
    both = pair_of(shape)
    if plain:
        return Method("everything", stages_of(both, lesions.leaves, everything=True))
    found, (small, _) = stages_of(both, lesions.leaves), cuts_of(both, lesions.leaves)
    if (
        found.rest is not None
        and shape.tiling.masks is None
        and lesions.asked.perturbation.linear
        and _is_wide(lesions, small.outputs)
    ):
        return Method("linear", found, moved)
    if found.rest is not None and lesions.asked.by_unit and len(lesions.layers) == 1:
        axes = unit_axes(small, lesions.layers[0])
        if axes is not None:
            return Method("units", found, replaced(tuple(axes[v] for v in small.outputs)))
    if not small.before:
        return Method("everything", found)
    return Method("product" if small.outputs else "rest", found)


def few_method_of(shape: Shape, lesions: Lesions) -> Method | None:
    """Returns the way for lesions that touch few units, or None where there is none.

    Args:
        shape: of the study.
        lesions: of the perturbation and target.
    """
    if lesions.asked.perturbation.places is None or len(lesions.layers) != 1 or shape.tiling.masks is not None:
        return None
    both = pair_of(shape)
    found, sides = stages_of(both, lesions.leaves), cuts_of(both, lesions.leaves)
    narrow = narrow_layer(sides[0 if found.layer_is_early else 1], lesions.layers[0]) if found.rest else None
    return Method("touched", found, recomputed(narrow), narrow) if narrow else None


@dataclass(frozen=True)
class Wanted:
    """What the intact network hands over.

    Attributes:
        early: variables of the small program, piece by piece.
        late: variables of the large program.
    """

    early: tuple[Any, ...] = ()
    late: tuple[Any, ...] = ()

    def __or__(self, other: "Wanted") -> "Wanted":
        """Returns what one or the other wants."""
        return Wanted(*(tuple(dict.fromkeys(a + b)) for a, b in ((self.early, other.early), (self.late, other.late))))

    def bytes_per_image(self, shape: Shape) -> int:
        """Returns the memory that it takes for one image."""
        sizes = (shape.tiling.small, self.early), (shape.tiling.large, self.late)
        return sum(v.aval.size * v.aval.dtype.itemsize // images for images, some in sizes for v in some)


def wanted(method: Method) -> Wanted:
    """Returns what the intact network hands over to a target."""
    stages, chain = method.stages, method.chain
    early, late = chain.early.handed if chain.early else (), chain.late.handed
    if method.blend is not None and stages.layer is not None:
        own = () if method.name == "touched" else stages.layer.outputs
        own += () if method.name == "units" else stages.layer.handed
        own += method.narrow.handed if method.narrow else ()
        early, late = (early + own, late) if stages.layer_is_early else (early, late + own)
    return Wanted(early, late) | Wanted()


def moved(ys: Values, others: Values, level: AnyArray) -> list[AnyArray]:
    """The layer's outputs under noise: those of the intact network, and the noise's own times the level."""
    return [y + level * other for y, other in zip(ys, others, strict=True)]


@functools.lru_cache(maxsize=256)
def replaced(axes: tuple[int, ...]) -> Blend:
    """Returns the blend that replaces units, which the lesion names by a mask, along the outputs' axes of units."""

    def blend(ys: Values, others: Values, dead: AnyArray) -> list[AnyArray]:
        return [jnp.where(along(dead, axis, y.ndim), other, y) for y, other, axis in zip(ys, others, axes, strict=True)]

    return blend


@functools.lru_cache(maxsize=256)
def recomputed(narrow: Narrow) -> Blend:
    """Returns the blend that computes a layer's outputs at some units, which the lesion names, with its leaves there.

    It takes what the layer reads of the images as the others.
    """

    def blend(ys: Values, others: Values, lesion: Any) -> list[AnyArray]:
        units, leaves = lesion
        own = zip(ys, narrow.run(leaves, others), narrow.axes, strict=True)
        return [jnp.asarray(y).at[(*[slice(None)] * axis, units)].set(other, mode="drop") for y, other, axis in own]

    return blend


def _is_wide(lesions: Lesions, outputs: Sequence[Any]) -> bool:
    """Whether all tensors and outputs are float32: in shorter types a sum is rounded before it is used."""
    leaves = jax.tree.leaves(lesions.network.params)
    types = [jnp.result_type(leaves[i]) for i in lesions.leaves] + [v.aval.dtype for v in outputs]
    return all(dtype == np.float32 for dtype in types)
