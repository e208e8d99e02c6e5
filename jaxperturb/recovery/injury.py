"""The lesion that a training starts from: what it made of the weights, and which of them it took hold of."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from jaxperturb.engine.lesions import lesioned_params
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.tiling import target_leaves
from jaxperturb.errors import RecoveryError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.random import draw_key
from jaxperturb.trees import is_changed, layers_of, replace_leaves
from jaxperturb.types import AnyArray, Params


@dataclass(frozen=True, eq=False)
class Injury:
    """One lesion of one draw.

    Attributes:
        params: the lesioned tree.
        held: by the index of each of the target's leaves, the entries that the lesion took hold of: those whose value
            it changed, and of knockouts also chosen ones that were 0 before.
    """

    params: Params
    held: Mapping[int, Bool[AnyArray, "..."]]

    @property
    def damaged(self) -> int:
        """Number of entries that the lesion took hold of."""
        return sum(int(jnp.sum(mask)) for mask in self.held.values())


def injure(
    network: Network, asked: Asked, target: str, level: Decimal, draw: int, seed: int, extras: Mapping[str, Any]
) -> Injury:
    """Returns the lesion of a study's cell.

    Args:
        network: intact.
        asked: the perturbation.
        target: its text.
        level: of damage.
        draw: number of the draw.
        seed: of the study.
        extras: what the perturbation takes from images.
    """
    cell, key = Cell(asked.text, target, level, draw), draw_key(seed, draw)
    indices = target_leaves(layers_of(network.params, network.norms), target)
    lesioned = lesioned_params(network, asked, cell, key, extras)
    before, after = jax.tree.leaves(network.params), jax.tree.leaves(lesioned)
    if _hides_choices(asked, [before[i] for i in indices]):
        # A chosen entry that was 0 does not change; the smallest number in its place shows that it was chosen.
        shown = {i: jnp.where(before[i] == 0, jnp.finfo(before[i].dtype).tiny, before[i]) for i in indices}
        probe = replace(network, params=replace_leaves(network.params, shown))
        before, after = (
            jax.tree.leaves(probe.params),
            jax.tree.leaves(lesioned_params(probe, asked, cell, key, extras)),
        )
    return Injury(lesioned, {i: is_changed(jnp.asarray(before[i]), jnp.asarray(after[i])) for i in indices})


def grown(trained: Params, injury: Injury) -> Params:
    """Returns a trained network after a lesion that contains those before it: all that it removes is removed.

    Raises:
        RecoveryError: the lesion does not remove weights but changes them.
    """
    leaves, lesioned = jax.tree.leaves(trained), jax.tree.leaves(injury.params)
    gone = {}
    for i, mask in injury.held.items():
        if bool(jnp.any(mask & (lesioned[i] != 0))):
            raise RecoveryError("progressive damage needs a perturbation that removes weights, such as a knockout")
        gone[i] = jnp.where(mask, lesioned[i], leaves[i])
    return replace_leaves(trained, gone)


def _hides_choices(asked: Asked, leaves: list[AnyArray]) -> bool:
    """Whether entries may have been chosen that were 0; among the others alone, none is."""
    return asked.all_options().get("among") != "nonzero" and any(bool(jnp.any(leaf == 0)) for leaf in leaves)
