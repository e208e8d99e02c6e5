"""Tables whose columns can be sorted: the numbers of each layer, and of each level."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from jaxperturb.show.formats import number, with_interval
from jaxperturb.show.report.markup import Markup, tag
from jaxperturb.show.results import Results
from jaxperturb.show.summary import AT, REPORTED_LEVEL
from jaxperturb.show.tables import flag_marks, flags_of, half_life_text, rank_text

FAULTS = ("bit_flip", "stuck_at", "replay")


def layers_table(summary: pd.DataFrame) -> Markup:
    """Returns a row for each perturbation and layer, as the printed table has it; letters stand for flags."""
    heads = ["perturbation", "layer", "intact", "half-life level", f"accuracy at {REPORTED_LEVEL}", "area", "rank"]
    marks = flag_marks(summary)
    rows = [_layer_row(row, marks) for row in summary.to_dict("records")]
    return _table("layers", [*heads, "draws", "images"], rows)


def levels_table(results: Results, metric: str, images_are: str) -> Markup:
    """Returns a row for each perturbation, layer and level; of faults also how often they change an answer."""
    table = results.by_level(metric, images_are=images_are)
    heads = ["perturbation", "layer", "level", "accuracy", "relative", "relative above chance"]
    faults = any(curve.text.startswith(FAULTS) for curve in results.study.perturbations)
    if faults:
        for name in ("sdc1", "due"):
            other = results.by_level(name, images_are=images_are)
            ends = {end: f"{name}_{end}" if end != "value" else name for end in ("value", "low", "high")}
            keys = ["perturbation", "target", "level_text"]
            table = table.merge(other[[*keys, *ends]].rename(columns=ends), on=keys)
        heads += ["first class differs", "not finite"]
    shown = [_level_row(row, faults) for row in table.to_dict("records")]
    return _table("levels", [*heads, "draws", "images", "cannot promise"], shown)


def plain_table(name: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    """Returns a table of texts."""
    return _table(name, heads, [[_cell(text) for text in row] for row in rows])


def _layer_row(row: Mapping[Any, Any], marks: Mapping[str, str]) -> list[Markup]:
    ends = {name: (row[name], row[f"{name}_low"], row[f"{name}_high"]) for name in ("half_life", AT, "area")}
    letters = {name: "".join(marks[flag] for flag in flags_of(row[f"{name}_flags"])) for name in ends}
    return [
        _cell(row["perturbation"]),
        _cell(row["target"]),
        _number(row["intact"], number(row["intact"])),
        _number(row["half_life"], half_life_text(*ends["half_life"], row["highest_level"]), letters["half_life"]),
        *(_number(row[name], with_interval(*ends[name]), letters[name]) for name in (AT, "area")),
        _number(math.nan if pd.isna(row["rank_low"]) else float(row["rank_low"]), rank_text(row)),
        *(_number(float(row[name]), f"{row[name]:,}") for name in ("draws", "images")),
    ]


def _level_row(row: Mapping[Any, Any], faults: bool) -> list[Markup]:
    shares = {"value": ("low", "high")} | {name: _ends(name) for name in ("relative", "relative_above_chance")}
    cells = [_number(row[name], with_interval(row[name], row[low], row[high])) for name, (low, high) in shares.items()]
    if faults:
        rates = {name: _ends(name) for name in ("sdc1", "due")}
        cells += [
            _number(row[name], with_interval(row[name], row[low], row[high], 5)) for name, (low, high) in rates.items()
        ]
    return [
        _cell(row["perturbation"]),
        _cell(row["target"]),
        _number(row["level"], row["level_text"]),
        *cells,
        *(_number(float(row[name]), f"{row[name]:,}") for name in ("draws", "images")),
        _cell(row["flags"]),
    ]


def _ends(name: str) -> tuple[str, str]:
    return f"{name}_low", f"{name}_high"


def _table(name: str, heads: Sequence[str], rows: Sequence[Sequence[Markup]]) -> Markup:
    # Without scripts the names of columns stand there all the same; with them each is a button.
    head = tag("tr", *(tag("th", text, scope="col") for text in heads))
    body = (tag("tr", *row) for row in rows)
    return tag("div", tag("table", tag("thead", head), tag("tbody", *body), id=name), class_="wide")


def _cell(text: str) -> Markup:
    return tag("td", text)


def _number(value: float, text: str, letters: str = "") -> Markup:
    """Returns a cell that is sorted by its number; what is not defined goes last."""
    mark = (tag("sup", letters),) if letters else ()
    return tag("td", text, *mark, class_="number", data_value="" if math.isnan(value) else repr(float(value)))
