"""How an intact network does on a data set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxperturb.api.inputs import DataLike, NetworkLike, check_count, fitted
from jaxperturb.data.prepared import PreparedImages
from jaxperturb.data.scoring import GivenClasses
from jaxperturb.engine import agreement
from jaxperturb.engine.agreement import InPrecision
from jaxperturb.engine.computing import Computing
from jaxperturb.engine.devices import local_devices
from jaxperturb.engine.precision import check_known, precisions_of
from jaxperturb.engine.run import PLANES
from jaxperturb.errors import ImageError
from jaxperturb.stats.balance import balanced_accuracy, commonest_share, is_near_chance, is_unbalanced
from jaxperturb.stats.curves import chance_level
from jaxperturb.study.study import METRICS, check_classes, check_metric


@dataclass(frozen=True)
class Evaluation:
    """How an intact network does on a data set.

    Attributes:
        network: its name.
        dataset: name of the data set, with its split.
        images: number of images.
        classes: number of classes that the network tells apart.
        top1: images whose class comes first.
        top5: images whose class is among the first five.
        nonfinite: images with a logit that is not finite.
        balanced: top-1 accuracy with all classes of the data set weighed alike.
        commonest: share of the images that is of the commonest class, where the classes are unbalanced; else None.
        skipped: name of each image that could not be read, and why; `images` is without them.
    """

    network: str
    dataset: str
    images: int
    classes: int
    top1: int
    top5: int
    nonfinite: int
    balanced: float
    commonest: float | None
    skipped: tuple[tuple[str, str], ...] = ()

    def accuracy(self, metric: str | None = None) -> float:
        """Returns the accuracy by "top1", "top5" or "balanced"; by default that which suits the number of classes."""
        name = check_metric(metric, self.classes)
        return self.balanced if name == "balanced" else getattr(self, name) / self.images

    def chance(self, metric: str | None = None) -> float:
        """Returns the accuracy of a network that says nothing."""
        return chance_level(METRICS[check_metric(metric, self.classes)], self.classes)

    def is_near_chance(self) -> bool:
        """Returns whether the accuracy is no more than 3 standard errors above chance: something is likely wrong."""
        return is_near_chance(self.top1, self.images, self.chance("top1"))


def evaluate(
    net: NetworkLike,
    data: DataLike,
    images: int | None = None,
    *,
    batch_size: int = 1000,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    on_bad_image: str = "raise",
    precision: str = "float32",
    convolutions: str = "auto",
    on_images: Callable[[PreparedImages], None] | None = None,
) -> Evaluation:
    """Returns how the intact network does.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        data: a data set, its name, ``(images, labels)``, or an iterable of batches of these.
        images: only so many, in the data set's study order, at least 1; by default all.
        batch_size: images that are loaded at a time, at least 1. It changes no result.
        classes: the network's class for classes of the data set, as in `sweep`.
        restrict_classes: whether the classes of the data set alone compete.
        on_bad_image: "raise", or "skip" to leave images out that cannot be read.
        precision: of the computation, as in `sweep`.
        convolutions: by which algorithm, as in `sweep`.
        on_images: called once before anything is computed, with the images and how their classes are matched.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    batch_size = check_count("batch_size", batch_size)
    images = None if images is None else check_count("images", images)
    computing = Computing(precision, convolutions)
    computing.check()
    network, prepared = fitted(net, data, images, classes, restrict_classes, on_bad_image)
    outputs = check_classes(network, prepared)
    if on_images:
        on_images(prepared)
    skipped: dict[int, str] = {}
    run = computing.evaluate(computing.tile(network, prepared.image_shape))
    planes = run(network, replace(prepared, on_skip=skipped.__setitem__), batch_size=batch_size)
    read = _read(prepared, skipped)
    counts = dict(zip(PLANES, planes[:, read].sum(axis=1).tolist(), strict=True))
    labels = prepared.labels[read]
    return Evaluation(
        network=network.name,
        dataset=f"{prepared.dataset.name} {prepared.dataset.split}".strip(),
        images=len(read),
        classes=outputs,
        top1=counts["top1"],
        top5=counts["top5"],
        nonfinite=len(read) - counts["finite"],
        balanced=balanced_accuracy(planes[PLANES.index("top1"), read], labels),
        commonest=commonest_share(labels) if is_unbalanced(labels) else None,
        skipped=tuple((prepared.identifiers[place], reason) for place, reason in sorted(skipped.items())),
    )


@dataclass(frozen=True)
class Agreement:
    """An intact network in one precision, beside itself in float32.

    Attributes:
        precision: of the computation.
        images: number of images.
        top1: images whose class comes first.
        top5: images whose class is among the first five.
        same: images whose first class is that in float32.
        difference: the largest between a logit and that in float32; NaN where a logit is not a number.
        images_per_second: of passes whose programs were compiled already.
    """

    precision: str
    images: int
    top1: int
    top5: int
    same: int
    difference: float
    images_per_second: float


def compare_precisions(
    net: NetworkLike,
    data: DataLike,
    images: int | None = None,
    *,
    precisions: Sequence[str] | None = None,
    batch_size: int = 1000,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    on_bad_image: str = "raise",
    on_images: Callable[[PreparedImages], None] | None = None,
) -> tuple[Agreement, ...]:
    """Returns how the intact network does in float32 and in other precisions, and how fast it is.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        data: a data set, its name, ``(images, labels)``, or an iterable of batches of these.
        images: only so many, in the data set's study order, at least 1; by default all.
        precisions: "tf32", "bfloat16", "float16"; by default those that the device gains by. Others are tried too,
            though a study would refuse them.
        batch_size: images that are loaded at a time, at least 1.
        classes: the network's class for classes of the data set, as in `sweep`.
        restrict_classes: whether the classes of the data set alone compete.
        on_bad_image: "raise", or "skip" to leave images out that cannot be read.
        on_images: called once before anything is computed, with the images and how their classes are matched.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    batch_size = check_count("batch_size", batch_size)
    images = None if images is None else check_count("images", images)
    names = precisions_of(local_devices()[0]) if precisions is None else tuple(precisions)
    for name in names:
        check_known(name)
    network, prepared = fitted(net, data, images, classes, restrict_classes, on_bad_image)
    check_classes(network, prepared)
    if on_images:
        on_images(prepared)
    skipped: dict[int, str] = {}
    some = replace(prepared, on_skip=skipped.__setitem__)
    found = agreement.compare_precisions(network, some, names, batch_size=batch_size)
    read = _read(prepared, skipped)
    return tuple(_agreement(one, read) for one in found)


def _agreement(found: InPrecision, read: np.ndarray) -> Agreement:
    """What is said of a precision, on the images that could be read."""
    top1, top5 = (int(found.outcomes[PLANES.index(name), read].sum()) for name in ("top1", "top5"))
    same, difference = int(found.same[read].sum()), float(found.difference[read].max())
    return Agreement(found.precision, len(read), top1, top5, same, difference, found.images_per_second)


def _read(images: PreparedImages, skipped: Mapping[int, str]) -> np.ndarray:
    """Returns the places of the images that could be read."""
    read = np.setdiff1d(np.arange(len(images)), list(skipped))
    if not len(read):
        raise ImageError(f"none of the {len(images)} images can be read; the first: {skipped[0]}")
    return read
