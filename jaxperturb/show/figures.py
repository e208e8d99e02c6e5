"""Whole figures: axes at publication size, with a legend, and their files."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from jaxperturb.errors import OutputError
from jaxperturb.show import maps, plots
from jaxperturb.show.measures import CRITICAL, MEASURES
from jaxperturb.show.results import Results
from jaxperturb.show.style import SIZE, SMALL, file_stem, save
from jaxperturb.show.tables import describe_sample
from jaxperturb.types import AnyArray

KINDS = ("curves", "map", "ranking", "ordered", "bits")
_LEGEND_ROWS = 22
_PANELS = 4  # side by side


def curves_figure(
    results: Results, perturbation: str | None = None, metric: str | None = None, quantity: str = "value"
) -> Figure:
    """Returns a figure of `plots.level_curves`, the legend beside it in the order of the layers."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = plots.level_curves(results, perturbation, metric, quantity=quantity, axes=figure.add_subplot())
    columns = 1 + len(axes.get_legend_handles_labels()[1]) // _LEGEND_ROWS
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=SMALL, ncols=columns)
    return figure


def map_figure(
    results: Results, perturbation: str | None = None, metric: str | None = None, quantity: str = "value"
) -> Figure:
    """Returns a figure of `maps.level_map`."""
    figure = Figure(figsize=_by_rows(len(results.study.targets)), layout="constrained")
    maps.level_map(results, perturbation, metric, quantity=quantity, axes=figure.add_subplot())
    return figure


def ranking_figure(results: Results, perturbation: str | None = None, metric: str | None = None) -> Figure:
    """Returns a figure of `maps.ranking`."""
    figure = Figure(figsize=_by_rows(len(results.study.targets)), layout="constrained")
    maps.ranking(results, perturbation, metric, axes=figure.add_subplot())
    return figure


def bits_figure(results: Results, metric: str = "sdc1") -> Figure:
    """Returns a figure of `maps.bit_map`."""
    figure = Figure(figsize=_by_rows(len(results.study.targets)), layout="constrained")
    maps.bit_map(results, metric, axes=figure.add_subplot())
    return figure


def side_by_side_figure(
    first: Results, second: Results, perturbation: str | None = None, metric: str | None = None, quantity: str = "value"
) -> Figure:
    """Returns a figure of `plots.side_by_side`, a legend below each."""
    figure = Figure(figsize=(SIZE[0] * 1.3, SIZE[1] * 1.15), layout="constrained")
    axes = figure.subplots(1, 2)
    plots.side_by_side(first, second, perturbation, metric, quantity=quantity, axes=list(axes))
    for one in axes:
        one.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), frameon=False, fontsize=SMALL, ncols=4)
    return figure


def ordered_figure(
    results: Results,
    metric: str | None = None,
    random: str = "synapse_knockout",
    ordered: str = "magnitude_knockout",
) -> Figure:
    """Returns a figure of `plots.random_against_ordered`, a panel for each layer."""
    targets = results.study.targets
    rows = -(-len(targets) // _PANELS)
    figure = Figure(figsize=(SIZE[0] * 1.3, 1.2 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, min(_PANELS, len(targets)), squeeze=False, sharex=True, sharey=True)
    for target, axes in zip(targets, panels.flat, strict=False):
        plots.random_against_ordered(results, target, metric, random=random, ordered=ordered, axes=axes)
        axes.label_outer()
        axes.set_xlabel("")
        axes.set_ylabel("")
    for axes in panels.flat[len(targets) :]:
        axes.set_visible(False)
    figure.supxlabel(f"level ({results.curve(random).unit})", fontsize=9)
    figure.supylabel(plots.metric_label(results, metric), fontsize=9)
    handles = panels.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper right", frameon=False, ncols=2, fontsize=SMALL)
    sample = f"{results.study.network}: {describe_sample(results)}"
    figure.suptitle(f"{sample}\nbands: 95 % intervals; hollow: outside their domain", fontsize=9, x=0.02, ha="left")
    return figure


def filters_figure(kernels: Sequence[AnyArray], titles: Sequence[str], name: str) -> Figure:
    """Returns a figure of `maps.filters`: one convolution's kernel, lesioned more and more.

    Args:
        kernels: (height, width, channels, filters) each, the intact one first.
        titles: of each.
        name: over the figure.
    """
    columns = min(_PANELS, len(kernels))
    rows = -(-len(kernels) // columns)
    figure = Figure(figsize=(SIZE[0], 0.6 + 0.98 * SIZE[0] / columns * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    scale = float(np.abs(np.asarray(kernels[0])).max())
    for axes in panels.flat[len(kernels) :]:
        axes.set_visible(False)
    for kernel, title, axes in zip(kernels, titles, panels.flat, strict=False):
        maps.filters(kernel, scale=scale, title=title, axes=axes)
    figure.suptitle(name, fontsize=10, fontweight="bold", x=0.02, ha="left")
    return figure


def save_figures(
    results: Results,
    folder: Path,
    metric: str | None = None,
    *,
    kinds: Sequence[str] = ("curves",),
    quantity: str = "value",
) -> list[Path]:
    """Writes figures as PNG and PDF: of each perturbation, and of the study where it has what they need.

    Args:
        results: of a study.
        folder: made where it is missing.
        metric: as in `Results.by_level`; by default the study's.
        kinds: of `KINDS`; those are left out for which the study or the metric does not fit.
        quantity: as in `plots.level_curves`.

    Returns:
        The files written.

    Raises:
        OutputError: a file cannot be written.
    """
    made = []
    for stem, make in _planned(results, metric, kinds, quantity):
        made += _written(make(), folder, stem)
    return made


def save_side_by_side(
    first: Results,
    second: Results,
    folder: Path,
    perturbations: Sequence[str],
    metric: str | None = None,
    quantity: str = "value",
) -> list[Path]:
    """Writes figures of `side_by_side_figure`, one for each perturbation, as PNG and PDF, and returns the files."""
    files = []
    for text in perturbations:
        figure = side_by_side_figure(first, second, text, metric, quantity)
        files += _written(figure, folder, f"{file_stem(text)}-side-by-side")
    return files


def save_filters(kernels: Sequence[AnyArray], titles: Sequence[str], name: str, folder: Path) -> list[Path]:
    """Writes a figure of `filters_figure` as PNG and PDF, and returns the files."""
    return _written(filters_figure(kernels, titles, name), folder, "filters")


def _planned(
    results: Results, metric: str | None, kinds: Sequence[str], quantity: str
) -> list[tuple[str, Callable[[], Figure]]]:
    done = [curve.text for curve in results.study.perturbations if curve.text in set(results.cells["perturbation"])]
    accuracy = metric is None or (metric != CRITICAL and MEASURES[metric].right)
    planned: list[tuple[str, Callable[[], Figure]]] = []
    for text in done:
        stem = file_stem(text) if accuracy else f"{file_stem(text)}-{metric}"
        makers = {
            "curves": (stem, partial(curves_figure, results, text, metric, quantity)),
            "map": (f"{stem}-map", partial(map_figure, results, text, metric, quantity)),
        }
        if accuracy and len(results.ranking(text, metric)) > 1:
            makers["ranking"] = (f"{stem}-ranking", partial(ranking_figure, results, text, metric))
        planned += [maker for kind, maker in makers.items() if kind in kinds]
    if "ordered" in kinds and accuracy and {"synapse_knockout", "magnitude_knockout"} <= set(done):
        planned.append(("random-against-ordered", partial(ordered_figure, results, metric)))
    if "bits" in kinds and len(maps.single_bits(results)) > 1:
        what = "sdc1" if accuracy or metric is None else metric
        planned.append((f"bits-{what}", partial(bits_figure, results, what)))
    return planned


def _written(figure: Figure, folder: Path, stem: str) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return save(figure, folder, stem)
    except OSError as error:
        raise OutputError(f"the figures cannot be written to {folder}: {error.strerror or error}") from error


def _by_rows(targets: int) -> tuple[float, float]:
    return SIZE[0], 1.4 + 0.3 * max(targets, 4)
