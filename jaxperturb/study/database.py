"""SQLite files: how they are opened, told from other files, and what their errors mean to a user."""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from jaxperturb.errors import OutputError, StoreError
from jaxperturb.study.schema import APPLICATION_ID

_PAGE = 100  # bytes of a SQLite file's header
_MAGIC = b"SQLite format 3\x00"
_UNWRITABLE = ("readonly", "full", "disk i/o", "unable to open")


def connect(target: str) -> sqlite3.Connection:
    """Returns a connection in autocommit mode to a file, a ``file:`` address or ``:memory:``."""
    # Autocommit: transactions are opened by hand. The commit timer is another thread; a lock keeps them apart.
    connection = sqlite3.connect(
        target, uri=target.startswith("file:"), isolation_level=None, check_same_thread=False, timeout=60
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


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
        if any(word in text.lower() for word in _UNWRITABLE):
            raise OutputError(f"{name} cannot be written: {text}; what was stored before is kept") from error
        if "locked" in text or isinstance(error, sqlite3.IntegrityError):
            raise StoreError(f"{name} is in use by another run ({text}); wait for it, then ask again") from error
        raise StoreError(f"{name} is damaged or not a store: {text}; restore it from a copy") from error
