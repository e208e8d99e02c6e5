"""A table as text: aligned, Markdown, LaTeX, JSON or comma-separated values."""

import json
import math
from collections.abc import Sequence

import pandas as pd

from jaxperturb.errors import UsageError

FORMATS = ("text", "markdown", "latex", "json", "csv")
_LATEX = str.maketrans(
    {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "{": r"\{", "}": r"\}", ">": "$>$", "<": "$<$"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def formatted(table: pd.DataFrame, form: str) -> str:
    """Returns a table of numbers in a form for other programs or papers.

    Args:
        table: as the library gives it.
        form: one of `FORMATS`.

    Raises:
        UsageError: an unknown form.
    """
    match form:
        case "csv":
            return table.to_csv(index=False, lineterminator="\n").rstrip("\n")
        case "json":
            return json.dumps([_plain(row) for row in table.to_dict("records")], indent=2, allow_nan=False)
        case "text" | "markdown" | "latex":
            lines = [list(map(str, table.columns)), *([_cell(value) for value in row] for row in table.to_numpy())]
            return rendered(lines, form)
    raise UsageError(f"expected a format of {', '.join(FORMATS)}, got {form!r}")


def compacted(table: pd.DataFrame) -> pd.DataFrame:
    """Returns a table for people: each number with its interval in one column, the exact text of a level left out."""
    shown = table.drop(columns=[name for name in ("level_text",) if name in table])
    for name in table.columns:
        low, high = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
        if name in shown and low in shown and high in shown:
            triples = zip(shown[name], shown[low], shown[high], strict=True)
            shown[name] = [with_interval(*triple) for triple in triples]
            shown = shown.drop(columns=[low, high])
    return shown


def rendered(lines: Sequence[Sequence[str]], form: str) -> str:
    """Returns rows of text, the first one the head, as "text", "markdown" or "latex"."""
    if form == "text":
        return aligned(lines)
    return markdown(lines) if form == "markdown" else latex(lines)


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Returns rows of text with aligned columns, the first to the left."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            [line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))]
        ).rstrip()
        for line in lines
    )


def markdown(lines: Sequence[Sequence[str]]) -> str:
    """Returns rows of text as a Markdown table."""
    rows = [[text.replace("|", r"\|") for text in line] for line in lines]
    rule = ["---", *["---:"] * (len(lines[0]) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (rows[0], rule, *rows[1:]))


def latex(lines: Sequence[Sequence[str]]) -> str:
    """Returns rows of text as a LaTeX table, with the rules of the package booktabs."""
    rows = [" & ".join(text.translate(_LATEX) for text in line) + r" \\" for line in lines]
    columns = "l" + "r" * (len(lines[0]) - 1)
    return "\n".join(
        (
            rf"\begin{{tabular}}{{{columns}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
        )
    )


def number(value: float, digits: int = 3) -> str:
    """Returns a number with so many places, a dash for one that is not defined."""
    return "-" if math.isnan(value) else f"{value:z.{digits}f}"


def with_interval(value: float, low: float, high: float, digits: int = 3) -> str:
    """Returns ``0.731 (0.701, 0.759)``; the number alone where it has no interval."""
    if math.isnan(low) or math.isnan(high) or (math.isnan(value) and math.isinf(low) and math.isinf(high)):
        return number(value, digits)
    return f"{number(value, digits)} ({_end(low, digits)}, {_end(high, digits)})"


def _end(value: float, digits: int) -> str:
    if math.isinf(value):
        return "open"
    return number(value, digits)


def _cell(value: object) -> str:
    if isinstance(value, float):
        if math.isinf(value):
            return "not reached"
        return "-" if math.isnan(value) else f"{value:.4g}"
    return "-" if value is None or value is pd.NA else str(value)


def _plain(row: dict) -> dict:
    """Returns a row that JSON can hold: what is not defined is null, infinity is a text."""
    return {str(name): _json_value(value) for name, value in row.items()}


def _json_value(value: object) -> object:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and math.isinf(value):
        return "infinity" if value > 0 else "-infinity"
    return value.item() if hasattr(value, "item") else value
