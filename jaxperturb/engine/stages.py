"""The parts of a cut network as functions, each at the number of images that suits it.

Convolutions are fastest on a few images at a time, which stay in a CPU's caches; a dense layer's weights must be read
once for hundreds. So the program is traced at two batch sizes, the *small* and the *large*, and split where the dense
layers at its end begin: *early* equations run at the small size, *late* ones at the large one. Both traces have the
same equations in the same places, and a variable's axis of images is the one in which they differ.
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxperturb.engine.cut import Cut
from jaxperturb.engine.steps import Steps
from jaxperturb.errors import NetworkError
from jaxperturb.networks.program import Program
from jaxperturb.types import AnyArray

Values = Sequence[AnyArray]

# What the late part must not make: more entries than this for one image.
_MOST_LATE = 2**16


@dataclass(frozen=True, eq=False)
class Pair:
    """The program at two batch sizes.

    Attributes:
        small: at which the early equations run.
        large: at which the late ones do; its batch is a multiple of the small one's.
        split: number of the first late equation of the program.
    """

    small: Steps
    large: Steps
    split: int

    @cached_property
    def enlarged(self) -> dict[Any, Any]:
        """The large program's variable for each of the small one's."""
        small, large = self.small.program, self.large.program
        found = dict(zip((*small.weights, small.images), (*large.weights, large.images), strict=True))
        for a, b in zip(self.small.equations, self.large.equations, strict=True):
            found.update(zip(a.outvars, b.outvars, strict=True))
        found.update(zip(self.small.constants, self.large.constants, strict=True))
        return found

    @cached_property
    def reduced(self) -> dict[Any, Any]:
        """The small program's variable for each of the large one's."""
        return {large: small for small, large in self.enlarged.items()}

    def is_early(self, v: Any) -> bool:
        """Whether a variable of the small program is made at the small size: by an early equation, or the images."""
        if v is self.small.program.images:
            return self.split > 0
        return bool(self.early([self.small.makers[v]]))

    def early(self, chosen: Collection[int]) -> frozenset[int]:
        """Those of some equations that run at the small size."""
        return frozenset(i for i in chosen if self.small.origins[i] < self.split)

    def late(self, chosen: Collection[int]) -> frozenset[int]:
        """Those of some equations that run at the large size."""
        return frozenset(i for i in chosen if self.small.origins[i] >= self.split)

    def image_axis(self, v: Any) -> int:
        """The axis of a variable that counts images.

        Raises:
            NetworkError: there is none, or the value mixes images.
        """
        small, large = v.aval.shape, self.enlarged[v].aval.shape
        axes = [i for i, (a, b) in enumerate(zip(small, large, strict=True)) if a != b]
        if len(axes) != 1 or small[axes[0]] != self.small.program.batch or large[axes[0]] != self.large.program.batch:
            raise NetworkError(f"a value of shape {small} becomes {large} with more images: no axis counts them")
        return axes[0]


def pair(small: Steps, large: Steps) -> Pair:
    """Returns the program at two sizes, split where its last dense layers begin.

    Where nothing can be split, all equations are late, and both must be of one size.
    """
    same = [e.primitive for e in small.equations] == [e.primitive for e in large.equations]
    if small.program.batch == large.program.batch or not same or small.origins != large.origins:
        return Pair(large, large, 0)
    return Pair(small, large, split_of(small.program))


def split_of(program: Program) -> int:
    """Returns the number of the equation with which the dense layers at a program's end begin, or that of its end.

    That is the first product of a matrix of all images with one of weights, behind the last equation that makes more
    than a dense layer's worth of entries for an image.
    """
    end = len(program.equations)
    split = end
    for number in reversed(range(end)):
        equation = program.equations[number]
        shapes = [v.aval.shape for v in equation.outvars]
        of_images = [shape for shape in shapes if program.batch in shape]
        if any(math.prod(shape) > program.batch * _MOST_LATE for shape in of_images) or _convolves(equation):
            break
        if equation.primitive.name == "dot_general" and shapes[0][:1] == (program.batch,) and len(shapes[0]) == 2:
            split = number
    return split


def _convolves(equation: Any) -> bool:
    return equation.primitive.name == "conv_general_dilated" or equation.primitive.name.startswith("reduce_window")


@dataclass(frozen=True, eq=False)
class Stage:
    """Some equations of one side, as functions of lists of values.

    Attributes:
        steps: of the side.
        fixed: variables that are made of intact weights alone.
        kernel: that are made of the target's leaves.
        handed: that are handed over by what comes before.
        shared: that all lesions share, made by `share`.
        given: that an earlier stage gives.
        outputs: that come out.
        fixed_of: ``(leaves) -> fixed``.
        kernel_of: ``(lesioned leaves) -> kernel``.
        share: ``(fixed, handed) -> shared``.
        run: ``(fixed, kernel, handed, shared, given) -> outputs``.
    """

    steps: Steps
    fixed: tuple[Any, ...]
    kernel: tuple[Any, ...]
    handed: tuple[Any, ...]
    shared: tuple[Any, ...]
    given: tuple[Any, ...]
    outputs: tuple[Any, ...]
    fixed_of: Callable[[Values], list[AnyArray]]
    kernel_of: Callable[[Values], list[AnyArray]]
    share: Callable[[Values, Values], list[AnyArray]]
    run: Callable[[Values, Values, Values, Values, Values], list[AnyArray]]


def stage(cut: Cut, chosen: Collection[int], given: Sequence[Any], outputs: Sequence[Any]) -> Stage:
    """Returns some of the equations behind a cut, with what they take from elsewhere sorted by where that is made.

    Args:
        cut: of the program of one side.
        chosen: equations of `Cut.after`.
        given: variables that an earlier stage gives.
        outputs: variables that come out.
    """
    steps = cut.steps
    weights_only = cut.fixed | cut.kernel
    body = steps.with_light(steps.needed(outputs, chosen), weights_only)
    free = [v for v in steps.free(body, outputs) if v not in given]
    of_shared = steps.made(cut.shared)
    shared = [v for v in free if v in of_shared]
    sharing = steps.with_light(steps.needed(shared, cut.shared), cut.fixed)
    taken = list(dict.fromkeys([*free, *steps.free(sharing)]))
    of_kernel = {*cut.target, *steps.made(cut.kernel)}
    of_images = {steps.program.images, *steps.made(cut.before)}
    kernel = [v for v in taken if v in of_kernel]
    handed = [v for v in taken if v in of_images]
    apart = {*kernel, *handed, *shared, *steps.constants}
    fixed = [v for v in taken if v not in apart]
    share = steps.function(sharing, [*fixed, *handed], shared)
    run = steps.function(body, [*fixed, *kernel, *handed, *shared, *given], outputs)
    return Stage(
        steps,
        tuple(fixed),
        tuple(kernel),
        tuple(handed),
        tuple(shared),
        tuple(given),
        tuple(outputs),
        _of_weights(cut, fixed),
        _of_weights(cut, kernel),
        lambda fixed, handed: share(*fixed, *handed),
        lambda *groups: run(*(value for group in groups for value in group)),
    )


def _of_weights(cut: Cut, wanted: Sequence[Any]) -> Callable[[Values], list[AnyArray]]:
    """``(leaves) -> values`` of variables that no image decides."""
    steps = cut.steps
    function = steps.function(steps.needed(wanted, cut.fixed | cut.kernel), steps.program.weights, wanted)
    return lambda leaves: function(*leaves)


@dataclass(frozen=True, eq=False)
class Chain:
    """Two stages, one behind the other.

    Attributes:
        early: at the small size, run piece by piece; None where there is nothing to run.
        late: at the large size; what the early one gives, joined, is the first that it is given.
    """

    early: Stage | None
    late: Stage


@dataclass(frozen=True, eq=False)
class Stages:
    """A network cut at a target.

    Attributes:
        whole: all that the target decides.
        rest: the same behind the layer, whose outputs are given; None where they are not all of one size.
        layer: the layer alone.
        layer_is_early: whether it runs at the small size.
    """

    whole: Chain
    rest: Chain | None
    layer: Stage | None
    layer_is_early: bool


def stages(pair: Pair, small: Cut, large: Cut) -> Stages:
    """Returns the stages of a cut.

    Args:
        pair: the program.
        small: cut at the small size.
        large: the same cut at the large one.
    """
    logits = [pair.large.program.logits]
    whole = chain(pair, small, large, small.after, logits)
    sides = {pair.is_early(v) for v in small.outputs}
    if len(sides) != 1:
        return Stages(whole, None, None, False)
    is_early = sides.pop()
    own = small if is_early else large
    layer = stage(own, own.after & own.layer, (), own.outputs)
    rest = chain(pair, small, large, small.after - small.layer, logits, small.outputs)
    return Stages(whole, rest, layer, is_early)


def chain(
    pair: Pair,
    small: Cut,
    large: Cut,
    chosen: frozenset[int],
    outputs: Sequence[Any],
    given: Sequence[Any] = (),
    kept: Sequence[Any] = (),
) -> Chain:
    """Returns some equations behind the cut as an early and a late stage.

    Args:
        pair: the program.
        small: cut at the small size.
        large: the same cut at the large one.
        chosen: equations of `Cut.after`.
        outputs: of the late stage, variables of the large program.
        given: variables of the small program, all of one side, whose values are known: given behind what is carried
            over, or to the early stage.
        kept: further variables of the small program that the early stage gives, behind what it carries over.
    """
    enlarged, reduced = pair.enlarged, pair.reduced
    given_early = [v for v in given if pair.is_early(v)]
    given_late = [enlarged[v] for v in given if not pair.is_early(v)]
    own = large.steps.needed(outputs, pair.late(chosen))
    body = large.steps.with_light(own, large.fixed | large.kernel)
    of_early = {*pair.small.made(pair.early(chosen)), *given_early}
    carried = [reduced[v] for v in large.steps.free(body, outputs) if reduced[v] in of_early]
    late = stage(large, pair.late(chosen), [*(enlarged[v] for v in carried), *given_late], outputs)
    early_outputs = [*carried, *kept]
    early = stage(small, pair.early(chosen), given_early, early_outputs) if early_outputs else None
    return Chain(early, late)
