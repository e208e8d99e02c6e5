"""Which weights learn: all, those of the damaged layers, those of the others, or those of layers by name."""

import jax
import jax.numpy as jnp

from jaxperturb.errors import RecoveryError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.targets import Target
from jaxperturb.recovery.injury import Injury
from jaxperturb.trees import COLLECTION, layers_of, leaf_names, select_layers

ALL, DAMAGED, OTHERS = "all", "damaged", "others"


def learning_leaves(network: Network, train: str, target: str) -> tuple[int, ...]:
    """Returns the indices of the leaves that learn, in `jax.tree.leaves` order.

    Args:
        network: whose layers they are of.
        train: ``all`` (every float array but running statistics), ``damaged`` (weight, bias and norm of the target's
            layers), ``others`` (all but these), or names and patterns of layers, joined by commas.
        target: what is damaged, empty for nothing.

    Raises:
        RecoveryError: nothing learns.
        LayerError: a pattern that matches no layer.
    """
    layers = layers_of(network.params, network.norms)
    damaged = set(Target.of(target).layers) if target else set()
    if train in (ALL, OTHERS):
        wanted = set(_weights(network))
        if train == OTHERS:
            wanted -= {leaf.index for name in damaged for leaf in layers[name].leaves(include_norm=True)}
    else:
        names = damaged if train == DAMAGED else set(select_layers(tuple(layers), train))
        wanted = {leaf.index for name in names for leaf in layers[name].leaves(include_norm=True)}
    if not wanted:
        raise RecoveryError(f"nothing learns with train={train!r}: {_because(train)}")
    return tuple(sorted(wanted))


def check_learns(injury: Injury, learning: tuple[int, ...], train: str, held: bool, what: str) -> None:
    """Refuses a training in which nothing can change.

    Args:
        injury: that it starts from.
        learning: indices of the leaves that learn.
        train: as it was asked for.
        held: whether what the lesion took hold of stays as it is.
        what: the lesion, for messages.

    Raises:
        RecoveryError: nothing was damaged where the damaged alone learns, or all that learns is held.
    """
    if train == DAMAGED and not injury.damaged:
        raise RecoveryError(
            f"{what} damaged nothing, so there is nothing to train with train='damaged'; use train='all', or a higher "
            "level"
        )
    if held and all(i in injury.held and bool(jnp.all(injury.held[i])) for i in learning):
        raise RecoveryError(f"{what} holds all that learns with train={train!r}; use train='all', or lesion='free'")


def _weights(network: Network) -> list[int]:
    names, leaves = leaf_names(network.params), jax.tree.leaves(network.params)
    first = [name.partition("/")[0] for name in names]
    return [
        i
        for i, leaf in enumerate(leaves)
        if (COLLECTION not in first or first[i] == COLLECTION) and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
    ]


def _because(train: str) -> str:
    if train == DAMAGED:
        return "nothing is damaged; use train='all'"
    return "all layers are damaged; use train='all'" if train == OTHERS else "the network has no weights"
