"""The benchmark runs through and counts what it should; PyTorch is its opponent where it is installed."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "benchmark.py"
SMALL = ("--network=resnet", "--images=4", "--levels=0.3,0.6", "--draws=1", "--repeats=1", "--json=figures.json")


def run(*flags: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(SCRIPT), *flags], capture_output=True, text=True)


def figures(*flags: str) -> dict:
    done = run(*SMALL, *flags)
    assert done.returncode == 0, done.stderr
    assert "compilation" in done.stdout
    return json.loads(Path("figures.json").read_text())


def test_without_pytorch_its_columns_are_left_out():
    report = figures("--layers=Conv_4,Dense_0")
    assert list(report["layers"]) == ["Conv_4", "Dense_0"]
    assert not [key for row in report["layers"].values() for key in row if "torch" in key]
    assert list(report["peak_bytes"]) == ["ours"]
    # By hand: 12 features times 10 classes; 3*3*12 inputs for each of 4*4 outputs of 12 units, and what follows it:
    # the shortcut, a 1*1 convolution from 8 units.
    masks = 2 * 4
    dense, shortcut, conv = 12 * 10, 8 * 12 * 16, 9 * 12 * 12 * 16
    assert report["layers"]["Dense_0"]["multiply_adds"] == dense * masks
    assert report["layers"]["Conv_4"]["multiply_adds"] == (conv + shortcut + dense) * masks
    assert sum(row["ours_s"] for row in report["layers"].values()) <= report["all"]["ours_s"]


def test_pytorch_has_the_same_network_and_is_timed():
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed (pip install -e '.[torch]', Python 3.11)")
    report = figures("--layers=Conv_5", f"--torch_python={sys.executable}", "--notorch_compile")
    row = report["layers"]["Conv_5"]
    assert report["torch"]["hits"] == 4  # the labels are the answers of our own network
    assert row["times_torch"] == pytest.approx(row["torch_s"] / row["ours_s"])
    assert row["times_torch_cached"] > 0
    assert report["peak_bytes"]["torch"] > 0


def test_an_unknown_layer_is_refused():
    done = run(*SMALL, "--layers=conv9")
    assert done.returncode != 0
    assert "'conv9' is none of Conv_0" in done.stdout + done.stderr
