"""Figures for Plotly, as plain values: curves, maps and rankings that say what they show under the pointer."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
from matplotlib.colors import to_hex

from jaxperturb.show.formats import with_interval
from jaxperturb.show.measures import MEASURES
from jaxperturb.show.notices import commonest
from jaxperturb.show.plots import caveats, counts_harm, metric_label
from jaxperturb.show.report.markup import shortened
from jaxperturb.show.results import Results
from jaxperturb.show.style import depth_style
from jaxperturb.show.summary import by_level, silences_classes
from jaxperturb.show.tables import count, rank_text
from jaxperturb.study.study import Curve

_SYMBOLS = {
    **{"o": "circle", "s": "square", "D": "diamond", "^": "triangle-up", "v": "triangle-down"},
    **{"P": "cross", "*": "star", "X": "x"},
}
_INK, _GRID = "#595959", "#ebebeb"
_FONT = {"family": "system-ui, sans-serif", "size": 13, "color": "#222222"}
_MOST_NUMBERS = 14  # columns of a map that still take a number each
_BAND = "22"  # opacity of an interval, in hexadecimal


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        title: what it shows, a few words.
        height: in pixels.
        figure: Plotly's data and layout.
        narrow: whether half of the page's width will do.
    """

    title: str
    height: int
    figure: dict[str, Any]
    narrow: bool = False


def curves_plot(results: Results, perturbation: str, metric: str, all_images: bool = False) -> Plot:
    """Returns a share of images against level: a line for each target, with its 95 % intervals as a band.

    Args:
        results: of a study.
        perturbation: its text.
        metric: as in `Results.by_level`, but "critical".
        all_images: whether just these images are meant.
    """
    curve, table = results.curve(perturbation), by_level(results, metric, all_images, perturbation=perturbation)
    targets = [target for target in results.study.targets if (table["target"] == target).any()]
    unchanged = results.unchanged(perturbation)
    label = metric_label(results, metric)
    traces: list[dict[str, Any]] = []
    for place, target in enumerate(targets):
        rows = table[table["target"] == target]
        rows = rows[rows["level"] > 0] if curve.axis == "log" else rows
        traces += _line(rows, target, place, label, counts_harm(metric), *_style(place, len(targets)))
        if target in unchanged:
            traces[-1]["name"] += "<br>(nothing changed)"
    guides = _guides(results, curve, targets, metric)
    traces += _cap(results, curve, targets, metric)
    height = max(440, 130 + 21 * len(targets))
    layout = _curves_layout(curve, label, metric, guides)
    return Plot(f"{label}{caveats(table)}", height, {"data": traces, "layout": layout})


def map_plot(results: Results, perturbation: str, metric: str, all_images: bool = False) -> Plot:
    """Returns a heat map, layers by levels, the first layer on top; arguments as those of `curves_plot`."""
    curve, table = results.curve(perturbation), by_level(results, metric, all_images, perturbation=perturbation)
    label, harm = metric_label(results, metric), counts_harm(metric)
    targets = [target for target in results.study.targets if (table["target"] == target).any()]
    levels = table.sort_values("level").drop_duplicates("level")["level_text"].tolist()
    found = {(row["target"], row["level_text"]): row for row in table.to_dict("records")}
    rows = [[found.get((target, level)) for level in levels] for target in targets]
    highest = max([0.001, *table["value"].dropna()]) if harm else 1.0
    heat = {
        **{"type": "heatmap", "x": levels, "y": list(range(len(targets))), "xgap": 1, "ygap": 1},
        **{"z": _grid(rows, lambda row: finite(row["value"]))},
        **{"colorscale": "Cividis", "zmin": 0, "zmax": highest, "colorbar": {"tickformat": ".0%", "thickness": 14}},
        **{"hoverinfo": "text", "hoverongaps": False},
        **{"hovertext": _grid(rows, lambda row: _hover(row["target"], row, label, harm))},
    }
    if len(levels) <= _MOST_NUMBERS:
        digits = 0 if highest > 0.1 else 2
        heat["text"] = _grid(rows, lambda row: _percent(row["value"], digits))
        heat |= {"texttemplate": "%{text}", "textfont": {"size": 11}}
    layout = _layout(xaxis={"title": _title(f"level ({curve.unit})"), "type": "category"}, yaxis=_named(targets))
    return Plot(
        f"{label}, layers by levels", 110 + max(150, 26 * len(targets)), {"data": [heat], "layout": layout}, narrow=True
    )


def ranking_plot(rows: pd.DataFrame) -> Plot:
    """Returns the areas under the curves with their intervals, the most fragile on top.

    Args:
        rows: of `Results.summary`, of one perturbation.
    """
    rows = rows[rows["area"].notna()].sort_values("area", kind="stable")
    records = rows.to_dict("records")
    hovers = [
        f"<b>{escape(row['target'])}</b><br>area {escape(_interval(row, 'area'))}<br>rank {rank_text(row)}"
        + _warned(row["area_flags"])
        for row in records
    ]
    points = {
        **{"type": "scatter", "mode": "markers", "x": [finite(row["area"]) for row in records]},
        **{"y": list(range(len(records))), "hoverinfo": "text", "hovertext": hovers},
        "marker": _marker("#00204d", "circle", [row["area_flags"] for row in records], 9),
        "error_x": {
            **{"type": "data", "symmetric": False, "color": "#00204d", "thickness": 1.4, "width": 4},
            "array": [_length(row["area"], row["area_high"]) for row in records],
            "arrayminus": [_length(row["area_low"], row["area"]) for row in records],
        },
    }
    layout = _layout(
        xaxis={"title": _title("area under the curve (1: nothing is lost)"), "gridcolor": _GRID, "zeroline": False},
        yaxis=_named([row["target"] + (" (not ranked)" if pd.isna(row["rank_low"]) else "") for row in records]),
    )
    height = 110 + max(150, 26 * len(records))
    return Plot(
        "area under the curve, the most fragile first", height, {"data": [points], "layout": layout}, narrow=True
    )


def finite(value: float) -> float | None:
    """Returns a number, or None for what JSON has no word for."""
    return float(value) if math.isfinite(value) else None


def _style(place: int, targets: int) -> tuple[str, str]:
    """Returns colour and symbol of a layer by its depth."""
    (red, green, blue, _), marker = depth_style(place, targets)
    return to_hex((red, green, blue)), _SYMBOLS[marker]


def _line(
    rows: pd.DataFrame, target: str, place: int, label: str, harm: bool, colour: str, symbol: str
) -> Iterator[dict[str, Any]]:
    """Yields the band and the line of one layer; they are switched off together."""
    records = rows.to_dict("records")
    known = [row for row in records if finite(row["low"]) is not None and finite(row["high"]) is not None]
    both = {"type": "scatter", "name": escape(shortened(target)), "legendgroup": str(place)}
    yield {
        **(both | {"mode": "lines", "showlegend": False}),
        "x": [row["level"] for row in [*known, *reversed(known)]],
        "y": [*(row["low"] for row in known), *(row["high"] for row in reversed(known))],
        **{"fill": "toself", "fillcolor": f"{colour}{_BAND}", "line": {"width": 0}, "hoverinfo": "skip"},
    }
    yield {
        **(both | {"mode": "lines+markers"}),
        "x": [row["level"] for row in records],
        "y": [finite(row["value"]) for row in records],
        "line": {"color": colour, "width": 1.8},
        "marker": _marker(colour, symbol, [row["flags"] for row in records], 8),
        **{"hoverinfo": "text", "hovertext": [_hover(target, row, label, harm) for row in records]},
    }


def _marker(colour: str, symbol: str, flags: Sequence[str], size: int) -> dict[str, Any]:
    """Returns markers that are hollow where an interval cannot promise 95 %."""
    fills = ["#ffffff" if flag else colour for flag in flags]
    return {"symbol": symbol, "size": size, "color": fills, "line": {"color": colour, "width": 1.4}}


def _grid(rows: Sequence[Sequence[Mapping[Any, Any] | None]], make: Callable[[Mapping[Any, Any]], Any]) -> list[list]:
    """Returns what is made of each row of a map, None where there is none."""
    return [[None if row is None else make(row) for row in line] for line in rows]


def _hover(target: str, row: Mapping[Any, Any], label: str, harm: bool) -> str:
    exact = row["interval"] == "exact"
    lines = (
        f"level {row['level_text']}",
        f"{label} {with_interval(row['value'], row['low'], row['high'], 5 if harm else 3)}",
        "exact: just these images, no draws" if exact else f"95 % interval over {row['interval']}",
        f"{count(str(row['draws']), 'draw')}, {count(str(row['images']), 'image')}",
    )
    return "<br>".join([f"<b>{escape(target)}</b>", *map(escape, lines)]) + _warned(row["flags"])


def _warned(flags: str) -> str:
    return "".join(f"<br>⚠ {escape(flag)}" for flag in flags.split("; ") if flag)


def _interval(row: Mapping[Any, Any], name: str) -> str:
    return with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"])


def _length(low: float, high: float) -> float | None:
    return finite(high - low)


def _percent(value: float, digits: int) -> str:
    return f"{100 * value:.{digits}f}" if math.isfinite(value) else ""


def _guides(results: Results, curve: Curve, targets: Sequence[str], metric: str) -> list[tuple[float, str, str]]:
    """Returns height, dash and text of each horizontal line to compare with."""
    if not MEASURES[metric].right or not targets:
        return []
    chance, intact = results.chance(metric), results.intact_accuracy(curve.text, targets[0], metric)
    found = [(chance, "dash", f"chance ({chance:.1%})")]
    if math.isfinite(intact):
        found.append((intact, "dot", f"intact ({intact:.1%})"))
    share = commonest(results, metric)
    if share is not None:
        which = "commonest five classes" if metric == "top5" else "commonest class"
        found.append((share, "dash", f"{which} ({share:.1%})"))
    return found


def _cap(results: Results, curve: Curve, targets: Sequence[str], metric: str) -> Iterator[dict[str, Any]]:
    """Yields the best that can be left where units of the output layer, which are classes, are silenced."""
    for target in targets:
        if MEASURES[metric].right and silences_classes(results, curve.text, target):
            yield {
                **{"type": "scatter", "mode": "lines", "x": [0, 1], "hoverinfo": "skip"},
                "y": [finite(results.intact_accuracy(curve.text, target, metric)), 0],
                **{
                    "name": "cap if silenced<br>classes are lost",
                    "line": {"color": _INK, "width": 1, "dash": "dashdot"},
                },
            }


def _curves_layout(curve: Curve, label: str, metric: str, guides: Sequence[tuple[float, str, str]]) -> dict[str, Any]:
    harm = counts_harm(metric)
    axis = {"title": _title(f"level ({curve.unit})"), "gridcolor": _GRID, "zeroline": False}
    if curve.axis == "log":
        axis |= {"type": "log", "exponentformat": "power", "dtick": 1}
    line = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "layer": "below"}
    note = {"xref": "paper", "x": 0.005, "xanchor": "left", "yshift": 9, "showarrow": False}
    return _layout(
        xaxis=axis,
        yaxis={
            **{"title": _title(label), "gridcolor": _GRID, "zeroline": False},
            **({"rangemode": "tozero", "tickformat": ".1%"} if harm else {"range": [-0.03, 1.06], "tickformat": ".0%"}),
        },
        legend={"title": {"text": "click: off or on<br>twice: alone", "font": {"size": 11}}, "traceorder": "normal"},
        shapes=[line | {"y0": y, "y1": y, "line": {"color": _INK, "width": 1, "dash": dash}} for y, dash, _ in guides],
        annotations=[note | {"y": y, "text": text, "font": {"size": 11, "color": _INK}} for y, _, text in guides],
    )


def _named(names: Sequence[str]) -> dict[str, Any]:
    """Returns an axis from above to below with names at 0, 1, 2, ..."""
    texts = [escape(shortened(name)) for name in names]
    places = {"tickvals": list(range(len(texts))), "ticktext": texts}
    return {**places, "autorange": "reversed", "automargin": True, "showgrid": False, "zeroline": False}


def _title(text: str) -> dict[str, Any]:
    return {"text": escape(text), "font": {"size": 13}}


def _layout(**fields: Any) -> dict[str, Any]:
    plain = {"paper_bgcolor": "#ffffff", "plot_bgcolor": "#ffffff", "hovermode": "closest", "font": _FONT}
    return plain | {"margin": {"l": 64, "r": 16, "t": 32, "b": 52}, "hoverlabel": {"align": "left"}} | fields
