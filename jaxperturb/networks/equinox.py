"""Equinox models as functions of a tree of variables. Equinox is imported only when such a model is handed over."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxperturb.errors import NetworkError
from jaxperturb.networks.variables import Collections, call_in_use, is_number_array
from jaxperturb.types import AnyArray, Apply, Images, Logits, Params

CHANNELS = ("first", "last")


def functional(model: Any, state: Any, channels: str, call: Mapping[str, Any]) -> tuple[Apply, Params]:
    """Returns an Equinox model as ``apply(variables, images)``, with its variables.

    The model sees one image at a time, as Equinox's layers do, under `jax.vmap`: ``model(image)``, or
    ``model(image, state)[0]`` with a state. As after ``eqx.nn.inference_mode``, dropout is off and batch norms take
    stored statistics; a call that wants a ``key`` gets None.

    Args:
        model: an `equinox.Module`; its floating-point arrays are "params", its other arrays "buffers".
        state: an `equinox.nn.State`, which becomes "state", or None.
        channels: "first" hands images over as (c, h, w), "last" as (h, w, c).
        call: further arguments of its call.

    Raises:
        NetworkError: channels are neither.
    """
    import equinox as eqx

    if channels not in CHANNELS:
        raise NetworkError(f"expected channels 'first' or 'last', got {channels!r}")
    arrays, rest = eqx.partition(eqx.nn.inference_mode(model), is_number_array)
    weights, buffers = eqx.partition(arrays, eqx.is_inexact_array)
    trees = {"params": weights, "buffers": buffers, "state": state}
    places, keywords = Collections.of(trees), call_in_use(type(model).__call__, call)

    def apply(variables: Params, images: Images) -> Logits:
        weights, buffers, state = places.trees(variables)
        one = partial(_logits, eqx.combine(weights, buffers, rest), state, keywords)
        return jax.vmap(one)(jnp.moveaxis(images, -1, 1) if channels == "first" else images)

    return apply, places.variables(trees)


def _logits(model: Callable[..., Any], state: Any, keywords: Mapping[str, Any], image: AnyArray) -> AnyArray:
    if state is None:
        return model(image, **keywords)
    return model(image, state, **keywords)[0]
