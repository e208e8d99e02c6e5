"""The opponent of benchmark.py: the loop that a competent user writes in PyTorch, in a process of its own.

Reads one request a line from standard input, answers with one line of JSON each; run by benchmark.py, not by hand.
"""

import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

State = tuple[torch.Tensor, ...]
Stage = Callable[[State], State]
FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def alexnet(w: dict) -> list[tuple[str, Stage]]:
    plan = [("conv1", 4, 2, True), ("conv2", 1, 2, True), ("conv3", 1, 1, False), ("conv4", 1, 1, False)]
    plan += [("conv5", 1, 1, True)]
    return [*(conv(w, name, stride, padding, 3 if pool else 0) for name, stride, padding, pool in plan), *dense(w)]


def vgg16(w: dict) -> list[tuple[str, Stage]]:
    names = [f"conv{block}_{i + 1}" for block, many in enumerate((2, 2, 3, 3, 3), 1) for i in range(many)]
    last = {name for name, after in zip(names, [*names[1:], "conv6"], strict=True) if name[:5] != after[:5]}
    return [*(conv(w, name, 1, 1, 2 if name in last else 0) for name in names), *dense(w)]


def conv(w: dict, name: str, stride: int, padding: int, pool: int) -> tuple[str, Stage]:
    def stage(state: State) -> State:
        x = F.relu_(F.conv2d(state[0], w[f"{name}/kernel"], w[f"{name}/bias"], stride, padding))
        return (F.max_pool2d(x, pool, 2) if pool else x,)

    return name, stage


def dense(w: dict) -> list[tuple[str, Stage]]:
    def stage(name: str, last: bool) -> Stage:
        def run(state: State) -> State:
            x = F.linear(state[0].flatten(1), w[f"{name}/kernel"], w[f"{name}/bias"])
            return (x if last else F.relu_(x),)

        return run

    return [(name, stage(name, name == "fc8")) for name in ("fc6", "fc7", "fc8")]


def resnet(w: dict) -> list[tuple[str, Stage]]:
    """The tests' ResNet; between the stages of a block its input is handed on beside the values."""

    def convolved(i: int, x: torch.Tensor, stride: int = 1) -> torch.Tensor:
        kernel = w[f"Conv_{i}/kernel"]
        around = [0, 0, 0, 0]
        if kernel.shape[-1] == 3:
            around = [1, 1, 1, 1] if stride == 1 else [0, 1, 0, 1]
        x = F.conv2d(F.pad(x, around), kernel, None, stride)
        norm = [w[f"BatchNorm_{i}/{leaf}"] for leaf in ("mean", "var", "scale", "bias")]
        return F.batch_norm(x, *norm, eps=1e-5)

    return [
        ("Conv_0", lambda s: (F.relu(convolved(0, s[0])),)),
        ("Conv_1", lambda s: (F.relu(convolved(1, s[0])), s[0])),
        ("Conv_2", lambda s: (F.relu(convolved(2, s[0]) + s[1]),)),
        ("Conv_3", lambda s: (F.relu(convolved(3, s[0], 2)), s[0])),
        ("Conv_4", lambda s: (convolved(4, s[0]), s[1])),
        ("Conv_5", lambda s: (F.relu(s[0] + convolved(5, s[1], 2)),)),
        ("Dense_0", lambda s: (F.linear(s[0].mean((2, 3)), w["Dense_0/kernel"], w["Dense_0/bias"]),)),
    ]


NETWORKS = {"alexnet": alexnet, "vgg16": vgg16, "resnet": resnet}


class Loop:
    """A network with its images, in the fastest form found."""

    def __init__(self, network: str, folder: str, batches: list[int], compiled: bool) -> None:
        with np.load(f"{folder}/weights.npz") as arrays:
            self.weights = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
        images = torch.from_numpy(np.load(f"{folder}/images.npy")).permute(0, 3, 1, 2)
        self.labels = torch.from_numpy(np.load(f"{folder}/labels.npy")).long()
        self.network, self.pixels, self.fast = network, images, None
        self.zero = torch.zeros(())
        self.batches = sorted({min(size, len(images)) for size in batches})
        self.choose()
        if compiled:
            self.try_compiling()

    def choose(self) -> None:
        """Takes the batch size and the memory format in which some masks of the whole network are fastest."""
        times = {}
        for layout in FORMATS:
            for size in self.batches:
                self.lay_out(layout, size)
                self.whole(64)
                times[layout, size] = timed(lambda: self.whole(64))
        (self.layout, self.batch), self.tried = min(times, key=times.get), times
        self.lay_out(self.layout, self.batch)

    def lay_out(self, layout: str, size: int) -> None:
        """Copies the weights and the images in a memory format, these in batches of a size."""
        form = {"memory_format": FORMATS[layout]}
        self.current = {k: v.clone(**form) if v.ndim == 4 else v.clone() for k, v in self.weights.items()}
        self.original = {k: v.clone(**form) if v.ndim == 4 else v.clone() for k, v in self.weights.items()}
        self.images = self.pixels.contiguous(**form).split(size)
        self.stages = NETWORKS[self.network](self.current)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Returns the logits."""
        return self.after(0, (x,))

    def after(self, first: int, state: State) -> torch.Tensor:
        """Returns the logits, from the state before a stage."""
        for _, stage in self.stages[first:]:
            state = stage(state)
        return state[0]

    def try_compiling(self) -> None:
        """Takes torch.compile where it works and is faster."""
        try:
            self.fast = torch.compile(self.forward)
            self.whole(64)
            faster = timed(lambda: self.whole(64))
            self.fast, fast = None, self.fast
            self.fast = fast if faster < timed(lambda: self.whole(64)) else None
        except Exception as error:  # it may want a compiler that is not there
            self.fast = None
            print(f"torch.compile left out: {str(error).splitlines()[:1]}", file=sys.stderr)

    def whole(self, some: int | None = None) -> int:
        """Returns how many images are right: all, or those of the batches that hold `some`."""
        call, hits, seen = self.fast or self.forward, 0, 0
        for x, labels in zip(self.images, self.labels.split(len(self.images[0])), strict=True):
            hits += right(call(x), labels)
            seen += len(x)
            if some and seen >= some:
                break
        return hits

    def position(self, layer: str) -> int:
        """Returns the number of a layer's stage."""
        return [name for name, _ in self.stages].index(layer)

    def prefix(self, layer: str) -> tuple[list[State], float]:
        """Returns the state of each batch before a layer, and the seconds that it took."""
        start, first, found = time.perf_counter(), self.position(layer), []
        for x in self.images:
            state: State = (x,)
            for _, stage in self.stages[:first]:
                state = stage(state)
            # Activations are changed in place further on; the values kept here must not be.
            found.append(tuple(value.clone() if value is x else value for value in state))
        return found, time.perf_counter() - start

    def lesion(self, layer: str, perturbation: str, level: float) -> None:
        """Writes a damaged copy of a layer into the network, drawn anew."""
        names = [name for name in (f"{layer}/kernel", f"{layer}/bias") if name in self.current]
        units = torch.rand(self.original[names[0]].shape[0]) < level
        for name in names:
            w, to = self.original[name], self.current[name]
            if perturbation == "gaussian_noise":
                torch.add(w, torch.randn_like(w), alpha=level * float(w.std(correction=0)), out=to)
            elif perturbation == "node_knockout":
                torch.mul(w, (~units).to(w.dtype).view(-1, *[1] * (w.ndim - 1)), out=to)
            else:
                torch.where(torch.rand_like(w) < level, self.zero, w, out=to)

    def repair(self, layer: str) -> None:
        """Writes the intact layer back."""
        for name in (f"{layer}/kernel", f"{layer}/bias"):
            if name in self.current:
                self.current[name].copy_(self.original[name])

    def measure(self, layer: str, perturbation: str, levels: list[float], masks: int, cached: bool) -> dict:
        """Returns the mean time of a mask in seconds, and that of the prefix."""
        states, prefix = self.prefix(layer) if cached else ([], 0.0)
        first, labels = self.position(layer), self.labels.split(len(self.images[0]))
        start = time.perf_counter()
        for i in range(masks):
            self.lesion(layer, perturbation, levels[(2 * i + 1) * len(levels) // (2 * masks) % len(levels)])
            if cached:
                sum(right(self.after(first, state), some) for state, some in zip(states, labels, strict=True))
            else:
                self.whole()
        seconds = (time.perf_counter() - start) / masks
        self.repair(layer)
        return {"mask": seconds, "prefix": prefix}


def right(logits: torch.Tensor, labels: torch.Tensor) -> int:
    """Returns how many labels are first; whether they are among the first five is found, too, as in the study."""
    first = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
    return int(first[:, 0].sum()) + 0 * int(first.sum())


def ceilings(shapes: dict[str, list]) -> dict[str, float]:
    """Returns the rates of single operations in GFLOP/s: a large product, and each layer's by itself."""
    square = torch.rand(2048, 2048)
    found = {"product": 2e-9 * 2048**3 / best(lambda: square @ square)}
    for name, (images, kernel, stride, padding) in shapes.items():
        x, w = torch.rand(images), torch.rand(kernel)
        if len(kernel) == 2:
            found[name] = 2e-9 * images[0] * w.numel() / best(lambda x=x, w=w: F.linear(x, w))
            continue
        rates = []
        for form in FORMATS.values():
            pair = x.contiguous(memory_format=form), w.contiguous(memory_format=form)
            run = lambda pair=pair, s=stride, p=padding: F.conv2d(*pair, stride=s, padding=p)  # noqa: E731
            y = run()
            rates.append(2e-9 * y.numel() * w[0].numel() / best(run))
        found[name] = max(rates)
    return found


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def best(work: Callable[[], object], repeats: int = 5) -> float:
    work()
    return min(timed(work) for _ in range(repeats))


def peak() -> int:
    """Returns the most memory that this process has held, in bytes."""
    return 1024 * int(re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def main() -> None:
    loop = None
    for line in sys.stdin:
        request = json.loads(line)
        kind = request.pop("kind")
        with torch.inference_mode():
            if kind == "start":
                loop = Loop(**request)
                answer = {
                    "torch": torch.__version__,
                    "threads": torch.get_num_threads(),
                    "batch": loop.batch,
                    "layout": loop.layout,
                    "compiled": loop.fast is not None,
                    "hits": loop.whole(),
                }
            elif kind == "measure":
                answer = loop.measure(**request)
            elif kind == "ceilings":
                answer = ceilings(**request)
            else:
                answer = {"peak": peak()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
