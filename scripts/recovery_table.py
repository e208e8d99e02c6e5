"""Makes the table and the figures of ``docs/recovery.md``: what 300 steps of training give back, layer by layer.

    python scripts/recovery_table.py --data_dir=photos/tfds --out=runs/recovery-table --docs=docs

For every layer of alexnet-cifar10 70 % of its synapses are removed, in 3 draws; then the whole network learns for 300
steps of 64 images, once with the removed weights held at 0 and once with them free to grow back. A run that was stopped
is continued. ``--docs`` copies figures, and prints the table as Markdown.
"""

import shutil
import time
from pathlib import Path

from absl import app, flags

from jaxperturb.api.recovery import recover
from jaxperturb.data import load_dataset
from jaxperturb.recovery.optimizers import Optimizer
from jaxperturb.show.formats import rendered
from jaxperturb.show.recovery import load_recovery, summary_lines, write_tables
from jaxperturb.show.recovery_figures import save_recovery_figures

WEIGHTS, DATASET, LEVEL = "alexnet-cifar10", "cifar10", "0.7"
OPTIMIZER = Optimizer("adam", learning_rate=3e-4, schedule="cosine")


def run(data_dir: str, out: Path, layers: str, steps: int, draws: int, images: int) -> None:
    """Trains what is not trained yet, and says how long it took."""
    begun = time.monotonic()
    recover(
        WEIGHTS,
        load_dataset(DATASET, "train", data_dir),
        load_dataset(DATASET, "test", data_dir),
        "synapse_knockout",
        layers,
        LEVEL,
        draws,
        lesion="held,free",
        optimizer=OPTIMIZER,
        augment="crop,flip",
        steps=steps,
        images=images,
        out=out,
        progress=True,
    )
    print(f"{time.monotonic() - begun:.0f} s")


def main(argv: list[str]) -> None:
    """Runs it, then writes tables and figures."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    given, out = flags.FLAGS, Path(flags.FLAGS.out)
    run(given.data_dir, out, given.layers, given.steps, given.draws, given.images)
    recovery = load_recovery(out)
    write_tables(recovery, out)
    figures = save_recovery_figures(recovery, out / "figures")
    if given.docs:
        folder = Path(given.docs) / "figures"
        for path in (path for path in figures if path.suffix == ".png"):
            shutil.copy(path, folder / f"recovery-{path.name}")
    print(rendered(summary_lines(recovery), "markdown"))


if __name__ == "__main__":
    flags.DEFINE_string("data_dir", None, "where CIFAR-10 lies, prepared for TensorFlow Datasets", required=True)
    flags.DEFINE_string("out", "runs/recovery-table", "folder of the recovery, which is continued")
    flags.DEFINE_string("docs", None, "folder of the documents, for the figures")
    flags.DEFINE_string("layers", "*", "layers to damage")
    flags.DEFINE_integer("steps", 300, "of training", lower_bound=1)
    flags.DEFINE_integer("draws", 3, "lesions of each layer", lower_bound=1)
    flags.DEFINE_integer("images", 2000, "test images", lower_bound=1)
    app.run(main)
