"""One SQLite file per study: what was asked, who ran it, and the outcome of every cell on every image.

A part is written whole or not at all, no later than 10 seconds after it was computed. The file keeps a rollback
journal and full synchronisation, so that a killed run loses nothing that was written.
"""

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from jaxperturb.engine.plan import Cell
from jaxperturb.engine.run import PLANES, Part
from jaxperturb.errors import OutputError, StoreError, StudyError
from jaxperturb.levels import as_level, format_level
from jaxperturb.study.database import check_header, connect, sqlite_errors
from jaxperturb.study.schema import migrate, now
from jaxperturb.study.study import Study
from jaxperturb.types import Outcomes

COMMIT_SECONDS = 10.0
INTACT = Cell("", "", as_level(0), 0)  # the network by itself, kept where no cell of a study is undamaged
_CELL = "perturbation, target, level, draw"

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


class Store:
    """An open store. It has one writer; `add` and `commit` may be called from any thread.

    Use `create_store` or `open_store`, and `close` it or use it in a ``with`` statement.
    """

    def __init__(self, connection: sqlite3.Connection, name: str) -> None:
        """Takes a connection in autocommit mode to a file with the newest schema, and its name for messages."""
        self.name = name
        self._connection = connection
        self._lock = threading.RLock()
        self._pending: list[tuple[int, Part]] = []
        self._timer: threading.Timer | None = None
        self._failure: Exception | None = None
        with sqlite_errors(name):
            self._ranges = _stored_ranges(connection)
        # A store in memory lives as long as the results that read it; nobody closes it by hand.
        self._finalizer = weakref.finalize(self, connection.close)

    def __enter__(self) -> "Store":
        """Returns the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the store."""
        self.close()

    def study(self) -> Study:
        """Returns what all runs together were asked."""
        ((text,),) = self._rows("SELECT asked FROM study")
        try:
            return Study.from_json(text)
        except StudyError as error:
            raise StoreError(f"{self.name} is damaged: {error}") from error

    def images(self) -> list[tuple[int, str, int]]:
        """Returns index in the data set, identifier and label of each image, in the study's order."""
        return self._rows("SELECT data_index, identifier, label FROM image ORDER BY position")

    def extend(self, study: Study, images: Sequence[tuple[int, str, int]]) -> None:
        """Replaces what was asked by a study that contains it, and adds the images that are new."""
        with self._transaction():
            self._connection.execute("UPDATE study SET asked = ?", (study.to_json(),))
            _insert_images(self._connection, images)

    def begin_run(self, record: RunRecord) -> int:
        """Records the start of a run and returns its number."""
        fields = {"started": now(), **vars(record)}
        marks = ", ".join("?" * len(fields))
        with self._transaction():
            cursor = self._connection.execute(
                f"INSERT INTO run ({', '.join(fields)}) VALUES ({marks})", tuple(fields.values())
            )
        return cursor.lastrowid or 0

    def end_run(self, run: int, outcome: str) -> None:
        """Records the end of a run: "complete", "interrupted" or "failed"."""
        with self._transaction():
            self._connection.execute("UPDATE run SET ended = ?, outcome = ? WHERE id = ?", (now(), outcome, run))

    def add_event(self, run: int | None, kind: str, text: str) -> None:
        """Records something that a reader of the results should know."""
        with self._transaction():
            self._connection.execute(
                "INSERT INTO event (run, time, kind, text) VALUES (?, ?, ?, ?)", (run, now(), kind, text)
            )

    def covers(self, cell: Cell, start: int, stop: int) -> bool:
        """Returns whether the outcomes of a cell are there for all images from start to stop (without stop)."""
        with self._lock:
            return not _gaps(self._ranges.get(_key(cell), []), start, stop)

    def missing(self, cell: Cell, images: int) -> int:
        """Returns for how many of the first images of the study's order a cell is not stored."""
        with self._lock:
            return sum(stop - start for start, stop in _gaps(self._ranges.get(_key(cell), []), 0, images))

    def add(self, run: int, part: Part) -> None:
        """Takes a part, without what is there of it already; it is on the disk within 10 seconds.

        Raises:
            StoreError: outcomes of another shape than the part's range.
            OutputError: an earlier part could not be written.
        """
        if part.outcomes.shape != (len(PLANES), part.stop - part.start) or part.outcomes.dtype != bool:
            raise StoreError(
                f"expected outcomes of shape {(len(PLANES), part.stop - part.start)} and type bool for images "
                f"{part.start} to {part.stop}, got {part.outcomes.shape} {part.outcomes.dtype}"
            )
        with self._lock:
            self._raise_failure()
            ranges = self._ranges.setdefault(_key(part.cell), [])
            for start, stop in _gaps(ranges, part.start, part.stop):
                outcomes = part.outcomes[:, start - part.start : stop - part.start]
                self._pending.append((run, replace(part, start=start, stop=stop, outcomes=outcomes)))
                ranges.append((start, stop))
            if self._pending and self._timer is None:
                self._timer = threading.Timer(COMMIT_SECONDS, self._commit_in_time)
                self._timer.daemon = True
                self._timer.start()

    def commit(self) -> None:
        """Writes all parts that were taken."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._raise_failure()
            if not self._pending:
                return
            with self._transaction():
                for run, part in self._pending:
                    _insert_part(self._connection, run, part)
            self._pending = []

    def cells(self) -> list[CellCounts]:
        """Returns all stored cells with their counts, in the order in which they were first stored."""
        self.commit()
        sums = ", ".join(f"SUM(part.{plane})" for plane in PLANES)
        rows = self._rows(
            f"SELECT {_CELL}, selected, changed, shortcut, SUM(stop - start), {sums} "
            "FROM cell JOIN part ON part.cell = cell.id GROUP BY cell.id ORDER BY cell.id"
        )
        return [
            CellCounts(_cell(row[:4]), row[7], dict(zip(PLANES, row[8:], strict=True)), row[4], row[5], row[6])
            for row in rows
        ]

    def outcomes(self, cell: Cell) -> tuple[np.ndarray, Outcomes]:
        """Returns the outcomes of one stored cell.

        Returns:
            Positions in the study's order (ascending, one per image), and the planes in the order of `PLANES`, for
            each of these images.

        Raises:
            StoreError: a cell that is not stored, or outcomes that do not add up to their counts.
        """
        self.commit()
        rows = self._rows(
            f"SELECT start, stop, planes, part.id, {', '.join(PLANES)} FROM part JOIN cell ON part.cell = cell.id "
            "WHERE perturbation = ? AND target = ? AND level = ? AND draw = ? ORDER BY start",
            _key(cell),
        )
        if not rows:
            raise StoreError(f"{self.name} has no cell {_key(cell)}")
        positions = np.concatenate([np.arange(start, stop) for start, stop, *_ in rows])
        planes = [self._unpack(stop - start, *row) for start, stop, *row in rows]
        return positions, np.concatenate(planes, axis=1)

    def check(self) -> None:
        """Checks the whole file.

        Raises:
            StoreError: pages that are damaged, or outcomes that do not add up to their counts.
        """
        ((verdict,),) = self._rows("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise StoreError(f"{self.name} is damaged: {' '.join(str(verdict).split())}; restore it from a copy")
        query = f"SELECT stop - start, planes, id, {', '.join(PLANES)} FROM part"
        with self._lock, sqlite_errors(self.name):
            for row in self._connection.execute(query):
                self._unpack(*row)

    def close(self) -> None:
        """Writes what was taken and closes the file."""
        try:
            if self._finalizer.alive:
                self.commit()
        finally:
            self._finalizer()

    def _commit_in_time(self) -> None:
        try:
            self.commit()
        except (OutputError, StoreError) as error:  # told by the next add or commit: a timer has nobody to tell
            self._failure = error

    def _raise_failure(self) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            raise failure

    def _unpack(self, images: int, planes: bytes, part: int, *counts: int) -> Outcomes:
        if len(planes) == len(PLANES) * -(-images // 8):
            packed = np.frombuffer(planes, np.uint8).reshape(len(PLANES), -1)
            outcomes = np.unpackbits(packed, axis=1, count=images).astype(bool)
            if outcomes.sum(axis=1).tolist() == list(counts):
                return outcomes
        raise StoreError(f"{self.name} is damaged: the outcomes of part {part} do not add up to their counts")

    def _rows(self, query: str, values: Sequence[object] = ()) -> list:
        with self._lock, sqlite_errors(self.name):
            return self._connection.execute(query, tuple(values)).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, sqlite_errors(self.name):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:  # SQLite has rolled back by itself after some errors
                    self._connection.execute("ROLLBACK")
                raise


def create_store(path: Path | None, study: Study, images: Sequence[tuple[int, str, int]]) -> Store:
    """Makes a new store, in memory when there is no path.

    The file appears under its name only when it is whole.

    Args:
        path: where; its folder exists.
        study: what is asked.
        images: index in the data set, identifier and label of each image, in the study's order.

    Raises:
        OutputError: the file cannot be written.
    """
    name = "the store in memory" if path is None else str(path)
    draft = None if path is None else path.with_name(f".{path.name}.{os.getpid()}.new")
    if draft is not None:  # of a killed process that had this number
        draft.unlink(missing_ok=True)
        draft.with_name(f"{draft.name}-journal").unlink(missing_ok=True)
    with sqlite_errors(name):
        connection = connect(":memory:" if draft is None else str(draft))
        try:
            _write_study(connection, study, images, name)
        except BaseException:
            connection.close()
            if draft is not None:
                draft.unlink(missing_ok=True)
            raise
    if path is None or draft is None:
        return Store(connection, name)
    connection.close()
    try:
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    return open_store(path)


def open_store(path: Path, *, check: bool = True) -> Store:
    """Opens a store that is there, brings it to the newest schema and checks it.

    A file that may not be written is read, and can take no parts.

    Args:
        path: of the file.
        check: whether to read the whole file for damage; what is read later is checked in any case.

    Raises:
        StoreError: a file that is missing, empty, not a store, damaged, or of a newer schema.
    """
    check_header(path)
    mode = "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"
    with sqlite_errors(str(path)):
        connection = connect(f"{path.absolute().as_uri()}?mode={mode}")
        try:
            migrate(connection, str(path))
            store = Store(connection, str(path))
        except BaseException:
            connection.close()
            raise
    try:
        if check:
            store.check()
    except BaseException:
        store.close()
        raise
    return store


def _write_study(
    connection: sqlite3.Connection, study: Study, images: Sequence[tuple[int, str, int]], name: str
) -> None:
    migrate(connection, name)
    connection.execute("BEGIN")
    connection.execute("INSERT INTO study VALUES (1, ?, ?, ?)", (now(), study.identity.seed, study.to_json()))
    _insert_images(connection, images)
    connection.execute("COMMIT")


def _insert_images(connection: sqlite3.Connection, images: Sequence[tuple[int, str, int]]) -> None:
    rows = [(position, *image) for position, image in enumerate(images)]
    connection.executemany("INSERT OR IGNORE INTO image VALUES (?, ?, ?, ?)", rows)


def _insert_part(connection: sqlite3.Connection, run: int, part: Part) -> None:
    key = _key(part.cell)
    found = connection.execute(
        f"INSERT INTO cell ({_CELL}, selected, changed, shortcut) VALUES (?, ?, ?, ?, ?, ?, ?) "
        f"ON CONFLICT ({_CELL}) DO UPDATE SET draw = draw RETURNING id",
        (*key, part.selected, part.changed, part.shortcut),
    ).fetchone()
    counts = [int(plane.sum()) for plane in part.outcomes]
    planes = np.packbits(part.outcomes, axis=1).tobytes()
    connection.execute(
        f"INSERT INTO part (cell, run, start, stop, {', '.join(PLANES)}, planes) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (found[0], run, part.start, part.stop, *counts, planes),
    )


def _stored_ranges(connection: sqlite3.Connection) -> dict[CellKey, list[tuple[int, int]]]:
    ranges: dict[CellKey, list[tuple[int, int]]] = {}
    for *key, start, stop in connection.execute(
        f"SELECT {_CELL}, start, stop FROM part JOIN cell ON part.cell = cell.id"
    ):
        ranges.setdefault((key[0], key[1], key[2], key[3]), []).append((start, stop))
    return ranges


def _gaps(ranges: Sequence[tuple[int, int]], start: int, stop: int) -> list[tuple[int, int]]:
    """Returns the pieces of start to stop that no range covers."""
    gaps, at = [], start
    for low, high in sorted(ranges):
        if high <= at or low >= stop:
            continue
        if low > at:
            gaps.append((at, low))
        at = high
    return [*gaps, (at, stop)] if at < stop else gaps


def _key(cell: Cell) -> CellKey:
    return cell.perturbation, cell.target, format_level(cell.level), cell.draw


def _cell(key: Sequence) -> Cell:
    perturbation, target, level, draw = key
    return Cell(perturbation, target, as_level(level), draw)
