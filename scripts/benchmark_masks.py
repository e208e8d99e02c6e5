"""Times masks and noise against other ways to make them, all in one run, and prints ratios.

    python scripts/benchmark_masks.py [--repeats=9] [--json=FILE]

Half of the weights of AlexNet's fc6 (9216 x 4096) and conv1 (11 x 11 x 3 x 64) are knocked out, the result being the
damaged kernel; or noise of half a standard deviation is added. Sides are timed in turn, medians are compared. PyTorch
is a side where it is installed. Run it on one core with `taskset -c 0`, on a GPU as it is.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import app, flags

import jaxperturb as jp

REPEATS = flags.DEFINE_integer("repeats", 9, "Timed calls of each side.", lower_bound=3)
JSON = flags.DEFINE_string("json", None, "File for the figures.")

SHAPES = {"fc6": (9216, 4096), "conv1": (11, 11, 3, 64)}
Side = Callable[[], Any]


def jax_sides(kernel: jax.Array) -> dict[str, tuple[Side, jax.stages.Compiled | None]]:
    """Returns ways in JAX, ours first, with the compiled program of each."""
    n, k = kernel.size, jnp.uint32(kernel.size // 2)

    def exact(count: jax.Array, key: jax.Array, w: jax.Array) -> jax.Array:
        return jp.synapse_knockout(key, {"fc6": {"kernel": w}}, count=count)["fc6"]["kernel"]

    def noise(level: jax.Array, key: jax.Array, w: jax.Array) -> jax.Array:
        return jp.gaussian_noise(key, {"fc6": {"kernel": w}}, level)["fc6"]["kernel"]

    def by_sort(count: jax.Array, key: jax.Array, w: jax.Array) -> jax.Array:
        bits = jax.random.bits(key, (n,))
        return jnp.where(bits.reshape(w.shape) < jnp.sort(bits)[count], 0, w)

    def permuted(count: jax.Array, key: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.where(jax.random.permutation(key, n).reshape(w.shape) < count, 0, w)

    def bernoulli(count: jax.Array, key: jax.Array, w: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, count.astype(jnp.float32) / n, w.shape), 0, w)

    def plain_noise(level: jax.Array, key: jax.Array, w: jax.Array) -> jax.Array:
        return w + level * jnp.std(w) * jax.random.normal(key, w.shape)

    half = jnp.float32(0.5)
    ours, threefry = jp.random.key(0), jax.random.key(0)
    sides = {
        "jaxperturb, exact half knocked out": (exact, k, ours),
        "JAX, exact by sort": (by_sort, k, threefry),
        "JAX, Bernoulli by threefry (not exact)": (bernoulli, k, threefry),
        "jaxperturb, noise": (noise, half, ours),
        "JAX, noise by threefry": (plain_noise, half, threefry),
    }
    if n < 2**20:  # it takes a minute for fc6
        sides["JAX, exact by jax.random.permutation"] = (permuted, k, threefry)
    for implementation in ("threefry4x32", "philox4x32"):
        try:
            other = jax.random.key(0, impl=implementation)
        except ValueError:  # this version of JAX does not have it
            continue
        sides[f"JAX, Bernoulli by {implementation} (not exact)"] = (bernoulli, k, other)
    found = {}
    for name, (function, amount, key) in sides.items():
        compiled = jax.jit(function).lower(amount, key, kernel).compile()
        call = lambda run=compiled, a=amount, b=key: jax.block_until_ready(run(a, b, kernel))  # noqa: E731
        found[name] = (call, compiled)
    return found


def torch_sides(kernel: np.ndarray) -> dict[str, tuple[Side, None]]:
    """Returns ways in PyTorch, or none where it is not installed."""
    try:
        import torch
        from torch.nn.utils import prune
    except ImportError:
        return {}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    weight = torch.tensor(kernel, device=device)

    def finished(value: Any) -> Any:
        if device == "cuda":
            torch.cuda.synchronize()
        return value

    def pruned() -> Any:
        module = torch.nn.Module()
        module.weight = torch.nn.Parameter(weight)
        return finished(prune.random_unstructured(module, "weight", 0.5).weight)

    return {
        "PyTorch, prune.random_unstructured": (pruned, None),
        "PyTorch, rand >= f (not exact)": (lambda: finished(weight * (torch.rand_like(weight) >= 0.5)), None),
        "PyTorch, noise by randn": (lambda: finished(weight + 0.5 * weight.std() * torch.randn_like(weight)), None),
    }


def measure(sides: dict[str, tuple[Side, Any]], repeats: int) -> dict[str, dict[str, float | None]]:
    """Returns the median time of each side in ms, timed in turn, and the bytes of its program beside its result."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(repeats + 1):
        for name, (call, _) in sides.items():
            start = time.perf_counter()
            call()
            if turn:  # the first call warms up
                times[name].append(time.perf_counter() - start)
    return {
        name: {
            "ms": float(np.median(times[name]) * 1e3),
            "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes if compiled else None,
        }
        for name, (_, compiled) in sides.items()
    }


def report(layer: str, found: dict[str, dict[str, float | None]], size: int) -> None:
    """Prints a table, with the times of each side as multiples of ours."""
    print(f"\n{layer}, {size:,} weights ({4 * size:,} bytes)")
    for name, figures in found.items():
        ours = found["jaxperturb, noise" if "noise" in name else "jaxperturb, exact half knocked out"]
        memory = figures["temporary_bytes"]
        beside = "" if memory is None else f"   {memory:>12,} bytes beside the result"
        print(f"  {name:45} {figures['ms']:10.3f} ms {figures['ms'] / ours['ms']:8.2f} x{beside}")


def main(_: list[str]) -> None:
    """Measures and prints both layers."""
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind} ({jax.default_backend()})")
    figures = {}
    for layer, shape in SHAPES.items():
        kernel = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        sides = jax_sides(jnp.asarray(kernel)) | torch_sides(kernel)
        figures[layer] = measure(sides, REPEATS.value if layer == "fc6" else 10 * REPEATS.value)
        report(layer, figures[layer], kernel.size)
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    app.run(main)
