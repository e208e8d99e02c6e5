"""Figures of a study, made without touching the user's matplotlib backend."""

import re
import textwrap
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jaxperturb.errors import OutputError
from jaxperturb.show.results import Results, mean_curve
from jaxperturb.show.tables import METRIC_NAMES, describe_sample
from jaxperturb.study.study import Curve

SIZE = (7.0, 4.2)  # inches: the width of a text column
DPI = 200
TITLE_WIDTH = 86  # letters
FORMATS = ("png", "pdf")
_SHADES = (0.0, 0.84)  # of viridis: its light end cannot be read on white
_MARKERS = "osD^vP*X"


def accuracy_curves(
    results: Results, perturbation: str | None = None, metric: str | None = None, *, axes: Axes
) -> Axes:
    """Draws accuracy against level: the mean over draws as a line per target, coloured by depth.

    The band of a line reaches from the lowest to the highest draw.

    Args:
        results: of a study.
        perturbation: its text, as in `Results.cells`; may be left out where there is one.
        metric: "top1" or "top5"; by default the study's.
        axes: to draw on.

    Returns:
        The axes.

    Raises:
        PerturbationError: a perturbation that is not in the study.
    """
    curve, metric = results.curve(perturbation), results.metric(metric)
    cells = results.cells[results.cells["perturbation"] == curve.text]
    targets = [target for target in results.study.targets if (cells["target"] == target).any()]
    unchanged = results.unchanged(curve.text)
    for place, target in enumerate(targets):
        mean = mean_curve(cells[cells["target"] == target], metric)
        label = f"{target} (nothing changed)" if target in unchanged else target
        _draw_target(axes, _shown(mean, curve), label, *_style(place, len(targets)))
    _draw_guides(axes, results, curve.text, targets, metric)
    _label_axes(axes, results, curve, metric)
    return axes


def make_figure(results: Results, perturbation: str | None = None, metric: str | None = None) -> Figure:
    """Returns a figure of `accuracy_curves` at publication size, the legend beside it in the order of the layers."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = accuracy_curves(results, perturbation, metric, axes=figure.add_subplot())
    columns = 1 + len(axes.get_legend_handles_labels()[1]) // 22
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=8, ncols=columns)
    return figure


def save_figures(results: Results, folder: Path, metric: str | None = None) -> list[Path]:
    """Writes one figure per perturbation, as PNG and PDF.

    Returns:
        The files written.

    Raises:
        OutputError: a file cannot be written.
    """
    files = []
    done = set(results.cells["perturbation"])
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for curve in results.study.perturbations:
            if curve.text in done:
                figure = make_figure(results, curve.text, metric)
                files += [_save(figure, folder / f"{file_stem(curve.text)}.{kind}") for kind in FORMATS]
    except OSError as error:
        raise OutputError(f"the figures cannot be written to {folder}: {error.strerror or error}") from error
    return files


def file_stem(perturbation: str) -> str:
    """Returns a file name for a perturbation's text: ``node_knockout(axis=in)`` is ``node_knockout-axis=in``."""
    return re.sub(r"[^\w.=]+", "-", perturbation).strip("-.")


def _save(figure: Figure, file: Path) -> Path:
    # No date: the same study gives the same file.
    metadata = {"CreationDate": None} if file.suffix == ".pdf" else None
    figure.savefig(file, dpi=DPI, metadata=metadata)
    return file


def _style(place: int, targets: int) -> tuple[tuple[float, ...], str]:
    low, high = _SHADES
    shade = low + (high - low) * place / max(targets - 1, 1)
    return matplotlib.colormaps["viridis"](shade), _MARKERS[place % len(_MARKERS)]


def _draw_target(axes: Axes, mean: pd.DataFrame, label: str, colour: tuple[float, ...], marker: str) -> None:
    axes.fill_between(mean["level"], mean["low"], mean["high"], color=colour, alpha=0.15, linewidth=0)
    # White edges keep the markers apart where lines lie on each other.
    axes.plot(
        mean["level"],
        mean["mean"],
        color=colour,
        linewidth=1.4,
        marker=marker,
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
        label=label,
    )


def _shown(mean: pd.DataFrame, curve: Curve) -> pd.DataFrame:
    """Leaves out level 0 where the axis is logarithmic; the line of the intact network stands for it."""
    return mean[mean["level"] > 0] if curve.axis == "log" else mean


def _draw_guides(axes: Axes, results: Results, perturbation: str, targets: list[str], metric: str) -> None:
    intact = [results.intact_accuracy(perturbation, target, metric) for target in targets]
    if intact and intact[0] == intact[0]:
        axes.axhline(intact[0], color="0.35", linewidth=0.8, linestyle=":", label=f"intact ({intact[0]:.1%})", zorder=1)
    chance = results.chance(metric)
    axes.axhline(chance, color="0.35", linewidth=0.9, linestyle="--", zorder=1)
    axes.annotate(
        f"chance ({chance:.1%})",
        (0.01, chance),
        (0, 2),
        ("axes fraction", "data"),
        "offset points",
        fontsize=8,
        color="0.35",
    )


def _label_axes(axes: Axes, results: Results, curve: Curve, metric: str) -> None:
    if curve.axis == "log":
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10]))
    axes.set_xlabel(f"level ({curve.unit})")
    axes.set_ylabel(f"{METRIC_NAMES[metric]} accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(-0.02, 1.02)
    axes.margins(x=0.02)
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    sample = describe_sample(results, curve.text)
    band = "; bands: lowest to highest draw" if len(set(results.cells["draw"])) > 1 else ""
    subtitle = textwrap.wrap(f"{sample}, {METRIC_NAMES[metric]} accuracy{band}", TITLE_WIDTH)
    title = f"{results.study.network}: {curve.text}"
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=6 + 11 * len(subtitle))
    axes.annotate("\n".join(subtitle), (0, 1), (0, 5), "axes fraction", "offset points", fontsize=8, color="0.3")
