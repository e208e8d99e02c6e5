"""One perturbation of one target, ready to be applied at any level and draw by one compiled program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp

from jaxperturb.engine.plan import Cell
from jaxperturb.engine.programs import Call, lesion_program
from jaxperturb.engine.tiling import target_leaves
from jaxperturb.errors import PerturbationError
from jaxperturb.networks.network import Network, specification
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.perturb.request import Request
from jaxperturb.perturb.targets import Target
from jaxperturb.trees import is_changed, layers_of, replace_leaves
from jaxperturb.types import AnyArray, Key, Params


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

    def request(self, cell: Cell, key: Key) -> Request:
        """Returns what a cell asks of the perturbation."""
        options = self.asked.all_options()
        return Request(self.network.params, self.target, cell.level, options, key, self.network.norms)

    def apply(
        self, cell: Cell, key: Key, leaves: Sequence[AnyArray], reference: Sequence[AnyArray]
    ) -> tuple[list[AnyArray], AnyArray]:
        """Returns the target's leaves after the lesion, and the number of entries that differ from a reference's.

        Args:
            cell: its level counts.
            key: of its draw.
            leaves: of the whole intact tree.
            reference: the target's leaves in the reference network.
        """
        counts = self.asked.counts(self.request(cell, key))
        if counts is None:
            amount: Any = jnp.float32(float(cell.level))
        else:
            amount = {name: _number(k) for name, k in counts.items()}
        program = lesion_program(self._call(counts is not None), specification(self.network.params), self.leaves)
        return program(key, amount, leaves, reference, dict(self.extras))

    def encoded(self, key: Key, leaves: Sequence[AnyArray]) -> list[AnyArray]:
        """Returns the target's leaves in the reference network: intact, or encoded without faults."""
        intact = [leaves[i] for i in self.leaves]
        level = self.asked.perturbation.no_damage
        if not self.asked.encodes or level is None:
            return intact
        return self.apply(Cell(self.asked.text, self.target.name, level, 0), key, leaves, intact)[0]

    def _call(self, counted: bool) -> Call:
        known = self.asked.perturbation
        options = dict(self.asked.options) | {"layers": self.target.layers}
        if known.takes("scope"):
            options["scope"] = self.target.scope
        if known.takes("norms") and self.network.norms:
            options["norms"] = tuple(sorted(self.network.norms.items()))
        return Call(known.function, tuple(sorted(options.items())), counted)


def _number(count: int | Decimal) -> AnyArray:
    return jnp.float32(float(count)) if isinstance(count, Decimal) else jnp.uint32(count)


def lesioned_params(network: Network, asked: Asked, cell: Cell, key: Key, extras: Mapping[str, Any]) -> Params:
    """Returns the params of the network of a cell, made by the very program that a study runs."""
    lesions = Lesions.of(network, asked, cell.target, extras)
    arrays = [jnp.asarray(leaf) for leaf in jax.tree.leaves(network.params)]
    lesioned, _ = lesions.apply(cell, key, arrays, [arrays[i] for i in lesions.leaves])
    found = zip(lesions.leaves, lesioned, strict=True)
    changed = {i: leaf for i, leaf in found if bool(jnp.any(is_changed(arrays[i], leaf)))}
    return replace_leaves(network.params, changed)
