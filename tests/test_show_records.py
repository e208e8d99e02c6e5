"""Rows for other programs, against the counts that SQLite itself gives."""

import json
import sqlite3
from contextlib import closing

import pandas as pd
import pytest

import jaxperturb as jp
from jaxperturb.cli import main

IDENTITY = ["network", "weights_sha256", "dataset", "split", "images_sha256", "seed", "semantics", "precision"]


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records") / "study"
    digits = jp.load_dataset("digits")
    jp.sweep(
        "alexnet-digits",
        digits,
        "synapse_knockout",
        "conv5,fc8",
        levels="0,0.9",
        draws=2,
        images=30,
        seed=4,
        out=folder,
    )
    return folder


def sql(out, query):
    with closing(sqlite3.connect(out / "results.sqlite")) as connection:
        return connection.execute(query).fetchall()


def test_cells_are_those_of_the_store(out, tmp_path):
    assert main.run(["table", str(out), "--rows=cells", "--format=parquet", "--to=cells.parquet"]) == 0
    found = pd.read_parquet(tmp_path / "cells.parquet")
    assert list(found.columns[: len(IDENTITY)]) == IDENTITY
    assert set(found["seed"]) == {4}
    assert set(found["precision"]) == {"float32"}
    own = found[(found["level_text"] == "0.9")]
    query = (
        "SELECT target, draw, SUM(top1), SUM(top5) FROM cell JOIN part ON part.cell = cell.id WHERE level = '0.9' "
        "GROUP BY target, draw ORDER BY target, draw"
    )
    assert sorted(own[["target", "draw", "top1", "top5"]].itertuples(index=False, name=None)) == sql(out, query)


def test_images_add_up_to_the_cells(out, capsys):
    assert main.run(["table", str(out), "--rows=images"]) == 0
    (tmp := out.parent / "images.csv").write_text(capsys.readouterr().out)
    found = pd.read_csv(tmp)
    cells = jp.load_results(out).cells
    assert len(found) == 30 * len(cells)
    by = ["perturbation", "target", "level", "draw"]
    sums = found.groupby(by)[["top1", "top5", "same1", "same5"]].sum()
    assert (sums == cells.set_index(by)[["top1", "top5", "same1", "same5"]].loc[sums.index]).all(axis=None)
    identifiers = [row[0] for row in sql(out, "SELECT identifier FROM image ORDER BY position")]
    first = found[(found["target"] == "fc8") & (found["level"] == 0.9) & (found["draw"] == 1)]
    assert first["identifier"].astype(str).tolist() == identifiers


def test_layers_are_those_of_the_summary_and_say_what_they_are_of(out, capsys):
    assert main.run(["table", str(out), "--rows=layers", "--format=json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["target"] for row in rows] == ["conv5", "fc8"]
    assert [row["area"] for row in rows] == jp.load_results(out).summary()["area"].tolist()
    assert rows[0]["weights_sha256"] == json.loads((out / "config.json").read_text())["weights_sha256"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rows=cells", "--format=parquet"], "parquet needs a file; give --to=cells.parquet"),
        (["--rows=cells", "--format=latex"], "--rows takes a --format of csv, json, parquet, not latex"),
        (["--format=parquet"], "--format=parquet is for rows; give --rows=cells, layers or images"),
        (["--to=x.csv"], "--to is for rows; give --rows=cells, layers or images"),
        (["--rows=cells", "--to=nowhere/x.csv"], "nowhere/x.csv cannot be written: No such file or directory"),
    ],
)
def test_mistakes_give_one_line(out, capsys, words, told):
    assert main.run(["table", str(out), *words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
