"""SQLite files: how they are opened, told from other files, and what their errors mean to a user."""

import contextlib
import errno
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxperturb.errors import OutputError, StoreError, StoreInUseError
from jaxperturb.study.lease import lease_path, read_holder
from jaxperturb.study.schema import APPLICATION_ID

BUSY_SECONDS = 20.0  # how long another's lock, or another's half of a write, is waited for
_PAGE = 100  # bytes of a SQLite file's header
_MAGIC = b"SQLite format 3\x00"
_UNWRITABLE = ("readonly", "full", "disk i/o", "unable to open")
_NO_LOCKS = {"SQLITE_PROTOCOL", "SQLITE_IOERR_LOCK", "SQLITE_IOERR_RDLOCK", "SQLITE_IOERR_CHECKRESERVEDLOCK"}
# What a reader is told that meets a journal; the second where there are no locks to ask whose it is.
_HALF_WRITTEN = ("SQLITE_READONLY_ROLLBACK", "SQLITE_IOERR_CHECKRESERVEDLOCK")


def connect(target: str) -> sqlite3.Connection:
    """Returns a connection in autocommit mode to a file, a ``file:`` address or ``:memory:``."""
    # Autocommit: transactions are opened by hand. The commit timer is another thread; a lock keeps them apart.
    connection = sqlite3.connect(
        target, uri=target.startswith("file:"), isolation_level=None, check_same_thread=False, timeout=BUSY_SECONDS
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def connect_draft(path: Path) -> sqlite3.Connection:
    """Returns a connection to a new file that nobody else knows of, and that needs no locks."""
    return connect(f"{path.absolute().as_uri()}?nolock=1")


def connect_writer(path: Path) -> sqlite3.Connection:
    """Returns a connection that may write, for the holder of the store's lease; what a killed run left is undone.

    Where the file system has no locks, SQLite does without: there is one writer in any case.
    """
    return _connect_to(path, "rw")


def connect_reader(path: Path) -> sqlite3.Connection | None:
    """Returns a connection that changes nothing, or None where a killed run left the file in the middle of a write.

    Only the holder of the lease may undo half a write. On file systems without honest locks a live run's write looks
    the same, so the other half is waited for.
    """
    until = time.monotonic() + (BUSY_SECONDS if _is_written(path) else 0)
    while True:
        try:
            return _connect_to(path, "ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname not in _HALF_WRITTEN:
                raise
        if time.monotonic() >= until:
            return None
        time.sleep(0.1)


def check_header(path: Path) -> None:
    """Refuses, before SQLite opens it, a file that is not a store.

    Raises:
        StoreError: a file that is missing, unreadable, empty, or something else.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_PAGE)
    except FileNotFoundError:
        raise StoreError(f"there is no store at {path}") from None
    except OSError as error:
        raise StoreError(f"{path} cannot be read: {error.strerror}") from error
    if not header:
        raise StoreError(f"{path} is empty, not a store; remove it to start anew")
    if not header.startswith(_MAGIC) or int.from_bytes(header[68:72], "big") != APPLICATION_ID:
        raise StoreError(f"{path} is not a store of jaxperturb; choose another file")
    if len(header) < _PAGE:
        raise StoreError(f"{path} is damaged: it ends within its header; restore it from a copy")


@contextlib.contextmanager
def sqlite_errors(name: str) -> Iterator[None]:
    """Turns SQLite's errors into one line each."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if getattr(error, "sqlite_errorname", "") in _HALF_WRITTEN:
            raise StoreInUseError(f"{name} is in the middle of a write of another run; ask again") from error
        if any(word in text.lower() for word in _UNWRITABLE):
            raise OutputError(f"{name} cannot be written: {text}; what was stored before is kept") from error
        if "locked" in text or isinstance(error, sqlite3.IntegrityError):
            raise StoreInUseError(f"{name} is in use by another program ({text}); close it, then ask again") from error
        raise StoreError(f"{name} is damaged or not a store: {text}; restore it from a copy") from error


def _connect_to(path: Path, mode: str) -> sqlite3.Connection:
    address = f"{path.absolute().as_uri()}?mode={mode}"
    # Closing a file gives all of a process's locks on it back, so that of a store which may be written is not tried.
    lease = lease_path(path)
    if _are_locks_there(lease if lease.exists() else path):
        try:
            return _tried(lambda: connect(address))
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname not in _NO_LOCKS:
                raise
    return _tried(lambda: connect(f"{address}&nolock=1"))


def _are_locks_there(file: Path) -> bool:
    """Returns False where a file cannot be locked at all, as on some mounted drives."""
    if os.name != "posix":
        return True
    import fcntl

    try:
        with file.open("rb") as opened:
            fcntl.lockf(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError as error:
        return error.errno in (errno.EACCES, errno.EAGAIN)  # somebody else has locked it
    return True


def _tried(make: Callable[[], sqlite3.Connection]) -> sqlite3.Connection:
    """Returns a connection that has read its file once: SQLite opens it no earlier."""
    connection = make()
    try:
        connection.execute("SELECT COUNT(*) FROM sqlite_master")
    except BaseException:
        connection.close()
        raise
    return connection


def _is_written(path: Path) -> bool:
    holder = read_holder(path)
    return holder is not None and not holder.is_gone()
