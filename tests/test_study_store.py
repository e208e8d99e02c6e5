"""The store, read back by sqlite3 and NumPy alone, and what it refuses."""

import os
import shutil
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sample_study import RECORD, image_rows, make_cell, make_part, make_study

from jaxperturb.engine.plan import INTACT
from jaxperturb.errors import OutputError, StoreError, StoreInUseError
from jaxperturb.study import contents, schema
from jaxperturb.study import store as store_module
from jaxperturb.study.rows import key_of
from jaxperturb.study.store import claim_store, create_store, open_store

STORES = Path(__file__).parent / "stores"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "results.sqlite"


def make_store(path, study=None, images=20):
    return create_store(path, study or make_study(), image_rows(images))


def fill(path, parts):
    with make_store(path) as store:
        run = store.begin_run(RECORD)
        for part in parts:
            store.add(run, part)
        store.end_run(run, "complete")


def fill_in_commits_of_ten(path):
    with make_store(path) as store:
        run = store.begin_run(RECORD)
        for draw in range(5000):
            store.add(run, make_part(make_cell(draw=draw)))
            if draw % 10 == 0:
                store.commit()


def query(path, text):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(text).fetchall()


def test_planes_are_the_packed_outcomes_and_the_counts_their_ones(path):
    part = make_part(make_cell(), 3, 16)
    fill(path, [part])
    ((*counts, planes),) = query(path, "SELECT top1, top5, same1, same5, finite, planes FROM part")
    assert counts == [sum(plane) for plane in part.outcomes.tolist()]
    assert len(planes) == 5 * 2
    for number, plane in enumerate(part.outcomes.tolist()):
        text = "".join(f"{byte:08b}" for byte in planes[2 * number : 2 * number + 2])
        assert text == "".join("01"[bit] for bit in plane) + "000"


def test_cells_view_adds_parts_up(path):
    first, second = make_part(make_cell(), 0, 9), make_part(make_cell(), 9, 20)
    fill(path, [first, second])
    (row,) = query(path, "SELECT perturbation, target, level, draw, seed, images, top1, nonfinite, selected FROM cells")
    outcomes = np.concatenate([first.outcomes, second.outcomes], axis=1)
    assert row == ("synapse_knockout", "conv1", "0.5", 0, 0, 20, int(outcomes[0].sum()), int((~outcomes[4]).sum()), 7)


def test_images_and_the_run_are_recorded(path):
    fill(path, [])
    assert query(path, "SELECT * FROM image WHERE position = 13") == [(13, 113, "digits/13", 3)]
    ((outcome, host, command, ended),) = query(path, "SELECT outcome, host, command, ended FROM run")
    assert (outcome, host, command) == ("complete", "host", "jaxperturb sweep")
    assert ended.endswith("+00:00")


def test_file_names_its_application_and_keeps_a_rollback_journal(path):
    fill(path, [])
    assert query(path, "PRAGMA application_id") == [(0x4A585054,)]
    assert query(path, "PRAGMA journal_mode") == [("delete",)]
    assert query(path, "SELECT version, name FROM schema_version") == [
        (number, migration.__name__) for number, migration in enumerate(schema.MIGRATIONS, 1)
    ]


def test_nothing_but_the_store_is_left_in_the_folder(path):
    fill(path, [make_part(make_cell())])
    assert [file.name for file in path.parent.iterdir()] == ["results.sqlite"]


def test_outcomes_come_back_from_parts_in_any_order(path):
    parts = [make_part(make_cell(), *span) for span in ((13, 20), (0, 8), (8, 13))]
    fill(path, parts)
    with open_store(path) as store:
        positions, outcomes = store.outcomes(make_cell())
    assert positions.tolist() == list(range(20))
    np.testing.assert_array_equal(outcomes, make_part(make_cell(), 0, 20).outcomes)


def test_a_stored_range_is_not_stored_again(path):
    with make_store(path) as store:
        store.add(store.begin_run(RECORD), make_part(make_cell(), 5, 10))
    with claim_store(path) as store:
        store.add(store.begin_run(RECORD), make_part(make_cell(), 0, 20))
    assert query(path, "SELECT start, stop, run FROM part ORDER BY start") == [(0, 5, 2), (5, 10, 1), (10, 20, 2)]
    with open_store(path) as store:
        np.testing.assert_array_equal(store.outcomes(make_cell())[1], make_part(make_cell(), 0, 20).outcomes)


def test_covers_says_whether_all_images_are_there(path):
    with make_store(path) as store:
        run = store.begin_run(RECORD)
        for span in ((0, 5), (5, 8), (10, 20)):
            store.add(run, make_part(make_cell(), *span))
        for _ in (True, False):  # once before they are written, once after
            assert store.covers(make_cell(), 0, 8)
            assert store.covers(make_cell(), 10, 20)
            assert not store.covers(make_cell(), 0, 20)
            assert not store.covers(make_cell(), 7, 11)
            assert not store.covers(make_cell(draw=1), 0, 5)
            assert store.missing(make_cell(), 20) == 2
            assert store.missing(make_cell(draw=1), 20) == 20
            store.commit()


def test_parts_are_seen_by_others_after_a_commit_and_not_before(path):
    with make_store(path) as store:
        store.add(store.begin_run(RECORD), make_part(make_cell()))
        assert query(path, "SELECT COUNT(*) FROM part") == [(0,)]
        store.commit()
        assert query(path, "SELECT COUNT(*) FROM part") == [(1,)]


def test_a_part_is_committed_in_time_though_no_other_follows(path, monkeypatch):
    monkeypatch.setattr(contents, "COMMIT_SECONDS", 0.01)
    with make_store(path) as store:
        store.add(store.begin_run(RECORD), make_part(make_cell()))
        wait = threading.Event()
        for _ in range(1000):
            if query(path, "SELECT COUNT(*) FROM part") == [(1,)]:
                break
            wait.wait(0.01)
        assert query(path, "SELECT COUNT(*) FROM part") == [(1,)]


def test_parts_are_committed_no_later_than_ten_seconds():
    assert contents.COMMIT_SECONDS <= 10


def test_an_exception_keeps_what_was_taken(path):
    def interrupted():
        with make_store(path) as store:
            store.add(store.begin_run(RECORD), make_part(make_cell()))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert query(path, "SELECT COUNT(*) FROM part") == [(1,)]
    assert query(path, "SELECT outcome, ended FROM run") == [("running", None)]


def test_a_store_in_memory_works_alike():
    store = make_store(None)
    store.add(store.begin_run(RECORD), make_part(make_cell()))
    np.testing.assert_array_equal(store.outcomes(make_cell())[1], make_part(make_cell()).outcomes)
    assert store.study() == make_study()


@pytest.mark.parametrize("shape", [(5, 19), (4, 20)])
def test_outcomes_of_another_shape_are_refused(path, shape):
    with make_store(path) as store, pytest.raises(StoreError, match="expected outcomes of shape"):
        store.add(1, replace(make_part(make_cell()), outcomes=np.ones(shape, bool)))


def test_a_cell_that_is_not_there_is_refused(path):
    with make_store(path) as store, pytest.raises(StoreError, match="has no cell"):
        store.outcomes(make_cell())


def text_file(path):
    path.write_text("perturbation,target\n" * 50)


def foreign_database(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE study (id)")


def truncated(path):
    fill(path, [make_part(make_cell(draw=draw)) for draw in range(200)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged_page(path):
    fill(path, [make_part(make_cell(draw=draw)) for draw in range(200)])
    content = bytearray(path.read_bytes())
    content[8192:12288] = bytes(4096)
    path.write_bytes(content)


def flipped_bit(path):
    part = make_part(make_cell())
    fill(path, [part])
    content, planes = bytearray(path.read_bytes()), np.packbits(part.outcomes, axis=1).tobytes()
    content[content.index(planes) + 4] ^= 1 << 5
    path.write_bytes(content)


def newer(path):
    fill(path, [])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("INSERT INTO schema_version VALUES (99, 'm099', 'later')")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: None, "there is no store"),
        (lambda path: path.touch(), "is empty"),
        (text_file, "is not a store"),
        (foreign_database, "is not a store"),
        (lambda path: path.mkdir(), "cannot be read"),
        (truncated, "is damaged"),
        (damaged_page, "is damaged"),
        (flipped_bit, "do not add up to their counts"),
        (newer, "newer jaxperturb"),
    ],
)
def test_what_is_no_store_is_refused_in_one_line_that_names_it(path, spoil, message):
    spoil(path)
    with pytest.raises(StoreError, match=message) as caught:
        open_store(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_outcomes_are_noticed_without_a_check_of_the_whole_file(path):
    flipped_bit(path)
    with open_store(path, check=False) as store, pytest.raises(StoreError, match="do not add up"):
        store.outcomes(make_cell())


def test_a_second_writer_is_refused_and_a_reader_is_not(path):
    with make_store(path) as first:
        run = first.begin_run(RECORD)
        first.add(run, make_part(make_cell()))
        first.commit()
        first.add(run, make_part(make_cell(draw=1)))
        for write in (claim_store, make_store):
            with pytest.raises(StoreInUseError, match=f"process {os.getpid()} on .*, since 20"):
                write(path)
        with open_store(path) as reader:
            assert [counts.cell for counts in reader.cells()] == [make_cell()]
    with claim_store(path) as second:
        assert len(second.cells()) == 2


def test_a_store_is_not_made_where_one_is(path):
    fill(path, [make_part(make_cell())])
    with pytest.raises(StoreError, match="is there already"):
        make_store(path)
    assert query(path, "SELECT COUNT(*) FROM part") == [(1,)]


def test_what_a_killed_process_left_does_not_hinder_a_new_store(path):
    fill(path, [])
    path.rename(path.with_name(".results.sqlite.new"))
    fill(path, [make_part(make_cell())])
    assert [file.name for file in path.parent.iterdir()] == ["results.sqlite"]


def test_a_reader_changes_nothing(path):
    fill(path, [make_part(make_cell())])
    before = path.read_bytes()
    with open_store(path) as store, pytest.raises(OutputError, match="cannot be written"):
        store.begin_run(RECORD)
    assert path.read_bytes() == before


def test_a_reader_that_takes_long_does_not_end_a_run(path, monkeypatch):
    monkeypatch.setattr(contents, "COMMIT_SECONDS", 0.01)
    monkeypatch.setattr("jaxperturb.study.database.BUSY_SECONDS", 0.02)
    with make_store(path) as store, closing(sqlite3.connect(path, isolation_level=None)) as reader:
        run = store.begin_run(RECORD)
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM study").fetchall()
        store.add(run, make_part(make_cell()))
        threading.Event().wait(0.3)  # the commit is tried and put off a few times
        store.add(run, make_part(make_cell(draw=1)))
        reader.execute("COMMIT")
    assert query(path, "SELECT COUNT(*) FROM part") == [(2,)]


def test_a_part_that_an_interrupted_commit_wrote_is_there_once(path, monkeypatch):
    """Ctrl-C may come when a commit is done, and not yet known to be."""

    def interrupted(*_):
        raise KeyboardInterrupt

    with make_store(path) as store:
        store.add(store.begin_run(RECORD), make_part(make_cell()))
        with monkeypatch.context() as patched:
            patched.setattr(contents.logging, "info", interrupted)
            with pytest.raises(KeyboardInterrupt):
                store.commit()
    assert query(path, "SELECT COUNT(*) FROM part") == [(1,)]


def test_a_refused_file_is_left_as_it_is(path):
    text_file(path)
    before = path.read_bytes()
    with pytest.raises(StoreError):
        open_store(path)
    assert path.read_bytes() == before


def test_a_store_that_could_not_be_made_leaves_nothing(path, monkeypatch):
    def failing(connection):
        connection.execute("CREATE TABLE study (id)")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(schema, "MIGRATIONS", (failing,))
    with pytest.raises(OutputError, match="cannot be written"):
        make_store(path)
    assert list(path.parent.iterdir()) == []


def test_a_failed_migration_leaves_the_store_at_its_version(path, monkeypatch):
    fill(path, [])
    version = len(schema.MIGRATIONS)

    def m999_fails(connection):
        connection.execute("ALTER TABLE part ADD COLUMN classes BLOB")
        raise sqlite3.OperationalError("some error")

    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, m999_fails))
    with pytest.raises(StoreError):
        claim_store(path)
    assert query(path, "SELECT MAX(version) FROM schema_version") == [(version,)]
    assert "classes" not in [row[1] for row in query(path, "PRAGMA table_info(part)")]


def test_a_store_of_an_older_schema_is_brought_up(path, monkeypatch):
    fill(path, [make_part(make_cell())])

    def m999_adds(connection):
        connection.execute("ALTER TABLE part ADD COLUMN classes BLOB")

    before = path.read_bytes()
    for module in (schema, store_module):
        monkeypatch.setattr(module, "MIGRATIONS", (*schema.MIGRATIONS, m999_adds))
    with open_store(path) as store:
        assert len(store.cells()) == 1
    assert path.read_bytes() == before, "a reader changes nothing"
    with claim_store(path) as store:
        assert len(store.cells()) == 1
    assert query(path, "SELECT classes FROM part") == [(None,)]


def test_a_store_of_the_first_schema_is_read_and_brought_up(path):
    """A file that the first version wrote, kept for good; the counts are those that it printed."""
    shutil.copy(STORES / "schema1.sqlite", path)
    expected = {
        ("synapse_knockout", "conv5", "0.5", 0): 19,
        ("synapse_knockout", "conv5", "0.5", 1): 19,
        ("synapse_knockout", "conv5", "1", 0): 2,
        ("synapse_knockout", "fc8", "0.5", 0): 19,
        ("synapse_knockout", "fc8", "0.5", 1): 19,
        ("synapse_knockout", "fc8", "1", 0): 2,
        ("node_knockout", "conv5", "0", 0): 19,
        ("node_knockout", "conv5", "0.5", 0): 19,
        ("node_knockout", "conv5", "0.5", 1): 19,
        ("node_knockout", "fc8", "0", 0): 19,
        ("node_knockout", "fc8", "0.5", 0): 10,
        ("node_knockout", "fc8", "0.5", 1): 9,
    }
    for read in (open_store, claim_store):
        with read(path) as store:
            assert {
                key_of(counts.cell): counts.counts["top1"] for counts in store.cells() if counts.cell != INTACT
            } == expected
            assert store.study().targets == ("conv5", "fc8")
            assert len(store.images()) == 20
            ((run,),) = ([run.outcome for run in store.runs()],)
            assert run == "complete"
    assert query(path, "SELECT MAX(version) FROM schema_version") == [(len(schema.MIGRATIONS),)]


def test_a_full_disk_is_said_and_loses_nothing_that_was_committed(path, monkeypatch):
    connect = store_module.connect_writer

    def small(target):
        connection = connect(target)
        connection.execute("PRAGMA max_page_count = 30")
        return connection

    monkeypatch.setattr(store_module, "connect_writer", small)
    with pytest.raises(OutputError, match="cannot be written"):
        fill_in_commits_of_ten(path)
    with open_store(path) as store:
        assert len(store.cells()) > 20


def test_a_torn_last_write_is_rolled_back(path, tmp_path):
    """A journal that a killed process left behind is played back by whoever opens the store next."""
    fill(path, [make_part(make_cell())])
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
        writer.execute("BEGIN IMMEDIATE")
        for position in range(20, 5000):
            writer.execute("INSERT INTO image VALUES (?, ?, 'x', 0)", (position, position))
        torn = tmp_path / "torn" / "results.sqlite"
        torn.parent.mkdir()
        shutil.copy(path, torn)
        shutil.copy(f"{path}-journal", f"{torn}-journal")
        writer.execute("ROLLBACK")
    with open_store(torn) as store:  # this reader has to take the lease for a moment
        assert [file.name for file in torn.parent.iterdir()] == ["results.sqlite"]
        assert len(store.images()) == 20
        np.testing.assert_array_equal(store.outcomes(make_cell())[1], make_part(make_cell()).outcomes)
