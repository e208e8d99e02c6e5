"""What can be counted from the outcomes of a cell: accuracies, agreement with the reference, and faults' effects."""

from dataclasses import dataclass

from jaxperturb.errors import StudyError, did_you_mean
from jaxperturb.study.study import METRICS, check_metric


@dataclass(frozen=True)
class Measure:
    """A share of images.

    Attributes:
        name: as asked for.
        label: in titles and axes.
        plane: of the stored outcomes.
        of_false: whether it counts the images for which the plane is false.
        right: whether it counts right answers, so that a chance level and a half-life have a meaning.
        balanced: whether classes weigh alike, and not images.
    """

    name: str
    label: str
    plane: str
    of_false: bool = False
    right: bool = False
    balanced: bool = False


MEASURES = {
    measure.name: measure
    for measure in (
        Measure("top1", "top-1 accuracy", "top1", right=True),
        Measure("top5", "top-5 accuracy", "top5", right=True),
        Measure("balanced", "balanced top-1 accuracy", "top1", right=True, balanced=True),
        Measure("same1", "agreement with the reference's first class", "same1"),
        Measure("same5", "first class among the reference's five", "same5"),
        Measure("sdc1", "first class differs from the reference's", "same1", of_false=True),
        Measure("sdc5", "first class not among the reference's five", "same5", of_false=True),
        Measure("due", "logits that are not finite", "finite", of_false=True),
    )
}
CRITICAL = "critical"  # a share of draws, and so no measure of images


def find_measure(name: str | None, otherwise: str, outputs: int) -> Measure:
    """Returns what is asked for, or the study's metric.

    Args:
        name: of a measure.
        otherwise: the metric where none is asked for.
        outputs: number of classes that the network tells apart.

    Raises:
        StudyError: an unknown name.
    """
    name = name or otherwise
    if name in METRICS:
        return MEASURES[check_metric(name, outputs)]
    if name not in MEASURES:
        known = (*MEASURES, CRITICAL)
        raise StudyError(f"unknown metric {name!r}: expected one of {', '.join(known)}{did_you_mean(name, known)}")
    return MEASURES[name]
