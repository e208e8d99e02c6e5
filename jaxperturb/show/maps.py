"""Figures that show a whole study at once: heat maps, a ranking of layers, the filters of a first convolution.

Each function takes matplotlib axes, draws on them and returns them.
"""

from collections.abc import Sequence

import matplotlib
import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from jaxperturb.errors import StudyError
from jaxperturb.perturb.grammar import parse_call
from jaxperturb.show.plots import columns_of, counts_harm, metric_label
from jaxperturb.show.results import Results
from jaxperturb.show.style import INK, SMALL, TINY, depth_style, plain_axes, set_titles
from jaxperturb.show.summary import by_level
from jaxperturb.show.tables import describe_sample
from jaxperturb.types import AnyArray

_MOST_NUMBERS = 14  # cells in a row that still take a number


def level_map(
    results: Results,
    perturbation: str | None = None,
    metric: str | None = None,
    *,
    quantity: str = "value",
    axes: Axes,
) -> Axes:
    """Draws a heat map, layers x levels, the first layer on top.

    Args:
        results: of a study.
        perturbation: its text; may be left out where there is one.
        metric: as in `Results.by_level`.
        quantity: "value"; for accuracies also "relative" or "relative_above_chance".
        axes: to draw on.

    Returns:
        The axes.
    """
    curve = results.curve(perturbation)
    table = by_level(results, metric, perturbation=curve.text)
    name, _, _ = columns_of(table, quantity)
    grid = table.pivot(index="target", columns="level", values=name)
    grid = grid.reindex([target for target in results.study.targets if target in grid.index])
    shown = table.drop_duplicates("level").set_index("level")["level_text"]
    _heat_map(axes, grid, [str(shown[level]) for level in grid.columns], _highest(grid, metric))
    axes.set_xlabel(f"level ({curve.unit})")
    label = metric_label(results, metric, quantity)
    set_titles(
        axes, f"{results.study.network}: {curve.text}", f"{describe_sample(results, curve.text)}; colour: {label}"
    )
    return axes


def bit_map(results: Results, metric: str = "sdc1", *, level: float | None = None, axes: Axes) -> Axes:
    """Draws a heat map of a fault campaign, layers x bits, the first layer on top.

    Args:
        results: of a study with perturbations such as ``bit_flip(bits=7,word=int8)``, one for each bit.
        metric: as in `Results.by_level`.
        level: by default the highest that all of them have.
        axes: to draw on.

    Returns:
        The axes.

    Raises:
        StudyError: no perturbation with one bit, or a level that is not in the study.
    """
    bits = single_bits(results)
    if not bits:
        raise StudyError("a map of bits needs perturbations of single bits, such as bit_flip(word=int8,bits=7)")
    table = by_level(results, metric)
    table = table[table["perturbation"].isin(bits)].assign(bit=table["perturbation"].map(bits))
    common = set.intersection(*(set(rows["level"]) for _, rows in table.groupby("perturbation")))
    level = max(common, default=None) if level is None else level
    if level is None or level not in common:
        raise StudyError(f"expected a level that all bits have ({', '.join(f'{one:g}' for one in sorted(common))})")
    grid = table[table["level"] == level].pivot(index="target", columns="bit", values="value")
    grid = grid.reindex([target for target in results.study.targets if target in grid.index])
    grid = grid[sorted(grid.columns, reverse=True)]
    _heat_map(axes, grid, [str(bit) for bit in grid.columns], _highest(grid, metric))
    axes.set_xlabel("bit of the stored word, the most significant first")
    unit = results.curve(next(iter(bits))).unit
    set_titles(
        axes,
        f"{results.study.network}: {next(iter(bits)).partition('(')[0]}",
        f"{describe_sample(results)}, level {level:g} ({unit}); colour: {metric_label(results, metric)}",
    )
    return axes


def single_bits(results: Results) -> dict[str, int]:
    """Returns which bit each perturbation hits, of those of one family that hit a single one."""
    found: dict[tuple, dict[str, int]] = {}
    for curve in results.study.perturbations:
        if not curve.text.startswith(("bit_flip", "stuck_at")):
            continue
        name, options = parse_call(curve.text)
        bits = options.pop("bits", None)
        if isinstance(bits, int):
            found.setdefault((name, *sorted(options.items())), {})[curve.text] = bits
    return max(found.values(), key=len, default={})


def ranking(
    results: Results,
    perturbation: str | None = None,
    metric: str | None = None,
    *,
    output_layer: bool = False,
    axes: Axes,
) -> Axes:
    """Draws the area under each layer's curve with its 95 % interval, the most fragile on top, and the ranks.

    Args:
        results: of a study.
        perturbation: its text; may be left out where there is one.
        metric: "top1" or "top5"; by default the study's.
        output_layer: whether to rank the output layer too where units are silenced.
        axes: to draw on.

    Returns:
        The axes.
    """
    curve = results.curve(perturbation)
    table = results.ranking(curve.text, metric, output_layer=output_layer)
    targets = list(results.study.targets)
    for place, row in enumerate(table.to_dict("records")):
        colour, marker = depth_style(targets.index(row["target"]), len(targets))
        ends = np.array([[row["area"] - row["area_low"]], [row["area_high"] - row["area"]]])
        axes.errorbar(
            row["area"], place, xerr=ends, color=colour, marker=marker, markersize=5, capsize=2.5, linewidth=1.4
        )
        low, high = row["rank_low"], row["rank_high"]
        rank = f"{low}" if low == high else f"{low} to {high}"
        at = ("axes fraction", "data")
        axes.annotate(rank, (1.0, place), (6, 0), at, "offset points", fontsize=SMALL, color=INK, va="center")
    axes.annotate("rank", (1.0, 1.0), (6, 2), "axes fraction", "offset points", fontsize=SMALL, color=INK)
    axes.set_yticks(range(len(table)), list(table["target"]))
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel("area under the curve (relative, above chance; 1: nothing is lost)")
    plain_axes(axes)
    axes.grid(visible=False, axis="y")
    label = metric_label(results, metric)
    what = "95 % intervals; ranks hold together at 95 %, 1 the most fragile"
    set_titles(
        axes, f"{results.study.network}: {curve.text}", f"{describe_sample(results, curve.text)}, {label}; {what}"
    )
    return axes


def filters(kernel: Float[AnyArray, "h w c n"], *, scale: float | None = None, title: str = "", axes: Axes) -> Axes:
    """Draws the filters of a first convolution as pictures in a square, each of one scale, so that what is lost shows.

    Args:
        kernel: height, width, channels (3 are shown as red, green and blue; of others the mean, in grey) and filters.
        scale: value that is drawn brightest; by default the largest absolute one. Zero is mid-grey.
        title: over the square.
        axes: to draw on.

    Returns:
        The axes.
    """
    kernel = np.asarray(kernel, np.float32)
    height, width, channels, number = kernel.shape
    if channels != 3:
        kernel = np.repeat(kernel.mean(axis=2, keepdims=True), 3, axis=2)
    largest = float(np.abs(kernel).max()) if scale is None else scale
    shades = np.clip(0.5 + kernel / (2 * largest or 1.0), 0, 1)
    columns = int(np.ceil(np.sqrt(number)))
    rows = -(-number // columns)
    square = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3), np.float32)
    for place in range(number):
        row, column = divmod(place, columns)
        top, left = row * (height + 1), column * (width + 1)
        square[top : top + height, left : left + width] = shades[..., place]
    axes.imshow(square, interpolation="nearest")
    axes.set_title(title, fontsize=9)
    axes.set_axis_off()
    return axes


def _highest(grid: pd.DataFrame, metric: str | None) -> float:
    """Returns the value of the brightest colour: all of it, or of what faults do the most that there is."""
    return max(float(np.nanmax(grid.to_numpy(float))), 0.001) if counts_harm(metric) else 1.0


def _heat_map(axes: Axes, grid: pd.DataFrame, columns: Sequence[str], highest: float) -> None:
    numbers = grid.to_numpy(float)
    colours = matplotlib.colormaps["cividis"]
    digits = 0 if highest > 0.1 else 2
    masked = np.ma.masked_invalid(numbers)
    mesh = axes.pcolormesh(masked, cmap=colours, vmin=0, vmax=highest, edgecolors="white", linewidth=0.6)
    axes.set_xticks(np.arange(len(columns)) + 0.5, columns)
    axes.set_yticks(np.arange(len(grid)) + 0.5, list(grid.index))
    axes.set_ylim(len(grid), 0)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.figure.colorbar(mesh, ax=axes, format=PercentFormatter(1.0), pad=0.02)
    if len(columns) <= _MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(numbers):
            if np.isfinite(value):
                ink, place = "white" if value < highest / 2 else "black", (column + 0.5, row + 0.5)
                axes.text(*place, f"{100 * value:.{digits}f}", color=ink, fontsize=TINY, ha="center", va="center")
