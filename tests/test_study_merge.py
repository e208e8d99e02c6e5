"""Joined stores: what is in any of them, once, and refusals of what is not one study."""

import sqlite3
from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest
from sample_study import RECORD, image_rows, make_cell, make_curve, make_identity, make_part, make_study

from jaxperturb.errors import StoreError
from jaxperturb.study.merge import Merged, merge_stores
from jaxperturb.study.store import create_store, open_store


def write(path, parts, study=None, images=20, record=RECORD, events=()):
    with create_store(path, study or make_study(), image_rows(images)) as store:
        run = store.begin_run(record)
        for event in events:
            store.add_event(run, *event)
        for part in parts:
            store.add(run, part)
        store.end_run(run, "complete")
    return path


def query(path, text):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(text).fetchall()


@pytest.fixture
def out(tmp_path):
    return tmp_path / "joined" / "c.sqlite"


def test_what_is_in_any_store_is_in_the_joined_one(tmp_path, out):
    first = write(tmp_path / "a.sqlite", [make_part(make_cell()), make_part(make_cell(draw=1), 0, 7)])
    second = write(
        tmp_path / "b.sqlite",
        [make_part(make_cell("1"), shortcut="all draws coincide"), make_part(make_cell(draw=1), 7, 20)],
        record=replace(RECORD, host="elsewhere"),
        events=[("environment", "jax: 1 before, 2 now")],
    )
    before = first.read_bytes(), second.read_bytes()
    assert merge_stores([first, second], out) == Merged(4, 0)
    assert (first.read_bytes(), second.read_bytes()) == before
    assert [file.name for file in out.parent.iterdir()] == ["c.sqlite"]
    with open_store(out) as store:
        for cell in (make_cell(), make_cell(draw=1), make_cell("1")):
            np.testing.assert_array_equal(store.outcomes(cell)[1], make_part(cell).outcomes)
        assert store.images() == image_rows(20)
    assert query(out, "SELECT shortcut FROM cell WHERE level = '1'") == [("all draws coincide",)]
    assert query(out, "SELECT id, host, outcome FROM run") == [(1, "host", "complete"), (2, "elsewhere", "complete")]
    assert query(out, "SELECT run, text FROM event") == [(2, "jax: 1 before, 2 now")]
    assert query(out, "SELECT run, COUNT(*) FROM part GROUP BY run") == [(1, 2), (2, 2)]


def test_more_draws_levels_and_images_of_one_are_kept(tmp_path, out):
    few = make_study(make_identity(images=("b" * 64,)), images=10, draws=1, targets=("conv1",))
    more = make_study(perturbations=(make_curve("resample", ("0.1",)),), targets=("fc2",))
    first = write(tmp_path / "a.sqlite", [make_part(make_cell(), 0, 10)], few, images=10)
    second = write(tmp_path / "b.sqlite", [make_part(make_cell("0.1", 1, "fc2", "resample"))], more)
    merge_stores([first, second], out)
    with open_store(out) as store:
        study = store.study()
        assert (study.draws, study.images, study.targets) == (2, 20, ("conv1", "fc2"))
        assert [curve.text for curve in study.perturbations] == ["synapse_knockout", "resample"]
        assert len(store.images()) == 20
        assert len(store.cells()) == 2


def test_what_two_hold_is_taken_once(tmp_path, out):
    first = write(tmp_path / "a.sqlite", [make_part(make_cell(), 0, 12)])
    second = write(tmp_path / "b.sqlite", [make_part(make_cell(), 5, 20)])
    assert merge_stores([first, second, first], out) == Merged(2, 0)
    assert query(out, "SELECT start, stop, run FROM part ORDER BY start") == [(0, 12, 1), (12, 20, 2)]


def test_outcomes_that_disagree_are_counted_and_the_first_stays(tmp_path, out):
    part = make_part(make_cell(), 0, 12)
    other = make_part(make_cell(), 5, 20)
    other.outcomes[0, [0, 3]] ^= True  # images 5 and 8
    other.outcomes[4, 3] ^= True  # image 8 again
    other.outcomes[0, 10] ^= True  # image 15, which the first one does not have
    first, second = write(tmp_path / "a.sqlite", [part]), write(tmp_path / "b.sqlite", [other])
    assert merge_stores([first, second], out) == Merged(2, 2)
    with open_store(out) as store:
        np.testing.assert_array_equal(store.outcomes(make_cell())[1][:, :12], part.outcomes)
    assert query(out, "SELECT kind FROM event") == [("merge",)]


def test_another_study_is_refused_with_the_difference(tmp_path, out):
    first = write(tmp_path / "a.sqlite", [])
    second = write(tmp_path / "b.sqlite", [], make_study(make_identity(seed=1, precision="tf32")))
    with pytest.raises(StoreError) as caught:
        merge_stores([first, second], out)
    assert str(caught.value) == (
        f"{second} holds another study than {first}: seed: 0 in {first}, 1 in {second}; "
        f"precision: float32 in {first}, tf32 in {second}"
    )
    assert not out.exists()


def test_the_third_of_three_is_compared_with_the_longest(tmp_path, out):
    chains = [("b" * 64,), ("b" * 64, "c" * 64), ("b" * 64, "d" * 64)]
    paths = [
        write(
            tmp_path / f"{number}.sqlite", [], make_study(make_identity(images=chain), images=20 * number), 20 * number
        )
        for number, chain in enumerate(chains, 1)
    ]
    with pytest.raises(StoreError, match="differ from number 256 "):
        merge_stores(paths, out)


def test_nothing_is_written_over(tmp_path, out):
    first = write(tmp_path / "a.sqlite", [make_part(make_cell())])
    before = first.read_bytes()
    with pytest.raises(StoreError, match="is there already"):
        merge_stores([first], first)
    assert first.read_bytes() == before


def test_a_damaged_store_among_them_leaves_nothing_behind(tmp_path, out):
    first, second = (
        write(tmp_path / f"{name}.sqlite", [make_part(make_cell(draw=d)) for d in range(99)]) for name in "ab"
    )
    second.write_bytes(second.read_bytes()[:-5000])
    with pytest.raises(StoreError, match=r"b\.sqlite is damaged"):
        merge_stores([first, second], out)
    assert not out.parent.exists()
