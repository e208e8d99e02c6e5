"""An open store: what was asked, who ran it, and the outcome of every cell on every image.

A part is written whole or not at all, no later than 10 seconds after it was computed. Between two writes the file is
closed, since a mounted drive may send a file on only then.
"""

import contextlib
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from absl import logging

from jaxperturb.engine.plan import Cell
from jaxperturb.engine.run import PLANES, Part
from jaxperturb.errors import OutputError, StoreError, StoreInUseError, StudyError
from jaxperturb.study.database import sqlite_errors
from jaxperturb.study.lease import Lease
from jaxperturb.study.rows import (
    CELL_COLUMNS,
    CellCounts,
    RunRecord,
    StoredRun,
    cell_of,
    gaps,
    insert_images,
    insert_part,
    key_of,
    stored_ranges,
)
from jaxperturb.study.schema import now
from jaxperturb.study.skipped import insert_skipped, read_skipped, without_skipped
from jaxperturb.study.study import Study
from jaxperturb.types import Outcomes

COMMIT_SECONDS = 10.0


class Store:
    """An open store. It has one writer; `add` and `commit` may be called from any thread.

    `jaxperturb.study.store` makes, claims and opens them; `close` it or use it in a ``with`` statement.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        name: str,
        reconnect: Callable[[], sqlite3.Connection] | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Takes an open database.

        Args:
            connection: in autocommit mode, to a file with the newest schema.
            name: of the file, for messages.
            reconnect: opens the file again, which is then closed after each use; None keeps the connection.
            lease: the right to write, given back at the end.
        """
        self.name = name
        self._reconnect, self._lease = reconnect, lease
        self._connections = [connection]
        self._lock = threading.RLock()
        self._pending: list[tuple[int, Part]] = []
        self._timer: threading.Timer | None = None
        self._failure: Exception | None = None
        with sqlite_errors(name):
            self._ranges = stored_ranges(connection)
            self._skipped = read_skipped(connection)
        # A store in memory lives as long as the results that read it; nobody closes it by hand.
        self._finalizer = weakref.finalize(self, _close_all, self._connections)

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
        with self._transaction() as connection:
            connection.execute("UPDATE study SET asked = ?", (study.to_json(),))
            insert_images(connection, images)

    def begin_run(self, record: RunRecord) -> int:
        """Records the start of a run and returns its number."""
        with self._transaction() as connection:
            return _insert_run(connection, {"started": now(), **vars(record)})

    def copy_run(self, run: StoredRun, events: Sequence[tuple[str, str, str]] = ()) -> int:
        """Records a run of another store, with the time, kind and text of its events; returns its number here."""
        fields = {"started": run.started, "ended": run.ended, "outcome": run.outcome, **vars(run.record)}
        with self._transaction() as connection:
            number = _insert_run(connection, fields)
            connection.executemany(
                "INSERT INTO event (run, time, kind, text) VALUES (?, ?, ?, ?)", [(number, *event) for event in events]
            )
        return number

    def end_run(self, run: int, outcome: str) -> None:
        """Records the end of a run: "complete", "interrupted" or "failed"."""
        with self._transaction() as connection:
            connection.execute("UPDATE run SET ended = ?, outcome = ? WHERE id = ?", (now(), outcome, run))

    def add_event(self, run: int | None, kind: str, text: str) -> None:
        """Records something that a reader of the results should know."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT INTO event (run, time, kind, text) VALUES (?, ?, ?, ?)", (run, now(), kind, text)
            )

    def skipped(self) -> dict[int, str]:
        """Returns why each image that is left out could not be read, by its position in the study's order."""
        with self._lock:
            return dict(self._skipped)

    def skip(self, run: int | None, position: int, reason: str) -> None:
        """Leaves an image out of all that is stored and will be; of a run, it is an event, too."""
        with self._lock:
            if position in self._skipped:
                return
            self.commit()
            with self._transaction() as connection:
                insert_skipped(connection, position, reason)
            self._skipped[position] = reason
            if run is not None:
                self.add_event(run, "skipped image", reason)

    def runs(self) -> list[StoredRun]:
        """Returns all runs, the first one first."""
        images: dict[int, dict[str, int]] = {}
        for run, target, number in self._rows(
            "SELECT run, target, SUM(stop - start) FROM part JOIN cell ON part.cell = cell.id "
            "WHERE perturbation != '' AND shortcut != 'intact' GROUP BY run, target"
        ):
            images.setdefault(run, {})[target] = number
        names = list(RunRecord.__dataclass_fields__)
        rows = self._rows(f"SELECT id, started, ended, outcome, {', '.join(names)} FROM run ORDER BY id")
        return [
            StoredRun(number, RunRecord(*record), started, ended, outcome, images.get(number, {}))
            for number, started, ended, outcome, *record in rows
        ]

    def events(self) -> list[tuple[int | None, str, str, str]]:
        """Returns run, time, kind and text of each event, the first one first."""
        return self._rows("SELECT run, time, kind, text FROM event ORDER BY id")

    def parts(self) -> Iterator[tuple[int, Part]]:
        """Yields each stored part with the number of its run, in the order in which they were stored."""
        self.commit()
        query = (
            f"SELECT run, selected, changed, shortcut, start, stop, {CELL_COLUMNS}, planes, part.id, "
            f"{', '.join(PLANES)} FROM part JOIN cell ON part.cell = cell.id WHERE part.id = ?"
        )
        for (number,) in self._rows("SELECT id FROM part ORDER BY id"):
            ((run, selected, changed, shortcut, start, stop, *rest),) = self._rows(query, [number])
            outcomes = self._unpack(stop - start, *rest[4:])
            yield run, Part(cell_of(rest[:4]), start, stop, outcomes, selected, changed, shortcut)

    def covers(self, cell: Cell, start: int, stop: int) -> bool:
        """Returns whether the outcomes of a cell are there for all images from start to stop (without stop)."""
        with self._lock:
            return not gaps(self._ranges.get(key_of(cell), []), start, stop)

    def missing(self, cell: Cell, images: int) -> int:
        """Returns for how many of the first images of the study's order a cell is not stored."""
        with self._lock:
            return sum(stop - start for start, stop in gaps(self._ranges.get(key_of(cell), []), 0, images))

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
            ranges = self._ranges.setdefault(key_of(part.cell), [])
            for start, stop in gaps(ranges, part.start, part.stop):
                outcomes = part.outcomes[:, start - part.start : stop - part.start]
                outcomes = without_skipped(outcomes, start, self._skipped)
                self._pending.append((run, replace(part, start=start, stop=stop, outcomes=outcomes)))
                ranges.append((start, stop))
            if self._pending and self._timer is None:
                self._start_timer()

    def commit(self) -> None:
        """Writes all parts that were taken."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._raise_failure()
            if not self._pending:
                return
            with self._transaction() as connection:
                for run, part in self._pending:
                    insert_part(connection, run, part)
            logging.info("%s: %d parts written", self.name, len(self._pending))
            self._pending = []

    def cells(self) -> list[CellCounts]:
        """Returns all stored cells with their counts, in the order in which they were first stored."""
        self.commit()
        sums = ", ".join(f"SUM(part.{plane})" for plane in PLANES)
        rows = self._rows(
            f"SELECT {CELL_COLUMNS}, selected, changed, shortcut, SUM(stop - start - (SELECT COUNT(*) FROM skipped "
            f"WHERE position >= start AND position < stop)), {sums} "
            "FROM cell JOIN part ON part.cell = cell.id GROUP BY cell.id ORDER BY cell.id"
        )
        return [
            CellCounts(cell_of(row[:4]), row[7], dict(zip(PLANES, row[8:], strict=True)), row[4], row[5], row[6])
            for row in rows
        ]

    def outcomes(self, cell: Cell) -> tuple[np.ndarray, Outcomes]:
        """Returns the outcomes of one stored cell.

        Returns:
            Positions in the study's order (ascending, one per image, skipped ones left out), and the planes in the
            order of `PLANES`, for each of these images.

        Raises:
            StoreError: a cell that is not stored, or outcomes that do not add up to their counts.
        """
        self.commit()
        rows = self._rows(
            f"SELECT start, stop, planes, part.id, {', '.join(PLANES)} FROM part JOIN cell ON part.cell = cell.id "
            "WHERE perturbation = ? AND target = ? AND level = ? AND draw = ? ORDER BY start",
            key_of(cell),
        )
        if not rows:
            raise StoreError(f"{self.name} has no cell {key_of(cell)}")
        positions = np.concatenate([np.arange(start, stop) for start, stop, *_ in rows])
        planes = [self._unpack(stop - start, *row) for start, stop, *row in rows]
        counted = ~np.isin(positions, list(self._skipped))
        return positions[counted], np.concatenate(planes, axis=1)[:, counted]

    def check(self) -> None:
        """Checks the whole file.

        Raises:
            StoreError: pages that are damaged, or outcomes that do not add up to their counts.
        """
        ((verdict,),) = self._rows("PRAGMA quick_check(1)")
        if verdict != "ok":
            raise StoreError(f"{self.name} is damaged: {' '.join(str(verdict).split())}; restore it from a copy")
        query = f"SELECT stop - start, planes, id, {', '.join(PLANES)} FROM part"
        with self._lock, sqlite_errors(self.name), self._connected() as connection:
            for row in connection.execute(query):
                self._unpack(*row)

    def close(self) -> None:
        """Writes what was taken and closes the file."""
        try:
            if self._finalizer.alive:
                self.commit()
        finally:
            self._finalizer()
            if self._lease is not None:
                self._lease.release()

    def _start_timer(self) -> None:
        self._timer = threading.Timer(COMMIT_SECONDS, self._commit_in_time)
        self._timer.daemon = True
        self._timer.start()

    def _commit_in_time(self) -> None:
        with self._lock:
            try:
                self.commit()
            except (OutputError, StoreError) as error:
                if isinstance(error, StoreInUseError) and isinstance(error.__cause__, sqlite3.OperationalError):
                    self._start_timer()  # somebody reads for long; what was taken can wait
                else:
                    self._failure = error  # told by the next add or commit: a timer has nobody to tell

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
        with self._lock, sqlite_errors(self.name), self._connected() as connection:
            return connection.execute(query, tuple(values)).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock, sqlite_errors(self.name):
            if self._lease is not None:
                self._lease.check()
            with self._connected() as connection:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:  # SQLite has rolled back by itself after some errors
                        connection.execute("ROLLBACK")
                    raise

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        if not self._connections and self._reconnect is not None:
            self._connections.append(self._reconnect())
        try:
            yield self._connections[-1]
        finally:
            if self._reconnect is not None:
                _close_all(self._connections)


def _close_all(connections: list[sqlite3.Connection]) -> None:
    while connections:
        connections.pop().close()


def _insert_run(connection: sqlite3.Connection, fields: Mapping[str, object]) -> int:
    marks = ", ".join("?" * len(fields))
    cursor = connection.execute(f"INSERT INTO run ({', '.join(fields)}) VALUES ({marks})", tuple(fields.values()))
    return cursor.lastrowid or 0
