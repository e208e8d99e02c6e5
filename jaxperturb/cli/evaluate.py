"""``jaxperturb evaluate``: how good a network is before anything is done to it."""

import sys
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli import backend, options
from jaxperturb.cli.command import Command
from jaxperturb.cli.inputs import class_options, read_dataset, read_network, tell_classes

if TYPE_CHECKING:
    from jaxperturb.api import Evaluation


def _define(values: flags.FlagValues) -> None:
    options.define_network(values)
    options.define_data(values)
    options.define_computing(values)
    options.define_debug(values)


def _run(values: flags.FlagValues) -> None:
    backend.start(values.device)
    from jaxperturb import api

    network, dataset = read_network(values), read_dataset(values)
    outcome = api.evaluate(
        network,
        dataset,
        images=values.images,
        batch_size=values.batch_size,
        on_images=tell_classes,
        **class_options(values),
    )
    print(f"{outcome.network} on {outcome.images} images of {outcome.dataset}")
    print("\n".join(_lines(outcome)))
    for name, reason in outcome.skipped:
        print(f"left out: {name} ({reason})", file=sys.stderr)
    if outcome.is_near_chance():
        print(
            f"warning: {network.name} is hardly better than chance: are the labels right (--classes), the preprocessing"
            " (--preprocessing), and is it the trained network in test mode (train=False)?",
            file=sys.stderr,
        )


def _lines(outcome: "Evaluation") -> list[str]:
    rows = (("top-1", "top1", outcome.top1), ("top-5", "top5", outcome.top5))
    lines = [
        f"{name}  {outcome.accuracy(metric):.4f}  ({right} right; chance {outcome.chance(metric):.3g})"
        for name, metric, right in rows
    ]
    if outcome.commonest is not None:
        lines.append(f"balanced  {outcome.balanced:.4f}  (top-1, all classes weighed alike)")
        lines.append(f"unbalanced: {outcome.commonest:.1%} of the images are of the commonest class")
    if outcome.nonfinite:
        lines.append(f"not finite: the scores of {outcome.nonfinite} images, which count as wrong")
    if outcome.skipped:
        lines.append(f"left out: {len(outcome.skipped)} images that cannot be read")
    return lines


COMMAND = Command(
    name="evaluate",
    summary="Prints the accuracy of an intact network on a data set.",
    details="Right means that the true class has the highest score (top-1), or one of the five highest (top-5).",
    examples=(
        ("the bundled network on the test digits", "evaluate"),
        ("the digits that it was trained on", "evaluate --split=train"),
        ("a checkpoint of your own on 200 images", "evaluate --weights=checkpoints/mine --images=200"),
        ("photographs in a folder for each class", "evaluate --weights=alexnet --dataset=folder:photos"),
        (
            "ILSVRC's validation pictures",
            "evaluate --weights=alexnet --dataset=folder:ILSVRC2012_img_val --labels_file=LOC_val_solution.csv",
        ),
    ),
    define=_define,
    run=_run,
)
