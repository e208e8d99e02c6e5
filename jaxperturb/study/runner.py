"""Runs a study: what is planned, minus what is stored, goes through the engine into the store."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path

from absl import logging

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.engine import run as engine
from jaxperturb.engine.plan import INTACT, Cell
from jaxperturb.engine.run import Part
from jaxperturb.errors import StoreError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.study.cost import WHOLE
from jaxperturb.study.extend import differences, merge
from jaxperturb.study.goal import IMAGE_STEP
from jaxperturb.study.looks import decided, missing_images, own_cells
from jaxperturb.study.looks import record as record_looks
from jaxperturb.study.methods import METHOD, methods_of
from jaxperturb.study.planned import Shard, images_of, undecided, work
from jaxperturb.study.provenance import changes, describe_run, device_text
from jaxperturb.study.store import RunRecord, Store, claim_store, create_store, open_store
from jaxperturb.study.study import Study
from jaxperturb.types import Outcomes

_PROBE_IMAGES = 512  # a whole tile of any target


@dataclass(frozen=True)
class Start:
    """What a run is about to compute, for a line at its start and a bar of its progress.

    Attributes:
        study: what is asked of this run.
        shard: the share of its cells that is computed, None for all.
        cells: cells that are not stored for all images; one that stands for all draws counts once.
        evaluations: passes of one image through one lesioned network that are not stored.
        work: what these cost, in multiplications.
        seconds: how long that may take, None where nobody measured.
        device: on what it is computed.
        remarks: what differs from the run before, one line each.
        waiting: number of curves whose first look is among these cells and decides on more of them.
        second: whether this is what the first looks of this run have decided.
    """

    study: Study
    shard: Shard | None
    cells: int
    evaluations: int
    work: int
    seconds: float | None
    device: str
    remarks: tuple[str, ...]
    waiting: int = 0
    second: bool = False


def open_study(path: Path | None, study: Study, images: PreparedImages) -> Store:
    """Opens the store of a study, or makes it; what is asked is added to what is there.

    Args:
        path: of the file, or None for a store in memory.
        study: what is asked.
        images: of the study, in its order.

    Raises:
        StoreError: a file that is not a store, or one of another study; each difference is spelt out.
        StoreInUseError: another run writes it; the message says who, and since when.
        OutputError: the file cannot be written.
    """
    rows = list(zip(images.positions.tolist(), images.identifiers, images.own_labels.tolist(), strict=True))
    if path is None or not path.exists():
        return create_store(path, study, rows)
    store = claim_store(path)
    try:
        stored = _check_same(store, study)
        store.extend(merge(stored, study), rows)
    except BaseException:
        store.close()
        raise
    return store


def preview(
    path: Path | None, study: Study, *, shard: Shard | None = None, pace: Callable[[], float | None] = lambda: None
) -> Start:
    """Returns what a run would compute. Nothing is written.

    Args:
        path: of the store, which need not exist; None for one in memory.
        study: what is asked.
        shard: the share of the cells that is computed, None for all.
        pace: measures seconds per multiplication, or returns None.

    Raises:
        StoreError: a file that is not a store, or one of another study.
    """
    record = describe_run(study, 0, shard)
    with open_store(path) if path is not None and path.exists() else create_store(None, study, []) as store:
        _check_same(store, study)
        return _start(decided(study, store), store, shard, record, pace)


def measure_pace(
    network: Network,
    images: PreparedImages,
    study: Study,
    evaluate: Callable[..., Outcomes] = engine.evaluate_network,
) -> float:
    """Returns seconds per multiplication of this network on this machine, from two passes over a few images."""
    some = images.first(min(_PROBE_IMAGES, len(images)))
    evaluate(network, some, batch_size=_PROBE_IMAGES)  # the first pass compiles
    start = time.perf_counter()
    evaluate(network, some, batch_size=_PROBE_IMAGES)
    return (time.perf_counter() - start) / (len(some) * study.costs[WHOLE])


def run_study(
    study: Study,
    store: Store,
    network: Network,
    images: PreparedImages,
    asked: Sequence[Asked],
    levels: Mapping[str, tuple[Decimal, ...]],
    *,
    batch_size: int,
    shard: Shard | None = None,
    pace: Callable[[], float | None] = lambda: None,
    on_start: Callable[[Start], None] | None = None,
    on_look: Callable[[Start], None] | None = None,
    on_part: Callable[[Part], None] | None = None,
    run: Callable[..., Iterator[Part]] = engine.run,
) -> None:
    """Computes what the store does not hold yet. Whatever ends it, what was computed is stored.

    Args:
        study: what is asked, with its targets, draws and seed.
        store: of this study.
        network: intact.
        images: of the study, in its order.
        asked: the perturbations.
        levels: for the text of each of these.
        batch_size: images per block.
        shard: the share of the cells to compute, None for all.
        pace: measures seconds per multiplication, or returns None.
        on_start: called once, before anything is computed.
        on_look: called once more where a study chooses its draws and images, when they are known.
        on_part: called with each part of a lesion after it was handed to the store.
        run: the engine.
    """
    study = decided(study, store)
    record = describe_run(study, batch_size, shard)
    start = _start(study, store, shard, record, pace)
    if on_start:
        on_start(start)
    number, outcome = store.begin_run(record), "failed"
    images = replace(images, on_skip=functools.partial(store.skip, number))
    for remark in start.remarks:
        store.add_event(number, "environment", remark)
    logging.info("run %d: %d cells to compute, %d evaluations", number, start.cells, start.evaluations)

    task = _Task(number, store, network, images, asked, levels, batch_size, shard, on_part, run)
    try:
        record_looks(study, store)
        task.compute(study)
        if start.waiting:
            study = decided(study, store)
            record_looks(study, store)
            logging.info("run %d: second look: %s", number, study.looks)
            if on_look:
                on_look(replace(_start(study, store, shard, record, pace), second=True))
            task.compute(study)
        outcome = "complete"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        store.commit()
        store.end_run(number, outcome)
        logging.info("run %d: %s", number, outcome)


@dataclass(frozen=True, eq=False)
class _Task:
    """What is the same for all that one run computes."""

    number: int
    store: Store
    network: Network
    images: PreparedImages
    asked: Sequence[Asked]
    levels: Mapping[str, tuple[Decimal, ...]]
    batch_size: int
    shard: Shard | None
    on_part: Callable[[Part], None] | None
    run: Callable[..., Iterator[Part]]

    def compute(self, study: Study) -> None:
        """Computes what is known to be needed, and not stored."""
        own = own_cells(study, self.shard)
        images = _needed_images(study, self.images, own)
        intact = _needs_intact(study, self.store, len(images))
        if intact or missing_images(study, self.store, own):
            parts = _within(study, self._parts(study, own, images, intact))
            _store_parts(parts, self.store, self.number, self.on_part)

    def _parts(self, study: Study, own: Sequence[Cell], images: PreparedImages, intact: bool) -> Iterator[Part]:
        return self.run(
            self.network,
            images,
            self.asked,
            self.levels,
            study.targets,
            max((cell.draw for cell in own), default=0) + 1,
            study.identity.seed,
            batch_size=self.batch_size if study.goal is None else min(self.batch_size, IMAGE_STEP),
            done=_is_done(self.store, {cell: images_of(study, cell) for cell in own} | {INTACT: len(images)}),
            intact=intact,
            on_event=lambda kind, text: _note(self.store, self.number, kind, text),
        )


def _needed_images(study: Study, images: PreparedImages, own: Sequence[Cell]) -> PreparedImages:
    """Returns the images that any cell needs, or the first ones where a share has no cell."""
    if study.goal is None:
        return images
    most = max((images_of(study, cell) for cell in own), default=study.goal.first_images)
    return replace(images.first(most), on_skip=images.on_skip)


def _is_done(store: Store, needed: Mapping[Cell, int]) -> Callable[[Cell, int, int], bool]:
    """Returns what tells the engine that images of a cell are there already, or are not to be computed.

    Args:
        store: of the study.
        needed: images of each cell.
    """

    def done(cell: Cell, first: int, last: int) -> bool:
        most = needed.get(cell, 0)
        return first >= most or store.covers(cell, first, min(last, most))

    return done


def _within(study: Study, parts: Iterator[Part]) -> Iterator[Part]:
    """Yields parts without the images that a block has beyond those that a cell needs."""
    with closing(parts):  # type: ignore[type-var]  # a generator, or any iterator that can be closed
        for part in parts:
            stop = part.stop if part.cell == INTACT else min(part.stop, images_of(study, part.cell))
            yield (
                part if stop == part.stop else replace(part, stop=stop, outcomes=part.outcomes[:, : stop - part.start])
            )


def _note(store: Store, number: int, kind: str, text: str) -> None:
    """Logs and records what the engine says of a run; how it computes a target once, however often it is asked to."""
    logging.info("run %d: %s: %s", number, kind, text)
    if kind != METHOD or text not in methods_of(store.events(), number):
        store.add_event(number, kind, text)


def _check_same(store: Store, study: Study) -> Study:
    """Returns what a store was asked before, or refuses to add another study to it."""
    stored = store.study()
    if found := differences(stored, study):
        raise StoreError(
            f"{store.name} holds another study ({'; '.join(found)}); choose another folder, or ask for what is there"
        )
    return stored


def _start(
    study: Study, store: Store, shard: Shard | None, record: RunRecord, pace: Callable[[], float | None]
) -> Start:
    own = own_cells(study, shard)
    missing = missing_images(study, store, own)
    left = sum(work(study, cell, images) for cell, images in missing.items())
    measured = pace() if missing else None
    keys = {(cell.perturbation, cell.target) for cell in own}
    return Start(
        study,
        shard,
        len(missing),
        sum(missing.values()),
        left,
        None if measured is None else left * measured,
        device_text(record),
        tuple(changes(runs[-1].record, record) if (runs := store.runs()) else ()),
        sum((curve.text, target) in keys for curve, target in undecided(study)),
    )


def _needs_intact(study: Study, store: Store, images: int) -> bool:
    """Whether no level of a curve stands for the intact network, and it is not stored by itself."""
    lacking = any(curve.encodes or curve.no_damage not in curve.levels for curve in study.perturbations)
    return lacking and not store.covers(INTACT, 0, images)


def _store_parts(parts: Iterator[Part], store: Store, number: int, on_part: Callable[[Part], None] | None) -> None:
    with closing(parts):  # type: ignore[type-var]  # a generator, or any iterator that can be closed
        for part in parts:
            store.add(number, part)
            if on_part and part.cell != INTACT:
                on_part(part)
