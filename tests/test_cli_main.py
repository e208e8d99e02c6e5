"""The command line from end to end: statuses, single lines of error, and what a command leaves behind."""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from jaxperturb.checkpoints import bundled
from jaxperturb.cli import main, sweep
from jaxperturb.errors import EngineError

SMALL = ["sweep", "--images=20", "--draws=2", "--layers=fc8", "--levels=0,0.5,1", "--perturbations=synapse_knockout"]
FILES = ["results.sqlite", "results.csv", "config.json", "figures/synapse_knockout.png", "figures/synapse_knockout.pdf"]

Fails = Callable[..., str]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Fails:
    """Runs a command line that must fail with one line on standard error and nothing else; returns the line."""

    def run(*words: str, status: int = 2) -> str:
        assert main.run(words) == status
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("jaxperturb: ")
        assert err.count("\n") == 1
        return err

    return run


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small finished study, to be read only."""
    folder = tmp_path_factory.mktemp("study") / "small"
    assert main.run([*SMALL, f"--out={folder}", "--quiet"]) == 0
    return folder


def damaged_copy(place: Path, damage: Callable[[Path], None]) -> Path:
    """Returns a copy of the bundled checkpoint to which something was done."""
    folder = place / "damaged"
    shutil.copytree(bundled()["alexnet-digits"], folder)
    damage(folder)
    return folder


def flip_one_bit(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)


def cut_short(folder: Path) -> None:
    (file,) = folder.glob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-100])


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


# What a newcomer gets wrong.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "a command is needed: sweep, evaluate, "),
        (["swep"], "unknown command 'swep'; did you mean 'sweep'?"),
        (["frobnicate"], "unknown command 'frobnicate'; commands are sweep, "),
        (["--quiet", "sweep"], "a command comes before flags such as '--quiet'"),
        (["help", "swep"], "did you mean 'sweep'?"),
        (["sweep", "--layer=conv1"], "unknown flag '--layer'; did you mean '--layers'?"),
        (["evaluate", "--draws=1"], "unknown flag '--draws'"),
        (["sweep", "-layers=conv1"], "flags begin with two dashes"),
        (["sweep", "--seed=1", "--seed=2"], "--seed is given twice"),
        (["sweep", "--draws=many"], "--draws takes a positive whole number, not 'many'"),
        (["sweep", "--draws=0"], "--draws takes a positive whole number, not '0'"),
        (["sweep", "--images=0"], "--images takes a positive whole number, not '0'"),
        (["sweep", "--batch_size=0"], "--batch_size takes a positive whole number, not '0'"),
        (["evaluate", "--batch_size=-5"], "--batch_size takes a positive whole number, not '-5'"),
        (["sweep", "--seed=-1"], "--seed takes a whole number in the range"),
        (["sweep", "conv1"], "unexpected argument 'conv1'"),
        (["plot"], "plot needs OUT"),
        (["sweep", "--layers=conv9"], "did you mean 'conv"),
        (["sweep", "--layers=dense*"], "dense*"),
        (["sweep", "--perturbations=synapse_knokout"], "did you mean 'synapse_knockout'?"),
        (["sweep", "--perturbations=node_knockout(include_bais=false)"], "did you mean 'include_bias'?"),
        (["sweep", "--perturbations=no_such_module:f"], "no_such_module"),
        (["sweep", "--dataset=digit"], "did you mean 'digits'?"),
        (["sweep", "--split=tets"], "tets"),
        (["sweep", "--network=alexnt"], "did you mean 'alexnet'?"),
        (["sweep", "--network=alexnet"], "needs trained weights"),
        (["sweep", "--network=alexnet-digits"], "write --weights=alexnet-digits"),
        (["layers", "--network=os:getcwd"], "returned a str, not a jaxperturb.Network"),
        (["layers", "--network=os:nothing"], "has no function 'nothing'"),
        (["layers", "--network=no_such_module:f"], "cannot be imported"),
        (["sweep", "--weights=alexnet-digit"], "did you mean 'alexnet-digits'?"),
        (["sweep", "--weights=./nowhere"], "nowhere"),
        (["sweep", "--levels=0,1.1", "--perturbations=synapse_knockout"], "1.1"),
        (["sweep", "--levels=0:1:0.3"], "0:1:0.3"),
        (["sweep", "--levels=-0.1"], "-0.1"),
        (["sweep", "--levels", "-0.1"], "-0.1"),
        (["sweep", "--levels="], "--levels needs a value"),
        (["sweep", "--levels=,"], "levels"),
        (["sweep", "--levels=high"], "high"),
        (["sweep", "--levels=nan"], "nan"),
        (["sweep", "--levels=gaussian_nose=0:1:0.5"], "did you mean 'gaussian_noise'?"),
        (["sweep", "--metric=top3"], "--metric takes one of top1, top5"),
        (["sweep", "--device=abacus"], "--device takes one of cpu, gpu, tpu"),
        (["sweep", "--out=/proc/nowhere/study"], "/proc/nowhere"),
        (["plot", "nowhere"], "nowhere"),
        (["table", "nowhere/results.sqlite"], "nowhere"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_2(fails: Fails, words: list[str], message: str):
    assert message in fails(*words)
    assert not Path("runs").exists(), "a refused command leaves nothing behind"


@pytest.mark.parametrize("damage", [flip_one_bit, cut_short, spoil_manifest])
def test_damaged_weights_are_refused(fails: Fails, tmp_path: Path, damage):
    folder = damaged_copy(tmp_path, damage)
    assert "damaged" in fails("evaluate", f"--weights={folder}")


def test_weights_of_another_network_are_refused(fails: Fails):
    line = fails("layers", "--network=vgg16", "--weights=alexnet-digits")
    assert "these weights are of network 'alexnet', not 'vgg16'" in line


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_computed(fails: Fails, tmp_path: Path):
    (tmp_path / "file").write_text("no folder")
    assert "file" in fails(*SMALL, f"--out={tmp_path / 'file' / 'study'}")


def test_a_store_that_is_none_is_refused(fails: Fails, tmp_path: Path):
    (tmp_path / "results.sqlite").write_text("not a database, but long enough to be taken for one" * 100)
    assert "results.sqlite" in fails(*SMALL, f"--out={tmp_path}")
    assert "results.sqlite" in fails("plot", str(tmp_path))
    assert "results.sqlite" in fails("table", str(tmp_path / "results.sqlite"))


def test_a_foreign_database_is_refused_and_left_alone(fails: Fails, tmp_path: Path):
    with sqlite3.connect(tmp_path / "results.sqlite") as other:
        other.execute("create table cell (mine)")
    other.close()
    before = (tmp_path / "results.sqlite").read_bytes()
    assert "results.sqlite" in fails(*SMALL, f"--out={tmp_path}")
    assert (tmp_path / "results.sqlite").read_bytes() == before


def test_another_study_is_not_continued(fails: Fails, study: Path):
    assert "seed" in fails(*SMALL, "--seed=1", f"--out={study}")


# What goes wrong below.


def failing(error: BaseException) -> Callable[..., None]:
    def call(*_: object, **__: object) -> None:
        raise error

    return call


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (EngineError("no memory left\nfor this"), 1, "jaxperturb: no memory left for this\n"),
        (OSError(28, "No space left on device"), 1, "jaxperturb: OSError: [Errno 28] No space left on device\n"),
        (MemoryError(), 1, "jaxperturb: MemoryError: \n"),
        (KeyboardInterrupt(), 130, "jaxperturb: interrupted\n"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_failures_are_one_line_too(fails: Fails, monkeypatch, error: BaseException, status: int, line: str):
    monkeypatch.setattr("jaxperturb.data.datasets", failing(error))
    assert fails("datasets", status=status).split() == line.split()


def test_a_bug_of_ours_shows_its_traceback_and_says_what_to_do(capsys, monkeypatch):
    monkeypatch.setattr("jaxperturb.data.datasets", failing(ZeroDivisionError("oh")))
    assert main.run(["datasets"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "this is a bug of jaxperturb (ZeroDivisionError): please report it" in err
    assert "jaxperturb doctor" in err


def test_debug_shows_the_traceback_of_a_mistake(capsys):
    assert main.run(["sweep", "--debug", "--layers=conv9"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.splitlines()[-1].startswith("jaxperturb: ")


# What is said.


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_command_helps_by_example(capsys, name: str):
    assert main.run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: jaxperturb {name}")
    assert f"  jaxperturb {name}" in text.split("Examples:")[1]
    assert main.run(["help", name]) == 0
    assert capsys.readouterr().out == text


@pytest.mark.parametrize("name", main.COMMANDS)
def test_each_example_is_a_command_line_that_can_be_read(name: str):
    import shlex

    from jaxperturb.cli.command import parse

    for _, line in main.COMMANDS[name].examples:
        command, *words = shlex.split(line)
        parse(main.COMMANDS[command], words)


def test_the_overview_names_every_command(capsys):
    assert main.run(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(f"  {name} " in text for name in main.COMMANDS)


def test_sweep_has_the_flags_that_were_promised(capsys):
    main.run(["sweep", "--help"])
    text = capsys.readouterr().out
    promised = "weights network dataset split data_dir images perturbations layers levels draws seed metric batch_size device out"
    assert all(f"--{name}=" in text for name in promised.split())
    assert "--[no]quiet" in text
    assert "--[no]debug" in text


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("networks", ["alexnet-digits", "vgg16_bn", "vgg16_bn"]),
        ("datasets", ["digits"]),
        ("perturbations", ["synapse_knockout", "node_knockout", "gaussian_noise", "resample"]),
        ("layers", ["layer", "conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]),
    ],
)
def test_lists_have_a_line_for_each(capsys, command: str, expected: list[str]):
    assert main.run([command]) == 0
    firsts = [line.split()[0].rstrip(":") for line in capsys.readouterr().out.splitlines() if line]
    assert [first for first in firsts if first in expected] == expected


def test_layers_says_what_a_layer_holds(capsys):
    assert main.run(["layers"]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert rows["layer"] == ["shape", "units", "weights", "zeros"]
    *_, inputs, units = map(int, rows["fc8"][0].split("x"))
    assert rows["fc8"][1:3] == ["10", str(inputs * units + units)]


def test_a_network_from_ones_own_code(capsys, tmp_path: Path, monkeypatch):
    (tmp_path / "own_nets.py").write_text(
        "import jaxperturb as jp\n\ndef make():\n    return jp.load_network('alexnet-digits')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert main.run(["evaluate", "--network=own_nets:make", "--images=10"]) == 0
    assert "alexnet-digits on 10 images" in capsys.readouterr().out


def test_evaluate_prints_counts_and_chance(capsys):
    assert main.run(["evaluate", "--images=50"]) == 0
    first, top1, top5 = capsys.readouterr().out.splitlines()
    assert "50 images of digits" in first
    right = int(top1.split("(")[1].split()[0])
    assert top1.split()[:2] == ["top-1", f"{right / 50:.4f}"]
    assert "chance 0.1)" in top1
    assert "chance 0.5)" in top5


def test_doctor_tells_what_there_is(capsys):
    assert main.run(["doctor"]) == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("jaxperturb", "python", "jaxlib", "platform", "cpu"))
    assert re.search(r"alexnet-digits +intact", text)


def test_doctor_finds_a_damaged_network(capsys, tmp_path: Path, monkeypatch):
    folder = damaged_copy(tmp_path, flip_one_bit)
    monkeypatch.setattr("jaxperturb.checkpoints.bundled", lambda: {"alexnet-digits": folder})
    assert main.run(["doctor"]) == 0
    assert re.search(r"alexnet-digits +DAMAGED: ", capsys.readouterr().out)


# What is left behind.


def test_sweep_writes_its_files_and_prints_its_table(study: Path, capsys):
    assert all((study / name).stat().st_size > 0 for name in FILES)
    cells = pd.read_csv(study / "results.csv")
    assert cells.groupby("level").size().to_dict() == {0.0: 2, 0.5: 2, 1.0: 2}
    assert set(cells["images"]) == {20}
    capsys.readouterr()
    assert main.run(["table", str(study)]) == 0
    assert "fc8" in capsys.readouterr().out


def test_results_go_to_standard_output_and_the_rest_elsewhere(study: Path, tmp_path: Path, capsys):
    assert main.run([*SMALL, f"--out={tmp_path / 'loud'}"]) == 0
    loud = capsys.readouterr()
    assert "6 lesions" not in loud.err, "cells in which draws coincide count once"
    assert "4 lesions" in loud.err
    assert "figures" in loud.err
    assert main.run([*SMALL, f"--out={study}", "--quiet"]) == 0
    quiet = capsys.readouterr()
    assert quiet.err == ""
    assert quiet.out == loud.out
    assert "half-life" in quiet.out


def test_a_finished_study_is_not_computed_again(study: Path, capsys):
    before = (study / "results.csv").read_bytes()
    assert main.run([*SMALL, f"--out={study}"]) == 0
    assert "nothing to compute" in capsys.readouterr().err
    assert (study / "results.csv").read_bytes() == before


def test_plot_draws_the_figures_again(study: Path, tmp_path: Path, capsys):
    assert main.run(["plot", str(study), f"--out={tmp_path / 'again'}", "--metric=top5"]) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert {path.name for path in paths} >= {f"synapse_knockout{kind}" for kind in (".pdf", ".png", "-map.png")}
    assert all(path.parent == tmp_path / "again" for path in paths)
    assert all(path.stat().st_size > 1000 for path in paths)


def test_plot_puts_the_figures_beside_the_store(study: Path, capsys):
    assert main.run(["plot", str(study / "results.sqlite")]) == 0
    assert Path(capsys.readouterr().out.splitlines()[0]).parent == study / "figures"


@pytest.mark.parametrize(
    ("network", "dataset", "seed", "folder"),
    [
        ("alexnet-digits", "digits", 0, "runs/alexnet-digits"),
        ("alexnet-digits", "digits", 7, "runs/alexnet-digits-seed7"),
        ("mine", "digits", 0, "runs/mine-digits"),
        ("alexnet-digits", "mnist", 1, "runs/alexnet-digits-mnist-seed1"),
    ],
)
def test_the_folder_is_named_after_what_is_studied(network: str, dataset: str, seed: int, folder: str):
    assert sweep.default_out(network, dataset, seed) == folder


def test_without_out_the_study_goes_into_runs(tmp_path: Path):
    assert main.run([*SMALL, "--quiet", "--seed=3"]) == 0
    assert (tmp_path / "runs/alexnet-digits-seed3/results.sqlite").is_file()


def test_compiled_programs_are_kept_in_the_users_cache(tmp_path: Path):
    assert main.run(["evaluate", "--images=7"]) == 0
    assert list((tmp_path / "cache/jaxperturb/xla").iterdir())


def test_a_cache_that_cannot_be_written_is_done_without(monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
    assert main.run(["evaluate", "--images=7"]) == 0
    assert capsys.readouterr().err == ""


# Real processes: what Python and absl do around us.


def process(*words: str, **kwargs: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "jaxperturb", *words]
    return subprocess.run(command, text=True, capture_output=True, check=False, **kwargs)


def test_module_and_script_are_one_command():
    script = shutil.which("jaxperturb", path=str(Path(sys.executable).parent))
    assert script is not None, "the project is installed"
    shown = subprocess.run([script, "--help"], text=True, capture_output=True, check=True)
    assert shown.stdout == process("--help").stdout
    assert shown.stderr == ""


def test_a_process_fails_with_one_line_and_its_status():
    failed = process("sweep", "--layrs=conv1")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr == "jaxperturb: unknown flag '--layrs'; did you mean '--layers'?\n"


def test_a_process_that_computes_says_nothing_but_its_result():
    # Without it, JAX looks for devices that are not there and remarks on each.
    done = process("evaluate", "--images=10", env={k: v for k, v in os.environ.items() if k != "JAX_PLATFORMS"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("\n") == 3


HAS_GPU = pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has a GPU")
HAS_TPU = pytest.mark.skipif(Path("/dev/accel0").exists(), reason="this machine has a TPU")


@pytest.mark.parametrize("device", [pytest.param("gpu", marks=HAS_GPU), pytest.param("tpu", marks=HAS_TPU)])
def test_a_device_that_is_not_there_is_refused(device: str):
    failed = process("layers", f"--device={device}")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert failed.stderr.count("\n") == 1
    assert repr(device) in failed.stderr


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m jaxperturb perturbations | true; exit ${{PIPESTATUS[0]}}"
    for _ in range(3):  # the reader may be gone before or after the first line
        done = subprocess.run(["bash", "-c", command], text=True, capture_output=True, check=False)
        assert done.returncode in (0, 141)
        assert done.stderr == ""


def test_a_pipe_closed_at_once_gives_141():
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "jaxperturb", "datasets"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(tmp_path: Path):
    out = tmp_path / "study"
    words = ["sweep", "--draws=3000", "--perturbations=gaussian_noise", "--levels=0,1,2", f"--out={out}"]
    running = subprocess.Popen(
        [sys.executable, "-m", "jaxperturb", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while running.poll() is None and not (out / "results.sqlite").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(3)  # into the computation, which takes a minute or more
    running.send_signal(signal.SIGINT)
    stdout, stderr = running.communicate(timeout=120)
    assert (running.returncode, stdout) == (130, "")
    assert "Traceback" not in stderr
    assert stderr.splitlines()[-1] == (
        f"jaxperturb: interrupted; what was computed is in {out}, and the same command continues it"
    )
    assert main.run(["table", str(out)]) == 0


def test_the_readme_has_a_row_for_every_perturbation_with_its_grid():
    from conftest import ROOT

    from jaxperturb.perturb import CATALOGUE

    rows = [line for line in (ROOT / "README.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    for entry in CATALOGUE.values():
        (row,) = (line for line in rows if line.startswith(f"| `{entry.name}` |"))
        assert all(f"`{name}" in row or name in ("include_bias", "include_norm", "sha256") for name in entry.options), (
            row
        )
        assert entry.grid.split(",")[-1].split(":")[-1] in row
