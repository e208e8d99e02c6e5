"""Images of a study that could not be read: they keep their place, and no outcome of theirs is kept or counted."""

import sqlite3
from collections.abc import Collection

import numpy as np

from jaxperturb.engine.run import PLANES
from jaxperturb.types import Outcomes


def read_skipped(connection: sqlite3.Connection) -> dict[int, str]:
    """Returns why each skipped image could not be read, by its position in the study's order."""
    return dict(connection.execute("SELECT position, reason FROM skipped ORDER BY position"))


def insert_skipped(connection: sqlite3.Connection, position: int, reason: str) -> None:
    """Marks an image as skipped, and takes its outcomes out of the parts that hold them.

    An earlier run may have read the image that this one cannot read; all cells of a study are of the same images.
    """
    connection.execute("INSERT OR IGNORE INTO skipped VALUES (?, ?)", (position, reason))
    rows = connection.execute("SELECT id, start, stop, planes FROM part WHERE start <= ? AND ? < stop", (position,) * 2)
    for part, start, stop, planes in rows.fetchall():
        packed = np.frombuffer(planes, np.uint8).reshape(len(PLANES), -1)
        outcomes = np.unpackbits(packed, axis=1, count=stop - start).astype(bool)
        outcomes[:, position - start] = False
        counts = outcomes.sum(axis=1).tolist()
        connection.execute(
            f"UPDATE part SET {', '.join(f'{plane} = ?' for plane in PLANES)}, planes = ? WHERE id = ?",
            (*counts, np.packbits(outcomes, axis=1).tobytes(), part),
        )


def without_skipped(outcomes: Outcomes, start: int, skipped: Collection[int]) -> Outcomes:
    """Returns outcomes of images from `start` on, false in all planes for those that are skipped."""
    own = [position - start for position in skipped if 0 <= position - start < outcomes.shape[1]]
    if not own:
        return outcomes
    cleared = outcomes.copy()
    cleared[:, own] = False
    return cleared
