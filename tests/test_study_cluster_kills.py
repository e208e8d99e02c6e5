"""A study through Ray, whose workers and driver are killed: the rows of one process, and nothing left behind."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxperturb.cli import main
from jaxperturb.study.store import open_store

pytest.importorskip("ray")

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "torture_kills.py"
STUDY = (
    "sweep",
    "--quiet",
    "--draws=300",
    "--layers=conv4",
    "--perturbations=synapse_knockout",
    "--levels=0,0.4,0.8,1",
)
CELLS = 1 + 300 + 300 + 1
CLUSTER = (*STUDY, "--cluster=auto", "--cpus_per_worker=1")
PATIENCE = 240  # seconds; nothing is measured


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("torture_kills", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["torture_kills"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["torture_kills"]


@pytest.fixture
def start(script, monkeypatch):
    """Starts runs on two processors, and lets none of them outlive its test."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)  # a user's own cluster must not decide
    monkeypatch.setenv("RAY_TMPDIR", str(Path.cwd() / "no-ray-here"))
    started = []

    def begin(out):
        # A session of its own, so that Ctrl-C can be sent to all of its processes, as a terminal does.
        command = [sys.executable, "-c", script.COMMAND, *CLUSTER, f"--out={out}"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, **pipes, start_new_session=True))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.communicate()


def workers_of(process):
    """The processes of Ray's actors that a run has started."""
    listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()]
    own, size = {process.pid}, 0
    while len(own) > size:
        size = len(own)
        own |= {int(pid) for pid, parent, _ in rows if int(parent) in own}
    return [int(pid) for pid, _, words in rows if int(pid) in own and words.startswith("ray::Worker")]


def stored(out):
    path = out / "results.sqlite"
    if not path.exists():
        return 0
    with open_store(path, check=False) as store:
        return len(store.cells())


def wait_until(process, condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {process.stderr.read()}"
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.heavy
def test_killed_workers_ctrl_c_and_a_killed_driver_leave_the_rows_of_one_process(script, start, tmp_path):
    out, untouched = tmp_path / "out", tmp_path / "untouched"
    assert main.run([*STUDY, f"--out={untouched}"]) == 0

    first = start(out)
    wait_until(first, lambda: stored(out) >= 20)
    killed = workers_of(first)
    assert len(killed) == 2
    os.kill(killed[0], signal.SIGKILL)
    before = stored(out)
    wait_until(first, lambda: stored(out) >= before + 60)
    os.killpg(first.pid, signal.SIGINT)
    output, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130, errors
    waiting, last = errors.strip().splitlines()
    assert "stopping as soon as this part is done and stored" in waiting
    assert last == f"jaxperturb: interrupted; what was computed is in {out}, and the same command continues it"
    assert output == "", "what Ray says of a lost worker is no result"

    second = start(out)
    before = stored(out)
    assert 0 < before < CELLS
    wait_until(second, lambda: stored(out) >= before + 60)
    orphans = workers_of(second)
    second.kill()
    second.communicate()
    assert stored(out) < CELLS
    third = start(out)
    output, errors = third.communicate(timeout=PATIENCE)
    assert (third.returncode, errors) == (0, "")
    assert output.startswith("alexnet-digits: digits test, 500 images, 300 draws")
    found, expected = (script.rows(folder / "results.sqlite") for folder in (out, untouched))
    assert len(expected["part"]) == CELLS
    for table, rows in expected.items():
        assert found[table] == rows, table
    assert (out / "results.csv").read_bytes() == (untouched / "results.csv").read_bytes()
    with open_store(out / "results.sqlite") as store:
        assert [run.outcome for run in store.runs()] == ["interrupted", "running", "complete"]
        events = [text for _, _, kind, text in store.events() if kind == "worker lost"]
        assert events == [event for event in events if event.startswith(f"process {killed[0]} on ")]
        assert len(events) == 1

    assert not [pid for pid in (*killed, *orphans) if Path(f"/proc/{pid}").exists()]
    left = [path.name for path in Path("/tmp").glob("jp-ray-*")]
    assert not [name for name in left if name.split("-")[2] in {str(one.pid) for one in (first, second, third)}]
