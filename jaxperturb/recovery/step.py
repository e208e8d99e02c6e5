"""One step of training, compiled: for one lesioned copy of a network, or for several at once."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float

from jaxperturb.networks.network import Network
from jaxperturb.recovery.injury import Injury
from jaxperturb.recovery.passing import FreshDamage, with_dropout
from jaxperturb.trees import leaf_names
from jaxperturb.types import AnyArray, Apply, Images, Key, Labels, Params

Arrays = dict[str, AnyArray]  # leaves by their paths in the tree


@dataclass(frozen=True, eq=False)
class Copy:
    """A lesioned copy of a network in training, or several, stacked along the first axis of every array.

    Attributes:
        own: what learns.
        state: of the optimiser.
        held: entries of `own` that stay as they are; empty where none are.
        fixed: leaves that the lesion damaged and that do not learn.
    """

    own: Arrays
    state: Any
    held: dict[str, Bool[AnyArray, "..."]]
    fixed: Arrays


@dataclass(frozen=True)
class Recipe:
    """What a compiled step depends on beside shapes.

    Attributes:
        apply: of the network.
        structure: of its tree.
        names: of the tree's leaves.
        optimizer: of optax; it sees a flat dictionary of the arrays that learn.
        damage: drawn anew in every step, or None.
        dropout: whether dropout layers act.
    """

    apply: Apply
    structure: Any
    names: tuple[str, ...]
    optimizer: optax.GradientTransformation
    damage: FreshDamage | None = None
    dropout: bool = False

    @classmethod
    def of(
        cls, network: Network, optimizer: optax.GradientTransformation, damage: FreshDamage | None, dropout: bool
    ) -> "Recipe":
        """Returns the recipe for a network."""
        structure = jax.tree.structure(network.params)
        return cls(network.apply, structure, tuple(leaf_names(network.params)), optimizer, damage, dropout)

    def tree(self, *leaves: Arrays) -> Params:
        """Returns the whole tree, put together from leaves by name."""
        known = {name: leaf for some in leaves for name, leaf in some.items()}
        return jax.tree.unflatten(self.structure, [known[name] for name in self.names])

    def shared(self, network: Network, learning: Sequence[int], injury: Injury) -> Arrays:
        """Returns the leaves that neither learn nor are damaged."""
        leaves = jax.tree.leaves(network.params)
        apart = {*learning, *injury.held}
        return {name: leaves[i] for i, name in enumerate(self.names) if i not in apart}

    def start(self, injury: Injury, learning: Sequence[int], held: bool, params: Params | None = None) -> Copy:
        """Returns a copy as it begins to learn.

        Args:
            injury: the lesion.
            learning: indices of the leaves that learn.
            held: whether what the lesion took hold of stays as it is.
            params: what is trained, where it is not the lesioned network itself.
        """
        leaves: list[AnyArray] = [
            jnp.asarray(leaf) for leaf in jax.tree.leaves(injury.params if params is None else params)
        ]
        own = {self.names[i]: leaves[i] for i in learning}
        none = {self.names[i]: jnp.zeros(leaves[i].shape, bool) for i in learning} if held else {}
        masks = none | {self.names[i]: mask for i, mask in injury.held.items() if self.names[i] in none}
        fixed = {self.names[i]: leaves[i] for i in injury.held if i not in learning}
        return Copy(own, self.optimizer.init(own), masks, fixed)


Step = Callable[[Copy, Arrays, Images, Labels, Key, Key], tuple[Copy, Float[AnyArray, "..."]]]


@functools.lru_cache(maxsize=64)
def step_program(recipe: Recipe, several: bool) -> Step:
    """Returns the compiled step: ``(copy, shared, images, labels, dropout key, damage keys) -> (copy, loss)``.

    Held entries stay what they are under any optimiser: their gradients are 0 before it sees them, and what it moves
    them by is not added.

    Args:
        recipe: of the training.
        several: whether copies, losses and damage keys are stacked; images, labels and dropout are the same for all.
    """

    def step(
        own: Arrays, state: Any, held: Any, fixed: Arrays, shared: Arrays, images: Images, labels: Labels,
        dropping: Key, damaging: Key,
    ) -> tuple[Arrays, Any, Float[AnyArray, ""]]:  # fmt: skip
        def loss_of(own: Arrays) -> Float[AnyArray, ""]:
            logits = _logits(recipe, recipe.tree(own, fixed, shared), images, dropping, damaging)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        with jax.default_matmul_precision("highest"):
            loss, gradients = jax.value_and_grad(loss_of)(own)
        gradients = {name: jnp.where(held[name], 0, g) if held else g for name, g in gradients.items()}
        updates, state = recipe.optimizer.update(gradients, state, own)
        moved = optax.apply_updates(own, updates)
        return {name: jnp.where(held[name], own[name], w) if held else w for name, w in moved.items()}, state, loss

    together = jax.vmap(step, in_axes=(0, 0, 0, 0, None, None, None, None, 0)) if several else step
    compiled = jax.jit(together)

    def advance(
        copy: Copy, shared: Arrays, images: Images, labels: Labels, dropping: Key, damaging: Key
    ) -> tuple[Copy, Float[AnyArray, "..."]]:
        own, state, loss = compiled(
            copy.own, copy.state, copy.held, copy.fixed, shared, images, labels, dropping, damaging
        )
        return replace(copy, own=own, state=state), loss

    return advance


def stacked(copies: Sequence[Copy]) -> Copy:
    """Returns several copies as one."""
    parts = [(one.own, one.state, one.held, one.fixed) for one in copies]
    return Copy(*jax.tree.map(lambda *leaves: jnp.stack(leaves), *parts))


def unstacked(copies: Copy, count: int) -> list[Copy]:
    """Returns stacked copies one by one."""
    parts = copies.own, copies.state, copies.held, copies.fixed
    return [Copy(*jax.tree.map(lambda leaf, i=i: leaf[i], parts)) for i in range(count)]


def state_arrays(copy: Copy) -> dict[str, np.ndarray]:
    """Returns all that changes in training, by names fit for a file; `with_state` takes it."""
    leaves = jax.tree.leaves((copy.own, copy.state))
    return {f"array{i:05d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}


def with_state(copy: Copy, arrays: dict[str, np.ndarray]) -> Copy:
    """Returns a copy as it began, with the state that another process kept."""
    structure = jax.tree.structure((copy.own, copy.state))
    own, state = jax.tree.unflatten(structure, [jnp.asarray(arrays[name]) for name in sorted(arrays)])
    return replace(copy, own=own, state=state)


def _logits(recipe: Recipe, params: Params, images: Images, dropping: Key, damaging: Key) -> AnyArray:
    if recipe.damage is not None:
        params = recipe.damage.apply(damaging, params)
    if recipe.dropout:
        return with_dropout(recipe.apply, dropping, params, images)
    return recipe.apply(params, images)
