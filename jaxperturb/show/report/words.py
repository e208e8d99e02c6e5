"""A study in words: a paragraph for the methods section of a paper, and what it cites."""

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

import pandas as pd

from jaxperturb.perturb.grammar import composed_texts, parse_call
from jaxperturb.perturb.targets import Target
from jaxperturb.show.formats import number, with_interval
from jaxperturb.show.report.drawing import TIMES, shape_text
from jaxperturb.show.report.sources import DEFINITIONS, OPTIONS, REFERENCES
from jaxperturb.show.results import Results
from jaxperturb.show.tables import METRIC_NAMES, count, rank_text, span
from jaxperturb.study.goal import Goal
from jaxperturb.study.provenance import device_text
from jaxperturb.study.rows import StoredRun
from jaxperturb.study.study import Curve

_SHORT = 12  # digits of a fingerprint that a reader compares
_METRICS = {
    "top1": "the true class has the highest score",
    "top5": "the true class is among the five with the highest scores",
    "balanced": "the true class has the highest score, all classes weighed alike",
}
# What intervals are over -> how they are made; where several are, the first says it.
_OVER = {
    "draws and images": "over draws and images as two crossed random factors: the variance of the fully crossed design "
    "[@gallas2007], with Student's t for the draws [@zou2008], in Wilson's score interval [@wilson1927]",
    "draws alone": "over draws alone, for just these images: Student's t for the spread of the draws, in Wilson's "
    "score interval [@wilson1927]",
    "images alone": "over images alone: their variance in Wilson's score interval [@wilson1927]",
}


def methods(
    results: Results, summary: pd.DataFrame, metric: str, runs: Sequence[StoredRun]
) -> tuple[str, tuple[str, ...]]:
    """Returns the paragraph, with numbers in square brackets, and the references they stand for.

    Args:
        results: of a study.
        summary: of the same, by the metric.
        metric: "top1", "top5" or "balanced".
        runs: of the store.
    """
    sentences = [
        _network(results),
        _targets(results),
        *_perturbations(results),
        *_draws(results),
        *_goal(results.study.goal),
        *_images(results),
        _metric(results, metric),
        *_intervals(summary),
        *_computed(results, runs),
    ]
    return _numbered(" ".join(sentences))


def findings(summary: pd.DataFrame) -> Iterator[str]:
    """Yields, for each perturbation, which layers break first and last by the area under their curves."""
    for text in summary["perturbation"].unique():
        rows = summary[(summary["perturbation"] == text) & summary["rank_low"].notna()].sort_values("area")
        if len(rows) > 1:
            first, last = (_found(row) for row in (rows.iloc[0], rows.iloc[-1]))
            yield f"{text}: the most fragile layer is {first}, the least fragile {last}."


def versions_text(run: StoredRun) -> str:
    """Returns the versions of a run: ``"jaxperturb 0.1.0, jax 0.12.0"``."""
    found = json.loads(run.record.versions)
    order = ["jaxperturb", *(name for name in found if name != "jaxperturb")]
    return ", ".join(f"{name} {found[name]}" for name in order if name in found)


def listed(items: Iterable[str]) -> str:
    """Returns ``"a, b and c"``."""
    some = list(items)
    return some[0] if len(some) == 1 else f"{', '.join(some[:-1])} and {some[-1]}"


def _found(row: pd.Series) -> str:
    area = with_interval(row["area"], row["area_low"], row["area_high"])
    return f"{row['target']} (area {area}, rank {rank_text(row.to_dict())})"


def _network(results: Results) -> str:
    study = results.study
    size = f", {sum(study.parameters.values()):,} parameters" if study.parameters else ""
    return (
        f"We lesioned the trained network {study.network} ({count(str(len(study.layers)), 'layer')} with weights"
        f"{size}; SHA-256 of its weights {study.identity.weights[:_SHORT]}) with jaxperturb, after Cheney, Schrimpf "
        "and Kreiman [@cheney2017]."
    )


def _targets(results: Results) -> str:
    study = results.study
    alone = [target for target in study.targets if target in study.layers]
    parts = []
    if alone:
        which = "Each layer" if len(alone) == len(study.layers) else "Of its layers, each of"
        parts.append(f"{which} {'(' + listed(alone) + ')' if which == 'Each layer' else listed(alone)}")
        parts[-1] += " was lesioned by itself, all others left intact."
        if len(alone) == 1 and len(study.layers) > 1:
            parts[-1] = f"Of its layers, {alone[0]} was lesioned, all others left intact."
    for target in (Target.of(name) for name in study.targets if name not in study.layers):
        budget = "with one budget over all their weights" if target.scope == "joint" else "at one level each"
        parts.append(f"{listed(target.layers)} were lesioned together, {budget}.")
    return " ".join(parts)


def _perturbations(results: Results) -> Iterator[str]:
    for curve in results.study.perturbations:
        levels = _levels(curve.levels)
        own = f"; source file with SHA-256 {curve.code[:_SHORT]}" if curve.code else ""
        encoded = " The network encoded without faults is the reference." if curve.encodes else ""
        yield f"{curve.text}, at level f ({curve.unit}): {_definition(curve)}{own}; f was {levels}.{encoded}"


def _levels(texts: Sequence[str]) -> str:
    """Returns ``"0 to 1 in steps of 0.1"``, or all of them where their steps differ."""
    levels = sorted(Decimal(text) for text in texts)
    steps = {after - before for before, after in itertools.pairwise(levels)}
    if len(levels) < 4 or len(steps) > 1:
        return listed(texts)
    return f"{levels[0]} to {levels[-1]} in steps of {steps.pop()}"


def _definition(curve: Curve) -> str:
    parts = composed_texts(curve.text)
    if parts:
        return "one after another, " + "; then ".join(_defined(part) or part for part in parts)
    return _defined(curve.text) or curve.summary


def _defined(text: str) -> str | None:
    """Returns what a perturbation of the catalogue does, with its options; None for a user's own."""
    if text.partition("(")[0].strip() not in DEFINITIONS:
        return None
    name, options = parse_call(text)
    said = [OPTIONS.get((option, str(value).lower()), f"{option}={value}") for option, value in options.items()]
    words, keys = DEFINITIONS[name]
    cited = "".join(f" [@{key}]" for key in keys)
    return words + "".join(f", {one}" for one in said) + cited


def _draws(results: Results) -> Iterator[str]:
    cells = results.cells
    differ = cells[cells["shortcut"] == ""]
    if differ.empty and len(cells):
        yield "Nothing in these lesions is random."
        return
    draws = span(differ.groupby(["perturbation", "target"])["draw"].nunique(), results.study.draws)
    what = "was drawn once" if draws == "1" else f"was drawn {draws} times"
    yield (
        f"Each random lesion {what} (seed {results.study.identity.seed}); a draw keeps its random numbers at all "
        "levels."
    )


def _goal(goal: Goal | None) -> Iterator[str]:
    if goal is None:
        return
    of = "relative accuracy" if goal.of == "relative" else "accuracy"
    yield (
        f"The numbers of draws and images were chosen for each curve, so that its 95 % intervals of {of} reach a "
        f"half-width of {goal.half_width:g}: {goal.draws} draws of {goal.first_images} images were looked at first, "
        f"and their variance said how many more were needed, up to {goal.max_draws} draws and {goal.images} images; "
        "intervals allow for the second look."
    )


def _images(results: Results) -> Iterator[str]:
    study, identity = results.study, results.study.identity
    data = f"{study.dataset} {study.split}".strip()
    images = span(results.cells["images"], study.images)
    yield (
        f"Every lesioned network saw the same {count(images, 'image')} of {data} "
        f"({shape_text(identity.image_shape)}; SHA-256 {identity.images[-1][:_SHORT]})"
        f"{_preprocessing(identity.preprocessing)}."
    )
    if skipped := len(results.skipped):
        yield f"{count(str(skipped), 'image')} that could not be read {'is' if skipped == 1 else 'are'} in no count."
    if identity.restriction is not None:
        yield f"Only {len(identity.restriction)} classes, those of the images, competed."


def _preprocessing(fields: Mapping[str, Any] | None) -> str:
    if fields is None:
        return ", as they are"
    shown = {name: value for name, value in fields.items() if value is not None}
    return ", made ready with " + ", ".join(f"{name} {_value(value)}" for name, value in shown.items())


def _value(value: object) -> str:
    if isinstance(value, list | tuple):
        return (TIMES if all(isinstance(one, int) for one in value) else "/").join(map(_value, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _metric(results: Results, metric: str) -> str:
    plain = results.plain_accuracy(metric)
    intact = "" if plain is None else f"; the intact network reaches {number(plain)}"
    return (
        f"Accuracy is {METRIC_NAMES[metric]}: the share of images for which {_METRICS[metric]} (of equal scores the "
        f"lower class number comes first). Chance is {results.chance(metric):.3g}{intact}. The half-life level is "
        "where half of the above-chance accuracy is gone, by linear interpolation between levels; the area under the "
        "curve is the mean of the relative accuracy above chance over the range of levels, by the trapezoid rule."
    )


def _intervals(summary: pd.DataFrame) -> Iterator[str]:
    over = [made for what, made in _OVER.items() if what in set(summary["interval"])]
    if over:
        yield (
            f"Accuracies are means over draws, with 95 % intervals {over[0]}; those of half-life levels invert a test "
            "of the same variance."
        )
    if summary["rank_low"].notna().any():
        yield "Ranks by area hold together at 95 %, from all pairwise differences after Holm [@holm1979]."


def _computed(results: Results, runs: Sequence[StoredRun]) -> Iterator[str]:
    used = list(dict.fromkeys(versions_text(run) for run in runs if versions_text(run)))
    devices = list(dict.fromkeys(device_text(run.record) for run in runs if json.loads(run.record.device)))
    on = f" on {listed(devices)}" if devices else ""
    by = f" by {'; and by '.join(used)}" if used else ""
    yield (
        f"Everything was computed in {results.study.identity.precision}{on}{by}; random numbers are of version "
        f"{results.study.identity.semantics}."
    )


def _numbered(text: str) -> tuple[str, tuple[str, ...]]:
    """Turns the keys of references into numbers, in the order in which they are cited."""
    keys: list[str] = []

    def number_of(found: re.Match[str]) -> str:
        if found[1] not in REFERENCES:
            return found[0]
        if found[1] not in keys:
            keys.append(found[1])
        return f"[{keys.index(found[1]) + 1}]"

    text = re.sub(r"\[@(\w+)\]", number_of, text)
    return text, tuple(REFERENCES[key] for key in keys)
