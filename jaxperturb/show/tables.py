"""Tables of a study: the printed summary, and the cells as comma-separated values."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from jaxperturb.errors import OutputError
from jaxperturb.show.results import REPORTED_LEVEL, Results

METRIC_NAMES = {"top1": "top-1", "top5": "top-5"}


def summary_text(results: Results, metric: str | None = None) -> str:
    """Returns the summary of a study as aligned text, grouped by perturbation, layers in the network's order.

    Args:
        results: of a study.
        metric: "top1" or "top5"; by default the study's.
    """
    metric = results.metric(metric)
    summary = results.summary(metric)
    blocks = [describe(results, metric)]
    for curve in results.study.perturbations:
        rows = summary[summary["perturbation"] == curve.text]
        if len(rows):
            reference = f"; {_reference(results, metric)}" if curve.encodes else ""
            block = f"{curve.text} (level: {curve.unit}{reference})\n{_aligned(_table(results, rows))}"
            unchanged = results.unchanged(curve.text)
            blocks.append(block + (f"\n{_warning(unchanged, curve.no_damage)}" if unchanged else ""))
    if summary.empty:
        blocks.append("no cell has been computed yet")
    blocks.append(
        f"half-life level: where half of the above-chance {METRIC_NAMES[metric]} accuracy is gone; mean over draws, "
        "linear between levels"
    )
    return "\n\n".join(blocks)


def _reference(results: Results, metric: str) -> str:
    """Says what "intact" is where weights are encoded, and how the network does that is not."""
    plain = results.intact and f" ({results.intact.counts[metric] / results.intact.images:.3f} without encoding)"
    return f"intact: encoded, without faults{plain or ''}"


def describe(results: Results, metric: str) -> str:
    """Returns one line that says what was measured: network, data, images, draws, seed, metric, chance."""
    chance = f"{METRIC_NAMES[metric]} accuracy (chance {results.chance(metric):.3g})"
    return f"{results.study.network}: {describe_sample(results)}, {chance}"


def describe_sample(results: Results, perturbation: str | None = None) -> str:
    """Returns data set, images, draws and seed of a study, or of one of its perturbations."""
    study, cells = results.study, results.cells
    cells = cells if perturbation is None else cells[cells["perturbation"] == perturbation]
    images = _span(cells["images"], study.images)
    draws = _span(cells.groupby(["perturbation", "target"])["draw"].nunique(), study.draws)
    data = f"{study.dataset} {study.split}".strip()
    return f"{data}, {count(images, 'image')}, {count(draws, 'draw')}, seed {study.identity.seed}"


def count(number: str, noun: str) -> str:
    """Returns ``"1 draw"``, ``"5 draws"``."""
    return f"{number} {noun}" if number == "1" else f"{number} {noun}s"


def write_cells(results: Results, path: Path) -> None:
    """Writes the cells as comma-separated values; the file is replaced as a whole.

    Raises:
        OutputError: the file cannot be written.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        results.cells.to_csv(draft, index=False, lineterminator="\n")
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def _table(results: Results, rows: pd.DataFrame) -> list[list[str]]:
    head = ["layer", "intact", "half-life level", f"accuracy at {REPORTED_LEVEL}"]
    # An unfinished or extended study has rows of unequal size: then each says its own.
    extra = [name for name in ("draws", "images") if results.summary()[name].nunique() > 1]
    lines = [[*head, *extra]]
    for row in rows.to_dict("records"):
        half = _half_life(row["half_life"], row["highest_level"])
        lines.append(
            [
                row["target"],
                _number(row["intact"]),
                half,
                _number(row[f"at_{REPORTED_LEVEL}"]),
                *(str(row[n]) for n in extra),
            ]
        )
    return lines


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  "
        + "  ".join([line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def _warning(targets: Sequence[str], no_damage: str | None) -> str:
    where = "" if no_damage is None else f" at any level above {no_damage}"
    return f"  warning: nothing was changed in {', '.join(targets)}{where}; flat curves there say nothing"


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.3f}"


def _half_life(level: float, highest: float) -> str:
    if math.isinf(level):
        return f"> {highest:g}"
    return "-" if math.isnan(level) else f"{level:.3g}"


def _span(numbers: pd.Series, otherwise: int) -> str:
    """Returns ``"500"``, or ``"256-500"`` where cells differ."""
    if not len(numbers):
        return str(otherwise)
    low, high = int(numbers.min()), int(numbers.max())
    return str(low) if low == high else f"{low}-{high}"
