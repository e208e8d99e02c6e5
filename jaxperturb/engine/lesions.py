"""One perturbation of one target, ready to be applied at any level and draw by one compiled program."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, UInt32

from jaxperturb.engine.draws import Parts, parts_of
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.tiling import target_leaves
from jaxperturb.errors import PerturbationError
from jaxperturb.networks.network import Network, Specification, shapes_of, specification
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.perturb.request import Request
from jaxperturb.perturb.targets import Target
from jaxperturb.random.keys import draw_key
from jaxperturb.trees import Layer, LayerRule, is_changed, layers_of, replace_leaves
from jaxperturb.types import AnyArray, Key, Params

_RUN = 128  # entries that one byte counts


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
        level, count = (None, {"count": amount}) if self.counted else (amount, {})
        return self.function(key, params, level, **dict(self.options), **count, **extras)


@dataclass(frozen=True)
class Lesions:
    """The lesions of one perturbation and target.

    Attributes:
        network: the intact network.
        asked: the perturbation.
        target: what is perturbed.
        leaves: indices of the leaves that may change.
        extras: further traced options, measured on images.
    """

    network: Network
    asked: Asked
    target: Target
    leaves: tuple[int, ...]
    extras: Mapping[str, Any]

    @classmethod
    def of(cls, network: Network, asked: Asked, target: str, extras: Mapping[str, Any]) -> "Lesions":
        """Returns the lesions of a target, by its text.

        Raises:
            PerturbationError: a joint target for a perturbation that has no joint scope.
        """
        wanted = Target.of(target)
        if wanted.scope == "joint" and not asked.perturbation.takes("scope"):
            apart = "+".join(wanted.layers)
            raise PerturbationError(f"{asked.perturbation.name} cannot share a budget over layers; use target {apart}")
        return cls(network, asked, wanted, target_leaves(layers_of(network.params, network.norms), target), extras)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers of the target, sorted by name."""
        known = layers_of(self.network.params, self.network.norms)
        return tuple(known[name] for name in sorted(self.target.layers))

    def request(self, cell: Cell, key: Key) -> Request:
        """Returns what a cell asks of the perturbation."""
        options = self.asked.all_options()
        return Request(self.network.params, self.target, cell.level, options, key, self.network.norms)

    def amount(self, cell: Cell, key: Key) -> Any:
        """Returns what stands for a cell's level: counts by name, or the level itself."""
        counts = self.asked.counts(self.request(cell, key))
        return _level(cell.level) if counts is None else {name: _number(k) for name, k in counts.items()}

    def selected(self, cell: Cell, key: Key) -> int | None:
        """Returns how many entries of the tree a cell selects, or None where that is not known."""
        return self.asked.selected(self.request(cell, key))

    def programs(self, amount: Any) -> "LesionPrograms":
        """Returns the compiled lesion, for levels that are handed over as this one."""
        leaves, structure = jax.tree.flatten(amount)
        shapes = tuple(jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in leaves)
        extras, extras_structure = jax.tree.flatten(self.extras)
        extra_shapes = tuple(jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf)) for leaf in extras)
        call = self._call(counted=isinstance(amount, dict))
        spec = specification(self.network.params)
        parts = _programs(call, spec, self.leaves, (shapes, structure), (extra_shapes, extras_structure))
        return LesionPrograms(parts, tuple(jnp.asarray(leaf) for leaf in extras))

    def lesioned(self, cell: Cell, key: Key, leaves: Sequence[AnyArray]) -> list[AnyArray]:
        """Returns the target's leaves after a cell's lesion."""
        amount = self.amount(cell, key)
        programs = self.programs(amount)
        return programs.level(programs.draw(key, leaves), leaves, amount)

    def encoded(self, key: Key, leaves: Sequence[AnyArray]) -> list[AnyArray]:
        """Returns the target's leaves in the reference network: intact, or encoded without faults."""
        level = self.asked.perturbation.no_damage
        if not self.asked.encodes or level is None:
            return [leaves[i] for i in self.leaves]
        return self.lesioned(Cell(self.asked.text, self.target.name, level, 0), key, leaves)

    def _call(self, counted: bool) -> Call:
        known = self.asked.perturbation
        options = dict(self.asked.options) | {"layers": self.target.layers}
        if known.takes("scope"):
            options["scope"] = self.target.scope
        if known.takes("norms") and self.network.norms:
            options["norms"] = LayerRule.of(self.network.norms)
        return Call(known.function, tuple(sorted(options.items())), counted)


@dataclass(frozen=True)
class LesionPrograms:
    """A compiled lesion, in parts which may also be traced.

    Attributes:
        parts: of the lesion.
        extras: measured options.
    """

    parts: Parts
    extras: tuple[AnyArray, ...]

    def draw(self, key: Key, leaves: Sequence[AnyArray]) -> list[AnyArray]:
        """Returns what all levels of a draw share.

        Args:
            key: of the draw.
            leaves: of the whole intact tree.
        """
        return self.parts.shared(self.parts.seeds(key), [*leaves, *self.extras])

    def level(self, shared: Sequence[AnyArray], leaves: Sequence[AnyArray], amount: Any) -> list[AnyArray]:
        """Returns the target's leaves after the lesion.

        Args:
            shared: by the draw's levels.
            leaves: of the whole intact tree.
            amount: of the level.
        """
        return self.parts.level(shared, [*leaves, *self.extras], jax.tree.leaves(amount))


Described = tuple[tuple[jax.ShapeDtypeStruct, ...], Any]  # leaves and structure of a tree


@functools.lru_cache(maxsize=1024)
def _programs(call: Call, spec: Specification, target: tuple[int, ...], amount: Described, extras: Described) -> Parts:
    leaves, structure = jax.tree.flatten(shapes_of(*spec))

    def lesion(key: AnyArray, *arrays: AnyArray) -> list[AnyArray]:
        own, rest = arrays[: len(leaves)], arrays[len(leaves) :]
        measured = jax.tree.unflatten(extras[1], rest[: len(extras[0])])
        level = jax.tree.unflatten(amount[1], rest[len(extras[0]) :])
        after = jax.tree.leaves(call(key, jax.tree.unflatten(structure, own), level, measured))
        _check_untouched(call, target, own, after)
        return [after[i] for i in target]

    key = jax.eval_shape(lambda: draw_key(0, 0))
    return parts_of(lesion, key, [*leaves, *extras[0]], amount[0])


def with_leaves(leaves: Sequence[AnyArray], target: Sequence[int], own: Sequence[AnyArray]) -> list[AnyArray]:
    """Returns all leaves, those of the target replaced."""
    replaced = dict(zip(target, own, strict=True))
    return [replaced.get(i, leaf) for i, leaf in enumerate(leaves)]


def entries_changed(before: Sequence[AnyArray], after: Sequence[AnyArray]) -> UInt32[AnyArray, ""]:
    """Returns how many entries differ, bit for bit."""
    return sum((_true(is_changed(a, b)) for a, b in zip(before, after, strict=True)), jnp.uint32(0))


def _true(mask: Bool[AnyArray, "..."]) -> UInt32[AnyArray, ""]:
    """How many are true: sums of bytes are five times faster on a CPU than sums of words."""
    flat = mask.reshape(-1)
    runs = flat.size // (_RUN * _RUN)
    whole = flat[: runs * _RUN * _RUN].reshape(runs, _RUN, _RUN)
    of_runs = jnp.sum(jnp.sum(whole, axis=1, dtype=jnp.uint8), dtype=jnp.uint32)
    return of_runs + jnp.sum(flat[runs * _RUN * _RUN :], dtype=jnp.uint32)


def lesioned_params(network: Network, asked: Asked, cell: Cell, key: Key, extras: Mapping[str, Any]) -> Params:
    """Returns the params of the network of a cell, made by the very program that a study runs."""
    lesions = Lesions.of(network, asked, cell.target, extras)
    arrays = [jnp.asarray(leaf) for leaf in jax.tree.leaves(network.params)]
    found = zip(lesions.leaves, lesions.lesioned(cell, key, arrays), strict=True)
    changed = {i: leaf for i, leaf in found if bool(jnp.any(is_changed(arrays[i], leaf)))}
    return replace_leaves(network.params, changed)


def _level(level: Decimal) -> AnyArray:
    return np.asarray(float(level), np.float32)


def _number(count: int | Decimal) -> AnyArray:
    return _level(count) if isinstance(count, Decimal) else np.asarray(count, np.uint32)


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
