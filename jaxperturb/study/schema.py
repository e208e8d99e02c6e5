"""The tables of a store, as numbered migrations: each runs once, in one transaction with the record that it did.

A migration that was published is never changed. Append a new one, and say in it what its columns mean in rows that
were written before.
"""

import sqlite3
from datetime import UTC, datetime

from jaxperturb.errors import StoreError

APPLICATION_ID = 0x4A585054  # "JXPT": tells a store from any other SQLite file


def m001_initial(connection: sqlite3.Connection) -> None:
    """Makes the tables of the first version."""
    # One row: what was asked of all runs together, as JSON (see Study), and the seed for a reader with sqlite3 alone.
    connection.execute("""
        CREATE TABLE study (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            created TEXT NOT NULL,
            seed INTEGER NOT NULL,
            asked TEXT NOT NULL
        )""")
    # A run that was killed keeps ended NULL and outcome 'running'.
    connection.execute("""
        CREATE TABLE run (
            id INTEGER PRIMARY KEY,
            started TEXT NOT NULL,
            ended TEXT,
            outcome TEXT NOT NULL DEFAULT 'running',
            host TEXT NOT NULL,
            pid INTEGER NOT NULL,
            device TEXT NOT NULL,
            versions TEXT NOT NULL,
            command TEXT NOT NULL,
            precision TEXT NOT NULL,
            tiling TEXT NOT NULL,
            asked TEXT NOT NULL
        )""")
    # The level is exact decimal text. selected and changed count entries of the weights; NULL: not known.
    # A shortcut other than '' says why this one row (draw 0) stands for all draws.
    connection.execute("""
        CREATE TABLE cell (
            id INTEGER PRIMARY KEY,
            perturbation TEXT NOT NULL,
            target TEXT NOT NULL,
            level TEXT NOT NULL,
            draw INTEGER NOT NULL,
            selected INTEGER,
            changed INTEGER,
            shortcut TEXT NOT NULL,
            UNIQUE (perturbation, target, level, draw)
        )""")
    # Outcomes of one cell on the images from start to stop (without stop) of the study's order. planes: for each of
    # top1, top5, same1, same5, finite one bit per image, most significant bit first, padded to whole bytes; the five
    # columns of these names count its ones.
    connection.execute("""
        CREATE TABLE part (
            id INTEGER PRIMARY KEY,
            cell INTEGER NOT NULL REFERENCES cell (id),
            run INTEGER NOT NULL REFERENCES run (id),
            start INTEGER NOT NULL CHECK (start >= 0),
            stop INTEGER NOT NULL CHECK (stop > start),
            top1 INTEGER NOT NULL,
            top5 INTEGER NOT NULL,
            same1 INTEGER NOT NULL,
            same5 INTEGER NOT NULL,
            finite INTEGER NOT NULL,
            planes BLOB NOT NULL CHECK (length(planes) = 5 * ((stop - start + 7) / 8)),
            UNIQUE (cell, start)
        )""")
    # position: in the study's order; data_index: in the data set.
    connection.execute("""
        CREATE TABLE image (
            position INTEGER PRIMARY KEY,
            data_index INTEGER NOT NULL,
            identifier TEXT NOT NULL,
            label INTEGER NOT NULL
        )""")
    connection.execute("""
        CREATE TABLE event (
            id INTEGER PRIMARY KEY,
            run INTEGER REFERENCES run (id),
            time TEXT NOT NULL,
            kind TEXT NOT NULL,
            text TEXT NOT NULL
        )""")
    # What a person wants to see: each cell with its counts. The empty perturbation is the intact network by itself.
    connection.execute("""
        CREATE VIEW cells AS
        SELECT cell.perturbation, cell.target, cell.level, cell.draw, study.seed,
               SUM(part.stop - part.start) AS images, SUM(part.top1) AS top1, SUM(part.top5) AS top5,
               SUM(part.same1) AS same1, SUM(part.same5) AS same5,
               SUM(part.stop - part.start - part.finite) AS nonfinite, cell.selected, cell.changed, cell.shortcut
        FROM cell JOIN part ON part.cell = cell.id JOIN study
        WHERE cell.perturbation != ''
        GROUP BY cell.id ORDER BY cell.id""")


def m002_skipped(connection: sqlite3.Connection) -> None:
    """Adds the images that could not be read. Rows from before: all images were."""
    # position: in the study's order. All planes of these images are 0 in every part, and they are in no count.
    connection.execute("CREATE TABLE skipped (position INTEGER PRIMARY KEY, reason TEXT NOT NULL)")
    connection.execute("DROP VIEW cells")
    connection.execute("""
        CREATE VIEW cells AS
        SELECT perturbation, target, level, draw, seed, images, top1, top5, same1, same5, images - finite AS nonfinite,
               selected, changed, shortcut
        FROM (
            SELECT cell.*, study.seed, SUM(part.top1) AS top1, SUM(part.top5) AS top5, SUM(part.same1) AS same1,
                   SUM(part.same5) AS same5, SUM(part.finite) AS finite,
                   SUM(part.stop - part.start - (
                       SELECT COUNT(*) FROM skipped WHERE position >= part.start AND position < part.stop
                   )) AS images
            FROM cell JOIN part ON part.cell = cell.id JOIN study
            WHERE cell.perturbation != ''
            GROUP BY cell.id ORDER BY cell.id
        )""")


MIGRATIONS = (m001_initial, m002_skipped)


def now() -> str:
    """Returns the time as ISO 8601 text in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def version_of(connection: sqlite3.Connection) -> int:
    """Returns the number of the last migration that a store has been through, 0 for a new file."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'").fetchone():
        return 0
    return connection.execute("SELECT COALESCE(MAX(version), 0) FROM schema_version").fetchone()[0]


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Brings a store to the newest schema.

    Args:
        connection: in autocommit mode (``isolation_level=None``).
        name: of the file, for messages.

    Raises:
        StoreError: a schema newer than this version of jaxperturb knows.
    """
    version = version_of(connection)
    if version > len(MIGRATIONS):
        raise StoreError(
            f"{name} was written by a newer jaxperturb (schema {version}, this one knows {len(MIGRATIONS)}); "
            "upgrade jaxperturb"
        )
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            _apply(connection, number, migration.__name__)
            migration(connection)
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise


def _apply(connection: sqlite3.Connection, number: int, name: str) -> None:
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_version "
        "(version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied TEXT NOT NULL)"
    )
    connection.execute("INSERT INTO schema_version VALUES (?, ?, ?)", (number, name, now()))
