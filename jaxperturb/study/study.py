"""What a study asks, and what must agree before it may be continued.

Identity is by content: of the weights, of the images with their labels and order, of a user's own function. More
draws, levels, layers, perturbations or images extend a study; anything else that differs makes it another one.
"""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.engine.tiling import Tiling, tiling
from jaxperturb.errors import StudyError, did_you_mean
from jaxperturb.levels import format_level
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.perturb.compose import Composition
from jaxperturb.random import SEMANTICS
from jaxperturb.study.cost import costs
from jaxperturb.study.goal import Goal, Look, goal_of, looks_of
from jaxperturb.trees import fingerprint, layers_of

# Name -> an image is right when its class is among the first so many; "balanced" weighs the classes alike.
METRICS = {"top1": 1, "top5": 5, "balanced": 1}
PRECISION = "float32"


@dataclass(frozen=True)
class Curve:
    """One perturbation of a study, and what a figure needs to know of it without the function itself.

    Attributes:
        text: canonical name with options, ``node_knockout(axis=in)``.
        summary: what it does, one line.
        unit: of the level.
        axis: "linear" or "log".
        no_damage: the level that means the reference network, as canonical text, or None where there is none.
        levels: tested levels as canonical texts, in the order asked.
        code: SHA-256 of the source file of a user's own function, None for a built-in one.
        encodes: whether the reference network is the encoded one, and not the intact one.
        once: levels at which all draws give one network, as canonical texts; records of the first version lack them.
    """

    text: str
    summary: str
    unit: str
    axis: str
    no_damage: str | None
    levels: tuple[str, ...]
    code: str | None = None
    encodes: bool = False
    once: tuple[str, ...] = ()


@dataclass(frozen=True)
class Identity:
    """What must agree before a study may be continued.

    Attributes:
        weights: fingerprint of the values of the network's arrays.
        images: chain of hashes over pixels, labels and identifiers, one per 256 images in the study's order.
        image_shape: height, width and channels that the network sees.
        preprocessing: how images are made ready, None where they are taken as they are.
        classes: names of the classes of the labels.
        outputs: number of classes that the network tells apart.
        seed: of all draws.
        semantics: version of all drawn numbers.
        precision: of the computation.
        tiles: of the compiled programs.
        class_map: the network's class for each of `classes`, None where they are the same.
        restriction: the network's classes that alone compete, None for all.
    """

    weights: str
    images: tuple[str, ...]
    image_shape: tuple[int, ...]
    preprocessing: Mapping[str, Any] | None
    classes: tuple[str, ...]
    outputs: int
    seed: int
    semantics: int
    precision: str
    tiles: Mapping[str, int | str]
    class_map: tuple[int, ...] | None = None
    restriction: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Study:
    """What was asked.

    Attributes:
        network: its name.
        dataset: its name.
        split: of the data set, empty where it has none.
        layers: all layers of the network, in the order of its program.
        targets: what was lesioned, in the same order.
        perturbations: each with its levels.
        draws: lesions per perturbation, target and level.
        images: number of images, a prefix of the data set's study order.
        metric: "top1" or "top5", of half-lives, tables and figures.
        identity: what must agree before it may be continued.
        costs: multiplications per image of a lesion of each target, and of the whole network under ``"*"``; records of
            the first version lack them.
        shapes: of each layer's weight; older records lack them.
        parameters: entries of each layer's weight and bias; older records lack them.
        goal: what decides on draws and images, instead of `draws` and `images`; None where these do.
        looks: what was decided so far, for a curve each.
    """

    network: str
    dataset: str
    split: str
    layers: tuple[str, ...]
    targets: tuple[str, ...]
    perturbations: tuple[Curve, ...]
    draws: int
    images: int
    metric: str
    identity: Identity
    costs: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    goal: Goal | None = None
    looks: tuple[Look, ...] = ()

    @functools.cached_property
    def look_of(self) -> Mapping[tuple[str, str], Look]:
        """What was decided, by perturbation and target."""
        return {(look.perturbation, look.target): look for look in self.looks}

    def to_json(self) -> str:
        """Returns the study as JSON text, sorted by key."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Study":
        """Reads what `to_json` wrote.

        Raises:
            StudyError: text that is not a study.
        """
        try:
            fields = json.loads(text)
            curves = tuple(Curve(**_with_tuples(curve)) for curve in fields.pop("perturbations"))
            identity = Identity(**_with_tuples(fields.pop("identity")))
            fields["shapes"] = _with_tuples(fields.get("shapes", {}))
            fields |= {"goal": goal_of(fields.get("goal")), "looks": looks_of(fields.get("looks", ()))}
            return cls(perturbations=curves, identity=identity, **_with_tuples(fields))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise StudyError(f"expected the record of a study, got one that cannot be read: {error!r}") from error


def describe(
    network: Network,
    images: PreparedImages,
    asked: Sequence[Asked],
    levels: Mapping[str, tuple[Decimal, ...]],
    targets: Sequence[str],
    draws: int,
    seed: int,
    metric: str | None = None,
    *,
    tile: Tiling | None = None,
    precision: str = PRECISION,
) -> Study:
    """Returns the study of what is asked, with its identity. Hashes the weights and the images; computes nothing.

    Args:
        network: intact.
        images: in the study's order.
        asked: perturbations with their options.
        levels: for the text of each of these.
        targets: layers to lesion, one after another.
        draws: lesions per perturbation, target and level.
        seed: of all draws.
        metric: "top1" or "top5"; by default the one that suits the number of classes.
        tile: of the compiled programs; None for the backend's own.
        precision: of the computation.

    Raises:
        StudyError: an unknown metric, or a label that the network has no class for.
    """
    outputs = check_classes(network, images)
    layers = layers_of(network.params, network.norms)
    identity = Identity(
        weights=fingerprint(network.params),
        images=images.chain,
        image_shape=tuple(images.image_shape),
        preprocessing=None if network.preprocessing is None else network.preprocessing.to_json(),
        classes=tuple(images.classes),
        outputs=outputs,
        seed=seed,
        semantics=SEMANTICS,
        precision=precision,
        tiles=(tile or tiling(network, images.image_shape)).to_json(),
        **_class_fields(images),
    )
    return Study(
        network=network.name,
        dataset=images.dataset.name,
        split=images.dataset.split,
        layers=network.layer_names(images.image_shape),
        targets=tuple(targets),
        perturbations=tuple(_curve(one, levels[one.text]) for one in asked),
        draws=draws,
        images=len(images),
        metric=check_metric(metric, outputs),
        identity=identity,
        costs=costs(network, images.image_shape, targets),
        shapes={name: layer.weight.shape for name, layer in layers.items()},
        parameters={name: sum(leaf.size for leaf in layer.leaves()) for name, layer in layers.items()},
    )


def _class_fields(images: PreparedImages) -> dict[str, tuple[int, ...] | None]:
    found = images.class_map
    if found is None:
        return {}
    return {"class_map": None if found.is_plain() else found.targets, "restriction": found.restriction}


def check_classes(network: Network, images: PreparedImages) -> int:
    """Returns the number of classes that the network tells apart.

    Raises:
        StudyError: a label that the network has no class for.
    """
    outputs, highest = network.number_of_classes(images.image_shape), int(images.labels.max())
    if highest >= outputs:
        raise StudyError(f"label {highest} is none of {network.name}'s {outputs} classes (0 to {outputs - 1})")
    return outputs


def check_metric(metric: str | None, outputs: int) -> str:
    """Returns the metric, or the default for a number of classes: top5 from 1000 classes on, else top1.

    Raises:
        StudyError: an unknown metric.
    """
    if metric is None:
        return "top5" if outputs >= 1000 else "top1"
    if metric not in METRICS:
        near = did_you_mean(str(metric), METRICS)
        raise StudyError(f"unknown metric {metric!r}: expected {' or '.join(METRICS)}{near}")
    return metric


def source_hash(function: Callable) -> str | None:
    """Returns the SHA-256 (hexadecimal) of the file that a user's function is written in, None for a built-in one.

    A function of a notebook has no file; its own source text stands in.

    Raises:
        StudyError: a function whose source cannot be found.
    """
    if isinstance(function, Composition):
        own = [code for part in function.parts if (code := source_hash(part.perturbation.function))]
        return hashlib.sha256(" ".join(own).encode()).hexdigest() if own else None
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    if not (inspect.isfunction(function) or inspect.isclass(function)):
        function = type(function)
    if function.__module__.partition(".")[0] == __name__.partition(".")[0]:
        return None
    try:
        if inspect.getfile(function) == "<string>":  # of exec; Python 3.13 takes the text of "python -c" for its source
            raise OSError("no file")
        file = Path(inspect.getsourcefile(function) or "")
        source = file.read_bytes() if file.is_file() else inspect.getsource(function).encode()
    except (OSError, TypeError) as error:
        raise StudyError(
            f"the source of {function.__module__}.{function.__qualname__} cannot be found, so its study could not be "
            "told from another; write the function in a file"
        ) from error
    return hashlib.sha256(source).hexdigest()


def _curve(asked: Asked, levels: Sequence[Decimal]) -> Curve:
    known = asked.perturbation
    return Curve(
        text=asked.text,
        summary=known.summary,
        unit=known.unit,
        axis=known.axis,
        no_damage=None if known.no_damage is None else format_level(known.no_damage),
        levels=tuple(format_level(level) for level in levels),
        code=source_hash(known.function),
        encodes=asked.encodes,
        once=tuple(format_level(level) for level in levels if asked.coincides(level)),
    )


def _with_tuples(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
