"""Real processes that are killed, that meet each other, and that find no room: no committed part is lost or wrong."""

import importlib.util
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxperturb.cli import main
from jaxperturb.study.store import open_store

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "torture_kills.py"
STUDY = ("sweep", "--quiet", "--draws=12", "--layers=fc8", "--perturbations=synapse_knockout", "--levels=0,0.4,0.8,1")
CELLS = 1 + 12 + 12 + 1


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("torture_kills", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["torture_kills"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["torture_kills"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A user's cache that all processes share, so that each program is compiled once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _shared_cache(cache, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))


@pytest.fixture
def start(script):
    """Starts runs, and lets none of them outlive its test."""
    started = []

    def begin(out, words=STUDY):
        started.append(script.start(out, words))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()
        process.stderr.close()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """The folder of the study that nobody disturbed."""
    folder = tmp_path_factory.mktemp("untouched")
    assert main.run([*STUDY, f"--out={folder}"]) == 0
    return folder


def same_rows(script, out, untouched):
    found, expected = (script.rows(folder / "results.sqlite") for folder in (out, untouched))
    assert len(expected["part"]) == CELLS
    for table, rows in expected.items():
        assert found[table] == rows, table


def stored(out):
    with open_store(out / "results.sqlite") as store:
        return len(store.cells())


def test_killed_five_times_it_ends_with_the_same_rows(script, untouched, tmp_path):
    moments = random.Random(1)
    for _ in range(5):
        script.kill_at_random(tmp_path, 0.8, moments, STUDY)
    assert main.run([*STUDY, f"--out={tmp_path}"]) == 0
    same_rows(script, tmp_path, untouched)
    assert not [
        file.name for file in tmp_path.iterdir() if file.name.startswith(("results.sqlite.", "results.sqlite-"))
    ]


def test_a_second_run_is_refused_until_the_first_is_dead(script, start, tmp_path, capsys):
    first = start(tmp_path, [word.replace("--draws=12", "--draws=300") for word in STUDY])
    script.wait_for_lease(first, tmp_path)
    assert main.run([*STUDY, f"--out={tmp_path}"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert f"is being written by another run (process {first.pid} on " in message
    assert ", since 20" in message
    while first.poll() is None and not ((tmp_path / "results.sqlite").exists() and stored(tmp_path)):
        time.sleep(0.05)  # a reader may look on
    assert main.run(["status", str(tmp_path)]) == 0
    assert f"Being written by process {first.pid} on " in capsys.readouterr().out
    first.kill()
    first.wait()
    assert main.run(["status", str(tmp_path)]) == 0
    assert "was killed" in capsys.readouterr().out
    assert main.run([*STUDY, f"--out={tmp_path}"]) == 0
    with open_store(tmp_path / "results.sqlite") as store:
        assert [run.outcome for run in store.runs()] == ["running", "complete"]
        assert all(not store.missing(counts.cell, 500) for counts in store.cells() if counts.cell.draw < 12)


def test_a_full_disk_is_one_line_and_loses_nothing(script, start, untouched, tmp_path):
    assert main.run([*(word.replace("--draws=12", "--draws=4") for word in STUDY), f"--out={tmp_path}"]) == 0
    store = tmp_path / "results.sqlite"
    before, limit = script.rows(store), store.stat().st_size + 4096
    full = start(tmp_path)
    resource.prlimit(full.pid, resource.RLIMIT_FSIZE, (limit, limit))
    _, errors = full.communicate()
    assert full.returncode == 2
    assert errors.count("\n") == 1, errors
    assert f"{store} cannot be written: " in errors
    assert "what was stored before is kept" in errors
    assert set(script.rows(store)["part"]) >= set(before["part"])
    assert main.run([*STUDY, f"--out={tmp_path}"]) == 0
    same_rows(script, tmp_path, untouched)


@pytest.mark.parametrize("share", [0.3, 0.7, 0.99])
def test_a_store_that_was_cut_off_is_refused_and_left_alone(script, untouched, tmp_path, capsys, share):
    content = (untouched / "results.sqlite").read_bytes()
    store = tmp_path / "results.sqlite"
    store.write_bytes(content[: int(len(content) * share)])
    for words in ([*STUDY, f"--out={tmp_path}"], ["table", str(tmp_path)], ["status", str(tmp_path)]):
        assert main.run(words) == 2, words
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert f"{store} is damaged" in message
    assert store.read_bytes() == content[: int(len(content) * share)]
    assert sorted(file.name for file in tmp_path.iterdir() if file.name != "cache") == ["results.sqlite"]
    store.write_bytes(content)  # from a copy
    assert main.run([*STUDY, f"--out={tmp_path}"]) == 0
    same_rows(script, tmp_path, untouched)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_first_signal_lets_the_part_be_stored(script, untouched, tmp_path, monkeypatch, capfd, number, status):
    from jaxperturb.cli.interrupt import Interrupts

    check, calls = Interrupts.check, []

    def signalled(self):
        calls.append(number)
        if len(calls) == 3:
            os.kill(os.getpid(), number)
        check(self)

    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patched:
        patched.setattr(Interrupts, "check", signalled)
        assert main.run([*STUDY, f"--out={tmp_path}"]) == status
    first, last = capfd.readouterr().err.splitlines()[-2:]
    assert "stopping as soon as this part is done and stored; Ctrl-C stops at once" in first
    assert last == f"jaxperturb: interrupted; what was computed is in {tmp_path}, and the same command continues it"
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before
    assert len(calls) == 3
    assert stored(tmp_path) == 3
    assert main.run([*STUDY, f"--out={tmp_path}"]) == 0
    same_rows(script, tmp_path, untouched)


WAITING = """
import time
from jaxperturb.cli.interrupt import Interrupts
with Interrupts() as interrupts:
    interrupts.listen()
    print(flush=True)
    while True:
        time.sleep(1)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_after_a_first_signal_ends_the_process_at_once(first):
    waiting = subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    waiting.stdout.readline()
    waiting.send_signal(first)
    assert b"\n" in waiting.stderr.readline() + waiting.stderr.readline()
    waiting.send_signal(signal.SIGTERM)  # may come twice, and ends nothing
    assert waiting.poll() is None
    waiting.send_signal(signal.SIGINT)
    waiting.communicate()
    assert waiting.returncode == -signal.SIGINT
