"""The library's public calls: run a study, measure a network, lesion it, read a study."""

import json
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import numpy as np

from jaxperturb.checkpoints import load_network
from jaxperturb.data import Dataset, from_arrays, from_batches, load_dataset
from jaxperturb.data.preprocess import PreparedImages, prepare
from jaxperturb.data.reading import read_fast
from jaxperturb.data.scoring import GivenClasses, fit_classes
from jaxperturb.engine.cell_faults import cell_faults
from jaxperturb.engine.lesions import lesioned_params
from jaxperturb.engine.measure import measure_means, measure_saliency
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.run import PLANES, Part, evaluate_network
from jaxperturb.errors import DataError, ImageError, LevelError, NetworkError, OutputError, StudyError, did_you_mean
from jaxperturb.levels import LevelLike, as_level, parse_level_flag, parse_levels
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked, Perturbation, ask, parse_perturbations
from jaxperturb.perturb.fault_list import Fault
from jaxperturb.perturb.targets import Target, parse_targets
from jaxperturb.random import draw_key
from jaxperturb.random.keys import check_seed
from jaxperturb.show.results import STORE_NAME, Results, results_of
from jaxperturb.show.results import load_results as load_results
from jaxperturb.show.tables import write_cells, write_summaries
from jaxperturb.stats.balance import balanced_accuracy, commonest_share, is_near_chance, is_unbalanced
from jaxperturb.stats.curves import chance_level
from jaxperturb.study.planned import Shard
from jaxperturb.study.progress import Progress
from jaxperturb.study.runner import Start, measure_pace, open_study, run_study
from jaxperturb.study.runner import preview as preview_study
from jaxperturb.study.study import METRICS, Study, check_classes, check_metric, describe
from jaxperturb.trees import layers_of, select_layers
from jaxperturb.types import Params

NetworkLike = Network | str | Path
DataLike = Dataset | str | tuple[Any, Any] | Iterable[Any]
Grid = str | LevelLike | Sequence[LevelLike] | np.ndarray
Levels = Grid | Mapping[str, Grid]
OnePerturbation = str | Callable[..., Any] | Asked | Perturbation
Perturbations = OnePerturbation | Sequence[OnePerturbation]

THREE = ("synapse_knockout", "node_knockout", "gaussian_noise")  # of Cheney et al. 2017
CSV_NAME, CONFIG_NAME, FIGURES_NAME = "results.csv", "config.json", "figures"


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


@dataclass(frozen=True)
class _Job:
    """What is asked of a study, with the things themselves."""

    study: Study
    network: Network
    images: PreparedImages
    asked: tuple[Asked, ...]
    grids: Mapping[str, tuple[Decimal, ...]]

    def pace(self) -> float:
        """Returns seconds per multiplication on this machine."""
        return measure_pace(self.network, self.images, self.study)


def sweep(
    net: NetworkLike,
    data: DataLike,
    perturbations: Perturbations = THREE,
    layers: str | Sequence[str] = "*",
    levels: Levels | None = None,
    draws: int = 5,
    seed: int = 0,
    *,
    images: int | None = None,
    batch_size: int = 1000,
    metric: str | None = None,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    on_bad_image: str = "raise",
    shard: str | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    on_part: Callable[[Part], None] | None = None,
    on_start: Callable[[Start], None] | None = None,
    on_images: Callable[[PreparedImages], None] | None = None,
    flags: Mapping[str, object] | None = None,
    recorded: Mapping[str, object] | None = None,
) -> Results:
    """Runs a study, or continues the one in a folder: lesions one layer after another, counts what is left.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        data: a data set, its name, ``(images, labels)``, or an iterable of batches of these.
        perturbations: names with options, joined by commas, ``"node_knockout(include_bias=false)"``, or a
            sequence of names and functions.
        layers: names or patterns (``"conv*"``), joined by commas or in a sequence. Each layer is lesioned by itself;
            ``"fc6+fc7"`` lesions two together, at one level each, and ``"joint:fc6+fc7"`` as if they were one.
        levels: one grid for all (``"0:1:0.1"``, numbers), or one for each perturbation by name; by default each
            perturbation's own.
        draws: lesions per perturbation, layer and level, at least 1.
        seed: of all draws, 0 to 2**32 - 1.
        images: only so many, in the data set's study order, at least 1; by default all.
        batch_size: images that are loaded and kept at a time, at least 1. It changes no result.
        metric: "top1" or "top5" of tables and figures, or "balanced": top-1 with classes weighed alike; by default
            top5 from 1000 classes on, else top1.
        classes: the network's class (name, WordNet id or number) for classes of the data set, or a file of lines
            ``data set's class,network's class``; others are matched by WordNet id, name or number.
        restrict_classes: whether the classes of the data set alone compete, instead of all of the network's.
        on_bad_image: "raise", or "skip" to leave images out that cannot be read; they are listed in the store.
        shard: ``"3/16"`` computes the third of 16 shares of the study, which cost about the same and are joined by
            ``jaxperturb merge``; all must ask for the same study. Of a share the store alone is written.
        out: folder for ``results.sqlite``, ``results.csv``, ``summary.csv``, ``levels.csv``, ``config.json`` and
            ``figures/``; by default nothing is written. A study that is there already is continued.
        progress: whether to show a bar with the time left, on standard error or in the notebook.
        on_part: called with each part of the outcomes when it was computed and handed to the store.
        on_start: called once before anything is computed, with what there is to compute.
        on_images: called once before that, with the images and how their classes are matched.
        flags: further flags to be recorded in ``config.json``, which repeat the study on the command line.
        recorded: the content of such a file; other weights or images than those that it names are refused.

    Returns:
        The results; those of earlier runs in the same folder too.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    batch_size = _check_count("batch_size", batch_size)
    share = None if shard is None else Shard.parse(shard)
    job = _job(net, data, perturbations, layers, levels, draws, seed, images, metric, classes, restrict_classes,
               on_bad_image, on_images, recorded)  # fmt: skip
    folder = None if out is None else _output_folder(Path(out))
    store = open_study(folder and folder / STORE_NAME, job.study, job.images)
    # A store in memory stays open for the results that read it.
    with store if folder else nullcontext(), Progress(str(folder or "memory")) if progress else nullcontext() as bar:
        if folder:
            given = _given(net, data) | {"batch_size": batch_size, "restrict_classes": restrict_classes or None}
            given |= {"classes": None if isinstance(classes, Mapping) or classes is None else str(classes)}
            given |= {"on_bad_image": on_bad_image if on_bad_image != "raise" else None, "shard": shard}
            _write_config(store.study(), given | dict(flags or {}), folder / CONFIG_NAME)
        run_study(
            job.study,
            store,
            job.network,
            job.images,
            job.asked,
            job.grids,
            batch_size=batch_size,
            shard=share,
            pace=job.pace if progress else lambda: None,
            on_start=_all(on_start, None if bar is None else bar.start),
            on_part=_all(on_part, None if bar is None else bar.advance),
        )
        results = results_of(store)
    if folder is None:
        return results
    results = replace(results, source=folder / STORE_NAME)
    return _write_outputs(results, folder) if share is None else results


def preview(
    net: NetworkLike,
    data: DataLike,
    perturbations: Perturbations = THREE,
    layers: str | Sequence[str] = "*",
    levels: Levels | None = None,
    draws: int = 5,
    seed: int = 0,
    *,
    images: int | None = None,
    metric: str | None = None,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    on_bad_image: str = "raise",
    shard: str | None = None,
    out: str | Path | None = None,
    on_images: Callable[[PreparedImages], None] | None = None,
    recorded: Mapping[str, object] | None = None,
) -> Start:
    """Returns what `sweep` would compute with these arguments, and about how long it takes; nothing is written.

    Raises:
        JaxPerturbError: one of its subclasses, for what `sweep` would refuse.
    """
    share = None if shard is None else Shard.parse(shard)
    job = _job(net, data, perturbations, layers, levels, draws, seed, images, metric, classes, restrict_classes,
               on_bad_image, on_images, recorded)  # fmt: skip
    path = None if out is None else Path(out) / STORE_NAME
    return preview_study(path, job.study, shard=share, pace=job.pace)


def evaluate(
    net: NetworkLike,
    data: DataLike,
    images: int | None = None,
    *,
    batch_size: int = 1000,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    on_bad_image: str = "raise",
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
        on_images: called once before anything is computed, with the images and how their classes are matched.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    batch_size = _check_count("batch_size", batch_size)
    images = None if images is None else _check_count("images", images)
    network, prepared = _fitted(net, data, images, classes, restrict_classes, on_bad_image)
    outputs = check_classes(network, prepared)
    if on_images:
        on_images(prepared)
    skipped: dict[int, str] = {}
    planes = evaluate_network(network, replace(prepared, on_skip=skipped.__setitem__), batch_size=batch_size)
    read = np.setdiff1d(np.arange(len(prepared)), list(skipped))
    if not len(read):
        raise ImageError(f"none of the {len(prepared)} images can be read; the first: {skipped[0]}")
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


def lesion(
    net: NetworkLike,
    perturbation: OnePerturbation,
    layers: str | Sequence[str],
    level: LevelLike,
    draw: int = 0,
    seed: int = 0,
) -> Network:
    """Returns a lesioned network: that of a study's cell, where the seed is the study's.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        perturbation: its name with options, or a function.
        layers: a target as `sweep` takes them; several are lesioned together.
        level: of damage, in the perturbation's range.
        draw: number of the draw, from 0.
        seed: 0 to 2**32 - 1.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    asked, network = ask(perturbation), _network(net)
    cell = _cell(network, asked, layers, level, draw)
    return replace(network, params=lesioned_params(network, asked, cell, draw_key(seed, draw), {}))


def fault_list(
    net: NetworkLike,
    perturbation: OnePerturbation,
    layers: str | Sequence[str],
    level: LevelLike,
    draw: int = 0,
    seed: int = 0,
) -> tuple[Fault, ...]:
    """Returns what the lesion of a study's cell did, weight by weight; `replay` injects it again.

    Of `bit_flip` and `stuck_at` each fault, also one that changes nothing; of others each weight whose value changed.
    ``pandas.DataFrame(jp.fault_list(...))`` is a table of it.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        perturbation: its name with options, or a function.
        layers: a target as `sweep` takes them; several are lesioned together.
        level: of damage, in the perturbation's range.
        draw: number of the draw, from 0.
        seed: 0 to 2**32 - 1.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    asked, network = ask(perturbation), _network(net)
    cell = _cell(network, asked, layers, level, draw)
    return cell_faults(network, asked, cell, draw_key(seed, draw))


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
    return measure_saliency(network, prepared, batch_size=_check_count("batch_size", batch_size))


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
    return measure_means(network, prepared, names, batch_size=_check_count("batch_size", batch_size))


def _job(
    net: object,
    data: object,
    perturbations: Perturbations,
    layers: str | Sequence[str],
    levels: Levels | None,
    draws: object,
    seed: int,
    images: object,
    metric: str | None,
    classes: GivenClasses | None,
    restrict_classes: bool,
    on_bad_image: str,
    on_images: Callable[[PreparedImages], None] | None,
    recorded: Mapping[str, object] | None,
) -> _Job:
    draws = _check_count("draws", draws)
    images = None if images is None else _check_count("images", images)
    check_seed(seed)
    asked = _asked(perturbations)
    grids = _grids(asked, levels)
    network, prepared = _fitted(net, data, images, classes, restrict_classes, on_bad_image)
    if on_images:
        on_images(prepared)
    targets = parse_targets(network.layer_names(prepared.image_shape), layers)
    study = describe(network, prepared, asked, grids, targets, draws, int(seed), metric)
    _check_recorded(study, recorded or {})
    return _Job(study, network, prepared, asked, grids)


def _check_recorded(study: Study, recorded: Mapping[str, object]) -> None:
    """Refuses other weights or images than those of the study that is repeated."""
    found = {"weights": study.identity.weights, "images": study.identity.images[-1]}
    given = recorded.get("flags")
    if isinstance(given, Mapping) and given.get("images") != study.images:
        del found["images"]  # fewer or more of them have another fingerprint
    for name, own in found.items():
        if (expected := recorded.get(f"{name}_sha256", own)) != own:
            raise StudyError(
                f"the study to repeat has {name} with the fingerprint {str(expected)[:12]}, but these have {own[:12]}; "
                f"give the same {name}, or leave --config out"
            )


def _all(*calls: Callable[[Any], object] | None) -> Callable[[Any], None] | None:
    """Returns a function that makes several calls one after another, None where there are none."""
    own = [call for call in calls if call]

    def call_all(value: Any) -> None:
        for call in own:
            call(value)

    return call_all if own else None


def _measured(net: NetworkLike, data: DataLike, images: int | None) -> tuple[Network, PreparedImages]:
    images = None if images is None else _check_count("images", images)
    return _fitted(net, data, images)


def _fitted(
    net: object,
    data: object,
    images: int | None,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    on_bad_image: str = "raise",
) -> tuple[Network, PreparedImages]:
    """Returns the network with the logits that compete, and the images of a study with labels that number these."""
    network = _network(net)
    prepared = read_fast(prepare(_dataset(data), network.preprocessing, images, on_bad_image))
    return fit_classes(network, prepared, classes, restrict_classes)


def _cell(network: Network, asked: Asked, layers: str | Sequence[str], level: LevelLike, draw: int) -> Cell:
    (exact,) = asked.check_levels([as_level(level)])
    found = parse_targets(tuple(layers_of(network.params, network.norms)), layers)
    return Cell(asked.text, found[0] if len(found) == 1 else Target(found).name, exact, draw)


def _network(net: object) -> Network:
    if isinstance(net, Network):
        return net
    if isinstance(net, str | Path):
        return load_network(net)
    raise NetworkError(f"expected a jaxperturb.Network, a bundled name or a folder, got {type(net).__name__}")


def _dataset(data: object) -> Dataset:
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str):
        return load_dataset(data)
    if isinstance(data, tuple | list) and len(data) == 2:
        return from_arrays(*data)
    if isinstance(data, Iterable) and not isinstance(data, np.ndarray | bytes):
        return from_batches(data)
    raise DataError(
        f"expected a data set, its name, (images, labels), or an iterable of batches, got {type(data).__name__}"
    )


def _asked(perturbations: Perturbations) -> tuple[Asked, ...]:
    if isinstance(perturbations, str | Sequence):
        return parse_perturbations(perturbations)
    return (ask(perturbations),)


def _grids(asked: Sequence[Asked], levels: object) -> dict[str, tuple[Decimal, ...]]:
    """Returns the levels of each perturbation by its text, each within its range."""
    names = [one.perturbation.name for one in asked]
    given: Mapping[str, tuple[Decimal, ...]]
    if levels is None:
        given = {}
    elif isinstance(levels, str):
        given = parse_level_flag(levels, names)
    elif isinstance(levels, Mapping):
        given = {_known(name, names): _grid(grid) for name, grid in levels.items()}
    else:
        given = {"*": _grid(levels)}
    grids = {}
    for one in asked:
        grid = given.get(one.perturbation.name) or given.get("*") or one.perturbation.levels()
        grids[one.text] = one.check_levels(grid)
    return grids


def _grid(levels: Any) -> tuple[Decimal, ...]:
    if isinstance(levels, str):
        return parse_levels(levels)
    if isinstance(levels, Real | Decimal) or not isinstance(levels, Iterable):
        return (as_level(levels),)
    grid = tuple(dict.fromkeys(as_level(level) for level in levels))
    if not grid:
        raise LevelError("expected levels such as 0.1,0.5 or 0:1:0.1, got none")
    return grid


def _known(name: str, names: Sequence[str]) -> str:
    if name != "*" and name not in names:
        near = did_you_mean(str(name), names)
        raise LevelError(f"levels are given for {name!r}, which is not in the study ({', '.join(names)}){near}")
    return name


def _check_count(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise StudyError(f"expected {name} of 1 or more, got {value!r}")
    return int(value)


def _output_folder(folder: Path) -> Path:
    """Makes the folder and tries it, so that nothing is computed in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"results cannot be written to {folder}: {error.strerror or error}; choose another folder"
        ) from error
    return folder


def _given(net: NetworkLike, data: DataLike) -> dict[str, object]:
    """Returns the flags that are known only when network and data were given by name."""
    given: dict[str, object] = {}
    if not isinstance(net, Network):
        given["weights"] = str(net)
    if isinstance(data, str):
        given["dataset"] = data
    return given


def _write_config(study: Study, given: Mapping[str, object], path: Path) -> None:
    """Writes what repeats the study, in the grammar of the command line's flags."""
    levels = {curve.text.partition("(")[0]: ",".join(curve.levels) for curve in study.perturbations}
    flags = {
        "dataset": study.dataset,
        "split": study.split or None,
        "images": study.images,
        "perturbations": ",".join(curve.text for curve in study.perturbations),
        "layers": ",".join(study.targets),
        "levels": ";".join(f"{name}={grid}" for name, grid in levels.items()),
        "draws": study.draws,
        "seed": study.identity.seed,
        "metric": study.metric,
    }
    config = {
        "flags": {name: value for name, value in (flags | dict(given)).items() if value is not None},
        "network": study.network,
        "weights_sha256": study.identity.weights,
        "images_sha256": study.identity.images[-1],
    }
    try:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _write_outputs(results: Results, folder: Path) -> Results:
    from jaxperturb.show.figures import save_figures

    write_cells(results, folder / CSV_NAME)
    write_summaries(results, folder)
    save_figures(results, folder / FIGURES_NAME)
    return results
