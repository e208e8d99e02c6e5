"""Runs a study, or says what it would compute."""

import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from jaxperturb.api.callbacks import in_turn
from jaxperturb.api.inputs import DataLike, Levels, NetworkLike, Perturbations, asked_of, check_count, fitted, grids_of
from jaxperturb.api.outputs import CONFIG_NAME, given_names, output_folder, write_config, write_outputs
from jaxperturb.api.workers import naming_workers, workers_of
from jaxperturb.data.prepared import PreparedImages
from jaxperturb.data.scoring import GivenClasses
from jaxperturb.engine import run as engine
from jaxperturb.engine.computing import Computing
from jaxperturb.engine.run import Part
from jaxperturb.engine.tiling import Tiling
from jaxperturb.errors import StudyError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.perturb.targets import parse_targets
from jaxperturb.random.keys import check_seed
from jaxperturb.show.results import STORE_NAME, Results, results_of
from jaxperturb.study.cluster import Cluster
from jaxperturb.study.goal import MAX_DRAWS
from jaxperturb.study.planned import Shard, check_goal
from jaxperturb.study.progress import Progress
from jaxperturb.study.runner import Start, measure_pace, open_study, run_study
from jaxperturb.study.runner import preview as preview_study
from jaxperturb.study.study import Study, describe
from jaxperturb.types import Outcomes

THREE = ("synapse_knockout", "node_knockout", "gaussian_noise")  # of Cheney et al. 2017


@dataclass(frozen=True)
class _Job:
    """What is asked of a study, with the things themselves."""

    study: Study
    network: Network
    images: PreparedImages
    asked: tuple[Asked, ...]
    grids: Mapping[str, tuple[Decimal, ...]]
    computing: Computing
    tile: Tiling

    def evaluate(self, workers: Cluster | None = None) -> Callable[..., Outcomes]:
        """Returns what computes the outcomes of the network as it is."""
        return self.computing.evaluate(self.tile, workers.evaluate if workers else engine.evaluate_network)

    def pace(self, workers: Cluster | None = None) -> float:
        """Returns seconds per multiplication on this machine, or of all workers together."""
        measured = measure_pace(self.network, self.images, self.study, self.evaluate(workers))
        return measured / workers.size if workers else measured


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
    half_width: float | None = None,
    half_width_of: str = "accuracy",
    max_draws: int = MAX_DRAWS,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    on_bad_image: str = "raise",
    precision: str = "float32",
    convolutions: str = "auto",
    masks_per_call: int = 0,
    memory_gb: float | int | None = None,
    devices: int | None = None,
    shard: str | None = None,
    cluster: str | None = None,
    cpus_per_worker: int | None = None,
    out: str | Path | None = None,
    progress: bool = False,
    on_part: Callable[[Part], None] | None = None,
    on_start: Callable[[Start], None] | None = None,
    on_images: Callable[[PreparedImages], None] | None = None,
    on_wait: Callable[[], object] | None = None,
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
        draws: lesions per perturbation, layer and level, at least 1; with `half_width` those of the first look.
        seed: of all draws, 0 to 2**32 - 1.
        images: only so many, in the data set's study order, at least 1; by default all.
        batch_size: images that are loaded and kept at a time, at least 1. It changes no result.
        metric: "top1" or "top5" of tables and figures, or "balanced": top-1 with classes weighed alike; by default
            top5 from 1000 classes on, else top1.
        half_width: wanted for the 95 % interval of each level, such as 0.02: then the study chooses for each layer its
            draws (up to `max_draws`) and images (up to `images`) by a first look at `draws` draws, at least 5, on 512
            images. Tables say which levels met it.
        half_width_of: "accuracy", or "relative" for the accuracy relative to the reference network's.
        max_draws: not more draws where the study chooses them.
        classes: the network's class (name, WordNet id or number) for classes of the data set, or a file of lines
            ``data set's class,network's class``; others are matched by WordNet id, name or number.
        restrict_classes: whether the classes of the data set alone compete, instead of all of the network's.
        on_bad_image: "raise", or "skip" to leave images out that cannot be read; they are listed in the store.
        precision: "float32", or "tf32", "bfloat16" or "float16" on a device that gains by them. Lesions act on float32
            weights in all of them.
        convolutions: by which algorithm: "auto" (the fastest here), "xla", or "winograd".
        masks_per_call: lesions that are computed at once, on each device; 0 for what suits it, which on a CPU is one
            after another.
        memory_gb: GiB that the process (on an accelerator: the device) may take; by default half of what is free. It
            changes no result.
        devices: how many of this machine's compute at most, at least 1; by default all. It changes no result.
        shard: ``"3/16"`` computes the third of 16 shares of the study, which cost about the same and are joined by
            ``jaxperturb merge``; all must ask for the same study. Of a share the store alone is written.
        cluster: "auto" gives the work to processes of this machine through Ray, which is started unless it runs;
            "HOST:PORT" to those of all machines of a Ray that runs. They change no result.
        cpus_per_worker: processors for each of these, at least 1; by default 2, or half of this machine's where it has
            fewer than 4.
        out: folder for ``results.sqlite``, ``results.csv``, ``summary.csv``, ``levels.csv``, ``config.json`` and
            ``figures/``; by default nothing is written. A study that is there already is continued.
        progress: whether to show a bar with the time left, on standard error or in the notebook.
        on_part: called with each part of the outcomes when it was computed and handed to the store.
        on_start: called once before anything is computed, with what there is to compute.
        on_images: called once before that, with the images and how their classes are matched.
        on_wait: called about every second while a cluster computes; what it raises ends the run.
        flags: further flags to be recorded in ``config.json``, which repeat the study on the command line.
        recorded: the content of such a file; other weights or images than those that it names are refused.

    Returns:
        The results; those of earlier runs in the same folder too.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    batch_size = check_count("batch_size", batch_size)
    share = None if shard is None else Shard.parse(shard)
    computing = Computing(precision, convolutions, masks_per_call, memory_gb, devices)
    job = _job(net, data, perturbations, layers, levels, draws, seed, images, metric, classes, restrict_classes,
               on_bad_image, on_images, recorded, computing, half_width, half_width_of, max_draws)  # fmt: skip
    folder = None if out is None else output_folder(Path(out))
    store = open_study(folder and folder / STORE_NAME, job.study, job.images)
    zeros = job.network.share_of_zeros(job.images.image_shape) if progress else 0.0
    bars = Progress(str(folder or "memory"), zeros) if progress else nullcontext()
    # A store in memory stays open for the results that read it.
    with store if folder else nullcontext(), bars as bar, workers_of(cluster, cpus_per_worker, on_wait) as workers:
        if folder:
            given = given_names(net, data) | {"batch_size": batch_size, "restrict_classes": restrict_classes or None}
            given |= {"classes": None if isinstance(classes, Mapping) or classes is None else str(classes)}
            given |= {"precision": precision, "convolutions": convolutions, "masks_per_call": masks_per_call}
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
            run=computing.run(job.tile, workers.run if workers else engine.run),
            pace=functools.partial(job.pace, workers) if progress else lambda: None,
            on_start=in_turn(on_start, None if bar is None else naming_workers(bar.start, workers)),
            on_look=None if bar is None else naming_workers(bar.start, workers),
            on_part=in_turn(on_part, None if bar is None else bar.advance),
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
    half_width: float | None = None,
    half_width_of: str = "accuracy",
    max_draws: int = MAX_DRAWS,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    on_bad_image: str = "raise",
    precision: str = "float32",
    convolutions: str = "auto",
    masks_per_call: int = 0,
    memory_gb: float | int | None = None,
    devices: int | None = None,
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
    computing = Computing(precision, convolutions, masks_per_call, memory_gb, devices)
    job = _job(net, data, perturbations, layers, levels, draws, seed, images, metric, classes, restrict_classes,
               on_bad_image, on_images, recorded, computing, half_width, half_width_of, max_draws)  # fmt: skip
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
    computing: Computing,
    half_width: object,
    half_width_of: str,
    max_draws: object,
) -> _Job:
    draws, max_draws = check_count("draws", draws), check_count("max_draws", max_draws)
    images = None if images is None else check_count("images", images)
    check_seed(seed)
    computing.check()
    asked = asked_of(perturbations)
    grids = grids_of(asked, levels)
    network, prepared = fitted(net, data, images, classes, restrict_classes, on_bad_image)
    if on_images:
        on_images(prepared)
    targets = parse_targets(network.layer_names(prepared.image_shape), layers)
    tile = computing.tile(network, prepared.image_shape)
    study = describe(network, prepared, asked, grids, targets, draws, int(seed), metric, tile=tile,
                     precision=computing.precision)  # fmt: skip
    _check_recorded(study, recorded or {})
    if half_width is not None:
        study = replace(study, goal=check_goal(half_width, half_width_of, study, draws, max_draws))
    return _Job(study, network, prepared, asked, grids, computing, tile)


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
