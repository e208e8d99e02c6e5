"""``jaxperturb faults`` from end to end."""

import csv
import io
from pathlib import Path

import pandas as pd
import pytest

import jaxperturb as jp
from jaxperturb.cli import main
from jaxperturb.perturb.fault_list import COLUMNS, read_faults


def test_a_list_is_written_and_replayed(tmp_path, capsys):
    words = ["--weights=alexnet-digits", "--perturbation=bit_flip(bits=30)", "--layers=conv1", "--level=0.02"]
    assert main.run(["faults", *words, "--draw=1", "--seed=3", f"--out={tmp_path / 'f.csv'}"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    found = read_faults((tmp_path / "f.csv").read_text())
    assert err == f"{len(found)} faults, 0 without effect: {tmp_path / 'f.csv'}\n"
    assert found == jp.fault_list("alexnet-digits", "bit_flip(bits=30)", "conv1", 0.02, 1, 3)
    assert {fault.bit for fault in found} == {30}

    sweep = ["sweep", "--layers=conv1", "--images=60", "--quiet"]
    assert (
        main.run([*sweep, "--perturbations=bit_flip(bits=30)", "--levels=0.02", "--draws=2", "--seed=3", "--out=a"])
        == 0
    )
    assert main.run([*sweep, f"--perturbations=replay(file='{tmp_path / 'f.csv'}')", "--levels=1", "--out=b"]) == 0
    first, second = (pd.read_csv(Path(name) / "results.csv") for name in "ab")
    counts = ["top1", "top5", "same1", "same5", "nonfinite", "selected", "changed"]
    assert second.iloc[0][counts].tolist() == first[first["draw"] == 1].iloc[0][counts].tolist()
    # The record of the study repeats it.
    assert f"replay(file='{tmp_path / 'f.csv'}',sha256=" in (Path("b") / "config.json").read_text()


def test_without_a_file_the_list_goes_to_standard_output(capsys):
    assert main.run(["faults", "--level=0.001", "--layers=fc8", "--quiet"]) == 0
    out, err = capsys.readouterr()
    rows = list(csv.reader(io.StringIO(out)))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) > 1
    assert err == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--layers=conv1"], "--level is needed"),
        (["--level=2"], "out of range"),
        (["--level=0.1", "--layers=conv9"], "unknown layer 'conv9'"),
        (["--level=0.1", "--perturbation=bit_flip(bits=each)"], "stands for 32"),
        (["--level=0.1", "--perturbation=bit_flop"], "did you mean 'bit_flip'"),
        (["--level=0.001", "--layers=fc8", "--out=no/such/folder.csv"], "cannot be written"),
    ],
)
def test_mistakes_get_one_line(words, message, capsys):
    assert main.run(["faults", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
