"""``jaxperturb evaluate``: how good a network is before anything is done to it."""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli import backend, options
from jaxperturb.cli.command import Command
from jaxperturb.cli.inputs import class_options, read_dataset, read_network, tell_classes

if TYPE_CHECKING:
    from jaxperturb.api import Agreement, Evaluation


def _define(values: flags.FlagValues) -> None:
    options.define_network(values)
    options.define_data(values)
    options.define_computing(values)
    flags.DEFINE_bool(
        "compare_precision",
        False,
        "Print accuracy, agreement with float32 and speed for each precision that the device gains by.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "precisions",
        None,
        "Precisions to compare instead, separated by commas: also those that the device only emulates, slowly.",
        flag_values=values,
    )
    options.define_debug(values)


def _run(values: flags.FlagValues) -> None:
    backend.start(values.device)
    from jaxperturb import api

    network, dataset = read_network(values), read_dataset(values)
    asked = {"images": values.images, "batch_size": values.batch_size, "on_images": tell_classes}
    asked |= class_options(values)
    if values.compare_precision or values.precisions is not None:
        precisions = None if values.precisions is None else [name.strip() for name in values.precisions.split(",")]
        print("\n".join(_table(api.compare_precisions(network, dataset, precisions=precisions, **asked))))
        return
    outcome = api.evaluate(network, dataset, precision=values.precision, convolutions=values.convolutions, **asked)
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


def _table(rows: Sequence["Agreement"]) -> list[str]:
    """A line for each precision."""
    lines = [
        f"{'precision':<10}  {'top-1':>6}  {'top-5':>6}  {'same class':>12}  {'logits differ by':>16}  {'images/s':>8}"
    ]
    lines += [
        f"{row.precision:<10}  {row.top1 / row.images:6.4f}  {row.top5 / row.images:6.4f}  "
        f"{f'{row.same} of {row.images}':>12}  {row.difference:16.3g}  {row.images_per_second:8.0f}"
        for row in rows
    ]
    if len(rows) == 1:
        lines.append("this device gains by no other precision; --precisions=bfloat16 tries one nevertheless")
    return lines


COMMAND = Command(
    name="evaluate",
    summary="Prints the accuracy of an intact network on a data set.",
    details="Right means that the true class has the highest score (top-1), or one of the five highest (top-5).",
    examples=(
        ("the bundled network on the test digits", "evaluate"),
        ("the digits that it was trained on", "evaluate --split=train"),
        ("a checkpoint of your own on 200 images", "evaluate --weights=checkpoints/mine --images=200"),
        ("how other precisions agree with float32", "evaluate --compare_precision"),
        ("photographs in a folder for each class", "evaluate --weights=alexnet --dataset=folder:photos"),
        (
            "ILSVRC's validation pictures",
            "evaluate --weights=alexnet --dataset=folder:ILSVRC2012_img_val --labels_file=LOC_val_solution.csv",
        ),
    ),
    define=_define,
    run=_run,
)
