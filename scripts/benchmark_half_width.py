"""What a study that chooses its draws and images saves against a fixed design, all in one run.

    python scripts/benchmark_half_width.py --dataset=cifar10 --data_dir=tfds [--half_widths=0.03,0.02] [--json=FILE]
    python scripts/benchmark_half_width.py --dataset=cifar10 --data_dir=tfds --part_levels=0.5 --part_draws=1

All layers of a network, synapse knockout, 11 levels. The fixed design has 10 draws on 10,000 images. It has another
seed, so that its draws are none of the others', and its accuracies stand for the truth; being estimates themselves,
they are in somewhat fewer than 95 of 100 intervals. --part_levels and --part_draws compute a part of it, whose time is
scaled to the whole by the work that it does (in multiplications); with fewer draws it stands for no truth, else it does
at these levels. Programs are compiled before anything is timed.
"""

import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags, logging

import jaxperturb as jp
from jaxperturb.api import preview
from jaxperturb.data import load_dataset
from jaxperturb.data.dataset import Dataset
from jaxperturb.engine.run import Part
from jaxperturb.show.met import reached
from jaxperturb.study.goal import MAX_DRAWS as MOST
from jaxperturb.study.planned import planned_cells, work
from jaxperturb.study.study import Study

WEIGHTS = flags.DEFINE_string("weights", "alexnet-cifar10", "Trained weights.")
DATASET = flags.DEFINE_string("dataset", "cifar10", "Labelled images.")
DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder where the data set lies.")
LAYERS = flags.DEFINE_string("layers", "*", "Layers.")
LEVELS = flags.DEFINE_string("levels", "0:1:0.1", "Levels.")
HALF_WIDTHS = flags.DEFINE_list("half_widths", ["0.03", "0.02"], "Wanted half-widths.")
MAX_DRAWS = flags.DEFINE_integer("max_draws", MOST, "No more draws than these.", lower_bound=5)
DRAWS = flags.DEFINE_integer("draws", 10, "Draws of the fixed design.", lower_bound=2)
IMAGES = flags.DEFINE_integer("images", 10_000, "Images of the fixed design, and no more than these.", lower_bound=2)
PART_LEVELS = flags.DEFINE_string("part_levels", None, "Levels of the part that is computed (default: all).")
PART_DRAWS = flags.DEFINE_integer("part_draws", None, "Draws of the part that is computed (default: all).")
JSON = flags.DEFINE_string("json", None, "File for the figures.")

say = functools.partial(print, flush=True)
PERTURBATION = "synapse_knockout"
OTHER_SEED = 1


class Counted:
    """Counts the evaluations of an image by a lesioned network; hand it to `jp.sweep` as ``on_part``."""

    def __init__(self) -> None:
        self.evaluations = 0

    def __call__(self, part: Part) -> None:
        """Adds a part."""
        self.evaluations += (part.stop - part.start) * (part.shortcut != "intact")


def sweep(data: Dataset, levels: str, **asked: Any) -> tuple[jp.Results, float, int]:
    """Returns a study, its seconds and its evaluations."""
    counted, start = Counted(), time.perf_counter()
    found = jp.sweep(WEIGHTS.value, data, PERTURBATION, LAYERS.value, levels, on_part=counted, **asked)
    return found, time.perf_counter() - start, counted.evaluations


def fixed_size(study: Study) -> tuple[int, int]:
    """Returns evaluations and multiplications of a fixed design; the intact network costs nothing."""
    works = [work(study, cell, study.images) for cell in planned_cells(study)]
    return sum(found > 0 for found in works) * study.images, sum(works)


def fixed(data: Dataset) -> tuple[jp.Results, dict[str, Any]]:
    """Computes the fixed design, or the part of it that is asked for."""
    asked = {"images": IMAGES.value, "seed": OTHER_SEED}
    levels, draws = PART_LEVELS.value or LEVELS.value, PART_DRAWS.value or DRAWS.value
    whole = preview(WEIGHTS.value, data, PERTURBATION, LAYERS.value, LEVELS.value, draws=DRAWS.value, **asked).study
    found, seconds, _ = sweep(data, levels, draws=draws, **asked)
    share = fixed_size(found.study)[1] / fixed_size(whole)[1]
    say(
        f"fixed design, {DRAWS.value} draws x {IMAGES.value:,} images: {fixed_size(whole)[0]:,} evaluations, "
        f"{seconds / share:,.0f} s" + (f" (scaled from {share:.1%} of it, {seconds:,.0f} s)" if share < 1 else "")
    )
    return found, {
        "evaluations": fixed_size(whole)[0],
        "seconds": seconds / share,
        "share": share,
        "met": {text: met_by(found, float(text)) for text in HALF_WIDTHS.value},
    }


def met_by(found: jp.Results, half_width: float) -> float:
    """Returns the share of the levels of a study whose interval has a half-width."""
    table = found.by_level()
    return float(((table["high"] - table["low"]) / 2 <= half_width).mean())


def chosen(data: Dataset, half_width: float, truth: jp.Results, against: dict[str, Any]) -> dict[str, Any]:
    """Computes the study that chooses its draws and images, and compares it."""
    asked = {"images": IMAGES.value, "max_draws": MAX_DRAWS.value, "half_width": half_width}
    found, seconds, evaluations = sweep(data, LEVELS.value, **asked)
    looks = {look.target: (look.draws, look.images) for look in found.study.looks}
    levels = [one for target in looks for one in reached(found, PERTURBATION, target)]
    inside = held(found, truth) if truth.study.draws == DRAWS.value else np.zeros(0)
    figures = {
        "evaluations": evaluations,
        "ratio": against["evaluations"] / evaluations,
        "seconds": seconds,
        "seconds_ratio": against["seconds"] / seconds,
        "levels": len(levels),
        "met": float(np.mean([one.met for one in levels])),
        "met_within_a_tenth": float(np.mean([one.half_width <= 1.1 * half_width for one in levels])),
        "widest": float(max(one.half_width for one in levels)),
        "held": float(inside.mean()) if len(inside) else None,
        "compared": len(inside),
        "looks": looks,
    }
    say(
        f"half-width {half_width:g}: {evaluations:,} evaluations ({figures['ratio']:.1f} times fewer), {seconds:,.0f} s"
        f" ({figures['seconds_ratio']:.1f} times faster); met by {figures['met']:.1%} of {len(levels)} levels, within a"
        f" tenth by {figures['met_within_a_tenth']:.1%}, widest {figures['widest']:.3f}"
    )
    say("  draws x images: " + ", ".join(f"{name} {draws} x {images:,}" for name, (draws, images) in looks.items()))
    if len(inside):
        say(f"  the fixed design's accuracy is in {inside.mean():.1%} of {len(inside)} intervals where draws differ")
    return figures


def held(found: jp.Results, truth: jp.Results) -> np.ndarray:
    """Returns for each level at which draws differ whether the interval holds the fixed design's accuracy."""
    keys = ["target", "level_text"]
    both = found.by_level().merge(truth.by_level()[[*keys, "value"]], on=keys, suffixes=("", "_fixed"))
    both = both[both["interval"] == "draws and images"]
    return ((both["low"] <= both["value_fixed"]) & (both["value_fixed"] <= both["high"])).to_numpy()


def main(_: Sequence[str]) -> None:
    """Prints the comparison."""
    logging.set_verbosity(logging.WARNING)
    data = load_dataset(DATASET.value, data_dir=DATA_DIR.value)
    sweep(data, LEVELS.value, draws=2, images=512)
    truth, against = fixed(data)
    against |= {text: chosen(data, float(text), truth, against) for text in HALF_WIDTHS.value}
    if JSON.value:
        Path(JSON.value).write_text(json.dumps(against, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app.run(main)
