"""A whole study beside the loops that one would write in PyTorch by hand, in one run: times, ceilings, memory.

    python scripts/benchmark.py --torch_python=.venv/bin/python --json=alexnet.json            # AlexNet, synapses
    python scripts/benchmark.py --perturbation=gaussian_noise --torch_python=...               # and node_knockout
    python scripts/benchmark.py --layers=fc6,fc7,fc8 --images=2000 --torch_python=...
    python scripts/benchmark.py --network=vgg16 --images=16 --levels=0.2,0.5,0.8 --torch_python=...
    python scripts/benchmark.py --network=resnet --images=1000 --torch_python=...              # that of the tests

PyTorch runs in its own process on the interpreter of --torch_python, which may be another Python; without one its
columns are left out. Its first loop runs the whole network for each mask, its second starts at the perturbed layer,
from a prefix cached by hand; each with the fastest batch size and memory format. A few of its masks are timed for each
layer and multiplied. Ours is `jp.sweep`, timed in full after a first run that compiles. Both keep their allocator's
pages. Operations are counted from shapes: those that a study needs that starts at the perturbed layer.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import jaxperturb as jp
from jaxperturb.engine.allocator import keep_pages
from jaxperturb.engine.rewrite import replacement, rewrites
from jaxperturb.networks.alexnet import AlexNet
from jaxperturb.networks.program import as_function, first_uses, variables
from jaxperturb.networks.vgg import VGG
from jaxperturb.trees import layers_of

ROOT = Path(__file__).resolve().parents[1]
PERTURBATIONS = ("synapse_knockout", "gaussian_noise", "node_knockout")

NETWORK = flags.DEFINE_enum("network", "alexnet", ("alexnet", "vgg16", "resnet"), "What is lesioned.")
PERTURBATION = flags.DEFINE_enum("perturbation", PERTURBATIONS[0], PERTURBATIONS, "How.")
LAYERS = flags.DEFINE_list("layers", ["*"], "Which layers, each by itself.")
LEVELS = flags.DEFINE_string("levels", "0.1:0.9:0.1", "At which levels.")
DRAWS = flags.DEFINE_integer("draws", 2, "Draws of each.", lower_bound=1)
IMAGES = flags.DEFINE_integer("images", 256, "Number of images.", lower_bound=1)
BATCH = flags.DEFINE_integer("batch_size", 1000, "Our images of a block.", lower_bound=1)
SIDE = flags.DEFINE_integer("image_size", 224, "Side of the images in pixels; the ResNet has 8.", lower_bound=32)
WIDTH = flags.DEFINE_float("width", 1.0, "Factor on all channels and units.", lower_bound=0.01)
CLASSES = flags.DEFINE_integer("classes", 1000, "Number of classes; the ResNet has 10.", lower_bound=2)
REPEATS = flags.DEFINE_integer("repeats", 2, "Timed studies of each side, in turn; the fastest counts.", lower_bound=1)
TORCH = flags.DEFINE_string("torch_python", "", "Python interpreter that has PyTorch; none without.")
MASKS = flags.DEFINE_integer("torch_masks", 2, "PyTorch's timed masks of each layer, multiplied.", lower_bound=1)
BATCHES = flags.DEFINE_list("torch_batches", ["16", "64", "256"], "PyTorch's batch sizes, of which the best is taken.")
COMPILE = flags.DEFINE_bool("torch_compile", True, "Whether torch.compile is tried for the loop.")
JSON = flags.DEFINE_string("json", None, "File for the figures.")


def network_of(name: str) -> jp.Network:
    """Returns a network with seeded random weights, and logits that neither vanish nor explode."""
    if name == "resnet":
        sys.path.insert(0, str(ROOT / "tests"))
        import sample_networks

        return sample_networks.SAMPLES["resnet"]()
    side = SIDE.value
    if name == "alexnet":
        after = lambda size: (size - 3) // 2 + 1  # noqa: E731
        pooled = after(after(after((side + 4 - 11) // 4 + 1)))
        module = AlexNet(classes=CLASSES.value, width=WIDTH.value, pooled_size=pooled)
    else:
        module = VGG(classes=CLASSES.value, width=WIDTH.value, pooled_size=side // 32)
    shape = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    tree = jax.eval_shape(module.init, jax.random.key(0), shape)
    random = np.random.default_rng(0)

    def leaf(described: jax.ShapeDtypeStruct) -> np.ndarray:
        scale = np.sqrt(2 / np.prod(described.shape[:-1])) if len(described.shape) > 1 else 0.1
        return random.standard_normal(described.shape, np.float32) * np.float32(scale)

    return jp.Network.from_linen(module, jax.tree.map(leaf, tree), image_shape=(side, side, 3))


def data_of(network: jp.Network) -> tuple[np.ndarray, np.ndarray]:
    """Returns seeded images, and the intact network's own answers to them as labels."""
    shape = (8, 8, 3) if NETWORK.value == "resnet" else (SIDE.value, SIDE.value, 3)
    images = np.random.default_rng(1).standard_normal((IMAGES.value, *shape), np.float32)
    answer = jax.jit(lambda params, x: network.apply(params, x).argmax(1))
    labels = [np.asarray(answer(network.params, images[i : i + 16])) for i in range(0, len(images), 16)]
    return images, np.concatenate(labels)


def ours(network: jp.Network, data: tuple, layers: list[str], seed: int) -> tuple[dict[str, float], float]:
    """Returns the seconds that a study took for each layer, and in all: what passed before a part of it came."""
    spent, last = dict.fromkeys(layers, 0.0), time.perf_counter()
    start = last

    def on_part(part: Any) -> None:
        nonlocal last
        now = time.perf_counter()
        spent[part.cell.target] += now - last
        last = now

    options = {"levels": LEVELS.value, "draws": DRAWS.value, "batch_size": BATCH.value, "out": None}
    jp.sweep(network, data, PERTURBATION.value, layers, seed=seed, on_part=on_part, **options)
    return spent, time.perf_counter() - start


# ---- the opponent


class Opponent:
    """PyTorch in a process of its own."""

    def __init__(self, python: str, network: jp.Network, data: tuple) -> None:
        keep = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1), "MALLOC_ARENA_MAX": "1"}
        command = [python, str(Path(__file__).with_name("benchmark_torch.py"))]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | keep
        )
        with tempfile.TemporaryDirectory() as folder:
            np.savez(f"{folder}/weights.npz", **torch_weights(network))
            np.save(f"{folder}/images.npy", data[0])
            np.save(f"{folder}/labels.npy", data[1].astype(np.int32))
            batches = [int(size) for size in BATCHES.value]
            self.about = self.ask(
                "start", network=NETWORK.value, folder=folder, batches=batches, compiled=COMPILE.value
            )

    def ask(self, kind: str, **request: object) -> dict:
        """Returns the answer to a request."""
        self.process.stdin.write(json.dumps({"kind": kind, **request}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"PyTorch's process ended with status {self.process.wait()}; its message stands above")
        return json.loads(line)

    def seconds(self, layer: str, levels: list[float], cached: bool) -> dict:
        """Returns the seconds of one mask, and of the prefix."""
        request = {"layer": layer, "perturbation": PERTURBATION.value, "levels": levels, "masks": MASKS.value}
        return self.ask("measure", **request, cached=cached)


def torch_weights(network: jp.Network) -> dict[str, np.ndarray]:
    """Returns the weights by layer and leaf, in PyTorch's layouts."""
    found, before = {}, 0
    for path, leaf in jax.tree_util.tree_leaves_with_path(network.params):
        name = "/".join(str(key.key) for key in path[1:])
        array = np.asarray(leaf)
        if array.ndim == 4:
            found[name] = np.ascontiguousarray(array.transpose(3, 2, 0, 1))
            before = max(before, array.shape[-1]) if NETWORK.value == "resnet" else array.shape[-1]
        elif name == "fc6/kernel":  # reads a map: height, width, channels here, channels first there
            maps = array.reshape(-1, before, array.shape[1]).transpose(2, 1, 0)
            found[name] = np.ascontiguousarray(maps.reshape(array.shape[1], -1))
        else:
            found[name] = np.ascontiguousarray(array.T)
    return found


# ---- what there is to compute, and how fast the machine can


def products(network: jp.Network, shape: tuple[int, int, int]) -> dict[str, tuple[Any, float, float]]:
    """Returns for each layer its equation, its multiply-adds for an image, and those from there to the end."""
    program = network.program(shape)
    counts = [multiply_adds(equation) / program.batch for equation in program.equations]
    uses, found = first_uses(program), {}
    for name in network.layer_names(shape):
        leaves = layers_of(network.params, network.norms)[name].leaves()
        first = min(uses[leaf.index] for leaf in leaves)
        own = next(i for i in range(first, len(counts)) if counts[i])
        found[name] = (program.equations[own], counts[own], sum(counts[own:]))
    return found


def multiply_adds(equation: Any) -> int:
    """Returns the multiply-adds of a convolution or a product of matrices; 0 for all else."""
    outputs = equation.outvars[0].aval.size
    if equation.primitive.name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        return outputs * kernel.size // kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
    if equation.primitive.name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        return outputs * int(np.prod([equation.invars[0].aval.shape[axis] for axis in contracted]))
    return 0


def at_batch(equation: Any, batch: int) -> list[jax.Array]:
    """Returns random inputs of a layer's equation, for so many images."""
    images, kernel = (v.aval.shape for v in equation.invars)
    return [jnp.asarray(np.random.default_rng(0).random(s, np.float32)) for s in ((batch, *images[1:]), kernel)]


def our_ceilings(layers: dict[str, tuple[Any, float, float]], network: jp.Network) -> dict[str, float]:
    """Returns the rates of single operations in GFLOP/s: a large product, each layer's as XLA has it, and as we do."""
    square = jnp.asarray(np.random.default_rng(0).random((2048, 2048), np.float32))
    found = {"product": 2e-9 * 2048**3 / best(jax.jit(jnp.matmul), square, square)}
    rules = rewrites(jax.default_backend())
    whole = network.program((8, 8, 3) if NETWORK.value == "resnet" else (SIDE.value, SIDE.value, 3)).closed.jaxpr
    for name, (equation, count, _) in layers.items():
        batch = IMAGES.value if len(equation.outvars[0].aval.shape) == 2 else min(16, IMAGES.value)
        inputs = at_batch(equation, batch)
        plain = jax.jit(as_function(whole, [equation], variables(equation), equation.outvars))
        found[name] = 2e-9 * count * batch / best(plain, *inputs)
        replaced = replacement(equation, rules)
        if replaced is not None:
            found[f"{name}, replaced"] = 2e-9 * count * batch / best(jax.jit(replaced), *inputs)
    return found


def torch_shapes(layers: dict[str, tuple[Any, float, float]]) -> dict[str, list]:
    """Returns each layer's images, kernel, stride and padding as PyTorch has them; uneven paddings are evened."""
    found = {}
    for name, (equation, _, _) in layers.items():
        images, kernel = (list(v.aval.shape) for v in equation.invars)
        if len(kernel) == 2:
            found[name] = [[IMAGES.value, images[1]], kernel[::-1], 1, 0]
            continue
        batch = min(16, IMAGES.value)
        stride, padding = equation.params["window_strides"][0], max(max(p) for p in equation.params["padding"])
        shape = [batch, images[3], *images[1:3]]
        found[name] = [shape, [kernel[3], kernel[2], *kernel[:2]], stride, padding]
    return found


def best(function: Callable[..., Any], *inputs: Any, repeats: int = 5) -> float:
    """Returns the least seconds of a call, the first one left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function(*inputs))
        times.append(time.perf_counter() - start)
    return min(times[1:])


def peak() -> int:
    """Returns the most memory that this process has held, in bytes."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


# ---- one run


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"expected flags only, got {argv[1]!r}")
    pages = keep_pages()
    network = network_of(NETWORK.value)
    data = data_of(network)
    layers = chosen(network.layer_names(data[0].shape[1:]))
    needed = {name: made for name, made in products(network, data[0].shape[1:]).items() if name in layers}
    levels = [float(level) for level in parsed(LEVELS.value)]
    opponent = Opponent(TORCH.value, network, data) if TORCH.value else None
    started = time.perf_counter()
    ours(network, data, layers, seed=0)
    first = time.perf_counter() - started
    runs, theirs = [], []
    for repeat in range(REPEATS.value):
        if opponent:
            theirs.append({n: {c: opponent.seconds(n, levels, c) for c in (False, True)} for n in layers})
        runs.append(ours(network, data, layers, seed=repeat + 1))
    rows, total = compared(layers, needed, levels, runs, theirs)
    memory = peak()  # before the ceilings, which are no part of a study
    report = {
        "network": NETWORK.value,
        "perturbation": PERTURBATION.value,
        "images": IMAGES.value,
        "levels": levels,
        "draws": DRAWS.value,
        "jax": jax.__version__,
        "device": jax.devices()[0].device_kind,
        "threads": os.cpu_count(),
        "pages kept": pages,
        "layers": rows,
        "all": total,
        "compile_s": first - min(seconds for _, seconds in runs),
        "peak_bytes": {"ours": memory},
        "ceilings_gflops": {"ours": our_ceilings(needed, network)},
    }
    if opponent:
        report["torch"] = opponent.about
        report["peak_bytes"]["torch"] = opponent.ask("peak")["peak"]
        report["ceilings_gflops"]["torch"] = opponent.ask("ceilings", shapes=torch_shapes(needed))
        opponent.process.stdin.close()
        opponent.process.wait()
    print(table(report))
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def chosen(names: tuple[str, ...]) -> list[str]:
    """Returns the layers asked for."""
    wanted = list(names) if LAYERS.value == ["*"] else LAYERS.value
    unknown = [name for name in wanted if name not in names]
    if unknown:
        raise app.UsageError(f"--layers: {unknown[0]!r} is none of {', '.join(names)}")
    return wanted


def parsed(levels: str) -> list[Any]:
    """Returns the levels of a flag."""
    from jaxperturb.levels import parse_levels

    return list(parse_levels(levels))


def compared(layers: list[str], needed: dict, levels: list[float], runs: list, theirs: list) -> tuple[dict, dict]:
    """Returns the figures of each layer, and of all together, in seconds of the whole study."""
    masks, rows = len(levels) * DRAWS.value, {}
    spent, seconds = min(runs, key=lambda run: run[1])
    for name in layers:
        row = {"ours_s": spent[name], "multiply_adds": needed[name][2] * masks * IMAGES.value}
        if theirs:
            row["torch_s"] = masks * min(found[name][False]["mask"] for found in theirs)
            cached = [found[name][True] for found in theirs]
            row["torch_cached_s"] = min(found["prefix"] + masks * found["mask"] for found in cached)
        rows[name] = row
    total = {key: sum(row[key] for row in rows.values()) for key in next(iter(rows.values()))} | {"ours_s": seconds}
    for row in (*rows.values(), total):
        row["gflops"] = 2e-9 * row["multiply_adds"] / row["ours_s"]
        row["ms_per_mask"] = 1e3 * row["ours_s"] / (masks * (len(layers) if row is total else 1))
        for side in ("torch", "torch_cached"):
            if theirs:
                row[f"times_{side}"] = row[f"{side}_s"] / row["ours_s"]
    return rows, total


def table(report: dict) -> str:
    """Returns what a reader wants to see."""
    product, own = report["ceilings_gflops"]["ours"]["product"], report["ceilings_gflops"]["ours"]
    there = report["ceilings_gflops"].get("torch", {})
    columns = (("ms/mask", 9), ("GFLOP/s", 8), ("share", 6), ("PyTorch", 9), ("cached", 9), ("times", 7), ("times", 7))
    head = " ".join(["layer     ", *(f"{title:>{width}}" for title, width in columns)])
    lines = [
        f"{report['network']}, {report['perturbation']}, {report['images']} images, {len(report['levels'])} levels, "
        f"{report['draws']} draws; jax {report['jax']}, {report['threads']} threads"
        + (f"; PyTorch: {report['torch']}" if "torch" in report else ""),
        head + "   alone, GFLOP/s: XLA, replaced, PyTorch",
    ]
    for name, row in [*report["layers"].items(), ("all", report["all"])]:
        masks = row["ours_s"] / row["ms_per_mask"]
        rivals = [row[f"{side}_s"] / masks if f"{side}_s" in row else None for side in ("torch", "torch_cached")]
        times = [row.get(f"times_{side}") for side in ("torch", "torch_cached")]
        alone = [own.get(name), own.get(f"{name}, replaced"), there.get(name)]
        cells = [f"{number:>9.1f}" if number else f"{'-':>9}" for number in rivals]
        cells += [f"{number:>7.2f}" if number else f"{'-':>7}" for number in times]
        cells += [f"{number:>7.0f}" if number else f"{'-':>7}" for number in alone]
        share = row["gflops"] / product
        lines.append(f"{name:10} {row['ms_per_mask']:>9.1f} {row['gflops']:>8.0f} {share:>6.0%} {' '.join(cells)}")
    memory = ", ".join(f"{side} {used / 1e9:.2f} GB" for side, used in report["peak_bytes"].items())
    large = ", ".join(f"{side} {rates['product']:.0f}" for side, rates in report["ceilings_gflops"].items())
    lines.append(f"compilation {report['compile_s']:.1f} s; peak memory {memory}; large product, GFLOP/s: {large}")
    return "\n".join(lines)


if __name__ == "__main__":
    app.run(main)
