"""NNX models as functions of a tree of variables."""

from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxperturb.networks.variables import Collections, call_in_use
from jaxperturb.types import Apply, Images, Logits, Params


def functional(model: nnx.Module, call: Mapping[str, Any]) -> tuple[Apply, Params]:
    """Returns an NNX model as ``apply(variables, images)``, with its variables; the model itself stays as it is.

    The variables are those of the same network in Linen: `nnx.Param` in "params", `nnx.BatchStat` in "batch_stats",
    others in "state". As after ``model.eval()``, dropout is off and batch norms take stored statistics; the state of
    random streams is therefore no variable.

    Args:
        model: called with images (n, h, w, c), it returns logits (n, classes).
        call: further arguments of its call.
    """
    used: nnx.Module = nnx.merge(*nnx.split(model))
    used.eval()
    graph, random, *states = nnx.split(used, nnx.RngState, nnx.Param, nnx.BatchStat, ...)
    trees = dict(zip(("params", "batch_stats", "state"), states, strict=True))
    places, keywords = Collections.of(trees), call_in_use(type(model).__call__, call)

    def apply(variables: Params, images: Images) -> Logits:
        merged: Any = nnx.merge(graph, random, *places.trees(variables))
        return merged(images, **keywords)

    return apply, places.variables(trees)
