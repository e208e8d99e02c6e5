"""A fresh output layer: what a trained network needs to learn other classes."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.errors import NetworkError
from jaxperturb.networks.linen import Applied, functional
from jaxperturb.networks.network import ImageShape, Network
from jaxperturb.trees import Layer, layers_of
from jaxperturb.types import AnyArray, Apply, Params


def replace_head(
    network: Network, classes: int | Sequence[str], seed: int = 0, *, image_shape: ImageShape | None = None
) -> Network:
    """Returns a network whose output layer is a fresh one, for other classes; all other weights are the same arrays.

    Its weights are normal with the standard deviation ``1 / sqrt(fan_in)`` (LeCun et al. 1998, "Efficient BackProp"),
    its biases 0.

    Args:
        network: a function of its weights that takes an output layer of another size as it is, or a Flax Linen module
            with a field that holds the number of classes.
        classes: how many, or their names.
        seed: of the fresh weights, 0 to 2**32 - 1.
        image_shape: (h, w, c), where the network does not say it.

    Raises:
        NetworkError: fewer than 2 classes, or a network that cannot be given another number of them.
    """
    names = None if isinstance(classes, int) else tuple(classes)
    count = classes if isinstance(classes, int) else len(classes)
    if count < 2:
        raise NetworkError(f"expected 2 classes or more, got {count}")
    shape = network.shape_of_images(image_shape)
    layer = layers_of(network.params, network.norms)[network.layer_names(shape)[-1]]
    params = _with_units(network.params, layer, count, jax.random.key(seed))
    for apply in _candidates(network.apply, layer.units, count):
        if _outputs(apply, params, shape) == count:
            return dataclasses.replace(network, apply=apply, params=params, classes=names)
    raise NetworkError(
        f"{network.name} cannot be given {count} classes in place of {layer.units}: expected a function of weights, "
        "or a Flax Linen module with a field for the number of classes; build it anew, and copy the other weights"
    )


def _with_units(params: Params, layer: Layer, units: int, key: Any) -> Params:
    """The tree with fresh leaves of another number of units for one layer."""
    leaves, structure = jax.tree.flatten(params)
    for leaf in layer.leaves(include_norm=True):
        shape = list(leaf.shape)
        shape[leaf.unit_axis] = units
        dtype = jnp.result_type(leaves[leaf.index])
        fresh: AnyArray = jnp.zeros(shape, dtype)
        if leaf is layer.weight:
            deviation = 1 / math.sqrt(math.prod(shape) / units)
            fresh = (deviation * jax.random.normal(key, shape, np.float32)).astype(dtype)
        leaves[leaf.index] = fresh
    return jax.tree.unflatten(structure, leaves)


def _candidates(apply: Apply, before: int, count: int) -> Iterator[Apply]:
    """The function itself, and those of its module with another number in place of that of classes."""
    yield apply
    if not isinstance(apply, Applied):
        return
    for one in dataclasses.fields(apply.module):
        value = getattr(apply.module, one.name)
        if one.init and isinstance(value, int | np.integer) and not isinstance(value, bool) and value == before:
            yield functional(dataclasses.replace(apply.module, **{one.name: count}), apply.keywords)


def _outputs(apply: Apply, params: Params, shape: ImageShape) -> int | None:
    """How many logits a function gives for an image, None where it does not take these weights."""
    image = jax.ShapeDtypeStruct((1, *shape), np.float32)
    try:
        return int(jax.eval_shape(apply, params, image).shape[-1])
    except Exception:  # whatever a library raises over shapes that do not fit
        return None
