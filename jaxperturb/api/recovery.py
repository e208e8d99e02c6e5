"""Training under and after damage, and how far two networks are apart."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import optax
import pandas as pd

from jaxperturb.api.callbacks import in_turn
from jaxperturb.api.inputs import (
    DataLike,
    NetworkLike,
    OnePerturbation,
    check_count,
    dataset_of,
    fitted,
    network_of,
)
from jaxperturb.api.outputs import output_folder
from jaxperturb.checkpoints.export import export_network
from jaxperturb.data import Dataset
from jaxperturb.data.prepared import PreparedImages, prepare
from jaxperturb.data.scoring import GivenClasses
from jaxperturb.engine.measure import extras_for
from jaxperturb.engine.memory import free_bytes
from jaxperturb.errors import LevelError, RecoveryError
from jaxperturb.levels import LevelLike, as_level, format_level, parse_levels
from jaxperturb.networks.head import replace_head
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked, ask
from jaxperturb.perturb.targets import parse_targets
from jaxperturb.random import SEMANTICS
from jaxperturb.random.keys import check_seed
from jaxperturb.recovery.batches import TrainingImages, check_classes_covered, parse_augmentations
from jaxperturb.recovery.change import weight_changes
from jaxperturb.recovery.experiment import FREE, HELD, Arm, Experiment, parse_lesions, training_fingerprint
from jaxperturb.recovery.optimizers import Optimizer
from jaxperturb.recovery.passing import check_dropout, parse_damage
from jaxperturb.recovery.progress import TrainingProgress
from jaxperturb.recovery.run import Job, check_job, left_to_do, run_recovery
from jaxperturb.recovery.store import PLANES, STORE_NAME, Point, open_recovery
from jaxperturb.show.recovery import Recovery, recovery_of
from jaxperturb.study.study import check_classes, check_metric, source_hash
from jaxperturb.trees import fingerprint

CHECKPOINTS, NETWORKS = "checkpoints", "networks"
DEFAULT_LEVEL = "0.7"
_ROOM = 0.25  # of the free memory is what decoded training images may take


def recover(
    net: NetworkLike,
    train_data: DataLike,
    test_data: DataLike,
    perturbation: OnePerturbation | None = "synapse_knockout",
    layers: str | Sequence[str] = "*",
    level: LevelLike | None = None,
    draws: int = 3,
    seed: int = 0,
    *,
    lesion: str | Sequence[str] = HELD,
    train: str = "all",
    optimizer: str | Optimizer | optax.GradientTransformation = "adam",
    steps: int = 300,
    batch_size: int = 64,
    evaluate_every: int = 50,
    augment: str | Sequence[str] = "",
    dropout: bool = False,
    progress_levels: str | Sequence[LevelLike] | None = None,
    damage_while_training: str | None = None,
    images: int | None = None,
    train_images: int | None = None,
    classes: GivenClasses | None = None,
    restrict_classes: bool = False,
    new_head: bool = False,
    on_bad_image: str = "raise",
    metric: str | None = None,
    draws_at_once: int | None = None,
    out: str | Path | None = None,
    save_networks: bool = False,
    progress: bool = False,
    on_steps: Callable[[int], None] | None = None,
    on_point: Callable[[Point], None] | None = None,
    on_network: Callable[[Arm, Network], None] | None = None,
) -> Recovery:
    """Damages a network, lets it learn on, and measures how much comes back, how fast, and where weights moved.

    Each draw of each layer is a training of its own, with the same batches in the same order. Batch norms keep their
    running statistics, and dropout is off unless it is asked for.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        train_data: images to learn from: a data set, its name, ``(images, labels)``, or an iterable of batches.
        test_data: images to measure on, likewise.
        perturbation: that the training starts from: its name with options, or a function; None for no damage.
        layers: targets as `sweep` takes them, each damaged and trained by itself.
        level: of damage; 0.7 where neither it nor `progress_levels` is given.
        draws: lesions of each target, at least 1.
        seed: of draws, batches and augmentation, 0 to 2**32 - 1.
        lesion: "held", weights that the lesion changed stay as it made them; "free", they may grow back; or both.
        train: which layers learn: "all", "damaged", "others", or names and patterns.
        optimizer: "sgd" or "adam" with their defaults, their settings, or any transformation of optax, which is given
            a flat dictionary of the arrays that learn.
        steps: of training; with `progress_levels` after each level.
        batch_size: images per step.
        evaluate_every: steps between two evaluations; the first is right after damage, the last at the end.
        augment: "crop" (each image moved by up to an eighth), "flip" (half of the images mirrored), or both.
        dropout: whether dropout layers of Flax Linen act.
        progress_levels: a grid of levels at which the lesion of a draw grows, with training after each; what is gone
            stays gone.
        damage_while_training: a lesion that is drawn anew in every step: ``"synapse_knockout:0.5@conv1"``.
        images: only so many test images, in their study order.
        train_images: only so many training images, in their study order.
        classes: the network's class for classes of the data sets, as in `sweep`.
        restrict_classes: whether the classes of the data sets alone compete.
        new_head: whether a fresh output layer takes the place of the network's own, for the classes of the training
            set: learning something new, whatever is damaged.
        on_bad_image: "raise", or "skip" to leave test images out that cannot be read.
        metric: "top1" or "top5" of tables and figures.
        draws_at_once: how many draws are trained together; None for what fits the device, one on a CPU. It changes
            results by rounding alone.
        out: folder of the store and of states, from which a run that was stopped goes on; None writes nothing.
        save_networks: whether the trained networks are written to ``networks/`` in it, as .safetensors.
        progress: whether to show a bar.
        on_steps: called with each number of steps that were made.
        on_point: called with each evaluation.
        on_network: called with each arm and its trained network.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked; `DivergedError` where a loss is not
            finite.
    """
    check_count("batch_size", batch_size)
    lesions, asked = parse_lesions(lesion), None if perturbation is None else ask(perturbation)
    _check_progress(asked, progress_levels, level, lesions)
    settings, transformation = _optimizer(optimizer, check_count("steps", steps))
    if new_head:
        net, train_data = _with_new_head(network_of(net), dataset_of(train_data), int(check_seed(seed)))
    network, test = fitted(net, test_data, images, classes, restrict_classes, on_bad_image)
    _, learnt = fitted(net, train_data, train_images, classes, restrict_classes)
    check_classes_covered(learnt, test, batch_size)
    damage = None if damage_while_training is None else parse_damage(network, damage_while_training)
    if dropout:
        check_dropout(network)
    experiment = Experiment(
        **_measured(network, test, learnt),
        **_of_lesion(network, asked, layers, _levels(asked, progress_levels, level), lesions),
        seed=int(check_seed(seed)),
        semantics=SEMANTICS,
        train=train,
        optimizer=settings,
        steps=steps,
        batch_size=batch_size,
        evaluate_every=check_count("evaluate_every", evaluate_every),
        augment=parse_augmentations(augment),
        dropout=dropout,
        damage="" if damage is None else damage.text,
        draws=check_count("draws", draws),
        metric=_check_metric(metric, check_classes(network, test)),
    )
    folder = None if out is None else output_folder(Path(out))
    extras = {} if asked is None else {one: extras_for(network, test, asked, [one]) for one in experiment.targets}
    job = Job(
        experiment=experiment,
        network=network,
        test=test,
        train=TrainingImages.of(learnt, int(_ROOM * free_bytes())),
        asked=asked,
        extras=extras,
        optimizer=transformation,
        damage=damage,
        folder=None if folder is None else folder / CHECKPOINTS,
        together=None if draws_at_once is None else check_count("draws_at_once", draws_at_once),
    )
    check_job(job)
    with open_recovery(None if folder is None else folder / STORE_NAME, experiment) as store:
        left = len(left_to_do(experiment, store))
        with TrainingProgress(experiment, left) if progress else nullcontext() as bar:
            saving = partial(_save, folder / NETWORKS) if save_networks and folder is not None else None
            listening = replace(
                job,
                on_steps=in_turn(on_steps, None if bar is None else bar.advance),
                on_point=in_turn(on_point),
                on_network=in_turn(on_network, saving),
            )
            run_recovery(listening, store)
        return recovery_of(store, folder)


def weight_change(a: NetworkLike, b: NetworkLike) -> pd.DataFrame:
    """Returns how far apart the weights of two networks of one architecture are, a row for each tensor of each layer.

    Columns: layer, tensor, size, and those of `jaxperturb.recovery.change.Change`, which has their formulas:
    ``z_change`` (mean absolute change in standard deviations of the first network's absolute weights), ``z_score``
    (the same as the authors of Cheney et al. 2017 have it), ``relative_norm`` and ``cosine``.

    Args:
        a: the base: a network, a bundled name, a checkpoint's folder or a weight file.
        b: the other one.

    Raises:
        NetworkError: they are not of one architecture.
        CheckpointError: weights that are not there, or damaged.
    """
    return pd.DataFrame([asdict(change) for change in weight_changes(network_of(a), network_of(b))])


def _with_new_head(network: Network, learnt: Dataset, seed: int) -> tuple[Network, Dataset]:
    """The network with a fresh output layer for the classes of a training set, and that set."""
    shape = prepare(learnt, network.preprocessing, 1).image_shape
    found = replace_head(network, learnt.classes, seed, image_shape=shape)
    return replace(found, name=f"{network.name}-new-head"), learnt


def _measured(network: Network, test: PreparedImages, learnt: PreparedImages) -> dict[str, Any]:
    """What an experiment says of the network and its images."""
    found = test.class_map
    return {
        "network": network.name,
        "dataset": _name(test),
        "train_set": _name(learnt),
        "layers": network.layer_names(test.image_shape),
        "outputs": network.number_of_classes(test.image_shape),
        "weights": fingerprint(network.params),
        "images": test.chain,
        "count": len(test),
        "train_images": training_fingerprint(learnt),
        "scoring": {
            "targets": None if found is None else list(found.targets),
            "restriction": None if found is None or found.restriction is None else list(found.restriction),
            "preprocessing": None if network.preprocessing is None else network.preprocessing.to_json(),
        },
    }


def _of_lesion(
    network: Network,
    asked: Asked | None,
    layers: str | Sequence[str],
    levels: tuple[str, ...],
    lesions: tuple[str, ...],
) -> dict[str, Any]:
    """What an experiment says of the damage that training starts from."""
    if asked is None:
        return {"perturbation": "", "code": None, "levels": (), "targets": ("",), "lesions": (FREE,)}
    targets = parse_targets(network.layer_names(), layers)
    code = source_hash(asked.perturbation.function)
    return {"perturbation": asked.text, "code": code, "levels": levels, "targets": targets, "lesions": lesions}


def _check_progress(asked: Asked | None, grid: object, level: object, lesions: Sequence[str]) -> None:
    if asked is None and (grid is not None or level is not None):
        raise RecoveryError("a level needs a perturbation; give one, or leave the level out")
    if grid is None:
        return
    if level is not None:
        raise LevelError("expected one level or progressive damage, got both")
    if FREE in lesions:
        raise RecoveryError("what progressive damage has removed stays removed; use lesion='held'")


def _levels(asked: Asked | None, grid: str | Sequence[LevelLike] | None, level: LevelLike | None) -> tuple[str, ...]:
    """The levels at which training follows, as canonical texts."""
    if asked is None:
        return ()
    if grid is None:
        found: Sequence[Decimal] = (as_level(DEFAULT_LEVEL if level is None else level),)
    else:
        found = parse_levels(grid) if isinstance(grid, str) else tuple(as_level(one) for one in grid)
        if list(found) != sorted(set(found)) or not found:
            raise LevelError("progressive damage needs levels that grow, such as 0.1:0.9:0.1")
    return tuple(format_level(one) for one in asked.check_levels(found))


def _optimizer(
    given: str | Optimizer | optax.GradientTransformation, steps: int
) -> tuple[dict[str, Any], optax.GradientTransformation]:
    """Its record, and the optimiser itself."""
    if isinstance(given, str):
        given = Optimizer(given)
    if isinstance(given, Optimizer):
        return asdict(given), given.build(steps)
    if not isinstance(given, optax.GradientTransformation):
        raise RecoveryError(f"expected 'sgd', 'adam', an Optimizer or a transformation of optax, got {given!r}")
    return {"name": "given by the caller"}, given


def _check_metric(metric: str | None, outputs: int) -> str:
    name = check_metric(metric, outputs)
    if name not in PLANES:
        raise RecoveryError(f"the metric of a recovery is top1 or top5, not {name}")
    return name


def _name(images: PreparedImages) -> str:
    return f"{images.dataset.name} {images.dataset.split}".strip()


def _save(folder: Path, arm: Arm, network: Network) -> None:
    """Writes a trained network; one that a run left that was stopped here is written again."""
    path = folder / f"{arm.file_name}.safetensors"
    path.unlink(missing_ok=True)
    export_network(network, path, remark=f"trained after damage: {arm.target or 'none'}, {arm.lesion}, draw {arm.draw}")
