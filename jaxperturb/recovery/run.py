"""Runs a recovery: what is asked, minus what is stored, is damaged, trained and evaluated, arm by arm."""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import optax
from jaxtyping import Bool

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.engine.run import PLANES as ENGINE_PLANES
from jaxperturb.engine.run import evaluate_network
from jaxperturb.errors import DivergedError, ImageError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.recovery.batches import TrainingImages
from jaxperturb.recovery.change import changes_since
from jaxperturb.recovery.experiment import HELD, Arm, Experiment
from jaxperturb.recovery.injury import Injury, grown, injure
from jaxperturb.recovery.keeping import read_state, remove_state, write_state
from jaxperturb.recovery.learning import check_learns, learning_leaves
from jaxperturb.recovery.passing import FreshDamage
from jaxperturb.recovery.step import Arrays, Copy, Recipe, state_arrays, with_state
from jaxperturb.recovery.store import AT_ONCE, INTACT, PLANES, Kept, Point, RecoveryStore
from jaxperturb.recovery.training import Training, copies_at_once
from jaxperturb.types import Params

CHECKPOINT_SECONDS = 60.0  # at least, between two states that are kept: what a kill may cost
_ROWS = [ENGINE_PLANES.index(name) for name in PLANES]


@dataclass(frozen=True, eq=False)
class Job:
    """A recovery with the things themselves.

    Attributes:
        experiment: what is asked.
        network: intact.
        test: images that the network is evaluated on.
        train: images that it learns from.
        asked: the perturbation, None where nothing is damaged at the start.
        extras: what it takes from images, by target.
        optimizer: of optax.
        damage: drawn anew in every step, or None.
        folder: where states of unfinished trainings are kept; None keeps none.
        together: copies that are trained at once, None for what fits.
        on_steps: called with the number of steps that were made, times copies.
        on_point: called with each point when it is stored.
        on_network: called with each arm and its network at the end.
        checkpoint_seconds: between two states that are kept, at least.
    """

    experiment: Experiment
    network: Network
    test: PreparedImages
    train: TrainingImages
    asked: Asked | None
    extras: Mapping[str, Mapping[str, Any]]
    optimizer: optax.GradientTransformation
    damage: FreshDamage | None
    folder: Path | None
    together: int | None = None
    on_steps: Callable[[int], None] = lambda _: None
    on_point: Callable[[Point], None] = lambda _: None
    on_network: Callable[[Arm, Network], None] = lambda *_: None
    checkpoint_seconds: float = CHECKPOINT_SECONDS


@dataclass(frozen=True, eq=False)
class _Group:
    """Arms of one target and lesion that are trained together."""

    job: Job
    store: RecoveryStore
    arms: Sequence[Arm]
    learning: tuple[int, ...]
    training: Training
    evaluate: Callable[[Params], Bool[np.ndarray, "p n"]]

    @property
    def held(self) -> bool:
        return self.arms[0].lesion == HELD

    def injuries(self, level: str) -> list[Injury]:
        return [_injury(self.job, arm.target, level, arm.draw) for arm in self.arms]

    def trees(self, copies: Sequence[Copy], shared: Arrays) -> list[Params]:
        return [self.training.recipe.tree(copy.own, copy.fixed, shared) for copy in copies]

    def folder(self, arm: Arm) -> Path | None:
        return None if self.job.folder is None else self.job.folder / arm.file_name


def left_to_do(experiment: Experiment, store: RecoveryStore) -> list[Arm]:
    """Returns the arms whose training has not ended."""
    done = store.finished()
    return [arm for _, _, arms in experiment.arms() for arm in arms if arm not in done]


def check_job(job: Job) -> None:
    """Refuses, before anything is computed, a recovery in which an arm cannot learn.

    Raises:
        RecoveryError: nothing learns, or nothing that learns can change.
        LayerError: a pattern that matches no layer.
    """
    experiment = job.experiment
    for target in experiment.targets:
        learning = learning_leaves(job.network, experiment.train, target)
        if job.asked is None:
            continue
        for level in experiment.stages:
            injury = _injury(job, target, level, 0)
            what = f"{job.asked.text} of {target} at level {level}"
            for lesion in experiment.lesions:
                check_learns(injury, learning, experiment.train, lesion == HELD, what)


def run_recovery(job: Job, store: RecoveryStore) -> None:
    """Computes what the store does not hold yet.

    Raises:
        DivergedError: a loss is not finite; the state before is kept.
    """
    evaluate = _evaluator(job, store)
    left = set(left_to_do(job.experiment, store))
    for target, _, arms in job.experiment.arms():
        todo = [arm for arm in arms if arm in left]
        for some in _groups(job, store, todo):
            _train_group(_group(job, store, target, some, evaluate))


def _group(job: Job, store: RecoveryStore, target: str, arms: Sequence[Arm], evaluate: Callable[..., Any]) -> _Group:
    asked = job.experiment
    recipe = Recipe.of(job.network, job.optimizer, job.damage, asked.dropout)
    training = Training(recipe, job.train, asked.seed, asked.batch_size, asked.augment, job.on_steps)
    return _Group(job, store, arms, learning_leaves(job.network, asked.train, target), training, evaluate)


def _groups(job: Job, store: RecoveryStore, todo: Sequence[Arm]) -> Iterator[Sequence[Arm]]:
    """Arms that stand at the same step, as many as are trained together."""
    if not todo:
        return
    most = job.together or copies_at_once(job.network, job.test.image_shape, job.experiment.batch_size, len(todo))

    def place(arm: Arm) -> tuple[int, int]:
        kept = store.checkpoint(arm)
        return (-1, 0) if kept is None else (job.experiment.stages.index(kept.level), kept.step)

    for _, some in itertools.groupby(sorted(todo, key=place, reverse=True), place):
        arms = sorted(some, key=lambda arm: arm.draw)
        yield from (arms[first : first + most] for first in range(0, len(arms), most))


def _train_group(group: _Group) -> None:
    job, stages = group.job, group.job.experiment.stages
    kept = group.store.checkpoint(group.arms[0])
    first = 0 if kept is None else stages.index(kept.level)
    beginning = group.injuries(stages[0])
    shared = group.training.recipe.shared(job.network, group.learning, beginning[0])
    copies: list[Copy] = []
    for number, level in enumerate(stages[first:], first):
        injuries = beginning if number == 0 else group.injuries(level)
        resumed = number == first and kept is not None
        trained = group.trees(copies, shared) if copies else [None] * len(injuries)
        copies = [_start(group, injury, tree) for injury, tree in zip(injuries, trained, strict=True)]
        step = 0
        if resumed and kept is not None:
            copies, step = _resumed(group, copies), kept.step
        else:
            _begin_stage(group, level, copies, shared, injuries)
        copies = _train_stage(group, number, copies, shared, step)
    for arm, copy, injury in zip(group.arms, copies, beginning, strict=True):
        (tree,) = group.trees([copy], shared)
        job.on_network(arm, replace(job.network, params=tree))
        group.store.finish(arm, changes_since(job.network, injury.params, tree))
        if (folder := group.folder(arm)) is not None:
            remove_state(folder)


def _train_stage(group: _Group, number: int, copies: list[Copy], shared: Arrays, step: int) -> list[Copy]:
    """Trains from one point to the next; what is known to be good is kept when something ends it."""
    experiment, draws = group.job.experiment, [arm.draw for arm in group.arms]
    level, before, saved = experiment.stages[number], number * experiment.steps, time.monotonic()
    good = step
    try:
        for stop in (point for point in experiment.points() if point > step):
            copies, losses = group.training.advance(copies, shared, draws, before + good, before + stop)
            _add_points(group, level, stop, group.trees(copies, shared), losses)
            good = stop
            if time.monotonic() - saved >= group.job.checkpoint_seconds and stop < experiment.steps:
                _keep(group, level, good, copies)
                saved = time.monotonic()
    except DivergedError as error:
        where = _keep(group, level, good, copies)
        arm = group.arms[0]
        raise DivergedError(
            f"{arm.target or experiment.network} ({arm.lesion}): {error}; lower the learning rate; {where}"
        ) from None
    except KeyboardInterrupt:
        _keep(group, level, good, copies)
        raise
    return copies


def _begin_stage(group: _Group, level: str, copies: Sequence[Copy], shared: Arrays, injuries: Sequence[Injury]) -> None:
    nothing = np.full(len(copies), np.nan)
    _add_points(group, level, 0, group.trees(copies, shared), nothing)
    if len(group.job.experiment.stages) > 1:
        _add_points(group, level, AT_ONCE, [injury.params for injury in injuries], nothing)


def _start(group: _Group, injury: Injury, trained: Params | None) -> Copy:
    params = None if trained is None else grown(trained, injury)
    return group.training.recipe.start(injury, group.learning, group.held, params)


def _resumed(group: _Group, copies: Sequence[Copy]) -> list[Copy]:
    found = []
    for arm, copy in zip(group.arms, copies, strict=True):
        kept = group.store.checkpoint(arm)
        assert kept is not None
        assert group.job.folder is not None
        found.append(with_state(copy, read_state(group.job.folder / kept.folder)))
    return found


def _keep(group: _Group, level: str, step: int, copies: Sequence[Copy]) -> str:
    """Writes the state of each copy, notes where it is, removes the one before, and says so."""
    if group.job.folder is None:
        return "nothing is kept without a folder"
    notes, old = [], [group.store.checkpoint(arm) for arm in group.arms]
    for arm, copy in zip(group.arms, copies, strict=True):
        folder = group.folder(arm)
        assert folder is not None
        place = folder / f"level{level or '0'}-step{step}"
        write_state(place, state_arrays(copy))
        notes.append(Kept(level, step, str(place.relative_to(group.job.folder))))
    group.store.keep(group.arms, notes)
    for before, now in zip(old, notes, strict=True):
        if before is not None and before.folder != now.folder:
            remove_state(group.job.folder / before.folder)
    return f"the state at step {step} is kept in {group.job.folder / notes[0].folder}"


def _add_points(group: _Group, level: str, step: int, trees: Sequence[Params], losses: np.ndarray) -> None:
    points = [
        Point(arm, level, step, float(loss), group.evaluate(tree))
        for arm, tree, loss in zip(group.arms, trees, losses, strict=True)
    ]
    group.store.add_points(points)
    for point in points:
        group.job.on_point(point)


def _evaluator(job: Job, store: RecoveryStore) -> Callable[[Params], Bool[np.ndarray, "p n"]]:
    """Evaluates the intact network, and returns what evaluates others on the images that could be read."""
    skipped: dict[int, str] = {}
    test, size = replace(job.test, on_skip=skipped.__setitem__), max(1, min(len(job.test), 1000))
    planes = evaluate_network(job.network, test, batch_size=size)
    read = np.setdiff1d(np.arange(len(test)), list(skipped))
    if not read.size:
        raise ImageError(f"none of the {len(test)} test images can be read; the first: {skipped[0]}")
    point = Point(INTACT, "", 0, float("nan"), planes[_ROWS][:, read])
    store.add_points([point])
    job.on_point(point)

    def evaluate(params: Params) -> Bool[np.ndarray, "p n"]:
        return evaluate_network(replace(job.network, params=params), test, batch_size=size)[_ROWS][:, read]

    return evaluate


def _injury(job: Job, target: str, level: str, draw: int) -> Injury:
    if job.asked is None:
        return Injury(job.network.params, {})
    extras = job.extras.get(target, {})
    return injure(job.network, job.asked, target, Decimal(level), draw, job.experiment.seed, extras)
