"""What a reader must know of a study's images before believing its numbers."""

from collections.abc import Sequence

import numpy as np

from jaxperturb.show.results import Results
from jaxperturb.stats.balance import commonest_share, is_near_chance, is_unbalanced
from jaxperturb.study.study import METRICS

_LISTED = 3


def notices(results: Results) -> list[str]:
    """Returns a line for each of: images left out, unbalanced classes, an intact network no better than chance."""
    return [*_skipped(results), *_unbalanced(results), *_near_chance(results)]


def commonest(results: Results, metric: str) -> float | None:
    """Returns what always answering the commonest classes would be worth, None where the classes are balanced."""
    labels = _counted_labels(results)
    if metric == "balanced" or not len(labels) or not is_unbalanced(labels):
        return None
    return commonest_share(labels, METRICS[metric])


def _skipped(results: Results) -> Sequence[str]:
    skipped = results.skipped
    if not skipped:
        return ()
    named = [results.images["identifier"].iloc[place] for place in list(skipped)[:_LISTED]]
    more = ", ..." if len(skipped) > _LISTED else ""
    noun = "image that cannot be read is" if len(skipped) == 1 else "images that cannot be read are"
    return (f"{len(skipped)} {noun} left out of all counts: {', '.join(named)}{more}",)


def _unbalanced(results: Results) -> Sequence[str]:
    share = commonest(results, "top1")
    if share is None:
        return ()
    return (
        f"the classes are unbalanced: {share:.1%} of the images are of the commonest; metric balanced weighs classes"
        " alike",
    )


def _near_chance(results: Results) -> Sequence[str]:
    accuracy, images = results.plain_accuracy("top1"), len(_counted_labels(results))
    if accuracy is None or not images or not is_near_chance(round(accuracy * images), images, results.chance("top1")):
        return ()
    return (
        f"warning: the intact network is hardly better than chance (top-1 {accuracy:.3f}): are the labels right, the"
        " preprocessing, and is it the trained network in test mode (train=False)?",
    )


def _counted_labels(results: Results) -> np.ndarray:
    return np.delete(results.labels, list(results.skipped))
