"""A network is a function of its weights and images."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.errors import NetworkError
from jaxperturb.networks import linen
from jaxperturb.networks.preprocessing import Preprocessing
from jaxperturb.networks.program import Program, first_uses, trace
from jaxperturb.networks.variables import call_in_use
from jaxperturb.trees import LayerRule, Norms, layers_of
from jaxperturb.types import Apply, Params

ImageShape = tuple[int, int, int]


@dataclass(frozen=True)
class LayerInfo:
    """What there is to know of a layer without running the network.

    Attributes:
        name: path of the layer.
        shape: of its weight.
        units: output channels or neurons.
        weights: entries of weight and bias.
        zeros: how many of them are 0.
    """

    name: str
    shape: tuple[int, ...]
    units: int
    weights: int
    zeros: int


@dataclass(frozen=True, eq=False)
class Network:
    """A trained network: a function, its weights, and what its images and logits mean.

    Attributes:
        apply: ``apply(params, images) -> logits``, with float32 images (n, h, w, c) and logits (n, classes).
        params: the whole tree of variables; only its layers are ever perturbed.
        name: for titles and folders.
        classes: names of the classes in the order of the logits, or None.
        preprocessing: how a picture becomes an image, or None for arrays as they are.
        image_shape: (h, w, c) that the network expects, or None where any will do.
        source: what its checkpoint says of it: licence, training, accuracy.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer; or the whole `LayerRule` by
            which layers are found, which `from_linen` and the like take as `layers`.
    """

    apply: Apply
    params: Params
    name: str = "network"
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    image_shape: ImageShape | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    norms: Norms = None

    @classmethod
    def from_linen(cls, module: Any, variables: Params, **options: Any) -> "Network":
        """Returns the network of a Flax Linen module.

        It is used as after its training: an argument of its call that is named `train`, `deterministic`,
        `use_running_average` or the like takes the value of use where its default is another one.

        Args:
            module: a `flax.linen.Module`.
            variables: its whole tree, ``{"params": …}`` with ``"batch_stats"`` where there are some.
            **options: fields of `Network` (`name`, which is the module's class otherwise, `classes`, `preprocessing`,
                `image_shape`, `source`, `norms`), and `layers`, a `jaxperturb.trees.LayerRule`; whatever else is
                handed to the module's call.
        """
        own, call = _apart(options)
        apply = linen.functional(module, call_in_use(type(module).__call__, call))
        return cls(apply, variables, **({"name": type(module).__name__.lower()} | own))

    @classmethod
    def from_nnx(cls, model: Any, **options: Any) -> "Network":
        """Returns the network of an NNX model, as after ``model.eval()``; the model itself stays as it is.

        Args:
            model: a `flax.nnx.Module` with its weights, called with images (n, h, w, c).
            **options: as for `from_linen`.
        """
        from jaxperturb.networks.nnx import functional

        own, call = _apart(options)
        return cls(*functional(model, call), **({"name": type(model).__name__.lower()} | own))

    @classmethod
    def from_equinox(cls, model: Any, state: Any = None, *, channels: str = "first", **options: Any) -> "Network":
        """Returns the network of an Equinox model, as after ``eqx.nn.inference_mode(model)``.

        The model takes one image: it is called under `jax.vmap` as ``model(image)``, or ``model(image, state)``, which
        returns ``(logits, state)``.

        Args:
            model: an `equinox.Module` with its weights.
            state: its `equinox.nn.State`, where it has one.
            channels: "first" for a model that takes images (c, h, w), as Equinox's layers do; "last" for (h, w, c).
            **options: as for `from_linen`.

        Raises:
            NetworkError: channels are neither.
        """
        from jaxperturb.networks.equinox import functional

        own, call = _apart(options)
        return cls(*functional(model, state, channels, call), **({"name": type(model).__name__.lower()} | own))

    @classmethod
    def from_apply(cls, apply: Apply, params: Params, **options: Any) -> "Network":
        """Returns the network of a plain function ``apply(params, images) -> logits``.

        Args:
            apply: the function; images are float32, (n, h, w, c).
            params: a tree of arrays.
            **options: as for `from_linen`; whatever else is handed to the function.
        """
        own, call = _apart(options)
        return cls(functools.partial(apply, **call) if call else apply, params, **own)

    def shape_of_images(self, image_shape: ImageShape | None = None) -> ImageShape:
        """Returns the shape (h, w, c) of one image: the network's own, or the given one where it has none.

        Raises:
            NetworkError: neither is known, or they differ.
        """
        if self.image_shape and image_shape and tuple(image_shape) != tuple(self.image_shape):
            raise NetworkError(f"{self.name} expects images of shape {self.image_shape}, got {tuple(image_shape)}")
        shape = image_shape or self.image_shape
        if shape is None:
            raise NetworkError(
                f"the shape of {self.name}'s images is not known; give image_shape=(height, width, channels)"
            )
        height, width, channels = shape
        return height, width, channels

    def program(self, image_shape: ImageShape | None = None, batch: int = 2) -> Program:
        """Returns the network's equations for a batch of images."""
        structure, shapes = specification(self.params)
        return _traced(self.apply, structure, shapes, self.shape_of_images(image_shape), batch)

    def layer_names(self, image_shape: ImageShape | None = None) -> tuple[str, ...]:
        """Returns the names of the layers, in the order in which the network first uses them."""
        uses = first_uses(self.program(image_shape))
        layers = layers_of(self.params, self.norms)
        return tuple(sorted(layers, key=lambda name: uses[layers[name].weight.index]))

    def layers(self, image_shape: ImageShape | None = None) -> tuple[LayerInfo, ...]:
        """Returns the layers with their sizes, in the order in which the network first uses them."""
        layers, leaves = layers_of(self.params, self.norms), jax.tree.leaves(self.params)
        found = []
        for name in self.layer_names(image_shape):
            layer = layers[name]
            arrays = [np.asarray(leaves[leaf.index]) for leaf in layer.leaves()]
            zeros = sum(array.size - np.count_nonzero(array) for array in arrays)
            found.append(
                LayerInfo(name, layer.weight.shape, layer.units, sum(array.size for array in arrays), int(zeros))
            )
        return tuple(found)

    def share_of_zeros(self, image_shape: ImageShape | None = None) -> float:
        """Returns how large a part of the layers' weights is 0, from 0 to 1: most of a pruned network's."""
        layers = self.layers(image_shape)
        return sum(layer.zeros for layer in layers) / sum(layer.weights for layer in layers)

    def number_of_classes(self, image_shape: ImageShape | None = None) -> int:
        """Returns how many logits the network gives for an image."""
        return self.program(image_shape).logits.aval.shape[-1]


def _apart(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of a network, and the arguments of its call."""
    names = {one.name for one in fields(Network)}
    own = {name: value for name, value in options.items() if name in names}
    call = {name: value for name, value in options.items() if name not in {*names, "layers"}}
    layers: LayerRule | None = options.get("layers")
    if layers is not None:
        own["norms"] = replace(layers, norms=dict(layers.norms) | dict(LayerRule.of(own.get("norms")).norms))
    return own, call


Specification = tuple[Any, tuple[tuple[tuple[int, ...], str], ...]]


def specification(params: Params) -> Specification:
    """Returns the structure of a tree and the shape and type of each leaf: hashable, what programs are cached by."""
    leaves, structure = jax.tree.flatten(params)
    return structure, tuple((jnp.shape(leaf), jnp.result_type(leaf).name) for leaf in leaves)


def shapes_of(structure: Any, shapes: tuple[tuple[tuple[int, ...], str], ...]) -> Params:
    """Returns a tree of `jax.ShapeDtypeStruct` for a specification."""
    return jax.tree.unflatten(structure, [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes])


@functools.lru_cache(maxsize=128)
def _traced(apply: Apply, structure: Any, shapes: Any, image_shape: ImageShape, batch: int) -> Program:
    return trace(apply, shapes_of(structure, shapes), image_shape, batch)
