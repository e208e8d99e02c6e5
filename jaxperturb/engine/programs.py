"""The compiled programs: one for a network, target and shapes; keys, levels, weights and images are arguments."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Int

from jaxperturb.engine.cut import cut
from jaxperturb.errors import PerturbationError
from jaxperturb.networks.network import ImageShape, Specification, shapes_of
from jaxperturb.networks.program import trace
from jaxperturb.trees import is_changed
from jaxperturb.types import AnyArray, Apply, Labels, Logits

PLANES = ("top1", "top5", "same1", "same5", "finite")
FIRST = 5  # "top5" and "same5" look at this many classes


@functools.lru_cache(maxsize=256)
def before_program(
    apply: Apply, spec: Specification, image_shape: ImageShape, tile: int, target: tuple[int, ...]
) -> Callable[..., Any]:
    """Returns the compiled ``(leaves, images) -> values handed over`` for one tile of images."""
    return jax.jit(_cut(apply, spec, image_shape, tile, target).before)


@functools.lru_cache(maxsize=256)
def outcome_program(
    apply: Apply, spec: Specification, image_shape: ImageShape, tile: int, target: tuple[int, ...]
) -> Callable[..., Any]:
    """Returns the compiled ``(leaves, lesioned leaves, handed over, labels, reference) -> planes`` for one tile."""
    parts = _cut(apply, spec, image_shape, tile, target)

    def outcome(
        leaves: Sequence[AnyArray],
        lesioned: Sequence[AnyArray],
        handed: Sequence[AnyArray],
        labels: Labels,
        reference: Int[AnyArray, "n five"],
    ) -> Bool[AnyArray, "p n"]:
        leaves = _with(leaves, target, lesioned)
        return planes(parts.after(leaves, handed, parts.layer(leaves, handed)), labels, reference)

    return jax.jit(outcome)


@functools.lru_cache(maxsize=64)
def reference_program(apply: Apply, spec: Specification, image_shape: ImageShape, tile: int) -> Callable[..., Any]:
    """Returns the compiled ``(leaves, images, labels) -> (planes, first classes)`` of the network as it is."""
    whole = jax.extend.core.jaxpr_as_fun(trace(apply, shapes_of(*spec), image_shape, tile).closed)

    def reference(leaves: Sequence[AnyArray], images: AnyArray, labels: Labels) -> tuple[AnyArray, AnyArray]:
        logits = whole(*leaves, images)[0]
        first = first_classes(logits)
        return planes(logits, labels, first), first

    return jax.jit(reference)


@functools.lru_cache(maxsize=256)
def classes_program(
    apply: Apply, spec: Specification, image_shape: ImageShape, tile: int, target: tuple[int, ...]
) -> Callable[..., Any]:
    """Returns the compiled ``(leaves, lesioned leaves, handed over) -> first classes`` for one tile."""
    parts = _cut(apply, spec, image_shape, tile, target)

    def classes(leaves: Sequence[AnyArray], lesioned: Sequence[AnyArray], handed: Sequence[AnyArray]) -> AnyArray:
        leaves = _with(leaves, target, lesioned)
        return first_classes(parts.after(leaves, handed, parts.layer(leaves, handed)))

    return jax.jit(classes)


@dataclass(frozen=True)
class Call:
    """A perturbation as it is compiled: everything about it that is not traced.

    Attributes:
        function: the perturbation.
        options: by name, with `layers`, and `scope` and `norms` where the function takes them.
        counted: whether the level is handed over as counts, for ``count=``.
    """

    function: Callable[..., Any]
    options: tuple[tuple[str, Any], ...]
    counted: bool

    def __call__(self, key: AnyArray, params: Any, amount: Any, extras: Mapping[str, Any]) -> Any:
        """Returns the perturbed tree."""
        options = {name: dict(value) if name == "norms" else value for name, value in self.options}
        level, count = (None, {"count": amount}) if self.counted else (amount, {})
        return self.function(key, params, level, **options, **count, **extras)


@functools.lru_cache(maxsize=1024)
def lesion_program(call: Call, spec: Specification, target: tuple[int, ...]) -> Callable[..., Any]:
    """Returns the compiled ``(key, level or counts, leaves, reference, extras) -> (lesioned leaves, entries changed)``.

    ``reference`` holds the target's leaves in the reference network, from which changes are counted; ``extras`` are
    further traced options of the perturbation, by name.

    Args:
        call: the perturbation.
        spec: of the tree.
        target: indices of the leaves that it may touch.
    """
    structure, _ = spec

    def lesion(
        key: AnyArray, amount: Any, leaves: Sequence[AnyArray], reference: Sequence[AnyArray], extras: Mapping[str, Any]
    ) -> tuple[list[AnyArray], AnyArray]:
        after = jax.tree.leaves(call(key, jax.tree.unflatten(structure, leaves), amount, extras))
        _check_untouched(call, target, leaves, after)
        lesioned = [after[i] for i in target]
        differ = [jnp.sum(is_changed(a, b), dtype=jnp.uint32) for a, b in zip(reference, lesioned, strict=True)]
        return lesioned, jnp.sum(jnp.stack(differ))

    return jax.jit(lesion)


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


def first_classes(logits: Logits) -> Int[AnyArray, "n five"]:
    """Returns the first five classes of each image, best first, ties by number."""
    return jax.lax.top_k(logits, min(FIRST, logits.shape[-1]))[1]


@functools.lru_cache(maxsize=256)
def _cut(apply: Apply, spec: Specification, image_shape: ImageShape, tile: int, target: tuple[int, ...]) -> Any:
    return cut(trace(apply, shapes_of(*spec), image_shape, tile), target)


def _with(leaves: Sequence[AnyArray], target: tuple[int, ...], lesioned: Sequence[AnyArray]) -> list[AnyArray]:
    replaced = dict(zip(target, lesioned, strict=True))
    return [replaced.get(i, leaf) for i, leaf in enumerate(leaves)]


def _check_untouched(
    call: Call, target: tuple[int, ...], before: Sequence[AnyArray], after: Sequence[AnyArray]
) -> None:
    name, layers = getattr(call.function, "__name__", "the perturbation"), dict(call.options)["layers"]
    if len(after) != len(before):
        raise PerturbationError(f"{name} returned {len(after)} arrays, expected the {len(before)} that it was given")
    for i, (old, new) in enumerate(zip(before, after, strict=True)):
        if i not in target and new is not old:
            raise PerturbationError(f"{name} was asked for {', '.join(layers)} and changed another array; use `layers`")
        if jnp.shape(new) != jnp.shape(old) or jnp.result_type(new) != jnp.result_type(old):
            expected, came = (f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in (old, new))
            raise PerturbationError(f"{name} returned {came} for an array of {', '.join(layers)}, expected {expected}")
