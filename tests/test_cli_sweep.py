"""``sweep`` from records, in shares and as a dry run; ``status`` and ``merge``."""

import importlib.util
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from jaxperturb.cli import main, sweep

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "torture_kills.py"
SMALL = ("sweep", "--quiet", "--images=40", "--draws=3", "--layers=conv5,fc8", "--levels=0,0.5,1",
         "--perturbations=synapse_knockout,node_knockout(include_bias=false)")  # fmt: skip
CELLS = 2 * 2 * (1 + 3 + 1)


@pytest.fixture(scope="module")
def rows():
    """Returns the rows of a store that two of one study have in common."""
    spec = importlib.util.spec_from_file_location("torture_kills_rows", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda folder: module.rows(folder / "results.sqlite")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study") / "whole"
    assert main.run([*SMALL, f"--out={folder}"]) == 0
    return folder


@pytest.fixture
def says(capsys):
    """Runs a command line that works, and returns what it prints."""

    def run(*words):
        capsys.readouterr()
        assert main.run(words) == 0
        return capsys.readouterr().out

    return run


@pytest.fixture
def fails(capsys):
    """Runs a command line that is refused, and returns its one line."""

    def run(*words):
        capsys.readouterr()
        assert main.run(words) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1), err
        return err

    return run


def test_a_study_is_repeated_from_its_own_record(whole, rows, tmp_path):
    out = tmp_path / "again"
    assert main.run(["sweep", "--quiet", f"--config={whole / 'config.json'}", f"--out={out}"]) == 0
    assert rows(out) == rows(whole)
    flags = [json.loads((folder / "config.json").read_text())["flags"] for folder in (out, whole)]
    assert flags[0] == flags[1]


def test_a_record_continues_its_own_folder_and_flags_beside_it_win(whole, rows, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(whole, out)
    assert main.run(["sweep", "--quiet", f"--config={out / 'config.json'}", "--draws=4"]) == 0
    with closing(sqlite3.connect(out / "results.sqlite")) as connection:
        assert connection.execute("SELECT MAX(draw) FROM cell").fetchall() == [(3,)]
    assert not Path("runs").exists()
    assert set(rows(out)["part"]) > set(rows(whole)["part"])


def changed(whole, tmp_path, **changes):
    record = json.loads((whole / "config.json").read_text())
    path = tmp_path / "config.json"
    path.write_text(json.dumps(record | changes))
    return path


def test_a_record_of_other_weights_or_images_is_refused(whole, tmp_path, fails):
    for name in ("weights", "images"):
        path = changed(whole, tmp_path, **{f"{name}_sha256": "f" * 64})
        message = fails("sweep", "--quiet", f"--config={path}", f"--out={tmp_path / 'out'}")
        assert f"the study to repeat has {name} with the fingerprint ffffffffffff, but these have" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("", "is no record of a study"),
        ("[]", "is no record of a study"),
        ('{"flags": 3}', "is no record of a study"),
        ('{"flags": {"drows": 3}}', "has the unknown flag 'drows'; did you mean 'draws'?"),
        ('{"flags": {"draws": "many"}}', "gives --draws the value 'many', which it cannot have"),
    ],
)
def test_what_is_no_record_is_refused(tmp_path, fails, content, message):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    assert message in fails("sweep", f"--config={path}")


def test_a_dry_run_says_what_would_be_computed_and_writes_nothing(whole, says, tmp_path):
    out = tmp_path / "nowhere"
    (line,) = says(*SMALL, "--dry_run", f"--out={out}").splitlines()
    assert line.startswith(
        f"alexnet-digits on 40 images: {CELLS} lesions, {40 * CELLS} evaluations of an image, on cpu ("
    )
    assert ", about " in line
    assert line.endswith(f"into {out}")
    assert not out.exists()
    before = (whole / "results.sqlite").read_bytes()
    more = [word.replace("--draws=3", "--draws=5") for word in SMALL]
    (line,) = says(*more, "--dry_run", f"--out={whole}").splitlines()
    assert "on 40 images: 8 lesions, 320 evaluations" in line
    (line,) = says(*SMALL, "--dry_run", f"--out={whole}").splitlines()
    assert "nothing to compute" in line
    assert (whole / "results.sqlite").read_bytes() == before


def test_shares_merged_are_the_whole_study(whole, rows, tmp_path, says):
    names = [str(tmp_path / f"share{number}") for number in range(1, 5)]
    for number, name in enumerate(names, 1):
        assert main.run([*SMALL, f"--shard={number}/4", f"--out={name}"]) == 0
    text = says("merge", *names, f"--out={tmp_path / 'joined'}")
    assert f"{CELLS} of {CELLS} lesions of alexnet-digits on 40 images, from 4 stores" in text
    assert rows(tmp_path / "joined") == rows(whole)
    (first, *_) = says("status", names[1]).splitlines()
    assert ", share 2/4: " in first
    done, planned = first.split(": ")[1].split(" lesions")[0].split(" of ")
    assert 0 < int(done) == int(planned) < CELLS
    assert main.run(["sweep", "--quiet", f"--config={names[1]}/config.json"]) == 0
    assert says("status", names[1]).splitlines()[0] == first, "its record continues the share, and no more"


def test_merge_takes_files_and_refuses_others(whole, tmp_path, says, fails):
    out = tmp_path / "c.sqlite"
    says("merge", str(whole / "results.sqlite"), str(whole), f"--out={out}")
    assert out.is_file()
    assert "is there already" in fails("merge", str(whole), f"--out={out}")
    assert "there is no store at " in fails("merge", str(whole), "nowhere", "--out=d.sqlite")
    assert "merge needs --out" in fails("merge", str(whole))
    assert "merge needs STORE..." in fails("merge", "--out=d.sqlite")
    assert main.run([*SMALL, "--seed=1", f"--out={tmp_path / 'other'}"]) == 0
    line = fails("merge", str(whole), str(tmp_path / "other"), "--out=d.sqlite")
    assert "holds another study than" in line
    assert "seed: 0 in" in line


@pytest.mark.parametrize("shard", ["0/4", "5/4", "one"])
def test_no_share_is_refused(fails, shard):
    assert "expected a share of the cells such as 3/16" in fails(*SMALL, f"--shard={shard}", "--out=x")
    assert not Path("x").exists()


def test_a_share_has_a_folder_of_its_own():
    assert sweep.default_out("alexnet-digits", "digits", 0, "3/16") == "runs/alexnet-digits-shard3of16"


def test_status_says_what_is_left_and_how_to_go_on(whole, tmp_path, says):
    out = tmp_path / "out"
    shutil.copytree(whole, out)
    with closing(sqlite3.connect(out / "results.sqlite")) as connection, connection:
        connection.execute("PRAGMA foreign_keys = ON")
        gone = "SELECT id FROM cell WHERE target = 'fc8' AND draw = 2"
        connection.execute(f"DELETE FROM part WHERE cell IN ({gone})")
        connection.execute("UPDATE run SET ended = NULL, outcome = 'running'")
        connection.execute("INSERT INTO run SELECT 2, started, ended, outcome, host, pid, device, versions, command, "
                           "precision, tiling, asked FROM run")  # fmt: skip
        connection.execute("UPDATE run SET started = '2026-01-01T00:00:00+00:00', ended = '2026-01-01T01:00:00+00:00', "
                           "outcome = 'interrupted' WHERE id = 1")  # fmt: skip
    lines = says("status", str(out)).splitlines()
    assert lines[0] == f"alexnet-digits on 40 images of digits test: {CELLS - 2} of {CELLS} lesions are done"
    assert [line.split() for line in lines[1:3]] == [
        ["synapse_knockout", "fc8:", "4", "of", "5"],
        ["node_knockout(include_bias=false)", "fc8:", "4", "of", "5"],
    ]
    # An hour for all the others; conv5 costs more than fc8, so two of fc8's 8 take some minutes.
    assert lines[3].startswith("Left: 2 lesions, 80 evaluations of an image, about ")
    assert lines[3].split(", about ")[1].split()[1] in ("seconds", "minutes")
    assert lines[4].endswith("was killed.")
    assert lines[5] == f"To continue: jaxperturb sweep --config={out / 'config.json'}"
    assert says("status", str(out / "results.sqlite")).splitlines()[0] == lines[0]


def test_status_of_a_finished_study_and_of_none(whole, says, fails):
    first, *how, last = says("status", str(whole)).splitlines()
    assert f"{CELLS} of {CELLS} lesions are done" in first
    assert how[0] == "How:"
    assert "synapse_knockout of conv5, fc8" in " ".join(how)
    assert last.startswith("Nobody writes it; run 1, of 20")
    assert last.endswith(", complete.")
    assert "nowhere" in fails("status", "nowhere")


def test_status_of_a_store_of_the_first_schema(says):
    (line, last) = says("status", str(Path(__file__).parent / "stores" / "schema1.sqlite")).splitlines()
    assert line == "alexnet-digits on 20 images of digits test: 12 of 12 lesions are done"
    assert "complete" in last


def test_a_store_that_another_semantics_or_tiling_made_is_not_continued(tmp_path, fails):
    shutil.copy(Path(__file__).parent / "stores" / "schema1.sqlite", tmp_path / "results.sqlite")
    line = fails("sweep", "--images=20", "--quiet", "--layers=fc8", f"--out={tmp_path}")
    assert "holds another study (" in line


def test_the_start_is_told_with_device_and_estimate(tmp_path, capsys):
    words = [word for word in SMALL if word != "--quiet"]
    assert main.run([*words, "-v=1", f"--out={tmp_path}"]) == 0
    err = capsys.readouterr().err
    assert f"alexnet-digits on 40 images: {CELLS} lesions, {40 * CELLS} evaluations of an image, on cpu (" in err
    assert f"{CELLS} of {CELLS} lesions" in err
    assert "images/s" in err
    assert "masks/min" in err
