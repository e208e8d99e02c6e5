"""Runs a study: what is planned, minus what is stored, goes through the engine into the store."""

import importlib.metadata
import json
import os
import platform
import shlex
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from jaxperturb.data.preprocess import PreparedImages
from jaxperturb.engine import run as engine
from jaxperturb.engine.devices import describe as describe_devices
from jaxperturb.engine.plan import plan
from jaxperturb.engine.run import Part
from jaxperturb.errors import StoreError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.study.extend import differences, merge
from jaxperturb.study.store import INTACT, RunRecord, Store, create_store, open_store
from jaxperturb.study.study import Study
from jaxperturb.types import Outcomes

_VERSIONS = ("jaxperturb", "jax", "jaxlib", "flax", "numpy")


@dataclass(frozen=True)
class Start:
    """What a run is about to compute, for a line at its start and a bar of its progress.

    Attributes:
        study: what is asked of this run.
        cells: cells that are not stored for all images; one that stands for all draws counts once.
        evaluations: passes of one image through one lesioned network that are not stored.
    """

    study: Study
    cells: int
    evaluations: int


def open_study(path: Path | None, study: Study, images: PreparedImages) -> Store:
    """Opens the store of a study, or makes it; what is asked is added to what is there.

    Args:
        path: of the file, or None for a store in memory.
        study: what is asked.
        images: of the study, in its order.

    Raises:
        StoreError: a file that is not a store, or one of another study; each difference is spelt out.
        OutputError: the file cannot be written.
    """
    rows = list(zip(images.positions.tolist(), images.identifiers, images.labels.tolist(), strict=True))
    if path is None or not path.exists():
        return create_store(path, study, rows)
    store = open_store(path)
    try:
        stored = store.study()
        if found := differences(stored, study):
            raise StoreError(
                f"{path} holds another study ({'; '.join(found)}); choose another folder, or ask for what is there"
            )
        store.extend(merge(stored, study), rows)
    except BaseException:
        store.close()
        raise
    return store


def run_study(
    study: Study,
    store: Store,
    network: Network,
    images: PreparedImages,
    asked: Sequence[Asked],
    levels: Mapping[str, tuple[Decimal, ...]],
    *,
    batch_size: int,
    on_start: Callable[[Start], None] | None = None,
    on_part: Callable[[Part], None] | None = None,
    run: Callable[..., Iterator[Part]] = engine.run,
    evaluate: Callable[..., Outcomes] = engine.evaluate_network,
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
        on_start: called once, before anything is computed.
        on_part: called with each part after it was handed to the store.
        run: the engine.
        evaluate: the engine's pass of the intact network alone.
    """
    start = _start(study, store, asked, levels)
    if on_start:
        on_start(start)
    number, outcome = store.begin_run(_record(study)), "failed"
    try:
        if _needs_intact(study, store):
            outcomes = evaluate(network, images, batch_size=batch_size)
            store.add(number, Part(INTACT, 0, study.images, outcomes, 0, 0, "intact"))
        if start.cells:
            parts = run(
                network,
                images,
                asked,
                levels,
                study.targets,
                study.draws,
                study.identity.seed,
                batch_size=batch_size,
                done=store.covers,
            )
            _store_parts(parts, store, number, on_part)
        outcome = "complete"
    except KeyboardInterrupt:
        outcome = "interrupted"
        raise
    finally:
        store.commit()
        store.end_run(number, outcome)


def _start(study: Study, store: Store, asked: Sequence[Asked], levels: Mapping[str, tuple[Decimal, ...]]) -> Start:
    work = plan(asked, levels, study.targets, study.draws)
    cells = [cell for item in work for cell in (*item.intact, *item.cells)]
    missing = [count for cell in cells if (count := store.missing(cell, study.images))]
    return Start(study, len(missing), sum(missing))


def _needs_intact(study: Study, store: Store) -> bool:
    """Whether no level of a curve stands for the intact network, and it is not stored by itself."""
    lacking = any(curve.encodes or curve.no_damage not in curve.levels for curve in study.perturbations)
    return lacking and not store.covers(INTACT, 0, study.images)


def _store_parts(parts: Iterator[Part], store: Store, number: int, on_part: Callable[[Part], None] | None) -> None:
    with closing(parts):  # type: ignore[type-var]  # a generator, or any iterator that can be closed
        for part in parts:
            store.add(number, part)
            if on_part:
                on_part(part)


def _record(study: Study) -> RunRecord:
    versions = {"python": platform.python_version()} | {name: _version(name) for name in _VERSIONS}
    return RunRecord(
        host=socket.gethostname(),
        pid=os.getpid(),
        device=json.dumps(describe_devices(), sort_keys=True, default=str),
        versions=json.dumps(versions),
        command=shlex.join(sys.argv),
        precision=study.identity.precision,
        tiling=json.dumps(study.identity.tiles, sort_keys=True),
        asked=study.to_json(),
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
