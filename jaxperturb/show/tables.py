"""Tables of a study: the printed summary, and files of comma-separated values."""

import math
import os
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from jaxperturb.errors import OutputError
from jaxperturb.show.formats import number, rendered, with_interval
from jaxperturb.show.met import met_text, missed_text
from jaxperturb.show.notices import notices
from jaxperturb.show.results import Results
from jaxperturb.show.summary import AT, REPORTED_LEVEL

SUMMARY_NAME, LEVELS_NAME = "summary.csv", "levels.csv"
METRIC_NAMES = {"top1": "top-1", "top5": "top-5", "balanced": "balanced top-1"}
_FLAGGED = ("half_life", AT, "area")
_OVER = {
    "draws and images": "95 % intervals over draws and images",
    "images alone": "95 % intervals over images alone",
    "draws alone": "95 % intervals over draws alone: just these images",
    "exact": "just these images, no draws: exact",
}


def summary_text(results: Results, metric: str | None = None, *, images_are: str = "sample", form: str = "text") -> str:
    """Returns the summary of a study, grouped by perturbation, layers in the network's order.

    Args:
        results: of a study.
        metric: "top1" or "top5"; by default the study's.
        images_are: "sample" or "all", as in `Results.summary`.
        form: "text", "markdown" or "latex".
    """
    metric = results.metric(metric)
    summary = results.summary(metric, images_are=images_are)
    lines = [describe(results, metric), *_known(met_text(results, metric)), *notices(results)]
    blocks = ["\n".join(_remark(line, form) for line in lines)]
    for curve in results.study.perturbations:
        rows = summary[summary["perturbation"] == curve.text]
        if len(rows):
            reference = f"; {reference_text(results, metric)}" if curve.encodes else ""
            head = f"{curve.text} (level: {curve.unit}{reference})"
            after = remarks_below(rows, results.unchanged(curve.text), curve.no_damage)
            after += _known(missed_text(results, curve.text, metric))
            blocks.append(
                "\n".join(
                    [_remark(head, form), *_spaced(rendered(_table(rows, summary), form), form), *_remarks(after, form)]
                )
            )
    if summary.empty:
        blocks.append(_remark("no cell has been computed yet", form))
    return "\n\n".join([*blocks, "\n".join(_remark(line, form) for line in _legend(metric))])


def _known(text: str | None) -> list[str]:
    return [] if text is None else [text]


def _legend(metric: str) -> tuple[str, str]:
    return (
        f"half-life level: where half of the above-chance {METRIC_NAMES[metric]} accuracy is gone; mean over draws, "
        "linear between levels",
        "area: relative accuracy above chance, mean over the tested levels; rank: by area, 1 the most fragile; the "
        "ranks of a table hold together",
    )


def describe(results: Results, metric: str) -> str:
    """Returns one line that says what was measured: network, data, images, draws, seed, metric, chance."""
    chance = f"{METRIC_NAMES[metric]} accuracy (chance {results.chance(metric):.3g})"
    return f"{results.study.network}: {describe_sample(results)}, {chance}"


def describe_sample(results: Results, perturbation: str | None = None) -> str:
    """Returns data set, images, draws and seed of a study, or of one of its perturbations."""
    study, cells = results.study, results.cells
    cells = cells if perturbation is None else cells[cells["perturbation"] == perturbation]
    images = count(span(cells["images"], study.images), "image")
    differ = cells[cells["shortcut"] == ""]
    data = f"{study.dataset} {study.split}".strip()
    if len(cells) and differ.empty:
        return f"{data}, {images}, draws do not matter"
    draws = span(differ.groupby(["perturbation", "target"])["draw"].nunique(), study.draws)
    return f"{data}, {images}, {count(draws, 'draw')}, seed {study.identity.seed}"


def count(number: str, noun: str) -> str:
    """Returns ``"1 draw"``, ``"5 draws"``."""
    return f"{number} {noun}" if number == "1" else f"{number} {noun}s"


def reference_text(results: Results, metric: str) -> str:
    """Says what "intact" is where weights are encoded, and how the network does that is not."""
    plain = results.plain_accuracy(metric) if results.intact else None
    without = "" if plain is None else f" ({plain:.3f} without encoding)"
    return f"intact: encoded, without faults{without}"


def _remark(text: str, form: str) -> str:
    return f"% {text}" if form == "latex" else text


def _remarks(lines: Sequence[str], form: str) -> list[str]:
    if form == "text":
        return [f"  {line}" for line in lines]
    return [_remark(line, form) for line in lines] if form == "latex" else ["", *("- " + line for line in lines)]


def _spaced(table: str, form: str) -> list[str]:
    """Markdown takes a table for text unless an empty line stands before it."""
    return ["", table] if form == "markdown" else [table]


def remarks_below(rows: pd.DataFrame, unchanged: Sequence[str], no_damage: str | None) -> list[str]:
    """Returns what a reader must know of a table: what its intervals are over, and what they cannot promise."""
    lines = [_OVER[what] for what in dict.fromkeys(rows["interval"]) if what in _OVER]
    lines += [f"{mark}: {flag}" for flag, mark in flag_marks(rows).items()]
    return [*lines, *([unchanged_warning(unchanged, no_damage)] if unchanged else [])]


def flag_marks(rows: pd.DataFrame) -> dict[str, str]:
    """Returns a letter for each thing that a number of a table cannot promise."""
    flags = dict.fromkeys(flag for name in _FLAGGED for text in rows[f"{name}_flags"] for flag in flags_of(text))
    return dict(zip(flags, string.ascii_lowercase, strict=False))


def flags_of(flags: str) -> list[str]:
    """Returns the flags of a number as the library's tables have them, one by one."""
    return flags.split("; ") if flags else []


def write_cells(results: Results, path: Path) -> None:
    """Writes the cells as comma-separated values; the file is replaced as a whole.

    Raises:
        OutputError: the file cannot be written.
    """
    _write_csv(results.cells, path)


def write_summaries(results: Results, folder: Path) -> None:
    """Writes ``summary.csv``, a row for each curve, and ``levels.csv``, one for each of its levels, with intervals.

    Raises:
        OutputError: a file cannot be written.
    """
    _write_csv(results.summary(), folder / SUMMARY_NAME)
    _write_csv(results.by_level(), folder / LEVELS_NAME)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        table.to_csv(draft, index=False, lineterminator="\n")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _table(rows: pd.DataFrame, summary: pd.DataFrame) -> list[list[str]]:
    head = ["layer", "intact", "half-life level", f"accuracy at {REPORTED_LEVEL}", "area", "rank"]
    # An unfinished or extended study has rows of unequal size: then each says its own.
    extra = [name for name in ("draws", "images") if summary[name].nunique() > 1]
    met = ["met"] if "levels_met" in rows else []
    lines = [[*head, *extra, *met]]
    marks = flag_marks(rows)
    for row in rows.to_dict("records"):
        numbers = [
            half_life_text(*_ends(row, "half_life"), row["highest_level"]),
            *(with_interval(*_ends(row, name)) for name in (AT, "area")),
        ]
        # Before the number, since numbers are aligned by their last place.
        marked = [
            " ".join(["".join(marks[flag] for flag in flags_of(row[f"{name}_flags"])), text]).strip()
            for name, text in zip(_FLAGGED, numbers, strict=True)
        ]
        sizes = [str(row[name]) for name in extra] + [f"{row['levels_met']}/{row['levels']}" for _ in met]
        lines.append([row["target"], number(row["intact"]), *marked, rank_text(row), *sizes])
    return lines


def _ends(row: dict, name: str) -> tuple[float, float, float]:
    return row[name], row[f"{name}_low"], row[f"{name}_high"]


def rank_text(row: Mapping[Any, Any]) -> str:
    """Returns the rank of a row of `Results.summary`: ``"1"``, ``"2-3"``, or a dash."""
    if pd.isna(row["rank_low"]):
        return "-"
    low, high = row["rank_low"], row["rank_high"]
    return str(low) if low == high else f"{low}-{high}"


def unchanged_warning(targets: Sequence[str], no_damage: str | None) -> str:
    """Returns what a reader must know of layers in which no weight changed."""
    where = "" if no_damage is None else f" at any level above {no_damage}"
    return f"warning: nothing was changed in {', '.join(targets)}{where}; flat curves there say nothing"


def half_life_text(level: float, low: float, high: float, highest: float) -> str:
    """Returns a half-life level with its interval; ``"> 1"`` where it lies beyond the highest level."""
    if math.isnan(level):
        return "-"
    shown = f"> {highest:g}" if math.isinf(level) else f"{level:.3g}"
    if math.isnan(low) or (math.isinf(low) and math.isinf(high)):
        return shown
    ends = [
        f"{end:.3g}" if math.isfinite(end) else f"{sign} {highest:g}" if sign == ">" else "open"
        for end, sign in ((low, "<"), (high, ">"))
    ]
    return f"{shown} ({ends[0]}, {ends[1]})"


def span(numbers: pd.Series, otherwise: int) -> str:
    """Returns ``"500"``, or ``"256-500"`` where cells differ."""
    if not len(numbers):
        return str(otherwise)
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low}-{high}"
