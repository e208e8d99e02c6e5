"""Images that are left out of a study: of what is stored and what comes, of counts, views and joined stores."""

import sqlite3
from pathlib import Path

import numpy as np
import pytest
from sample_study import RECORD, image_rows, make_cell, make_part, make_study

from jaxperturb.study.merge import merge_stores
from jaxperturb.study.store import create_store, open_store

FIRST, SECOND = make_cell("0.5", 0), make_cell("0.5", 1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "results.sqlite"


def fill(path: Path, *skipped: int) -> None:
    """Stores one cell, skips images, and stores another."""
    with create_store(path, make_study(), image_rows()) as store:
        run = store.begin_run(RECORD)
        store.add(run, make_part(FIRST, 0, 7))
        store.add(run, make_part(FIRST, 7, 20))
        for position in skipped:
            store.skip(run, position, f"image {position} is gone")
        store.add(run, make_part(SECOND))


def test_a_skipped_image_is_in_no_count_whenever_its_outcome_came(path: Path):
    fill(path, 3, 7, 19)
    kept = [position for position in range(20) if position not in (3, 7, 19)]
    with open_store(path) as store:
        assert store.skipped() == {position: f"image {position} is gone" for position in (3, 7, 19)}
        for counts, cell in zip(store.cells(), (FIRST, SECOND), strict=True):
            expected = make_part(cell).outcomes[:, kept]
            positions, outcomes = store.outcomes(cell)
            assert positions.tolist() == kept
            np.testing.assert_array_equal(outcomes, expected)
            assert counts.images == 17
            assert list(counts.counts.values()) == expected.sum(axis=1).tolist()


def test_the_view_says_the_same_as_the_library(path: Path):
    fill(path, 0, 12)
    with open_store(path) as store:
        expected = [(c.images, c.counts["top1"], c.images - c.counts["finite"]) for c in store.cells()]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT images, top1, nonfinite FROM cells").fetchall() == expected
        assert connection.execute("SELECT kind, text FROM event").fetchall() == [
            ("skipped image", "image 0 is gone"),
            ("skipped image", "image 12 is gone"),
        ]
    connection.close()


def test_an_image_is_skipped_once(path: Path):
    fill(path, 5, 5)
    with open_store(path) as store:
        assert store.skipped() == {5: "image 5 is gone"}
        assert len(store.events()) == 1


def test_what_is_covered_stays_covered(path: Path):
    fill(path, 5)
    with open_store(path) as store:
        assert store.covers(FIRST, 0, 20)
        assert store.missing(SECOND, 20) == 0


def test_a_joined_store_leaves_out_what_either_left_out(path: Path, tmp_path: Path):
    fill(path, 2)
    fill(tmp_path / "other.sqlite", 9)
    merged = merge_stores([path, tmp_path / "other.sqlite"], tmp_path / "joined.sqlite")
    assert merged.disagreeing == 0
    with open_store(tmp_path / "joined.sqlite") as store:
        assert sorted(store.skipped()) == [2, 9]
        assert [counts.images for counts in store.cells()] == [18, 18]


def test_a_store_of_the_first_schema_has_none():
    with open_store(Path(__file__).parent / "stores" / "schema1.sqlite") as store:
        assert store.skipped() == {}
        assert store.cells()
