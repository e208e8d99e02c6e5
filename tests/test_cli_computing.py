"""How to compute, on the command line: precision, algorithm, lesions at once, memory, devices; and what was done."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest

from jaxperturb.cli import main

SMALL = ("sweep", "--quiet", "--images=40", "--draws=2", "--layers=fc8", "--levels=0.5,1",
         "--perturbations=synapse_knockout,node_knockout")  # fmt: skip


@pytest.fixture
def says(capsys):
    """Runs a command line, and returns its status, what it prints, and what it says beside."""

    def run(*words):
        capsys.readouterr()
        status = main.run(list(words))
        return status, *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "whole"
    assert main.run([*SMALL, f"--out={folder}"]) == 0
    return folder


def cells(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results.csv").set_index(["perturbation", "target", "level", "draw"])


def test_memory_and_devices_change_nothing(whole, says, tmp_path):
    assert says(*SMALL, "--memory_gb=0.5", "--devices=1", f"--out={tmp_path}")[0] == 0
    pd.testing.assert_frame_equal(cells(tmp_path), cells(whole))


def test_many_lesions_at_once_give_the_same_counts_and_are_repeated_from_the_record(whole, says, tmp_path):
    assert says(*SMALL, "--masks_per_call=3", "--convolutions=xla", f"--out={tmp_path}")[0] == 0
    assert (cells(tmp_path)["top1"] - cells(whole)["top1"]).abs().max() <= 1  # ties
    assert (cells(tmp_path)["changed"] == cells(whole)["changed"]).all()
    config = tmp_path / "config.json"
    given = json.loads(config.read_text())["flags"]
    assert (given["masks_per_call"], given["convolutions"], given["precision"]) == (3, "xla", "float32")
    status, out, _ = says("sweep", "--dry_run", f"--config={config}")
    assert (status, "nothing to compute" in out) == (0, True)


def test_another_tile_is_refused_with_the_difference(whole, says):
    status, _, err = says(*SMALL, "--masks_per_call=3", f"--out={whole}")
    assert (status, err.count("\n")) == (2, 1)
    assert "tiles.masks: none in the store, 3 asked" in err


def test_precisions_that_a_cpu_is_slow_in_are_refused(says):
    for command in (SMALL, ("evaluate", "--images=20")):
        status, _, err = says(*command, "--precision=bfloat16")
        assert (status, err.count("\n")) == (2, 1)
        assert "expected precision float32 on a CPU, got bfloat16" in err


def test_a_store_of_another_precision_is_refused_with_the_difference(whole, says):
    copy = whole.with_name("half")
    copy.mkdir()
    with closing(sqlite3.connect(copy / "results.sqlite")) as connection:
        with closing(sqlite3.connect(whole / "results.sqlite")) as source:
            source.backup(connection)
        (asked,) = connection.execute("SELECT asked FROM study").fetchone()
        changed = asked.replace('"precision": "float32"', '"precision": "bfloat16"')
        assert changed != asked
        connection.execute("UPDATE study SET asked = ?", (changed,))
        connection.commit()
    status, _, err = says(*SMALL, f"--out={copy}")
    assert (status, err.count("\n")) == (2, 1)
    assert "precision: bfloat16 in the store, float32 asked" in err


def test_more_devices_than_there_are_are_refused(says):
    status, _, err = says(*SMALL, "--devices=64")
    assert (status, err.count("\n")) == (2, 1)
    assert "as this machine has, got 64" in err


def test_the_store_names_the_way_of_each_target(whole, says):
    with closing(sqlite3.connect(whole / "results.sqlite")) as connection:
        found = connection.execute("SELECT run, text FROM event WHERE kind = 'method'").fetchall()
    assert sorted(found) == [
        (1, "fc8, node_knockout: units are replaced in the layer's output, which is computed once"),
        (1, "fc8, synapse_knockout: starts at the layer"),
    ]
    _, out, _ = says("status", str(whole))
    assert "  synapse_knockout of fc8: starts at the layer\n" in out


def test_precisions_are_compared(says):
    status, out, _ = says("evaluate", "--images=40", "--precisions=float32,bfloat16")
    assert status == 0
    head, plain, short = (line.split() for line in out.splitlines())
    assert head[0] == "precision"
    assert (plain[0], short[0]) == ("float32", "bfloat16")
    assert plain[3:7] == ["40", "of", "40", "0"]
    assert int(short[3]) >= 38
    assert 0 < float(short[6]) < 5
    assert abs(float(plain[1]) - float(short[1])) <= 2 / 40


def test_a_cpu_has_nothing_to_compare(says):
    status, out, _ = says("evaluate", "--images=20", "--compare_precision")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == ["precision", "float32", "this"]
    status, _, err = says("evaluate", "--images=20", "--precisions=float31")
    assert (status, err.count("\n")) == (2, 1)
    assert "did you mean 'float32'?" in err
