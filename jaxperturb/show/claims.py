"""Claims about layers that lesions hurt, each with the criterion that decides on it: holds, does not hold, or neither.

A criterion asks of a number that its whole interval lies on one side of a bound. Numbers come from curves, of a study
or of what others have published.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jaxperturb.errors import PerturbationError, StudyError
from jaxperturb.show.published import Published
from jaxperturb.show.results import Results
from jaxperturb.show.summary import area_term
from jaxperturb.stats.compare import Term, Total, combine, pairwise_p_values, rank_intervals
from jaxperturb.stats.curves import LevelCurve, estimate, interpolated_accuracy, interpolation_weights, relative_at
from jaxperturb.stats.intervals import CONFIDENCE, Estimate

HOLDS, FAILS, OPEN, UNCHECKED = VERDICTS = ("holds", "does not hold", "cannot be told", "not checked")


@dataclass(frozen=True)
class Criterion:
    """A claim, and what it takes for it to hold.

    Attributes:
        name: in a few words.
        sentence: what is claimed; somebody's own words stand in quotation marks.
        source: who says so.
        measure: the number that decides, a key of `MEASURES`.
        network: the role of the network that is meant.
        perturbation: its text.
        side: "below" or "above", where the number must be of the bound with its whole interval.
        bound: the number that it is held against.
        level: at which it is measured, where it is measured at one.
        ends: how many convolutions at either end are the first and the last ones.
        against: role of another network, or text of another perturbation, where the measure compares with one.
        other_metric: whether by top-5 where the study is of top-1, and the other way round.
    """

    name: str
    sentence: str
    source: str
    measure: str
    network: str
    perturbation: str
    side: str
    bound: float
    level: float = 0.7
    ends: int = 2
    against: str = ""
    other_metric: bool = False


@dataclass(frozen=True)
class Subject:
    """A network whose curves are known.

    Attributes:
        name: of the network.
        layers: lesioned, in its order; convolutions are those whose name begins with "conv".
        curve: returns the curve of a perturbation and layer, by the network's own metric, or the other one of top-1
            and top-5; None where there is none.
    """

    name: str
    layers: tuple[str, ...]
    curve: Callable[[str, str, bool], LevelCurve | None]

    def convolutions(self, least: int = 1) -> tuple[str, ...]:
        """Returns the names of its convolutional layers.

        Raises:
            StudyError: fewer than so many.
        """
        found = tuple(layer for layer in self.layers if layer.startswith("conv"))
        if len(found) < least:
            raise StudyError(f"{self.name} has {len(found)} layers named conv*, and {least} are needed")
        return found

    @property
    def dense(self) -> tuple[str, ...]:
        """Names of its other layers."""
        return tuple(layer for layer in self.layers if not layer.startswith("conv"))

    def curves(self, criterion: Criterion, layers: Sequence[str]) -> list[LevelCurve]:
        """Returns the curves of some layers.

        Raises:
            StudyError: one is missing.
        """
        found = []
        for layer in layers:
            curve = self.curve(criterion.perturbation, layer, criterion.other_metric)
            if curve is None:
                raise StudyError(f"{self.name} has no curve of {criterion.perturbation} for {layer}")
            found.append(curve)
        return found


@dataclass(frozen=True)
class Subjects:
    """Networks by their role, and whether they saw the same images."""

    by_role: Mapping[str, Subject]
    paired: bool = True

    def of(self, role: str) -> Subject:
        """Returns the network of a role.

        Raises:
            StudyError: there is none.
        """
        if role not in self.by_role:
            raise StudyError(f"there is no {role}")
        return self.by_role[role]


@dataclass(frozen=True)
class Number:
    """A measured number.

    Attributes:
        of: which layers.
        found: with its 95 % interval.
        joint: with an interval that holds together with those of the other numbers of the claim.
        beside: the same by another definition, and how that is called.
    """

    of: str
    found: Estimate
    joint: Estimate
    beside: tuple[str, Estimate] | None = None


@dataclass(frozen=True)
class Measure:
    """A number that decides: what it is called, at length and in a figure, and how it is measured."""

    label: str
    short: str
    function: Callable[[Subjects, Criterion], list[Number]]


@dataclass(frozen=True)
class Verdict:
    """What came out for a claim.

    Attributes:
        criterion: that of the claim.
        verdict: of `VERDICTS`.
        numbers: that were measured.
        reason: why nothing was measured, if so.
    """

    criterion: Criterion
    verdict: str
    numbers: tuple[Number, ...]
    reason: str = ""


def check(subjects: Subjects, criterion: Criterion) -> Verdict:
    """Measures what a claim asks for and decides on it."""
    try:
        numbers = MEASURES[criterion.measure].function(subjects, criterion)
    except (StudyError, PerturbationError) as error:
        return Verdict(criterion, UNCHECKED, (), str(error))
    return Verdict(criterion, decide(numbers, criterion), tuple(numbers))


def decide(numbers: Sequence[Number], criterion: Criterion) -> str:
    """Returns the verdict: all numbers surely on their side, one of them surely not, or neither."""
    if criterion.side == "below":
        holds = all(number.found.high < criterion.bound for number in numbers)
        fails = any(number.joint.low >= criterion.bound for number in numbers)
    else:
        holds = all(number.found.low > criterion.bound for number in numbers)
        fails = any(number.joint.high <= criterion.bound for number in numbers)
    return HOLDS if holds else FAILS if fails else OPEN


def subject_of(results: Results) -> Subject:
    """Returns a study as a subject."""
    own = results.study.metric
    metrics = {False: own, True: "top1" if own == "top5" else "top5"}
    return Subject(
        results.study.network,
        results.study.targets,
        lambda perturbation, layer, other: results.level_curve(perturbation, layer, metrics[other]),
    )


def published_subject(other: Published) -> Subject:
    """Returns published curves as a subject; what is measured on it has no interval."""

    def curve(perturbation: str, layer: str, other_metric: bool) -> LevelCurve | None:
        known = (perturbation, layer) in other.table.index and not other_metric
        return other.curve(perturbation, layer) if known else None

    return Subject(f"real {other.network}", other.layers, curve)


def share_lost(subjects: Subjects, criterion: Criterion) -> list[Number]:
    """Measures 1 - p/p0 at the level, in each of the last convolutions and of the dense layers."""
    subject = subjects.of(criterion.network)
    layers = (*subject.convolutions(criterion.ends)[-criterion.ends :], *subject.dense)
    together = 1 - (1 - CONFIDENCE) / len(layers)
    numbers = []
    for layer, curve in zip(layers, subject.curves(criterion, layers), strict=True):
        plain = replace(curve, chance=0.0)
        found, joint = (_lost(plain, criterion.level, confidence) for confidence in (CONFIDENCE, together))
        numbers.append(Number(layer, found, joint, ("above chance", _lost(curve, criterion.level))))
    return numbers


def share_left(subjects: Subjects, criterion: Criterion) -> list[Number]:
    """Measures (p - c)/(p0 - c) at the level in the first convolution."""
    subject = subjects.of(criterion.network)
    first = subject.convolutions()[:1]
    (curve,) = subject.curves(criterion, first)
    found, plain = (_relative(one, criterion.level) for one in (curve, replace(curve, chance=0.0)))
    return [Number(first[0], found, found, ("chance included", plain))]


def gradient(subjects: Subjects, criterion: Criterion) -> list[Number]:
    """Measures by how much the mean area of the last convolutions exceeds that of the first ones."""
    subject, ends = subjects.of(criterion.network), criterion.ends
    layers = subject.convolutions(2 * ends)
    of = f"{', '.join(layers[-ends:])} less {', '.join(layers[:ends])}"
    return [_single(of, combine(*_gradient(subject, criterion)))]


def steeper(subjects: Subjects, criterion: Criterion) -> list[Number]:
    """Measures by how much the gradient of a perturbation exceeds that of the other one."""
    subject = subjects.of(criterion.network)
    terms, factors = _gradient(subject, criterion)
    others, minus = _gradient(subject, replace(criterion, perturbation=criterion.against))
    total = combine([*terms, *others], [*factors, *(-factor for factor in minus)])
    return [_single(f"{criterion.perturbation} less {criterion.against}", total)]


def rank_of_first(subjects: Subjects, criterion: Criterion) -> list[Number]:
    """Measures the rank of the first layer among all, 1 the most fragile; all ranks hold together."""
    subject = subjects.of(criterion.network)
    terms = [area_term(curve) for curve in subject.curves(criterion, subject.layers)]
    values = np.array([term.value for term in terms])
    low, high = rank_intervals(values, pairwise_p_values(terms))[0].tolist()
    found = Estimate(float(1 + (values < values[0]).sum()), float(low), float(high))
    return [Number(f"{subject.layers[0]} of {len(values)} layers", found, found)]


def sturdier(subjects: Subjects, criterion: Criterion) -> list[Number]:
    """Measures by how much the mean area over a network's convolutions exceeds that over the other's."""
    one, other = (_areas(subjects.of(role), criterion) for role in (criterion.network, criterion.against))
    plus, minus = [1 / len(one)] * len(one), [-1 / len(other)] * len(other)
    total = combine([*one, *other], plus + minus) if subjects.paired else combine(one, plus) + combine(other, minus)
    return [_single(f"mean of {len(one)} convolutions less mean of {len(other)}", total)]


MEASURES: Mapping[str, Measure] = {
    "lost": Measure("share of the intact accuracy that is lost at the level", "share lost", share_lost),
    "left": Measure("share of what lies above chance that is left at the level", "share left above chance", share_left),
    "gradient": Measure("mean area of the last convolutions less that of the first", "area, last less first", gradient),
    "steeper": Measure("difference of two such differences", "difference of differences", steeper),
    "rank": Measure("rank of the first layer by area", "rank", rank_of_first),
    "sturdier": Measure(
        "mean area of a network's convolutions less that of another's", "mean area, difference", sturdier
    ),
}


def _relative(curve: LevelCurve, level: float, confidence: float = CONFIDENCE) -> Estimate:
    weights = interpolation_weights(curve.levels, level)
    if weights is None:
        raise StudyError(f"level {level:g} lies outside of those that were tested")
    found = estimate(curve, relative_at(curve, weights), confidence=confidence)
    doubts = (*interpolated_accuracy(curve, level).flags, *found.flags)
    return replace(found, flags=tuple(dict.fromkeys(doubts)))


def _lost(curve: LevelCurve, level: float, confidence: float = CONFIDENCE) -> Estimate:
    left = _relative(curve, level, confidence)
    return replace(left, value=1 - left.value, low=1 - left.high, high=1 - left.low)


def _areas(subject: Subject, criterion: Criterion, least: int = 1) -> list[Term]:
    return [area_term(curve) for curve in subject.curves(criterion, subject.convolutions(least))]


def _gradient(subject: Subject, criterion: Criterion) -> tuple[list[Term], list[float]]:
    """Returns the areas of the last convolutions and of the first, and their factors."""
    ends = criterion.ends
    terms = _areas(subject, criterion, 2 * ends)
    return [*terms[-ends:], *terms[:ends]], [1 / ends] * ends + [-1 / ends] * ends


def _single(of: str, total: Total) -> Number:
    found = total.interval()
    return Number(of, found, found)
