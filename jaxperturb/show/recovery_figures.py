"""Figures of a recovery: accuracy against steps, what came back, where training moved the weights."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jaxperturb.errors import OutputError
from jaxperturb.recovery.experiment import HELD
from jaxperturb.show.recovery import Recovery
from jaxperturb.show.style import INK, ORDERED, RANDOM, SIZE, SMALL, depth_style, plain_axes, save, set_titles
from jaxperturb.stats.intervals import CONFIDENCE

_COLOURS = {HELD: RANDOM, "free": ORDERED}
_WORDS = {HELD: "damaged weights held", "free": "free to grow back"}


def curves_figure(recovery: Recovery, lesion: str) -> Figure:
    """Returns accuracy against steps of training, a line for each layer damaged, intervals as bands."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    targets = [target for target, own in recovery.curves() if own == lesion]
    for place, target in enumerate(targets):
        table = recovery.curve(target, lesion)
        colour, marker = depth_style(place, len(targets))
        _line(axes, table[~table["at_once"]], "trained", colour, marker, target or recovery.experiment.network)
    axes.set_xlabel("steps of training after damage")
    _finish(axes, recovery, f"trained after {_damage(recovery)}, {_WORDS[lesion]}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=SMALL)
    return figure


def progress_figure(recovery: Recovery, target: str) -> Figure:
    """Returns accuracy against level where damage grows with training between, beside the same damage at once."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    table = recovery.curve(target, HELD)
    table = table.assign(number=table["level"].astype(float))
    at_once = table[table["at_once"]]
    damaged = table[(table["step"] == 0) & ~table["at_once"]]
    trained = table[table["step"] == recovery.experiment.steps]
    steps = f"{recovery.experiment.steps} steps"
    _line(axes, trained, "number", RANDOM, "o", f"growing, after {steps} at each level")
    _line(axes, damaged, "number", RANDOM, "v", "growing, before these", dashed=True)
    _line(axes, at_once, "number", ORDERED, "s", "all at once, no training")
    axes.set_xlabel("level")
    _finish(axes, recovery, f"{target}: {recovery.experiment.perturbation} that grows")
    axes.legend(frameon=False, fontsize=SMALL)
    return figure


def share_figure(recovery: Recovery) -> Figure:
    """Returns the share of the lost accuracy that came back, bars for each layer damaged."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.add_subplot()
    summary = recovery.summary()
    targets, lesions = list(dict.fromkeys(summary["target"])), list(dict.fromkeys(summary["lesion"]))
    width = 0.8 / len(lesions)
    for number, lesion in enumerate(lesions):
        rows = summary[summary["lesion"] == lesion].set_index("target").reindex(targets)
        places = np.arange(len(targets)) + (number - (len(lesions) - 1) / 2) * width
        ends = np.abs(rows[["share_low", "share_high"]].to_numpy().T - rows["share"].to_numpy())
        axes.bar(
            places,
            rows["share"],
            width * 0.92,
            yerr=ends,
            color=_COLOURS[lesion],
            label=_WORDS[lesion],
            capsize=2,
            error_kw={"linewidth": 0.8, "ecolor": INK},
        )
    for place, target in enumerate(targets):
        if summary.loc[summary["target"] == target, "share"].isna().all():
            axes.text(place, 0.02, "less than 1 point lost", ha="center", rotation=90, color=INK, fontsize=SMALL)
    axes.set_xticks(range(len(targets)), targets)
    axes.set_ylabel("share of the lost accuracy that came back")
    axes.set_ylim(min(0.0, float(np.nanmin([*summary["share"], 0.0])) - 0.1), 1.25)
    axes.axhline(1, color=INK, linewidth=0.8, linestyle=":")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    plain_axes(axes)
    title = f"{recovery.experiment.network}: recovery after {_damage(recovery)}"
    set_titles(axes, title, f"{_sample(recovery)}; bars cut at 125 %")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.02), frameon=False, fontsize=SMALL)
    return figure


def changes_figure(recovery: Recovery, lesion: str) -> Figure:
    """Returns how far training moved each layer's weights: a panel for each layer damaged, bars in layer order."""
    table = recovery.changes
    table = table[(table["lesion"] == lesion) & _is_weight(table)]
    targets = list(dict.fromkeys(table["target"]))
    rows = -(-len(targets) // 4)
    figure = Figure(figsize=(SIZE[0] * 1.3, 1.2 + 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, min(4, len(targets)), squeeze=False, sharex=True, sharey=True)
    for target, axes in zip(targets, panels.flat, strict=False):
        own = table[table["target"] == target]
        mean = own.groupby("layer", sort=False)["z_change"].mean()
        colours = [ORDERED if layer in target.split("+") else RANDOM for layer in mean.index]
        axes.bar(range(len(mean)), mean, color=colours)
        for draw in own["draw"].unique():
            axes.plot(range(len(mean)), own[own["draw"] == draw]["z_change"], ".", color=INK, markersize=3)
        axes.set_xticks(range(len(mean)), mean.index, rotation=90, fontsize=SMALL)
        axes.set_title(f"{target or 'nothing'} damaged", loc="left", fontsize=SMALL)
        plain_axes(axes)
    for axes in panels.flat[len(targets) :]:
        axes.set_visible(False)
    figure.supylabel("mean |change| / std of |intact weights|", fontsize=9)
    text = f"{recovery.experiment.network}: where training moved the weights, {_WORDS[lesion]}; dots: draws"
    figure.suptitle(text, fontsize=9, x=0.02, ha="left")
    return figure


def change_bars(table: pd.DataFrame, title: str, axes: Axes) -> Axes:
    """Draws the weight change of each layer, in layer order.

    Args:
        table: of `jaxperturb.weight_change`.
        title: what is compared.
        axes: to draw on.

    Returns:
        The axes.
    """
    weights = table[_is_weight(table)]
    axes.bar(range(len(weights)), weights["z_change"], color=RANDOM)
    axes.set_xticks(range(len(weights)), weights["layer"], rotation=90 if len(weights) > 10 else 0, fontsize=SMALL)
    axes.set_ylabel("mean |change| / std of |weights|")
    plain_axes(axes)
    set_titles(axes, title, "weights of each layer, biases left out, in the order of the network")
    return axes


def save_recovery_figures(recovery: Recovery, folder: Path) -> list[Path]:
    """Writes all figures that a recovery has, and returns the files.

    Raises:
        OutputError: they cannot be written.
    """
    figures: dict[str, Figure] = {}
    lesions = list(dict.fromkeys(lesion for _, lesion in recovery.curves()))
    for lesion in lesions:
        figures[f"accuracy-{lesion}"] = curves_figure(recovery, lesion)
        figures[f"changes-{lesion}"] = changes_figure(recovery, lesion)
    if recovery.experiment.perturbation and len(recovery.experiment.stages) == 1 and lesions:
        figures["share-recovered"] = share_figure(recovery)
    if len(recovery.experiment.stages) > 1:
        for target, _ in recovery.curves():
            figures[f"progressive-{target.replace('/', '.').replace(':', '-')}"] = progress_figure(recovery, target)
    return _saved(figures, folder)


def save_change_figure(table: pd.DataFrame, folder: Path, title: str) -> list[Path]:
    """Writes a bar plot of `jaxperturb.weight_change`, and returns the files."""
    figure = Figure(figsize=SIZE, layout="constrained")
    change_bars(table, title, figure.add_subplot())
    return _saved({"weight-change": figure}, folder)


def _saved(figures: dict[str, Figure], folder: Path) -> list[Path]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return [path for stem, figure in figures.items() for path in save(figure, folder, stem)]
    except OSError as error:
        raise OutputError(f"figures cannot be written to {folder}: {error.strerror or error}") from error


def _line(
    axes: Axes,
    table: pd.DataFrame,
    over: str,
    colour: str | tuple[float, ...],
    marker: str,
    label: str,
    *,
    dashed: bool = False,
) -> None:
    axes.fill_between(table[over], table["low"], table["high"], color=colour, alpha=0.12, linewidth=0)
    axes.plot(
        table[over],
        table["value"],
        color=colour,
        marker=marker,
        label=label,
        linewidth=1.4,
        linestyle="--" if dashed else "-",
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
    )


def _finish(axes: Axes, recovery: Recovery, what: str) -> None:
    intact = recovery.intact.value
    axes.axhline(intact, color=INK, linewidth=0.8, linestyle=":", label=f"intact ({intact:.1%})", zorder=1)
    axes.axhline(recovery.chance, color=INK, linewidth=0.9, linestyle="--", label="chance", zorder=1)
    axes.set_ylabel(f"{recovery.metric} accuracy")
    axes.set_ylim(-0.02, 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    plain_axes(axes)
    bands = f"bands: {CONFIDENCE:.0%} intervals over draws and images"
    set_titles(axes, f"{recovery.experiment.network}: {what}", f"{_sample(recovery)}; {bands}")


def _damage(recovery: Recovery) -> str:
    asked = recovery.experiment
    return f"{asked.perturbation} at {asked.levels[-1]}" if asked.perturbation else "no damage"


def _sample(recovery: Recovery) -> str:
    asked = recovery.experiment
    draws = f"{asked.draws} draw{'' if asked.draws == 1 else 's'}"
    return f"{draws}, {asked.count:,} images of {asked.dataset}; {asked.steps} steps of {asked.batch_size} images"


def _is_weight(table: pd.DataFrame) -> pd.Series:
    """The first tensor of each layer: its weight."""
    keys = [name for name in ("target", "lesion", "draw", "layer") if name in table]
    return ~table.duplicated(keys)
