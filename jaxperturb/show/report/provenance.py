"""Where the numbers of a report come from: runs, fingerprints, and the command that repeats the study."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxperturb.show.outcomes import reading
from jaxperturb.show.results import Results
from jaxperturb.study.planned import images_of, planned_cells, undecided, with_certain_levels
from jaxperturb.study.rows import StoredRun

_CONFIG = "config.json"


@dataclass(frozen=True)
class Origin:
    """What a store says of how it came to be.

    Attributes:
        runs: all, the first one first.
        events: of a run, with its time: what was skipped, or went another way.
        done: cells that are stored for all their images.
        planned: cells that are decided on; one that stands for all draws counts once.
        complete: whether these are all, and all are there.
    """

    runs: Sequence[StoredRun]
    events: Sequence[tuple[str, str, str]]
    done: int
    planned: int
    complete: bool


def read_origin(results: Results) -> Origin:
    """Reads it from the store that the results are of."""
    with reading(results.source) as store:
        study = with_certain_levels(store.study(), store.cells())
        cells = planned_cells(study)
        done = sum(not store.missing(cell, images_of(study, cell)) for cell in cells)
        events = [event[1:] for event in store.events()]
        return Origin(store.runs(), events, done, len(cells), done == len(cells) and not undecided(study))


def repeating_command(results: Results, runs: Sequence[StoredRun]) -> str:
    """Returns the command that repeats the study: of the record beside its store, else that of the last run."""
    flags = None if not isinstance(results.source, Path) else _recorded_flags(results.source.parent / _CONFIG)
    if flags is not None:
        return shlex.join(["jaxperturb", "sweep", *(f"--{name}={_value(value)}" for name, value in flags.items())])
    return runs[-1].record.command if runs else "jaxperturb sweep"


def fingerprints(results: Results) -> list[tuple[str, str]]:
    """Returns what tells this study from another one, by name."""
    study, identity = results.study, results.study.identity
    own = [(f"source file of {curve.text}", curve.code) for curve in study.perturbations if curve.code]
    return [
        (f"weights of {study.network}", identity.weights),
        (f"images of {study.dataset} {study.split}".strip(), identity.images[-1]),
        *own,
        ("random numbers", f"version {identity.semantics}, seed {identity.seed}"),
        ("precision", identity.precision),
        ("tiles", json.dumps(dict(identity.tiles))),
    ]


def _recorded_flags(path: Path) -> dict[str, object] | None:
    """Returns the flags of a study's record, None where there is none that can be read."""
    try:
        flags = json.loads(path.read_text(encoding="utf-8"))["flags"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return flags if isinstance(flags, dict) else None


def _value(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
