"""Stores: one SQLite file per study, made, claimed for writing, or opened to be read.

Whoever writes holds the lease; whoever reads changes nothing, and may read while a run writes. The file keeps a
rollback journal and full synchronisation, so that a killed run loses nothing that was written.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from jaxperturb.errors import OutputError, StoreError, StoreInUseError
from jaxperturb.study.contents import Store
from jaxperturb.study.database import (
    check_header,
    connect,
    connect_draft,
    connect_reader,
    connect_writer,
    sqlite_errors,
)
from jaxperturb.study.lease import Lease, take
from jaxperturb.study.rows import CellCounts, RunRecord, StoredRun, insert_images
from jaxperturb.study.schema import MIGRATIONS, migrate, now, version_of
from jaxperturb.study.study import Study

__all__ = ["CellCounts", "RunRecord", "Store", "StoredRun", "claim_store", "create_store", "open_store"]


def create_store(path: Path | None, study: Study, images: Sequence[tuple[int, str, int]]) -> Store:
    """Makes a new store, in memory when there is no path.

    The file appears under its name only when it is whole.

    Args:
        path: where; its folder exists.
        study: what is asked.
        images: index in the data set, identifier and label of each image, in the study's order.

    Raises:
        StoreError: a file of this name is there.
        OutputError: the file cannot be written.
    """
    if path is None:
        name, connection = "the store in memory", connect(":memory:")
        _write_study(connection, study, images, name)
        return Store(connection, name)
    lease = take(path)
    try:
        if path.exists():
            raise StoreError(f"{path} is there already; choose another file")
        _create_file(path, study, images)
        return _open_to_write(path, lease)
    except BaseException:
        lease.release()
        raise


def claim_store(path: Path) -> Store:
    """Opens a store that is there to write to it, brings it to the newest schema and checks it.

    Args:
        path: of the file.

    Raises:
        StoreInUseError: another run writes it.
        StoreError: a file that is missing, empty, not a store, damaged, or of a newer schema.
    """
    lease = take(path)
    try:
        check_header(path)
        store = _open_to_write(path, lease)
    except BaseException:
        lease.release()
        raise
    return _checked(store)


def open_store(path: Path, *, check: bool = True) -> Store:
    """Opens a store that is there to read it, also while a run writes it; the file stays as it is.

    Args:
        path: of the file.
        check: whether to read the whole file for damage; what is read later is checked in any case.

    Raises:
        StoreError: a file that is missing, empty, not a store, damaged, or of a newer schema.
    """
    check_header(path)
    with sqlite_errors(str(path)):
        connection = connect_reader(path)
        if connection is None:
            _undo_half_a_write(path)
            connection = connect_reader(path)
    if connection is None:
        raise StoreInUseError(f"{path} is in the middle of a write of another run; ask again")
    with sqlite_errors(str(path)):
        try:
            connection = _of_newest_schema(connection, str(path))
            store = Store(connection, str(path))
        except BaseException:
            connection.close()
            raise
    return _checked(store) if check else store


def _create_file(path: Path, study: Study, images: Sequence[tuple[int, str, int]]) -> None:
    draft = path.with_name(f".{path.name}.new")
    leavings = (draft, draft.with_name(f"{draft.name}-journal"))  # of a process that was killed here
    try:
        for file in leavings:
            file.unlink(missing_ok=True)
        with sqlite_errors(str(path)), contextlib.closing(connect_draft(draft)) as connection:
            _write_study(connection, study, images, str(path))
        draft.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        for file in leavings:
            file.unlink(missing_ok=True)


def _open_to_write(path: Path, lease: Lease) -> Store:
    with sqlite_errors(str(path)):
        connection = connect_writer(path)
        try:
            migrate(connection, str(path))
            return Store(connection, str(path), lambda: connect_writer(path), lease)
        except BaseException:
            connection.close()
            raise


def _checked(store: Store) -> Store:
    try:
        store.check()
    except BaseException:
        store.close()
        raise
    return store


def _undo_half_a_write(path: Path) -> None:
    """Lets SQLite take back what a killed run had begun to write."""
    lease = take(path)
    try:
        connect_writer(path).close()
    finally:
        lease.release()


def _of_newest_schema(connection: sqlite3.Connection, name: str) -> sqlite3.Connection:
    """Returns the connection, or one to a copy in memory where the file is of an older schema."""
    if version_of(connection) >= len(MIGRATIONS):
        migrate(connection, name)
        return connection
    copy = connect(":memory:")
    with contextlib.closing(connection):
        connection.backup(copy)
    migrate(copy, name)
    return copy


def _write_study(
    connection: sqlite3.Connection, study: Study, images: Sequence[tuple[int, str, int]], name: str
) -> None:
    migrate(connection, name)
    connection.execute("BEGIN")
    connection.execute("INSERT INTO study VALUES (1, ?, ?, ?)", (now(), study.identity.seed, study.to_json()))
    insert_images(connection, images)
    connection.execute("COMMIT")
