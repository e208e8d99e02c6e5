"""The compiled programs: one for a network, target and tile; keys, levels, weights and images are arguments."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from jaxperturb.engine.cut import Cut, cut
from jaxperturb.engine.rewrite import replacement
from jaxperturb.engine.stages import Chain, Pair, Stage, Stages, chain, pair, stages
from jaxperturb.engine.steps import Steps, steps_of
from jaxperturb.engine.tiling import Tiling
from jaxperturb.networks.network import ImageShape, Specification, shapes_of
from jaxperturb.networks.program import trace
from jaxperturb.types import AnyArray, Apply, Labels, Logits

PLANES = ("top1", "top5", "same1", "same5", "finite")
FIRST = 5  # "top5" and "same5" look at this many classes

Values = Sequence[AnyArray]
# (the layer's outputs in the intact network, what else decides them, of the lesion) -> the layer's outputs
Blend = Callable[[Values, Values, Any], list[AnyArray]]


@dataclass(frozen=True)
class Shape:
    """What all programs of a study share.

    Attributes:
        apply: the network.
        spec: of its params.
        image_shape: of its images.
        tiling: of its programs.
    """

    apply: Apply
    spec: Specification
    image_shape: ImageShape
    tiling: Tiling


@functools.lru_cache(maxsize=128)
def pair_of(shape: Shape) -> Pair:
    """Returns the network's program at the two sizes of its tile."""
    return pair(_steps(shape, shape.tiling.small), _steps(shape, shape.tiling.large))


def _steps(shape: Shape, batch: int) -> Steps:
    rules, tile = shape.tiling.rewrites, shape.tiling.small
    program = trace(shape.apply, shapes_of(*shape.spec), shape.image_shape, batch)
    return steps_of(program, lambda equation: replacement(equation, rules, tile))


# What follows is kept by the pair itself, not by the shape: variables of two traces must never meet.
@functools.lru_cache(maxsize=512)
def cuts_of(both: Pair, target: tuple[int, ...], everything: bool = False) -> tuple[Cut, Cut]:
    """Returns the cut at some leaves, at both sizes."""
    return cut(both.small, target, everything=everything), cut(both.large, target, everything=everything)


@functools.lru_cache(maxsize=512)
def stages_of(both: Pair, target: tuple[int, ...], everything: bool = False) -> Stages:
    """Returns the stages behind a cut."""
    return stages(both, *cuts_of(both, target, everything))


@functools.lru_cache(maxsize=128)
def intact_chain(both: Pair, wanted: tuple[Any, ...]) -> tuple[Chain, tuple[Any, ...], tuple[Any, ...]]:
    """Returns the intact network up to its logits, with the variables that its stages give beside.

    Args:
        both: the program.
        wanted: variables of the small program.

    Returns:
        The chain; the variables of the small program that its early stage gives behind what is carried over; those of
        the large program that its late stage gives before the logits.
    """
    small, large = cuts_of(both, (), everything=True)
    kept = tuple(v for v in wanted if both.is_early(v))
    late = tuple(both.enlarged[v] for v in wanted if not both.is_early(v))
    outputs = [*late, large.steps.program.logits]
    return chain(both, small, large, small.after, outputs, kept=kept), kept, late


@dataclass(frozen=True)
class Compiled:
    """A stage, compiled.

    Attributes:
        stage: what it takes and gives.
        fixed: ``(leaves) -> fixed``.
        share: ``(fixed, handed) -> shared``.
        run: ``(fixed, kernel, handed, shared, given) -> outputs``.
    """

    stage: Stage
    fixed: Callable[[Values], list[AnyArray]]
    share: Callable[[Values, Values], list[AnyArray]]
    run: Callable[[Values, Values, Values, Values, Values], list[AnyArray]]


@functools.lru_cache(maxsize=1024)
def compiled(stage: Stage) -> Compiled:
    """Returns a stage, compiled."""
    return Compiled(stage, _fixed(stage), jax.jit(stage.share), jax.jit(stage.run))


def _fixed(stage: Stage) -> Callable[[Values], list[AnyArray]]:
    """The compiled ``(leaves) -> fixed``; what is a leaf itself is that array, since a program would give a copy."""
    places = {v: i for i, v in enumerate(stage.steps.program.weights)}
    others = [i for i, v in enumerate(stage.fixed) if v not in places]
    program = jax.jit(lambda leaves: [stage.fixed_of(leaves)[i] for i in others])

    def fixed(leaves: Values) -> list[AnyArray]:
        made = dict(zip(others, program(leaves) if others else (), strict=True))
        return [made[i] if i in made else leaves[places[v]] for i, v in enumerate(stage.fixed)]

    return fixed


@functools.lru_cache(maxsize=512)
def blended(stage: Stage, blend: Blend) -> Callable[..., list[AnyArray]]:
    """Returns the compiled ``(fixed, kernel, handed, shared, outputs, others, lesion) -> outputs`` of an early stage.

    What it is given, the layer's outputs, is blended of those of the intact network and others.
    """

    def run(
        fixed: Values, kernel: Values, handed: Values, shared: Values, ys: Values, others: Values, lesion: Any
    ) -> list[AnyArray]:
        return stage.run(fixed, kernel, handed, shared, blend(ys, others, lesion))

    return jax.jit(run)


@functools.lru_cache(maxsize=512)
def finish(stage: Stage, axes: tuple[int, ...], blend: Blend | None = None) -> Callable[..., Any]:
    """Returns the compiled late stage, ``(…, labels, reference) -> (planes, logits)``.

    Its arguments are fixed, kernel, handed, shared, pieces (lists of what the early stage gave), the layer's outputs,
    others and lesion (empty lists and None without a blend), labels, and the first classes of the reference network.

    Args:
        stage: the late stage.
        axes: along which the pieces of each value are joined.
        blend: of the layer's outputs, where the layer is of this stage and its outputs are not computed.
    """

    def run(
        fixed: Values,
        kernel: Values,
        handed: Values,
        shared: Values,
        pieces: Sequence[Values],
        ys: Values,
        others: Values,
        lesion: Any,
        labels: Labels,
        reference: Int[AnyArray, "n five"],
    ) -> tuple[AnyArray, AnyArray]:
        carried = joined(pieces, axes)
        given = blend(ys, others, lesion) if blend else []
        *_, logits = stage.run(fixed, kernel, handed, shared, [*carried, *given])
        return planes(logits, labels, reference), logits

    return jax.jit(run)


def joined(pieces: Sequence[Values], axes: Sequence[int]) -> list[AnyArray]:
    """Returns the values of several pieces, each joined along its axis of images."""
    return [jnp.concatenate(some, axis) for some, axis in zip(zip(*pieces, strict=True), axes, strict=True)]


def carried_axes(both: Pair, early: Stage | None) -> tuple[int, ...]:
    """Returns the axes of images of what an early stage gives."""
    return tuple(both.image_axis(v) for v in early.outputs) if early else ()


@jax.jit
def planes(logits: Logits, labels: Labels, reference: Int[AnyArray, "n five"]) -> Bool[AnyArray, "p n"]:
    """Returns what came of each image, in the order of `PLANES`.

    The rank of a class is the number of classes with a larger logit and of lower-numbered ones with an equal logit;
    a class is among the first k where its rank is below k. An image with a NaN among its logits is wrong.

    Args:
        logits: (n, classes).
        labels: true classes.
        reference: the first five classes (or all, if fewer) of the reference network, best first.
    """
    number = logits.shape[-1]
    own = jnp.take_along_axis(logits, labels[:, None], axis=-1)
    ahead = (logits > own) | ((logits == own) & (jnp.arange(number) < labels[:, None]))
    rank = jnp.sum(ahead, axis=-1)
    sound = ~jnp.any(jnp.isnan(logits), axis=-1)
    best = jnp.argmax(logits, axis=-1)
    return jnp.stack(
        [
            (rank < 1) & sound,
            (rank < min(FIRST, number)) & sound,
            (best == reference[:, 0]) & sound,
            jnp.any(best[:, None] == reference, axis=-1) & sound,
            jnp.all(jnp.isfinite(logits), axis=-1),
        ]
    )


@jax.jit
def first_classes(logits: Logits) -> Int[AnyArray, "n five"]:
    """Returns the first five classes of each image, best first, ties by number."""
    return jax.lax.top_k(logits, min(FIRST, logits.shape[-1]))[1]
