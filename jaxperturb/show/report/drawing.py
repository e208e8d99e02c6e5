"""The network as a picture: its layers in the order of its program, coloured by how fragile they are."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.colors import to_hex

from jaxperturb.show.formats import number, with_interval
from jaxperturb.show.report.markup import Markup, shortened, tag
from jaxperturb.show.results import Results
from jaxperturb.show.tables import flags_of, rank_text

_ROW, _BOX = 40, 28  # pixels: from one layer to the next, and the height of one
_LABELS, _COLUMN, _WIDEST, _NARROWEST = 250, 190, 160, 64
_NO_NUMBER = "#d9d9d9"
_COLOURS = matplotlib.colormaps["cividis"]  # told apart with any colour vision, and in grey
_HEAD_LETTERS = 25
TIMES = "\u00d7"


def network_drawing(results: Results, summary: pd.DataFrame) -> Markup:
    """Returns the network once for each perturbation, side by side, as SVG.

    A box is a layer, as wide as the logarithm of its parameters, coloured by the area under its curve; targets of
    several layers stand below.

    Args:
        results: of a study.
        summary: of the same.
    """
    study = results.study
    together = [target for target in study.targets if target not in study.layers]
    texts = [curve.text for curve in study.perturbations if curve.text in set(summary["perturbation"])]
    heads = [_wrapped(text) for text in texts]
    top = 12 + 15 * max(map(len, heads), default=1)
    rows = {name: top + _ROW * (place + 1) for place, name in enumerate(study.layers)}
    end = top + _ROW * (len(study.layers) + 1)
    rows |= {name: end + 34 + _ROW * (place + 1) for place, name in enumerate(together)}
    height = (max(rows.values()) if together else end) + _ROW + 30
    width = _LABELS + _COLUMN * max(len(texts), 1) + 10
    lowest = _lowest(summary["area"])
    parts = [*_labels(results, rows, top, end), *_legend(height - 26, lowest)]
    for place, (text, head) in enumerate(zip(texts, heads, strict=True)):
        of_text = summary[summary["perturbation"] == text]
        found = {str(row["target"]): row for row in of_text.to_dict("records")}
        middle = _LABELS + _COLUMN * place + _COLUMN // 2
        parts += [_text(middle, 14 + 15 * line, part, "middle", "head") for line, part in enumerate(head)]
        boxes = [
            _box(name, found.get(name), middle, y, _width(results, name), lowest)
            for name, y in rows.items()
            if name in study.layers or name in found
        ]
        parts += [*_arrows(len(study.layers), middle, top, end), *boxes]
    title = f"{study.network}: its layers in the order of its program, coloured by the area under the curve"
    size = {"width": width, "height": height, "viewBox": f"0 0 {width} {height}"}
    return tag("svg", *parts, role="img", aria_label=title, **size)


def shape_text(shape: Sequence[int]) -> str:
    """Returns ``"3×3×64×128"``."""
    return TIMES.join(map(str, shape))


def _labels(results: Results, rows: Mapping[str, int], top: int, end: int) -> Iterator[Markup]:
    study = results.study
    yield _text(0, top + 18, f"images {shape_text(study.identity.image_shape)}", "start", "small")
    for name, y in rows.items():
        size = _size_text(results, name)
        label = _text(0, y + (13 if size else 18), shortened(name), "start", "name")
        yield tag("g", tag("title", name), label, _text(0, y + 26, size, "start", "small"))
    yield _text(0, end + 18, f"{study.identity.outputs} classes", "start", "small")
    if set(rows) - set(study.layers):
        yield _text(0, end + 54, "several layers together", "start", "small")


def _size_text(results: Results, name: str) -> str:
    study = results.study
    if name not in study.shapes:
        return ""
    return f"{shape_text(study.shapes[name])}, {study.parameters[name]:,} parameters"


def _lowest(areas: pd.Series) -> float:
    """Returns the area of the darkest colour, a tenth at or below the smallest one."""
    smallest = areas.min()
    return min(max(math.floor(10 * smallest) / 10, 0.0), 0.9) if math.isfinite(smallest) else 0.0


def _arrows(layers: int, middle: int, top: int, end: int) -> Iterator[Markup]:
    """Yields the way of an image through the network, from above to below."""
    for y in (top + _ROW * place for place in range(layers + 1)):
        yield tag("path", d=f"M{middle} {y + _BOX}v{_ROW - _BOX - 1}", class_="arrow", marker_end="url(#tip)")
    for y, name in ((top, "in"), (end, "out")):
        yield tag("rect", x=middle - 32, y=y, width=64, height=_BOX, rx=_BOX // 2, class_="end")
        yield _text(middle, y + 18, name, "middle", "small")


def _box(name: str, row: Mapping[Any, Any] | None, middle: int, y: int, width: int, lowest: float) -> Markup:
    place = {"x": middle - width / 2, "y": y, "width": width, "height": _BOX, "rx": 4}
    if row is None:
        return tag("g", tag("title", f"{name}: not lesioned"), tag("rect", **place, class_="whole"))
    area = row["area"]
    known = math.isfinite(area)
    shade = min(max((area - lowest) / (1 - lowest), 0.0), 1.0) if known else 1.0
    fill, ink = to_hex(_COLOURS(shade)) if known else _NO_NUMBER, "#ffffff" if shade < 0.5 else "#111111"
    mark = "*" if flags_of(row["area_flags"]) else ""
    return tag(
        "g",
        tag("title", _told(name, row)),
        tag("rect", **place, fill=fill, class_="layer"),
        _text(middle, y + 18, f"{mark}{number(area, 2)}", "middle", "number", style=f"fill:{ink}"),
        data_target=name,
        data_perturbation=row["perturbation"],
    )


def _told(name: str, row: Mapping[Any, Any]) -> str:
    """Returns what stands under the pointer."""
    area = with_interval(row["area"], row["area_low"], row["area_high"])
    lines = [f"{name}, {row['perturbation']}", f"area {area}", f"rank {rank_text(row)}", *flags_of(row["area_flags"])]
    return "\n".join(lines)


def _width(results: Results, name: str) -> int:
    """Returns the width of a layer's box: by tens of its parameters, from the smallest to the largest layer."""
    sizes = results.study.parameters
    if name not in sizes or min(sizes.values()) == max(sizes.values()):
        return (_WIDEST + _NARROWEST) // 2
    low, high = (math.log(edge(sizes.values())) for edge in (min, max))
    return round(_NARROWEST + (_WIDEST - _NARROWEST) * (math.log(sizes[name]) - low) / (high - low))


def _legend(y: int, lowest: float) -> Iterator[Markup]:
    stops = [tag("stop", offset=f"{step}0%", stop_color=to_hex(_COLOURS(step / 10))) for step in range(11)]
    tip = tag("path", d="M0 0L6 3L0 6z", class_="tip")
    marker = tag("marker", tip, id="tip", markerWidth=6, markerHeight=6, refX=5, refY=3, orient="auto")
    yield tag("defs", tag("linearGradient", *stops, id="areas"), marker)
    yield _text(0, y + 12, "area under the curve:", "start", "small")
    yield tag("rect", x=190, y=y, width=200, height=14, rx=3, fill="url(#areas)")
    yield _text(184, y + 12, f"{lowest:g}", "end", "small")
    yield _text(396, y + 12, "1: nothing is lost", "start", "small")


def _wrapped(text: str) -> list[str]:
    """Returns a perturbation's text in lines that a column holds."""
    lines = [""]
    for part in re.findall(rf"[^(,]{{1,{_HEAD_LETTERS}}}[(,]?|[(,]", text):
        if lines[-1] and len(lines[-1] + part) > _HEAD_LETTERS:
            lines.append("")
        lines[-1] += part
    return lines


def _text(x: int, y: int, text: str, anchor: str, kind: str, **more: str) -> Markup:
    return tag("text", text, x=x, y=y, text_anchor=anchor, class_=kind, **more)
