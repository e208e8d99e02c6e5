"""The second look: what the first draws and images of a curve say of how many it needs.

The decision is a pure function of the outcomes of the first look, so a run that was killed, a share of the study or
another machine comes to the same one; and once it is recorded in the store, nothing changes it.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from jaxperturb.engine.plan import INTACT, Cell
from jaxperturb.engine.run import PLANES
from jaxperturb.errors import StudyError
from jaxperturb.levels import as_level
from jaxperturb.stats.balance import class_weights
from jaxperturb.stats.components import Components, components, cross
from jaxperturb.stats.curves import LevelCurve, relative_at
from jaxperturb.stats.planning import second_design
from jaxperturb.study.extend import merge
from jaxperturb.study.goal import IMAGE_STEP, Goal, Look, joined_looks
from jaxperturb.study.planned import Shard, images_of, planned_cells, share, undecided
from jaxperturb.study.store import Store
from jaxperturb.study.study import Curve, Study

_PLANE = {"top1": "top1", "top5": "top5", "balanced": "top1"}


def decided(study: Study, store: Store) -> Study:
    """Returns the study with what its store has recorded, and what the first looks in it say of more curves."""
    goal = study.goal
    if goal is None:
        return study
    recorded = store.study()
    known = joined_looks(recorded.looks, study.looks) if recorded.goal == goal else study.looks
    study = replace(study, looks=known)
    found = [look for curve, target in undecided(study) if (look := _look(study, goal, store, curve, target))]
    return replace(study, looks=joined_looks(known, found))


def record(study: Study, store: Store) -> None:
    """Writes what was decided into the store."""
    stored = store.study()
    if study.goal is not None and set(study.looks) - set(stored.looks):
        store.extend(merge(stored, study), [])


def own_cells(study: Study, shard: Shard | None) -> tuple[Cell, ...]:
    """Returns the cells of a share of the study, in the engine's order; all where there are no shares."""
    cells = planned_cells(study)
    if shard is None:
        return cells
    own = share(study, shard)
    return tuple(cell for cell in cells if cell in own)


def missing_images(study: Study, store: Store, cells: Sequence[Cell]) -> dict[Cell, int]:
    """Returns the cells that are not stored for all images that they need, with the number of those that lack."""
    return {cell: lacking for cell in cells if (lacking := store.missing(cell, images_of(study, cell)))}


def _look(study: Study, goal: Goal, store: Store, curve: Curve, target: str) -> Look | None:
    """Returns what the first look says of a curve, None where that is not all there yet."""
    cells = planned_cells(replace(study, perturbations=(curve,), targets=(target,), looks=()))
    reference = Cell(curve.text, target, as_level(curve.no_damage), 0) if curve.no_damage in curve.levels else INTACT
    needed = (*cells, reference) if goal.of == "relative" else cells
    if any(store.missing(cell, goal.first_images) for cell in needed):
        return None
    by_level: dict[str, list[np.ndarray]] = {}
    for cell in cells:
        by_level.setdefault(str(cell.level), []).append(_right(store, cell, goal))
    draws_matter = any(len(some) > 1 for some in by_level.values())
    columns = _columns(study, goal, store, [*by_level.values()], reference, goal.draws if draws_matter else 1)
    found = second_design(
        columns,
        goal.half_width,
        draws=goal.draws if draws_matter else 1,
        images=goal.first_images,
        max_draws=goal.max_draws if draws_matter else 1,
        max_images=goal.images,
        step=IMAGE_STEP,
        draws_matter=draws_matter,
    )
    return Look(curve.text, target, found.draws, found.images, sum(found.expected))


def _columns(
    study: Study, goal: Goal, store: Store, levels: Sequence[Sequence[np.ndarray]], reference: Cell, draws: int
) -> list[Components]:
    """Returns the components of what is wanted at each level."""
    if goal.of == "relative":
        levels = [*levels, [_right(store, reference, goal)]]
    outcomes = np.stack([np.stack(some if len(some) == draws else [some[0]] * draws) for some in levels])
    if outcomes.shape[2] < 2:
        raise StudyError(f"half_width needs 2 images or more that can be read, among the first {goal.first_images}")
    crossed = cross(outcomes, _weights(study, goal, store))
    unit = np.eye(len(levels))
    if goal.of == "accuracy":
        return [components(crossed, one) for one in unit]
    curve = LevelCurve(np.arange(len(levels) - 1.0), crossed, chance=0.0)
    return [components(crossed, relative_at(curve, one).weights) for one in unit[:-1, :-1]]


def _right(store: Store, cell: Cell, goal: Goal) -> np.ndarray:
    positions, planes = store.outcomes(cell)
    return planes[PLANES.index(_PLANE[goal.metric])][positions < goal.first_images]


def _weights(study: Study, goal: Goal, store: Store) -> np.ndarray | None:
    if goal.metric != "balanced":
        return None
    own = np.array([label for _, _, label in store.images()[: goal.first_images]])
    targets = study.identity.class_map
    labels = own if targets is None else np.asarray(targets)[own]
    kept = np.delete(labels, [position for position in store.skipped() if position < goal.first_images])
    return class_weights(kept) * len(kept)
