"""What a perturbation needs to know from images, measured once on the intact network."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.engine.activations import activations_function, find_activation
from jaxperturb.networks.network import ImageShape, Network, Specification, shapes_of, specification
from jaxperturb.networks.program import trace
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.perturb.targets import Target
from jaxperturb.trees import Layer, layers_of
from jaxperturb.types import AnyArray, Apply, Params

# A study measures on so many images: the first of the data set's study order, however many the study itself takes, so
# that it can be extended. They are those of the first link of its chain of hashes.
IMAGES = 256
_BATCH = 64


def extras_for(network: Network, images: PreparedImages, asked: Asked, targets: Sequence[str]) -> Mapping[str, Any]:
    """Returns the traced options that a perturbation takes from images, by name.

    Args:
        network: intact.
        images: of the study.
        asked: the perturbation.
        targets: of the study, whose layers are measured.
    """
    measured = asked.perturbation.measured
    if not measured:
        return {}
    some = images.first(IMAGES)
    extras: dict[str, Any] = {}
    if "scores" in measured:
        extras["scores"] = measure_saliency(network, some, batch_size=_BATCH)
    if "means" in measured:
        names = tuple(dict.fromkeys(name for target in targets for name in Target.of(target).layers))
        extras["means"] = measure_means(network, some, names, batch_size=_BATCH)
    return extras


def measure_means(
    network: Network, images: PreparedImages, layers: Sequence[str], *, batch_size: int
) -> dict[str, Float32[np.ndarray, " units"]]:
    """Returns the mean activation of each unit over images and positions, by layer.

    Args:
        network: intact.
        images: to measure on.
        layers: their names.
        batch_size: images at a time.

    Raises:
        JaxPerturbError: the activation of a layer cannot be found.
    """
    shape, known = network.shape_of_images(images.image_shape), layers_of(network.params, network.norms)
    spec = specification(network.params)
    program = _sums_program(network.apply, spec, shape, batch_size, tuple(known[name] for name in layers))
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(network.params)]
    found, number = [], 0
    for pixels, _, counted in _batches(images, batch_size):
        found.append(program(leaves, pixels, counted))
        number += int(counted.sum())
    totals = [np.sum([np.asarray(sums, np.float64) for sums in some], axis=0) for some in zip(*found, strict=True)]
    return {name: (total / number).astype(np.float32) for name, total in zip(layers, totals, strict=True)}


def measure_activations(
    network: Network, images: PreparedImages, layer: str, *, batch_size: int
) -> Float32[np.ndarray, "n ... units"]:
    """Returns the activation of a layer's units for each image, and each position where there are any.

    Args:
        network: intact or not.
        images: to measure on.
        layer: its name.
        batch_size: images at a time.

    Raises:
        JaxPerturbError: the activation of the layer cannot be found.
    """
    shape, known = network.shape_of_images(images.image_shape), layers_of(network.params, network.norms)
    program = _activations_program(network.apply, specification(network.params), shape, batch_size, known[layer])
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(network.params)]
    found = [
        np.asarray(program(leaves, pixels))[: min(batch_size, len(images) - start)]
        for start, (pixels, _, _) in zip(range(0, len(images), batch_size), _batches(images, batch_size), strict=True)
    ]
    return np.concatenate(found)


def measure_saliency(network: Network, images: PreparedImages, *, batch_size: int) -> Params:
    """Returns |weight * gradient| of the cross-entropy summed over images: a tree, None for leaves of no layer.

    Args:
        network: intact.
        images: to measure on.
        batch_size: images at a time.
    """
    layers = layers_of(network.params, network.norms).values()
    index = tuple(sorted({leaf.index for layer in layers for leaf in layer.leaves(include_norm=True)}))
    program = _gradient_program(network.apply, specification(network.params), index)
    leaves, structure = jax.tree.flatten(network.params)
    arrays = [jnp.asarray(leaf) for leaf in leaves]
    totals: list[AnyArray] = [jnp.zeros(arrays[i].shape, jnp.float32) for i in index]
    for pixels, labels, counted in _batches(images, batch_size):
        totals = program(totals, arrays, pixels, labels, counted)
    scores = {i: jnp.abs(arrays[i].astype(jnp.float32) * total) for i, total in zip(index, totals, strict=True)}
    return jax.tree.unflatten(structure, [scores.get(i) for i in range(len(leaves))])


def _batches(images: PreparedImages, size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields pixels, labels and which of them count, in batches of one size; the last is filled up with zeros.

    Images that cannot be read and are skipped do not count.
    """
    for start in range(0, len(images), size):
        stop = min(start + size, len(images))
        pixels = np.zeros((size, *images.image_shape), np.float32)
        labels, counted = np.zeros(size, np.int32), np.zeros(size, bool)
        pixels[: stop - start], counted[: stop - start] = images.read_block(start, stop)
        labels[: stop - start] = images.labels[start:stop]
        yield pixels, labels, counted


@functools.lru_cache(maxsize=64)
def _sums_program(
    apply: Apply, spec: Specification, image_shape: ImageShape, batch: int, layers: tuple[Layer, ...]
) -> Callable[..., Any]:
    """The compiled ``(leaves, images, which count) -> sums over images of means over positions``, for each layer."""
    program = trace(apply, shapes_of(*spec), image_shape, batch)
    found = [find_activation(program, layer) for layer in layers]
    activations = activations_function(program, found)

    def sums(leaves: Sequence[AnyArray], images: AnyArray, counted: AnyArray) -> list[AnyArray]:
        values: list[AnyArray] = []
        for activation, array in zip(found, activations(leaves, images), strict=True):
            units_last = jnp.moveaxis(array.astype(jnp.float32), activation.axis, -1)
            positions = units_last.reshape(batch, -1, units_last.shape[-1])
            values.append(jnp.sum(jnp.where(counted[:, None], jnp.mean(positions, axis=1), 0.0), axis=0))
        return values

    return jax.jit(sums)


@functools.lru_cache(maxsize=64)
def _activations_program(
    apply: Apply, spec: Specification, image_shape: ImageShape, batch: int, layer: Layer
) -> Callable[..., Any]:
    """The compiled ``(leaves, images) -> activation``, units last."""
    program = trace(apply, shapes_of(*spec), image_shape, batch)
    activation = find_activation(program, layer)
    activations = activations_function(program, [activation])

    def units_last(leaves: Sequence[AnyArray], images: AnyArray) -> AnyArray:
        (array,) = activations(leaves, images)
        return jnp.moveaxis(array.astype(jnp.float32), activation.axis, -1)

    return jax.jit(units_last)


@functools.lru_cache(maxsize=64)
def _gradient_program(apply: Apply, spec: Specification, index: tuple[int, ...]) -> Callable[..., Any]:
    """The compiled ``(totals, leaves, images, labels, which count) -> totals`` of gradients of the summed loss."""
    structure, _ = spec

    def loss(own: Sequence[AnyArray], leaves: Sequence[AnyArray], images: AnyArray, labels: AnyArray) -> AnyArray:
        replaced = dict(zip(index, own, strict=True))
        params = jax.tree.unflatten(structure, [replaced.get(i, leaf) for i, leaf in enumerate(leaves)])
        with jax.default_matmul_precision("highest"):
            logits = apply(params, images).astype(jnp.float32)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=-1)[:, 0]

    def add(
        totals: Sequence[AnyArray], leaves: Sequence[AnyArray], images: AnyArray, labels: AnyArray, counted: AnyArray
    ) -> list[AnyArray]:
        def total_loss(own: Sequence[AnyArray]) -> AnyArray:
            return jnp.sum(jnp.where(counted, loss(own, leaves, images, labels), 0.0))

        gradient = jax.grad(total_loss)([leaves[i] for i in index])
        return [total + own.astype(jnp.float32) for total, own in zip(totals, gradient, strict=True)]

    return jax.jit(add)
