"""The store of a recovery: one SQLite file with what was asked, every point of every curve, and every weight change.

It is a file of its own, beside which the checkpoints of unfinished trainings lie. One process writes; any may read.
"""

import contextlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from jaxperturb.errors import OutputError, StoreError, StoreInUseError
from jaxperturb.recovery.change import Change
from jaxperturb.recovery.experiment import Arm, Experiment, differences
from jaxperturb.study.database import connect, connect_reader, connect_writer, sqlite_errors
from jaxperturb.study.lease import Lease, take
from jaxperturb.study.schema import now

STORE_NAME = "recovery.sqlite"
APPLICATION_ID = 0x4A585243  # "JXRC"
VERSION = 1
PLANES = ("top1", "top5", "finite")
INTACT = Arm("", "", 0)
AT_ONCE = -1  # the step of a point that tells of the lesion without any training, where damage is progressive

_TABLES = (
    # One row: what was asked, as JSON (see Experiment), and the seed for a reader with sqlite3 alone.
    "CREATE TABLE recovery (id INTEGER PRIMARY KEY CHECK (id = 1), created TEXT NOT NULL, seed INTEGER NOT NULL, "
    "asked TEXT NOT NULL)",
    # step: of training at this level; 0 is right after damage, -1 the level's lesion without any training before it.
    # An empty lesion is the intact network. loss: mean of the steps since the point before, NULL where there are none.
    # planes: for each of top1, top5, finite one bit per test image, most significant first, padded to whole bytes.
    "CREATE TABLE point (target TEXT NOT NULL, lesion TEXT NOT NULL, draw INTEGER NOT NULL, level TEXT NOT NULL, "
    "step INTEGER NOT NULL, loss REAL, images INTEGER NOT NULL, top1 INTEGER NOT NULL, top5 INTEGER NOT NULL, "
    "finite INTEGER NOT NULL, planes BLOB NOT NULL CHECK (length(planes) = 3 * ((images + 7) / 8)), "
    "PRIMARY KEY (target, lesion, draw, level, step))",
    # What training changed, from the (first) lesioned network to the last one, against the intact weights: see Change.
    "CREATE TABLE layer_change (target TEXT NOT NULL, lesion TEXT NOT NULL, draw INTEGER NOT NULL, "
    "layer TEXT NOT NULL, tensor TEXT NOT NULL, size INTEGER NOT NULL, z_change REAL, z_score REAL, "
    "relative_norm REAL, cosine REAL, PRIMARY KEY (target, lesion, draw, layer, tensor))",
    # The newest state of an unfinished training, in a folder beside the store.
    "CREATE TABLE checkpoint (target TEXT NOT NULL, lesion TEXT NOT NULL, draw INTEGER NOT NULL, level TEXT NOT NULL, "
    "step INTEGER NOT NULL, folder TEXT NOT NULL, PRIMARY KEY (target, lesion, draw))",
    "CREATE TABLE finished (target TEXT NOT NULL, lesion TEXT NOT NULL, draw INTEGER NOT NULL, ended TEXT NOT NULL, "
    "PRIMARY KEY (target, lesion, draw))",
    "CREATE TABLE event (id INTEGER PRIMARY KEY, time TEXT NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL)",
)


@dataclass(frozen=True, eq=False)
class Point:
    """The network of an arm, evaluated.

    Attributes:
        arm: of which curve.
        level: of damage, empty where there is none.
        step: of training at this level; `AT_ONCE` for the lesion alone.
        loss: mean of the training steps since the point before, NaN where there are none.
        outcomes: one plane for each of `PLANES`, (3, images).
    """

    arm: Arm
    level: str
    step: int
    loss: float
    outcomes: Bool[np.ndarray, "p n"]


@dataclass(frozen=True)
class Kept:
    """The newest state of an unfinished training."""

    level: str
    step: int
    folder: str


class RecoveryStore:
    """A store that is open; made by `open_recovery` or `read_recovery`."""

    def __init__(self, connection: sqlite3.Connection, name: str, lease: Lease | None = None) -> None:
        self._connection = connection
        self._lease = lease
        self.name = name

    def __enter__(self) -> "RecoveryStore":
        """Returns the store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file, and gives the right to write it back."""
        self.close()

    def close(self) -> None:
        """Closes the file, and gives the right to write it back."""
        self._connection.close()
        if self._lease is not None:
            self._lease.release()

    def experiment(self) -> Experiment:
        """Returns what was asked so far."""
        rows = self._rows("SELECT asked FROM recovery")
        if not rows:
            raise StoreError(f"{self.name} is empty; remove it to start anew")
        return Experiment.from_json(rows[0][0])

    def finished(self) -> set[Arm]:
        """Returns the arms whose training has ended."""
        return {Arm(*row) for row in self._rows("SELECT target, lesion, draw FROM finished")}

    def checkpoint(self, arm: Arm) -> Kept | None:
        """Returns where the state of an unfinished training is kept."""
        query = "SELECT level, step, folder FROM checkpoint WHERE target = ? AND lesion = ? AND draw = ?"
        rows = self._rows(query, astuple(arm))
        return Kept(*rows[0]) if rows else None

    def points(self) -> list[Point]:
        """Returns all points, the intact network's among them."""
        columns = "target, lesion, draw, level, step, loss, images, top1, top5, finite, planes"
        return [self._point(*row) for row in self._rows(f"SELECT {columns} FROM point ORDER BY rowid")]

    def changes(self) -> list[tuple[Arm, Change]]:
        """Returns what training changed."""
        names = ", ".join(one.name for one in fields(Change))
        found = []
        for target, lesion, draw, *values in self._rows(f"SELECT target, lesion, draw, {names} FROM layer_change"):
            numbers = [float("nan") if value is None else value for value in values[3:]]
            found.append((Arm(target, lesion, draw), Change(*values[:3], *numbers)))
        return found

    def add_points(self, points: Sequence[Point]) -> None:
        """Adds points; one that is there already stays."""
        rows = [_row(point) for point in points]
        with self._transaction() as connection:
            connection.executemany(f"INSERT OR IGNORE INTO point VALUES ({', '.join('?' * 11)})", rows)

    def keep(self, arms: Sequence[Arm], kept: Sequence[Kept]) -> None:
        """Notes where the states of trainings are."""
        rows = [(*astuple(arm), *astuple(one)) for arm, one in zip(arms, kept, strict=True)]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO checkpoint VALUES (?, ?, ?, ?, ?, ?)", rows)

    def finish(self, arm: Arm, changes: Sequence[Change]) -> None:
        """Notes that a training has ended, and what it changed."""
        rows = [(*astuple(arm), *(None if v != v else v for v in astuple(change))) for change in changes]
        with self._transaction() as connection:
            connection.executemany(f"INSERT OR REPLACE INTO layer_change VALUES ({', '.join('?' * 10)})", rows)
            connection.execute("INSERT OR REPLACE INTO finished VALUES (?, ?, ?, ?)", (*astuple(arm), now()))
            query = "DELETE FROM checkpoint WHERE target = ? AND lesion = ? AND draw = ?"
            connection.execute(query, astuple(arm))

    def note(self, kind: str, text: str) -> None:
        """Adds an event."""
        with self._transaction() as connection:
            connection.execute("INSERT INTO event (time, kind, text) VALUES (?, ?, ?)", (now(), kind, text))

    def write_experiment(self, experiment: Experiment) -> None:
        """Writes what is asked."""
        values = now(), experiment.seed, experiment.to_json()
        query = (
            "INSERT INTO recovery VALUES (1, ?, ?, ?) "
            "ON CONFLICT (id) DO UPDATE SET seed = excluded.seed, asked = excluded.asked"
        )
        with self._transaction() as connection:
            connection.execute(query, values)

    def _point(
        self, target: str, lesion: str, draw: int, level: str, step: int, loss: float | None, images: int, *rest: Any
    ) -> Point:
        *counts, planes = rest
        packed = np.frombuffer(planes, np.uint8).reshape(len(PLANES), -1)
        outcomes = np.unpackbits(packed, axis=1, count=images).astype(bool)
        if outcomes.sum(axis=1).tolist() != counts:
            what = f"{target} {lesion}, draw {draw}, step {step}"
            raise StoreError(f"{self.name} is damaged: the outcomes of {what} do not add up to their counts")
        return Point(Arm(target, lesion, draw), level, step, float("nan") if loss is None else loss, outcomes)

    def _rows(self, query: str, values: Sequence[object] = ()) -> list[Any]:
        with sqlite_errors(self.name):
            return self._connection.execute(query, tuple(values)).fetchall()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with sqlite_errors(self.name):
            if self._lease is not None:
                self._lease.check()
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def open_recovery(path: Path | None, asked: Experiment) -> RecoveryStore:
    """Opens the store of a recovery to write it, or makes it; what is asked is added to what is there.

    Args:
        path: of the file, whose folder exists; None for a store in memory.
        asked: what is asked.

    Raises:
        StoreError: another file, or the store of another recovery; each difference is spelt out.
        StoreInUseError: another run writes it.
        OutputError: it cannot be written.
    """
    if path is None:
        store = _prepared(connect(":memory:"), "the store in memory", None)
        store.write_experiment(asked)
        return store
    lease = take(path)
    try:
        fresh = not path.exists()
        path.touch()
        with sqlite_errors(str(path)):
            store = _prepared(connect_writer(path), str(path), lease)
    except OSError as error:
        lease.release()
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; choose another folder") from error
    except BaseException:
        lease.release()
        raise
    try:
        store.write_experiment(asked if fresh else _extended(store, asked))
    except BaseException:
        store.close()
        raise
    return store


def _extended(store: RecoveryStore, asked: Experiment) -> Experiment:
    """What is asked together with what a store was asked before, or refuses to add another recovery to it."""
    if not store._rows("SELECT 1 FROM recovery"):
        return asked
    stored = store.experiment()
    if found := differences(stored, asked):
        raise StoreError(
            f"{store.name} holds another recovery ({'; '.join(found)}); choose another folder, or ask for what is there"
        )
    return asked.merged(stored)


def read_recovery(path: Path) -> RecoveryStore:
    """Opens a store to read it.

    Args:
        path: of the file, or of its folder.

    Raises:
        StoreError: there is none, or it is something else.
    """
    file = path / STORE_NAME if path.is_dir() else path
    if not file.is_file():
        raise StoreError(f"there is no recovery at {path}; 'jaxperturb recover' makes one")
    with sqlite_errors(str(file)):
        connection = connect_reader(file)
        if connection is None:
            raise StoreInUseError(f"{file} is in the middle of a write of another run; ask again")
        try:
            _check_kind(connection, str(file))
        except BaseException:
            connection.close()
            raise
    return RecoveryStore(connection, str(file))


def _prepared(connection: sqlite3.Connection, name: str, lease: Lease | None) -> RecoveryStore:
    with sqlite_errors(name):
        try:
            if not connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()[0]:
                _make_tables(connection)
            _check_kind(connection, name)
        except BaseException:
            connection.close()
            raise
    return RecoveryStore(connection, name, lease)


def _make_tables(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {VERSION}")
    for table in _TABLES:
        connection.execute(table)
    connection.execute("COMMIT")


def _check_kind(connection: sqlite3.Connection, name: str) -> None:
    ((kind,),), ((version,),) = (
        connection.execute(f"PRAGMA {what}").fetchall() for what in ("application_id", "user_version")
    )
    if kind != APPLICATION_ID:
        raise StoreError(f"{name} is no recovery of jaxperturb; choose another file")
    if version > VERSION:
        raise StoreError(f"{name} was written by a newer jaxperturb (schema {version}); upgrade jaxperturb")


def _row(point: Point) -> tuple[object, ...]:
    counts = point.outcomes.sum(axis=1).tolist()
    planes = np.packbits(point.outcomes, axis=1).tobytes()
    loss = None if point.loss != point.loss else point.loss
    images = point.outcomes.shape[1]
    return (*astuple(point.arm), point.level, point.step, loss, images, *counts, planes)
