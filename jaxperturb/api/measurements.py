"""What is measured on the intact network: how much weights matter, what units do on average."""

from collections.abc import Sequence

import numpy as np

from jaxperturb.api.inputs import DataLike, NetworkLike, check_count, fitted
from jaxperturb.data.prepared import PreparedImages
from jaxperturb.engine.measure import measure_activations, measure_means, measure_saliency
from jaxperturb.errors import LayerError
from jaxperturb.networks.network import Network
from jaxperturb.study.study import check_classes
from jaxperturb.trees import select_layers
from jaxperturb.types import Params


def saliency(net: NetworkLike, data: DataLike, images: int | None = None, *, batch_size: int = 256) -> Params:
    """Returns |weight * gradient| of the cross-entropy summed over images: how much the loss hangs on each weight.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        data: a data set, its name, or ``(images, labels)``.
        images: only so many, in the data set's study order, at least 1; by default all. A study takes the first 256.
        batch_size: images at a time, at least 1.

    Returns:
        A tree like the network's params, for ``saliency_knockout(scores=...)``: an array for each weight, bias, and
        scale and shift of a layer's norm; None for other leaves.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    network, prepared = _measured(net, data, images)
    check_classes(network, prepared)
    return measure_saliency(network, prepared, batch_size=check_count("batch_size", batch_size))


def mean_activations(
    net: NetworkLike,
    data: DataLike,
    images: int | None = None,
    *,
    layers: str | Sequence[str] = "*",
    batch_size: int = 256,
) -> dict[str, np.ndarray]:
    """Returns the mean activation of each unit over images and positions, after its norm and ReLU.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        data: a data set, its name, or ``(images, labels)``.
        images: only so many, in the data set's study order, at least 1; by default all. A study takes the first 256.
        layers: names or patterns; each must have a bias or a norm with a shift.
        batch_size: images at a time, at least 1.

    Returns:
        By layer, one float32 number for each unit, for ``mean_ablation(means=...)``.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    network, prepared = _measured(net, data, images)
    names = select_layers(network.layer_names(prepared.image_shape), layers)
    return measure_means(network, prepared, names, batch_size=check_count("batch_size", batch_size))


def activations(
    net: NetworkLike, data: DataLike, layer: str, images: int | None = None, *, batch_size: int = 256
) -> np.ndarray:
    """Returns what a layer's units say of each image, after their norm and ReLU: the layer's representation.

    Of a lesioned or retrained network as well: ``jp.activations(jp.lesion(net, ...), data, "conv3")``.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        data: a data set, its name, or ``(images, labels)``.
        layer: its name; it must have a bias or a norm with a shift.
        images: only so many, in the data set's study order, at least 1; by default all.
        batch_size: images at a time, at least 1.

    Returns:
        Float32, (images, positions..., units), images in the study order.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    network, prepared = _measured(net, data, images)
    names = select_layers(network.layer_names(prepared.image_shape), (layer,))
    if len(names) != 1:
        raise LayerError(f"expected one layer, got {', '.join(names)}")
    return measure_activations(network, prepared, names[0], batch_size=check_count("batch_size", batch_size))


def _measured(net: NetworkLike, data: DataLike, images: int | None) -> tuple[Network, PreparedImages]:
    images = None if images is None else check_count("images", images)
    return fitted(net, data, images)
