"""Cells and parts as rows of a store, and which images they cover."""

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from jaxperturb.engine.plan import Cell
from jaxperturb.engine.run import PLANES, Part
from jaxperturb.levels import as_level, format_level

CELL_COLUMNS = "perturbation, target, level, draw"

CellKey = tuple[str, str, str, int]


@dataclass(frozen=True)
class CellCounts:
    """A stored cell: on how many images, and for how many of them each plane of outcomes is true.

    Attributes:
        cell: what was done; draw 0 where one draw stands for all.
        images: number of images.
        counts: for each of `PLANES`, number of images.
        selected: entries of the weights that were chosen, None where not known.
        changed: entries of the weights whose value changed, None where not known.
        shortcut: why one draw stands for all, empty for a cell of one draw.
    """

    cell: Cell
    images: int
    counts: Mapping[str, int]
    selected: int | None
    changed: int | None
    shortcut: str


@dataclass(frozen=True)
class RunRecord:
    """Who computes: provenance of one run, its tables as JSON text."""

    host: str
    pid: int
    device: str
    versions: str
    command: str
    precision: str
    tiling: str
    asked: str


@dataclass(frozen=True)
class StoredRun:
    """A run as it stands in the store.

    Attributes:
        number: of the run.
        record: who computed.
        started: ISO 8601 text in UTC.
        ended: the same, None for a run that is running or was killed.
        outcome: "running" (or killed), "complete", "interrupted" or "failed".
        images: by target, images through lesioned networks that this run computed.
    """

    number: int
    record: RunRecord
    started: str
    ended: str | None
    outcome: str
    images: Mapping[str, int]


def key_of(cell: Cell) -> CellKey:
    """Returns what identifies a cell in the tables."""
    return cell.perturbation, cell.target, format_level(cell.level), cell.draw


def cell_of(key: Sequence) -> Cell:
    """Returns the cell of a row."""
    perturbation, target, level, draw = key
    return Cell(perturbation, target, as_level(level), draw)


def insert_images(connection: sqlite3.Connection, images: Sequence[tuple[int, str, int]]) -> None:
    """Adds the images that are not there yet: index in the data set, identifier and label, in the study's order."""
    rows = [(position, *image) for position, image in enumerate(images)]
    connection.executemany("INSERT OR IGNORE INTO image VALUES (?, ?, ?, ?)", rows)


def insert_part(connection: sqlite3.Connection, run: int, part: Part) -> None:
    """Adds a part, and its cell where that is new."""
    found = connection.execute(
        f"INSERT INTO cell ({CELL_COLUMNS}, selected, changed, shortcut) VALUES (?, ?, ?, ?, ?, ?, ?) "
        f"ON CONFLICT ({CELL_COLUMNS}) DO UPDATE SET draw = draw RETURNING id",
        (*key_of(part.cell), part.selected, part.changed, part.shortcut),
    ).fetchone()
    counts = [int(plane.sum()) for plane in part.outcomes]
    planes = np.packbits(part.outcomes, axis=1).tobytes()
    connection.execute(
        # An interrupt between a commit and the note that it was made lets the same parts come a second time.
        f"INSERT INTO part (cell, run, start, stop, {', '.join(PLANES)}, planes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (cell, start) DO NOTHING",
        (found[0], run, part.start, part.stop, *counts, planes),
    )


def stored_ranges(connection: sqlite3.Connection) -> dict[CellKey, list[tuple[int, int]]]:
    """Returns which images each stored cell covers, as pairs (start, stop) in the study's order."""
    ranges: dict[CellKey, list[tuple[int, int]]] = {}
    for *key, start, stop in connection.execute(
        f"SELECT {CELL_COLUMNS}, start, stop FROM part JOIN cell ON part.cell = cell.id"
    ):
        ranges.setdefault((key[0], key[1], key[2], key[3]), []).append((start, stop))
    return ranges


def gaps(ranges: Sequence[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """Returns the pieces of start to stop that no range covers."""
    pieces, at = [], start
    for low, high in sorted(ranges):
        if high <= at or low >= stop:
            continue
        if low > at:
            pieces.append((at, low))
        at = high
    return [*pieces, (at, stop)] if at < stop else pieces
