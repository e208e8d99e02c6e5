"""Does a study keep to --memory_gb? Peak memory of AlexNet at 224 on 1,000 images, for several budgets.

    python scripts/benchmark_memory.py [--budgets=2,4,8] [--images=1000] [--layers=conv2,fc6]

Each budget has a process of its own, whose whole resident memory counts: the program, the weights, the images (0.6 GB,
held as an array) and all that is computed. Prints a line for each, and fails where one takes more than 1.25 of it.
"""

import argparse
import json
import resource
import subprocess
import sys

GIB = 2**30
MOST = 1.25


def measure(budget: float, images: int, layers: str) -> dict[str, float]:
    """Returns GiB before the study and at most, and the images of its largest part, in a process of their own."""
    command = [sys.executable, __file__, f"--child={budget}", f"--images={images}", f"--layers={layers}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def study(budget: float, images: int, layers: str) -> dict[str, float]:
    """Runs a study within a budget in this process."""
    import jax
    import numpy as np

    import jaxperturb as jp
    from jaxperturb.networks.alexnet import AlexNet

    module, rng = AlexNet(), np.random.default_rng(0)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32))
    params = jax.tree.map(lambda leaf: 0.02 * rng.standard_normal(leaf.shape, dtype=np.float32), shapes)
    network = jp.Network.from_linen(module, params, image_shape=(224, 224, 3))
    data = rng.standard_normal((images, 224, 224, 3), dtype=np.float32), np.arange(images) % 1000
    before, parts = _peak(), []
    lesions = "synapse_knockout,gaussian_noise"
    jp.sweep(network, data, lesions, layers, levels=[0.5], draws=1, memory_gb=budget, on_part=parts.append)
    return {"before": before, "peak": _peak(), "images": max(part.stop - part.start for part in parts)}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def main() -> None:
    """Prints a line for each budget."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budgets", default="2,4,8", help="GiB, separated by commas")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--layers", default="conv2,fc6")
    parser.add_argument("--child", type=float, default=None, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child is not None:
        print(json.dumps(study(asked.child, asked.images, asked.layers)))
        return
    print(f"{'budget':>6}  {'before':>6}  {'peak':>6}  {'ratio':>6}  largest part")
    over = False
    for budget in map(float, asked.budgets.split(",")):
        found = measure(budget, asked.images, asked.layers)
        ratio = found["peak"] / budget
        over |= ratio > MOST
        print(
            f"{budget:6.1f}  {found['before']:6.2f}  {found['peak']:6.2f}  {ratio:6.2f}  {found['images']:.0f} images"
        )
    if over:
        raise SystemExit(f"more than {MOST} of a budget was taken")


if __name__ == "__main__":
    main()
