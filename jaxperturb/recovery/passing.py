"""Damage and noise that act in the passes of a training alone: a fresh lesion in every step, and dropout."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxperturb.errors import PerturbationError, RecoveryError
from jaxperturb.levels import as_level, format_level
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked, ask
from jaxperturb.perturb.targets import Target, parse_targets
from jaxperturb.random.keys import name_word
from jaxperturb.trees import LayerRule, Norms
from jaxperturb.types import AnyArray, Apply, Images, Key, Logits, Params


@dataclass(frozen=True)
class FreshDamage:
    """A lesion that every step of a training draws anew.

    Attributes:
        asked: the perturbation.
        level: of damage.
        target: what is damaged.
        norms: of the network.
    """

    asked: Asked
    level: Decimal
    target: Target
    norms: Norms = None

    @property
    def text(self) -> str:
        """What was asked for, in its one form."""
        return f"{self.asked.text}:{format_level(self.level)}@{self.target.name}"

    def apply(self, key: Key, params: Params) -> Params:
        """Returns the damaged tree, through which gradients flow.

        To a weight that the lesion sets to 0 no gradient flows; to any other, that of its damaged value.
        """
        options = dict(self.asked.options)
        known = self.asked.perturbation
        if known.takes("scope"):
            options["scope"] = self.target.scope
        if known.takes("norms") and self.norms:
            options["norms"] = LayerRule.of(self.norms)
        damaged = known.function(key, params, self.level, layers=self.target.layers, **options)
        return jax.tree.map(_passed, params, damaged)

    def __hash__(self) -> int:
        """Equal damage has equal numbers: compiled steps are kept by it."""
        return hash(self.text)


def parse_damage(network: Network, text: str) -> FreshDamage:
    """Reads ``"synapse_knockout:0.5@conv1"``: a perturbation with options, a level, a target.

    Raises:
        PerturbationError: a text of another form, or a perturbation that takes more than weights.
        LayerError: an unknown layer.
        LevelError: a level out of range.
    """
    front, at, layers = text.rpartition("@")
    name, colon, level = front.rpartition(":")
    if not at or not colon or not name.strip():
        raise PerturbationError(f"expected damage such as synapse_knockout:0.5@conv1, got {text!r}")
    asked = ask(name)
    if asked.perturbation.measured:
        raise PerturbationError(f"{asked.perturbation.name} is measured on images, and cannot be drawn at every step")
    (exact,) = asked.check_levels([as_level(level)])
    targets = parse_targets(network.layer_names(), layers.split(","))
    target = Target.of(targets[0]) if len(targets) == 1 else Target(targets)
    return FreshDamage(asked, exact, target, network.norms)


def with_dropout(apply: Apply, key: Key, params: Params, images: Images) -> Logits:
    """Returns the logits of a network whose dropout layers of Flax Linen act, in whatever state they were made.

    Nothing else is as in training: batch norms use their running statistics.
    """
    with nn.intercept_methods(lambda *call: _drop(key, *call)):
        return apply(params, images)


def check_dropout(network: Network) -> None:
    """Refuses a network without a dropout layer of Linen.

    Raises:
        RecoveryError: it has none.
    """
    found: list[str] = []

    def watch(call: Any, args: Any, options: Any, context: Any) -> Any:
        if isinstance(context.module, nn.Dropout):
            found.append(context.module.name or "")
        return call(*args, **options)

    shape = jax.ShapeDtypeStruct((1, *network.shape_of_images()), jnp.float32)
    with nn.intercept_methods(watch):
        # A function of its own: JAX keeps the result for one that it has traced before, and would not call the layers.
        jax.eval_shape(lambda params, images: network.apply(params, images), network.params, shape)
    if not found:
        raise RecoveryError(f"{network.name} has no dropout layer of Flax Linen; leave dropout out")


def _passed(before: AnyArray, after: AnyArray) -> AnyArray:
    if before is after:
        return before
    fixed = jax.lax.stop_gradient(after)
    return jnp.where(fixed == 0, fixed, fixed + (before - jax.lax.stop_gradient(before)))


def _drop(key: Key, call: Any, args: Any, options: Any, context: Any) -> Any:
    layer = context.module
    if not isinstance(layer, nn.Dropout) or context.method_name != "__call__" or not layer.rate:
        return call(*args, **options)
    values = args[0] if args else options["inputs"]
    shape = [1 if axis in layer.broadcast_dims else size for axis, size in enumerate(values.shape)]
    own = jax.random.fold_in(key, jnp.uint32(name_word("/".join(layer.path))))
    kept = jax.random.bernoulli(own, 1.0 - layer.rate, shape)
    return jnp.where(kept, values / (1.0 - layer.rate), jnp.zeros_like(values))
