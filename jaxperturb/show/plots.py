"""Figures of a study's curves, made without touching the user's matplotlib backend.

Each function takes matplotlib axes, draws on them and returns them.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jaxperturb.errors import StudyError
from jaxperturb.show.measures import CRITICAL, MEASURES, find_measure
from jaxperturb.show.notices import commonest
from jaxperturb.show.results import Results
from jaxperturb.show.style import INK, ORDERED, RANDOM, SMALL, depth_style, plain_axes, set_titles
from jaxperturb.show.summary import by_level, silences_classes
from jaxperturb.show.tables import METRIC_NAMES, describe_sample
from jaxperturb.stats.intervals import Sampled
from jaxperturb.study.study import Curve

BOTH = Sampled.BOTH.value
QUANTITIES = ("value", "relative", "relative_above_chance")
_QUANTITY_NAMES = {"relative": "relative to the intact network", "relative_above_chance": "relative, above chance"}


def level_curves(
    results: Results,
    perturbation: str | None = None,
    metric: str | None = None,
    *,
    quantity: str = "value",
    titles: bool = True,
    axes: Axes,
) -> Axes:
    """Draws a share of images against level: a line per target, coloured by depth, its 95 % intervals as a band.

    A marker is hollow where its interval cannot promise 95 %.

    Args:
        results: of a study.
        perturbation: its text, as in `Results.cells`; may be left out where there is one.
        metric: as in `Results.by_level`: accuracy, agreement with the reference, or a fault's effect.
        quantity: "value"; for accuracies also "relative" to the intact network's, or "relative_above_chance".
        titles: whether to say over the axes what was measured.
        axes: to draw on.

    Returns:
        The axes.

    Raises:
        PerturbationError: a perturbation that is not in the study.
        StudyError: a metric or quantity that there is not.
    """
    curve = results.curve(perturbation)
    table = by_level(results, metric, perturbation=curve.text)
    name, low, high = columns_of(table, quantity)
    targets = [target for target in results.study.targets if (table["target"] == target).any()]
    unchanged = results.unchanged(curve.text)
    for place, target in enumerate(targets):
        rows = _shown(table[table["target"] == target], curve)
        label = f"{target} (nothing changed)" if target in unchanged else target
        colour, marker = depth_style(place, len(targets))
        _draw_line(axes, rows["level"], rows[[name, low, high]], rows["flags"], colour, label=label, marker=marker)
    _draw_guides(axes, results, curve.text, targets, metric, quantity)
    _label_axes(axes, curve, metric_label(results, metric, quantity), whole=not counts_harm(metric))
    if titles:
        sample = describe_sample(results, curve.text)
        subtitle = f"{sample}, {metric_label(results, metric, quantity)}{caveats(table)}"
        set_titles(axes, f"{results.study.network}: {curve.text}", subtitle)
    return axes


def side_by_side(
    first: Results,
    second: Results,
    perturbation: str | None = None,
    metric: str | None = None,
    *,
    quantity: str = "value",
    axes: Sequence[Axes],
) -> Sequence[Axes]:
    """Draws the curves of two studies on two axes, with one scale.

    Args:
        first: a study.
        second: another one.
        perturbation: its text, in both.
        metric: by default the first study's.
        quantity: as in `level_curves`.
        axes: two.

    Returns:
        The axes.
    """
    metric = metric or first.study.metric
    text = first.curve(perturbation).text
    reach = []
    for study, one in zip((first, second), axes, strict=True):
        level_curves(study, text, metric, quantity=quantity, titles=False, axes=one)
        set_titles(one, f"{study.study.network}: {text}", describe_sample(study, text), width=52)
        reach.append((*one.get_xlim(), *one.get_ylim()))
    lefts, rights, lows, highs = zip(*reach, strict=True)
    for one in axes:
        one.set(xlim=(min(lefts), max(rights)), ylim=(min(lows), max(highs)))
    axes[1].set_ylabel("")
    return axes


def random_against_ordered(
    results: Results,
    target: str,
    metric: str | None = None,
    *,
    random: str = "synapse_knockout",
    ordered: str = "magnitude_knockout",
    axes: Axes,
) -> Axes:
    """Draws what is left of one layer's function when weights go at random, and when they go in an order.

    Args:
        results: of a study.
        target: a layer.
        metric: by default the study's.
        random: text or name of a perturbation.
        ordered: another one.
        axes: to draw on.

    Returns:
        The axes.
    """
    for asked, colour, marker in ((random, RANDOM, "o"), (ordered, ORDERED, "s")):
        curve = results.curve(asked)
        table = by_level(results, metric, perturbation=curve.text)
        rows = _shown(table[table["target"] == target], curve)
        shares = rows[["value", "low", "high"]]
        _draw_line(axes, rows["level"], shares, rows["flags"], colour, label=curve.text, marker=marker)
    _label_axes(axes, results.curve(random), metric_label(results, metric))
    axes.set_title(target, loc="left", fontsize=9, fontweight="bold")
    return axes


def counts_harm(metric: str | None) -> bool:
    """Returns whether a metric counts what faults do, which may be rare, and not what is left."""
    return metric == CRITICAL or (metric is not None and MEASURES[metric].of_false)


def metric_label(results: Results, metric: str | None, quantity: str = "value") -> str:
    """Returns the name of what is drawn, for an axis."""
    if metric == CRITICAL:
        return "critical draws"
    return quantity_label(find_measure(metric, results.study.metric, results.study.identity.outputs).label, quantity)


def quantity_label(label: str, quantity: str) -> str:
    """Returns the name of a share of images as it is drawn: as it is, or relative to something."""
    return label if quantity == "value" else f"{label}, {_QUANTITY_NAMES[quantity]}"


def columns_of(table: pd.DataFrame, quantity: str) -> tuple[str, str, str]:
    """Returns the columns of a quantity and its ends.

    Raises:
        StudyError: one that the table does not have.
    """
    if quantity not in QUANTITIES or quantity not in table:
        there = [name for name in QUANTITIES if name in table]
        raise StudyError(f"expected a quantity of {', '.join(there)} for this metric, got {quantity!r}")
    return ("value", "low", "high") if quantity == "value" else (quantity, f"{quantity}_low", f"{quantity}_high")


def _draw_line(
    axes: Axes,
    levels: pd.Series,
    shares: pd.DataFrame,
    flags: pd.Series,
    colour: str | tuple[float, ...],
    *,
    label: str,
    marker: str,
) -> None:
    middle, low, high = (shares[name] for name in shares.columns)
    axes.fill_between(levels, low, high, color=colour, alpha=0.15, linewidth=0)
    # White edges keep the markers apart where lines lie on each other.
    axes.plot(
        levels,
        middle,
        color=colour,
        linewidth=1.4,
        label=label,
        marker=marker,
        markevery=_places(flags == ""),
        markersize=4.5,
        markeredgecolor="white",
        markeredgewidth=0.4,
    )
    axes.plot(
        levels[flags != ""],
        middle[flags != ""],
        color=colour,
        linestyle="none",
        marker=marker,
        markersize=4.0,
        markerfacecolor="white",
        markeredgewidth=0.8,
    )


def _places(chosen: pd.Series) -> list[int]:
    return np.flatnonzero(chosen.to_numpy()).tolist()


def _shown(rows: pd.DataFrame, curve: Curve) -> pd.DataFrame:
    """Leaves out level 0 where the axis is logarithmic; the line of the intact network stands for it."""
    return rows[rows["level"] > 0] if curve.axis == "log" else rows


def _draw_guides(
    axes: Axes, results: Results, perturbation: str, targets: Sequence[str], metric: str | None, quantity: str
) -> None:
    if metric not in (None, *METRIC_NAMES):
        return
    chance = results.chance(metric)
    intact = [results.intact_accuracy(perturbation, target, metric) for target in targets]
    known = bool(intact) and intact[0] == intact[0]
    if quantity == "value":
        if known:
            label = f"intact ({intact[0]:.1%})"
            axes.axhline(intact[0], color=INK, linewidth=0.8, linestyle=":", label=label, zorder=1)
    elif quantity == "relative":
        chance = chance / intact[0] if known else float("nan")
    else:
        chance = 0.0
    draw_chance(axes, chance, f"chance ({chance:.1%})")
    if quantity == "value" and (share := commonest(results, results.metric(metric))) is not None:
        classes = "commonest five classes" if results.metric(metric) == "top5" else "commonest class"
        draw_chance(axes, share, f"{classes} ({share:.1%})")
    if known and any(silences_classes(results, perturbation, target) for target in targets):
        plain = results.chance(metric)
        # What silences a share of the classes leaves the others at best as they were.
        ends = {
            "value": (intact[0], 0.0),
            "relative": (1.0, 0.0),
            "relative_above_chance": (1.0, -plain / (intact[0] - plain)),
        }
        label = "cap if silenced\nclasses are lost"
        axes.plot([0, 1], ends[quantity], color=INK, linewidth=0.8, linestyle="-.", label=label, zorder=1)


def draw_chance(axes: Axes, chance: float, label: str) -> None:
    """Draws a broken line across at what an uninformed network would reach, with a label."""
    axes.axhline(chance, color=INK, linewidth=0.9, linestyle="--", zorder=1)
    at = ("axes fraction", "data")
    axes.annotate(label, (0.01, chance), (0, 2), at, "offset points", fontsize=SMALL, color=INK)


def _label_axes(axes: Axes, curve: Curve, label: str, *, whole: bool = True) -> None:
    if curve.axis == "log":
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10]))
    axes.set_xlabel(f"level ({curve.unit})")
    axes.set_ylabel(label)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0 if whole else None))
    if whole:
        low, high = axes.get_ylim()
        axes.set_ylim(min(-0.02, low), max(1.02, min(high, 1.3)))
    axes.margins(x=0.02)
    plain_axes(axes)


def caveats(table: pd.DataFrame) -> str:
    """Says what bands are, and what hollow markers mean."""
    intervals = dict.fromkeys(table["interval"])
    # At a level where all draws coincide there are images alone.
    over = BOTH if BOTH in intervals else " or ".join(intervals)
    flags = _unique(flag for text in table["flags"] for flag in filter(None, text.split("; ")))
    return f"; bands: 95 % intervals over {over}" + (f"; hollow: {', '.join(flags)}" if flags else "")


def _unique(texts: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(texts))
