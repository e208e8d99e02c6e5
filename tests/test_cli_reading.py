"""The commands that read a study: what they print, and one clear line for what cannot be read."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from sample_study import RECORD, image_rows, make_cell, make_part, make_study

from jaxperturb.cli import main
from jaxperturb.study.store import create_store

SMALL = ["sweep", "--quiet", "--layers=conv1,fc8", "--levels=0,0.5,0.9", "--perturbations=synapse_knockout"]
READERS = [["table"], ["plot"], ["plan", "--half_width=0.05"], ["compare"], ["report"]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished study, to be read only."""
    place = tmp_path_factory.mktemp("study") / "small"
    assert main.run([*SMALL, "--images=60", "--draws=3", f"--out={place}"]) == 0
    return place


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command line that must fail with one line on standard error and nothing else; returns the line."""

    def run(*words: str) -> str:
        capsys.readouterr()
        assert main.run(words) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("jaxperturb: ")
        assert err.count("\n") == 1
        return err

    return run


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main.run(words) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def reading(words: list[str], *places: Path) -> list[str]:
    """A command line that reads a place; compare reads it twice."""
    return [words[0], *map(str, places if words[0] != "compare" else places * 2), *words[1:]]


@pytest.mark.parametrize("words", READERS, ids=lambda words: words[0])
def test_a_missing_store_is_said(fails, tmp_path, words):
    assert "there is no store" in fails(*reading(words, tmp_path / "nothing"))


@pytest.mark.parametrize("words", READERS, ids=lambda words: words[0])
def test_a_foreign_empty_or_damaged_store_is_said(fails, folder, tmp_path, words):
    file = tmp_path / "results.sqlite"
    file.write_bytes(b"not a store, but long enough for a header" * 10)
    assert "is not a store" in fails(*reading(words, tmp_path))
    file.write_bytes(b"")
    assert "is empty" in fails(*reading(words, tmp_path))
    content = bytearray((folder / "results.sqlite").read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    assert "damaged" in fails(*reading(words, tmp_path))


def made_up(place: Path, images: int, draws: int) -> None:
    """Writes a store of one layer, without computing anything."""
    store = create_store(place / "results.sqlite", make_study(images=images, draws=draws), image_rows(images))
    run = store.begin_run(RECORD)
    for level in ("0", "0.5", "1"):
        for draw in range(draws if level != "0" else 1):
            part = make_part(make_cell(level, draw), 0, images, right=int(images * (1 - float(level) / 2)))
            store.add(run, replace(part, shortcut="" if float(level) else "intact"))
    store.close()


@pytest.mark.parametrize(("images", "draws"), [(20, 1), (1, 3), (1, 1)])
def test_a_single_draw_or_image_is_enough_to_read(fails, capsys, tmp_path, images, draws):
    made_up(tmp_path, images, draws)
    text = printed(capsys, "table", str(tmp_path))
    assert ("1 draw: says nothing of other draws" in text) == (draws == 1)
    assert ("1 image: says nothing of other images" in text) == (images == 1)
    assert printed(capsys, "plot", str(tmp_path))
    assert "a pilot needs 2" in fails("plan", str(tmp_path), "--half_width=0.05")
    for of in ("levels", "ranking", "differences", "classes", "images"):
        assert printed(capsys, "table", str(tmp_path), f"--of={of}", "--format=json")
    assert "synapse_knockout" in printed(capsys, "compare", str(tmp_path), str(tmp_path))


@pytest.mark.parametrize("command", ["table", "plot", "compare", "plan"])
def test_help_teaches_by_example(capsys, command):
    text = printed(capsys, command, "--help")
    assert "Examples:" in text
    assert f"  jaxperturb {command} " in text


def test_every_example_of_help_is_understood():
    from jaxperturb.cli import compare, plan, plot, table
    from jaxperturb.cli.command import parse

    for module in (compare, plan, plot, table):
        for _, line in module.COMMAND.examples:
            name, *words = line.replace("'", "").split()
            parse(main.COMMANDS[name], words)


def test_tables_come_in_forms_for_papers_and_programs(capsys, folder):
    out = str(folder)
    assert "95 % intervals over draws and images" in printed(capsys, "table", out)
    assert r"\begin{tabular}" in printed(capsys, "table", out, "--format=latex")
    assert "\n| --- |" in printed(capsys, "table", out, "--format=markdown")
    rows = json.loads(printed(capsys, "table", out, "--format=json"))
    assert [row["target"] for row in rows] == ["conv1", "fc8"]
    assert rows[1]["half_life"] is None or isinstance(rows[1]["half_life"], float | str)
    (folder.parent / "levels.csv").write_text(printed(capsys, "table", out, "--of=levels", "--format=csv"))
    pd.testing.assert_frame_equal(pd.read_csv(folder.parent / "levels.csv"), pd.read_csv(folder / "levels.csv"))


@pytest.mark.parametrize("of", ["levels", "ranking", "differences", "perturbations", "classes", "images"])
def test_all_that_a_table_can_be_of(capsys, folder, of):
    assert printed(capsys, "table", str(folder), f"--of={of}", "--format=csv").splitlines()


@pytest.mark.parametrize("metric", ["same1", "sdc1", "due", "critical"])
def test_what_is_no_accuracy_is_printed_by_level(capsys, folder, metric):
    rows = json.loads(printed(capsys, "table", str(folder), f"--metric={metric}", "--format=json"))
    assert {row["metric"] for row in rows} == {metric}
    assert len(rows) == 6


def test_tables_that_make_no_sense_are_refused(fails, folder):
    assert "--of=ranking takes an accuracy as --metric (top1, top5, balanced), not sdc1" in fails(
        "table", str(folder), "--of=ranking", "--metric=sdc1"
    )
    assert "use --of=levels" in fails("table", str(folder), "--of=classes", "--metric=critical")


def test_summaries_are_written_by_the_sweep(folder):
    summary = pd.read_csv(folder / "summary.csv")
    assert {"area_low", "half_life_high", "rank_low", "interval"} <= set(summary.columns)
    assert len(pd.read_csv(folder / "levels.csv")) == 6


def test_compare_says_what_is_paired(capsys, folder, tmp_path):
    text = printed(capsys, "compare", str(folder), str(folder), "--layers=conv*", f"--figure={tmp_path}")
    assert "paired on 60 images" in text
    assert "fc8" not in text
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".pdf", ".png"]


def test_plan_says_what_it_takes(capsys, folder):
    text = printed(capsys, "plan", str(folder), "--half_width=0.2")
    assert "as one study: --draws=" in text
    assert "-: not within 6 draws" in printed(capsys, "plan", str(folder), "--half_width=0.001", "--max_draws=6")


def test_plan_counts_faults(capsys):
    assert printed(capsys, "plan", "--margin=0.01", "--confidence=0.99") == "16641\n"
    assert int(printed(capsys, "plan", "--margin=0.01", "--confidence=0.99", "--population=27648")) < 16641


def test_plan_needs_to_know_what_for(fails, folder):
    assert "plan needs --half_width=0.02, say" in fails("plan")
    assert "--half_width needs OUT" in fails("plan", "--half_width=0.1")
    assert "--margin plans a fault campaign by itself" in fails("plan", str(folder), "--margin=0.1")
    assert "--margin takes a number between 0 and 1" in fails("plan", "--margin=3")
    assert "unexpected argument" in fails("plan", str(folder), "more", "--half_width=0.1")


def test_figures_of_filters_need_the_studys_network(capsys, fails, folder, tmp_path):
    text = printed(capsys, "plot", str(folder), "--kinds=curves", "--filters_of=alexnet-digits", f"--out={tmp_path}")
    assert str(tmp_path / "filters.png") in text.splitlines()
    assert "--kinds takes curves, map" in fails("plot", str(folder), "--kinds=curve")


def test_reading_changes_nothing(capsys, folder):
    before = (folder / "results.sqlite").read_bytes()
    for words in READERS:
        printed(capsys, *reading(words, folder))
    with closing(sqlite3.connect(folder / "results.sqlite")) as connection:
        assert connection.execute("SELECT COUNT(*) FROM run").fetchone() == (1,)
    assert (folder / "results.sqlite").read_bytes() == before
