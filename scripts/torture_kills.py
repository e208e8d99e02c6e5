"""Kills a small study with SIGKILL at random moments, again and again, and compares its store with an untouched one.

    python scripts/torture_kills.py --kills=50

A study that ends in spite of its kills is compared and begun anew, until all kills are done. Prints a line for each
kill; exits with 1, and keeps the folder, where a store differs.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

STUDY = (
    "sweep",
    "--quiet",
    "--draws=20",
    "--layers=conv5,fc8",
    "--perturbations=synapse_knockout,gaussian_noise",
    "--levels=0,0.4,0.8,1",
)
# Commits come 100 times as often as a user's, so that the kills hit many of them.
COMMAND = """
from jaxperturb.study import contents
contents.COMMIT_SECONDS = 0.1
from jaxperturb.cli.main import main
main()
"""
_CELL = "perturbation, target, level, draw"
# All that is not a time, a number that SQLite gives, or who computed.
_ROWS = {
    "study": "SELECT seed, asked FROM study",
    "image": "SELECT * FROM image ORDER BY position",
    "skipped": "SELECT * FROM skipped ORDER BY position",
    "cell": f"SELECT {_CELL}, selected, changed, shortcut FROM cell ORDER BY {_CELL}",
    "part": f"SELECT {_CELL}, start, stop, top1, top5, same1, same5, finite, planes "
    f"FROM part JOIN cell ON part.cell = cell.id ORDER BY {_CELL}, start",
}


def rows(store: Path) -> dict[str, list[tuple]]:
    """Returns what two stores of one study must have in common, by table."""
    with closing(sqlite3.connect(store)) as connection:
        return {name: connection.execute(query).fetchall() for name, query in _ROWS.items()}


def start(out: Path, words: Sequence[str] = STUDY, **options: Any) -> subprocess.Popen:
    """Starts a run of the study in a process of its own."""
    command = [sys.executable, "-c", COMMAND, *words, f"--out={out}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, **options)


def finish(out: Path, words: Sequence[str] = STUDY) -> None:
    """Runs the study to its end."""
    process = start(out, words)
    _, errors = process.communicate()
    if process.returncode or errors:
        raise SystemExit(f"a run that nobody killed ended with {process.returncode}: {errors}")


def kill_at_random(out: Path, seconds: float, moments: random.Random, words: Sequence[str] = STUDY) -> bool:
    """Starts a run and kills it; returns whether it was still running.

    Args:
        out: folder of the study.
        seconds: the latest moment, counted from when it begins to compute.
        moments: three of four kills come while it computes, the others at any time before.
        words: of the study.
    """
    process = start(out, words)
    if moments.random() < 0.75:
        wait_for_lease(process, out)
        _wait(process, moments.uniform(0, seconds))
    else:
        _wait(process, moments.uniform(0, 5))
    running = process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return running


def torture(folder: Path, kills: int, seed: int) -> Iterator[str]:
    """Does all kills, and yields a line for each kill and comparison.

    Raises:
        SystemExit: a store differs from the untouched one.
    """
    untouched = folder / "untouched"
    began = time.monotonic()
    finish(untouched)
    expected = rows(untouched / "results.sqlite")
    seconds = (time.monotonic() - began) / 10  # the rest is imports, compiling and figures
    yield f"untouched: {len(expected['part'])} parts in {time.monotonic() - began:.1f} s"
    moments, done, number = random.Random(seed), 0, 0
    while done < kills:
        out, number = folder / f"killed{number}", number + 1
        while done < kills:
            if not kill_at_random(out, seconds, moments):
                break
            done += 1
            yield f"kill {done}: {_parts(out / 'results.sqlite')} of {len(expected['part'])} parts"
        finish(out)
        if rows(out / "results.sqlite") != expected:
            raise SystemExit(f"{out} differs from {untouched}")
        yield f"study {number}: finished, and equal row for row"


def wait_for_lease(process: subprocess.Popen, out: Path) -> None:
    """Waits until a run begins to write, or has ended."""
    lease = out / "results.sqlite.writer"
    before = lease.read_bytes() if lease.exists() else b""  # of the run that was killed before
    while process.poll() is None and (not lease.exists() or lease.read_bytes() == before):
        time.sleep(0.01)


def _wait(process: subprocess.Popen, seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def _parts(store: Path) -> int:
    if not store.exists():
        return 0
    from jaxperturb.study.store import open_store

    with open_store(store) as opened:
        return sum(1 for _ in opened.parts())


def main() -> None:
    """Reads the flags and prints what `torture` does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="torture-kills-"))
    os.environ.setdefault("XDG_CACHE_HOME", str(folder / "cache"))
    print(f"in {folder}, seed {given.seed}")
    for line in torture(folder, given.kills, given.seed):
        print(line, flush=True)


if __name__ == "__main__":
    main()
