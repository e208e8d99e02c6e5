"""Runs a study, or says what it would compute."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from jaxperturb.api.inputs import DataLike, Levels, NetworkLike, Perturbations, asked_of, check_count, fitted, grids_of
from jaxperturb.api.outputs import CONFIG_NAME, given_names, output_folder, write_config, write_outputs
from jaxperturb.data.preprocess import PreparedImages
from jaxperturb.data.scoring import GivenClasses
from jaxperturb.engine.run import Part
from jaxperturb.errors import StudyError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.perturb.targets import parse_targets
from jaxperturb.random.keys import check_seed
from jaxperturb.show.results import STORE_NAME, Results, results_of
from jaxperturb.study.planned import Shard
from jaxperturb.study.progress import Progress
from jaxperturb.study.runner import Start, measure_pace, open_study, run_study
from jaxperturb.study.runner import preview as preview_study
from jaxperturb.study.study import Study, describe

THREE = ("synapse_knockout", "node_knockout", "gaussian_noise")  # of Cheney et al. 2017


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
    batch_size = check_count("batch_size", batch_size)
    share = None if shard is None else Shard.parse(shard)
    job = _job(net, data, perturbations, layers, levels, draws, seed, images, metric, classes, restrict_classes,
               on_bad_image, on_images, recorded)  # fmt: skip
    folder = None if out is None else output_folder(Path(out))
    store = open_study(folder and folder / STORE_NAME, job.study, job.images)
    # A store in memory stays open for the results that read it.
    with store if folder else nullcontext(), Progress(str(folder or "memory")) if progress else nullcontext() as bar:
        if folder:
            given = given_names(net, data) | {"batch_size": batch_size, "restrict_classes": restrict_classes or None}
            given |= {"classes": None if isinstance(classes, Mapping) or classes is None else str(classes)}
            given |= {"on_bad_image": on_bad_image if on_bad_image != "raise" else None, "shard": shard}
            write_config(store.study(), given | dict(flags or {}), folder / CONFIG_NAME)
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
    return write_outputs(results, folder) if share is None else results


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
    draws = check_count("draws", draws)
    images = None if images is None else check_count("images", images)
    check_seed(seed)
    asked = asked_of(perturbations)
    grids = grids_of(asked, levels)
    network, prepared = fitted(net, data, images, classes, restrict_classes, on_bad_image)
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
