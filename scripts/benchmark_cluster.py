"""Times a study on the digits in one process and through Ray, each on all processors of this machine, by turns.

    python scripts/benchmark_cluster.py --draws=400 --rounds=2

The times are of whole commands, with all that starting takes; programs are compiled before. The stores must be equal.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from torture_kills import rows

STUDY = ("sweep", "--quiet", "--perturbations=synapse_knockout,gaussian_noise", "--levels=0:1:0.1")


def seconds(words: Sequence[str], out: Path) -> float:
    """Returns how long a command takes."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "jaxperturb", *words, f"--out={out}"], check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def main() -> None:
    """Reads the flags and prints a line for each run, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=400)
    parser.add_argument("--layers", default="conv2,conv4,fc6")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cpus_per_worker", type=int, default=1)
    given = parser.parse_args()
    ways = {"one process": (), "cluster": ("--cluster=auto", f"--cpus_per_worker={given.cpus_per_worker}")}
    found: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory(prefix="benchmark-cluster-") as place:
        folder = Path(place)
        os.environ.setdefault("XDG_CACHE_HOME", str(folder / "cache"))
        for name, words in ways.items():
            seconds([*STUDY, f"--layers={given.layers}", "--draws=2", *words], folder / f"compiled {name}")
        for number in range(given.rounds):
            for name, words in ways.items():
                out = folder / f"{name} {number}"
                found[name].append(seconds([*STUDY, f"--layers={given.layers}", f"--draws={given.draws}", *words], out))
                print(f"{name}: {found[name][-1]:.1f} s", flush=True)
            stores = [rows(folder / f"{name} {number}" / "results.sqlite") for name in ways]
            if stores[0] != stores[1]:
                raise SystemExit("the stores differ")
    medians = [statistics.median(found[name]) for name in ways]
    print(f"equal row for row; cluster / one process: {medians[1] / medians[0]:.3f}")


if __name__ == "__main__":
    main()
