"""How much two networks of one architecture differ, layer by layer."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Float

from jaxperturb.errors import NetworkError
from jaxperturb.networks.network import Network
from jaxperturb.trees import layers_of
from jaxperturb.types import Params


@dataclass(frozen=True)
class Change:
    """How one tensor of a layer differs between two networks, ``a`` and ``b``.

    Attributes:
        layer: its name.
        tensor: ``kernel`` or ``bias``, or the norm's ``norm/scale`` and ``norm/bias``.
        size: entries.
        z_change: ``mean(|b - a|) / std(|a|)``: mean absolute change in standard deviations of the absolute weights. 0
            where nothing changed.
        z_score: ``mean(|(|b - a| - mean(|a|)) / std(|a|)|)``, the formula of Cheney et al.'s code. It is not 0 where
            nothing changed, but ``mean(|a|) / std(|a|)``, and falls at first as changes grow.
        relative_norm: ``|b - a| / |a|`` (2-norms).
        cosine: of the angle between the two, 1 where they point the same way.
    """

    layer: str
    tensor: str
    size: int
    z_change: float
    z_score: float
    relative_norm: float
    cosine: float


def weight_changes(a: Network, b: Network) -> tuple[Change, ...]:
    """Returns how each tensor of each layer differs, in the order of the network's program where that is known.

    Source of `Change.z_score`: the code of Cheney, Schrimpf and Kreiman (2017), github.com/kreimanlab/
    neural_net_robustness, ``_plot_weights_diffs`` in plot.py, which compares a network with its retrained copy; their
    figure shows the sum over a layer's weights, this is the mean.

    Args:
        a: the base, whose weights measure the change.
        b: the other one.

    Raises:
        NetworkError: the networks do not have the same layers of the same shapes.
    """
    own, other = (layers_of(network.params, network.norms) for network in (a, b))
    _check_alike(a, b)
    names = a.layer_names() if a.image_shape else tuple(own)
    before, after = jax.tree.leaves(a.params), jax.tree.leaves(b.params)
    return tuple(
        tensor_change(name, leaf.name, np.asarray(before[leaf.index]), np.asarray(after[twin.index]))
        for name in names
        for leaf, twin in zip(own[name].leaves(include_norm=True), other[name].leaves(include_norm=True), strict=True)
    )


def changes_since(base: Network, before: Params, after: Params) -> tuple[Change, ...]:
    """Returns what a training changed, measured by the weights of another network.

    Args:
        base: the intact network.
        before: the tree that the training began with.
        after: the tree that it ended with.
    """
    layers = layers_of(base.params, base.norms)
    names = base.layer_names() if base.image_shape else tuple(layers)
    own, old, new = (jax.tree.leaves(tree) for tree in (base.params, before, after))
    return tuple(
        tensor_change(
            name, leaf.name, np.asarray(old[leaf.index]), np.asarray(new[leaf.index]), np.asarray(own[leaf.index])
        )
        for name in names
        for leaf in layers[name].leaves(include_norm=True)
    )


def tensor_change(
    layer: str,
    tensor: str,
    before: Float[np.ndarray, "..."],
    after: Float[np.ndarray, "..."],
    base: Float[np.ndarray, "..."] | None = None,
) -> Change:
    """Returns how one tensor differs; what is not defined, as the angle to a tensor of zeros, is NaN.

    Args:
        layer: its layer.
        tensor: its name.
        before: a.
        after: b.
        base: what changes are measured by, in place of a, where they are not measured from it.
    """
    old, new = before.astype(np.float64).ravel(), after.astype(np.float64).ravel()
    moved, size = np.abs(new - old), np.abs(old if base is None else base.astype(np.float64).ravel())
    return Change(
        layer=layer,
        tensor=tensor,
        size=old.size,
        z_change=_ratio(float(moved.mean()), float(size.std())),
        z_score=_ratio(float(np.abs(moved - size.mean()).mean()), float(size.std())),
        relative_norm=_ratio(float(np.linalg.norm(moved)), float(np.linalg.norm(size))),
        cosine=_cosine(old, new),
    )


def _cosine(old: Float[np.ndarray, " n"], new: Float[np.ndarray, " n"]) -> float:
    lengths = float(np.linalg.norm(old)) * float(np.linalg.norm(new))
    if not lengths:
        return float("nan")
    return 1.0 if np.array_equal(old, new) else float(old @ new) / lengths


def _ratio(part: float, whole: float) -> float:
    if whole:
        return part / whole
    return float("nan") if part else 0.0


def _check_alike(a: Network, b: Network) -> None:
    shapes = [
        {
            f"{name}/{leaf.name}": leaf.shape
            for name, layer in layers_of(network.params, network.norms).items()
            for leaf in layer.leaves(include_norm=True)
        }
        for network in (a, b)
    ]
    for name in sorted(shapes[0].keys() | shapes[1].keys()):
        own, other = (str(one.get(name, "missing")) for one in shapes)
        if own != other:
            raise NetworkError(
                f"{a.name} and {b.name} are not of one architecture: {name} is {own} in the first and {other} in the "
                "second; compare a network with a changed copy of it"
            )
