"""Reading and transposing a VGG16-sized file: this package beside PyTorch, in one run, with the peak memory of both.

    python scripts/benchmark_convert.py [--architecture=vgg16] [--repeats=3]

Each measurement is a process of its own; the runs alternate. The times leave out the imports, and so does the memory.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import app, flags

FLAGS = flags.FLAGS
flags.DEFINE_string("architecture", "vgg16", "alexnet, vgg11 ... vgg19_bn.")
flags.DEFINE_integer("repeats", 3, "Measurements of each.", lower_bound=1)

COMMON = """
import json, re, sys, time
from pathlib import Path

def peak():  # of this program alone, in bytes
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

def measure(work):
    before, start = peak(), time.perf_counter()
    result = work()
    print(json.dumps({"seconds": time.perf_counter() - start, "peak": peak() - before}))
    return result
"""

OURS = (
    COMMON
    + """
from jaxperturb.checkpoints.convert import convert
from jaxperturb.checkpoints.torch_file import open_weights
measure(lambda: convert(open_weights(sys.argv[1])))
"""
)

# The same transposes, each done the faster way: PyTorch's own for small axes, NumPy's for the dense kernels.
THEIRS = (
    COMMON
    + """
import numpy as np, torch

def leaf(tensor, maps):
    if tensor.ndim == 4:
        return tensor.permute(2, 3, 1, 0).contiguous().numpy()
    if tensor.ndim == 2:
        shape = tensor.shape
        blocks = tensor.numpy().reshape(shape[0], maps, -1)
        return np.ascontiguousarray(blocks.transpose(2, 1, 0)).reshape(shape[1], shape[0])
    return tensor.numpy()

def work():
    state = torch.load(sys.argv[1], weights_only=True)
    channels = [t.shape[0] for name, t in state.items() if name.startswith("features") and t.ndim == 4][-1]
    first = next(name for name, t in state.items() if t.ndim == 2)
    return {name: leaf(tensor, channels if name == first else tensor.shape[-1]) for name, tensor in state.items()}

measure(work)
"""
)

WRITE = """
import sys, torch
from jaxperturb.checkpoints.torchvision_names import PLANS, rows, sizes_from
plan = PLANS[sys.argv[2]]
state = {row.source: torch.randn(row.shape) for row in rows(plan, sizes_from(plan, {})[0])}
torch.save(state, sys.argv[1], _use_new_zipfile_serialization=sys.argv[3] == "zip")
"""


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout) if done.stdout else None


def compare(path, repeats):
    results = {"jaxperturb": [], "PyTorch": []}
    for _ in range(repeats):
        results["jaxperturb"].append(run(OURS, path))
        results["PyTorch"].append(run(THEIRS, path))
    return results


def main(_):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.pth"
        for container in ("zip", "legacy"):
            run(WRITE, path, FLAGS.architecture, container)
            size = path.stat().st_size
            print(f"{FLAGS.architecture}, {container} container, {size / 1e6:.0f} MB, median of {FLAGS.repeats}:")
            for who, measured in compare(path, FLAGS.repeats).items():
                seconds = statistics.median(m["seconds"] for m in measured)
                peak = max(m["peak"] for m in measured)
                print(f"  {who:10}  {seconds:6.2f} s   peak {peak / 1e6:5.0f} MB = {peak / size:.2f} of the file")


if __name__ == "__main__":
    app.run(main)
