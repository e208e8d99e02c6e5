"""Curves of real networks that others have measured, drawn beside one's own and compared with them.

They are those of an independent replication of Cheney et al. (2017) by Kamran Ahmed: torchvision's AlexNet and VGG16,
each layer by itself, weights and biases both, three draws, all validation images of ILSVRC-2012. Only means are kept,
to three decimals, and of VGG16 every other level.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import numpy as np
import pandas as pd
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jaxperturb.errors import PerturbationError, StudyError, did_you_mean
from jaxperturb.show import plots
from jaxperturb.show.measures import MEASURES
from jaxperturb.show.results import Results
from jaxperturb.show.style import SIZE, SMALL, TINY, depth_style, plain_axes, set_titles
from jaxperturb.show.tables import describe_sample
from jaxperturb.stats.compare import mover_difference
from jaxperturb.stats.components import Crossed
from jaxperturb.stats.curves import LevelCurve, accuracy_estimate, at_level, relative_above_chance
from jaxperturb.stats.intervals import Estimate, Sampled, quantile

FILE = "published.csv"
_SOURCE = "K. Ahmed 2021 (github.com/kamodulin/cnn_analysis), ILSVRC-2012 validation"
_TITLE_WIDTH = 60
_REACH = (-0.02, 1.05)  # of all panels; a band may reach further


@dataclass(frozen=True, eq=False)
class Published:
    """Mean accuracies of a real network, as somebody has measured them.

    Attributes:
        network: "AlexNet" or "VGG16".
        source: who measured them, and on which images.
        metric: "top1" or "top5".
        chance: accuracy of a network that says nothing.
        classes: number of classes.
        images: number of images, all that there are.
        draws: lesions that each mean is of.
        rounding: the most by which a number may be off, for its last place.
        table: a row for each perturbation and layer in the network's order, a column for each level; missing where
            it is not known.
    """

    network: str
    source: str
    metric: str
    chance: float
    classes: int
    images: int
    draws: int
    rounding: float
    table: pd.DataFrame

    @property
    def perturbations(self) -> tuple[str, ...]:
        """Names of the perturbations."""
        return tuple(dict.fromkeys(str(name) for name, _ in self.table.index))

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers, in the network's order."""
        return tuple(dict.fromkeys(str(layer) for _, layer in self.table.index))

    def accuracies(self, perturbation: str, layer: str) -> tuple[Float[np.ndarray, " m"], Float[np.ndarray, " m"]]:
        """Returns levels, ascending from 0, and the accuracy at each.

        Raises:
            PerturbationError: a perturbation or layer that was not measured.
        """
        if (perturbation, layer) not in self.table.index:
            known = [f"{name} of {one}" for name, one in self.table.index]
            asked = f"{perturbation} of {layer}"
            raise PerturbationError(f"{asked} was not published for {self.network}{did_you_mean(asked, known)}")
        row = self.table.to_numpy(float)[list(self.table.index).index((perturbation, layer))]
        known = ~np.isnan(row)
        return self.table.columns.to_numpy(float)[known], row[known]

    def curve(self, perturbation: str, layer: str) -> LevelCurve:
        """Returns a curve for the numbers that it gives; its intervals are without end, since only means are known."""
        levels, accuracy = self.accuracies(perturbation, layer)
        means = np.append(accuracy, accuracy[0])
        none = np.zeros((len(means), len(means)))
        return LevelCurve(levels, Crossed(means, means[:, None], means[:, None], none, none, none), self.chance)

    def fits(self, results: Results) -> bool:
        """Returns whether a study is of this network: of its layers and its number of classes."""
        return results.study.identity.outputs == self.classes and set(self.layers) <= set(results.study.targets)


def published(network: str) -> Published:
    """Returns what was published of a network.

    Raises:
        StudyError: a network of which nothing is known.
    """
    with resources.files("jaxperturb.show").joinpath(FILE).open(encoding="utf-8") as file:
        table = pd.read_csv(file, comment="#", index_col=[0, 1, 2])
    table.columns = table.columns.astype(float)
    known = list(dict.fromkeys(table.index.get_level_values(0)))
    if network not in known:
        raise StudyError(f"nothing is published of {network!r}{did_you_mean(network, known)} ({', '.join(known)})")
    own = table[table.index.get_level_values(0) == network].droplevel(0)
    return Published(network, _SOURCE, "top5", 0.005, 1000, 50_000, 3, 0.0005, own)


def compare_published(results: Results, other: Published) -> pd.DataFrame:
    """Returns each published number beside a study's own, interval against interval.

    A published mean has the uncertainty of its draws: their spread is taken from the study's own draws of that cell,
    since both are draws of one lesion; rounding is added. Where the study is of all the images, neither side is
    uncertain by images. The interval of the difference is by MOVER.

    Args:
        results: a study of the same network.
        other: what was published.

    Returns:
        A row for each perturbation, layer and level that both have: own, published, difference, each with its ends
        (``_low``, ``_high``), and agrees: whether the difference may be zero (missing with a single draw).

    Raises:
        StudyError: a study of another network.
    """
    if not other.fits(results):
        raise StudyError(f"{results.study.network} is not the {other.network} whose numbers are published")
    mine = {curve.text for curve in results.study.perturbations}
    rows = [
        row for text, layer in other.table.index if text in mine for row in _compared(results, other, str(text), layer)
    ]
    numbers = [f"{name}{end}" for name in ("own", "published", "difference") for end in ("", "_low", "_high")]
    table = pd.DataFrame(rows, columns=["perturbation", "layer", "level", *numbers, "agrees"])
    return table.astype({"agrees": "boolean"})


def published_curves(
    other: Published, perturbation: str, *, quantity: str = "value", titles: bool = True, axes: Axes
) -> Axes:
    """Draws published accuracies against level, in the style of `plots.level_curves`.

    Args:
        other: what was published.
        perturbation: its name.
        quantity: "value", "relative" to the intact network's, or "relative_above_chance".
        titles: whether to say over the axes whose numbers these are.
        axes: to draw on.

    Returns:
        The axes.
    """
    layers = [str(layer) for text, layer in other.table.index if text == perturbation]
    for place, layer in enumerate(layers):
        levels, accuracy = other.accuracies(perturbation, layer)
        colour, marker = depth_style(place, len(layers))
        values = _as_quantity(accuracy, accuracy[0], other.chance, quantity)
        axes.plot(
            levels,
            values,
            color=colour,
            marker=marker,
            label=layer,
            linewidth=1.4,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.4,
        )
    intact = other.accuracies(perturbation, layers[0])[1][0]
    (chance,) = _as_quantity(np.array([other.chance]), intact, other.chance, quantity)
    plots.draw_chance(axes, chance, f"chance ({chance:.1%})")
    axes.xaxis.set_major_locator(MaxNLocator(10, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axes.set_ylim(_REACH)
    axes.margins(x=0.02)
    axes.set_ylabel(plots.quantity_label(MEASURES[other.metric].label, quantity))
    plain_axes(axes)
    if titles:
        sample = f"{other.source}: {other.images} images, {other.draws} draws"
        set_titles(axes, f"real {other.network}: {perturbation}", sample, width=_TITLE_WIDTH)
    return axes


def beside_published_figure(
    pairs: Sequence[tuple[Results, Published]],
    perturbation: str,
    metric: str | None = None,
    quantity: str = "relative",
) -> Figure:
    """Returns a figure with a row for each study: its own curves, and beside them those of a real network.

    Args:
        pairs: studies and what to draw beside them, one at least.
        perturbation: its text, in all of them.
        metric: of the studies; by default each one's own.
        quantity: as in `plots.level_curves`; what is relative can be compared though the metrics differ.
    """
    figure = Figure(figsize=(SIZE[0] * 1.35, 0.5 + 3.3 * len(pairs)), layout=ConstrainedLayoutEngine(wspace=0.04))
    panels = figure.subplots(len(pairs), 2, squeeze=False, sharex=True)
    for (results, other), (left, right) in zip(pairs, panels, strict=True):
        plots.level_curves(results, perturbation, metric, quantity=quantity, titles=False, axes=left)
        title = f"{results.study.network}: {perturbation}"
        sample = describe_sample(results, results.curve(perturbation).text)
        set_titles(left, title, f"{sample}; bands: 95 % intervals; hollow: outside their domain", width=_TITLE_WIDTH)
        published_curves(other, perturbation, quantity=quantity, axes=right)
        for axes in (left, right):
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.03), frameon=False, fontsize=TINY)
            axes.set_xlabel("")
            axes.set_ylabel(axes.get_ylabel(), fontsize=SMALL)
            axes.tick_params(labelsize=SMALL)
            axes.set_ylim(_REACH)
    figure.supxlabel(f"level ({pairs[0][0].curve(perturbation).unit})", fontsize=9)
    return figure


def _compared(results: Results, other: Published, text: str, layer: str) -> list[tuple]:
    curve = results.level_curve(text, layer, other.metric)
    if curve is None:
        return []
    places = {level: place for place, level in enumerate(curve.levels.tolist())}
    return [
        (text, layer, level, *_cell(curve, places[level], accuracy, other))
        for level, accuracy in zip(*(part.tolist() for part in other.accuracies(text, layer)), strict=True)
        if level in places
    ]


def _cell(curve: LevelCurve, column: int, accuracy: float, other: Published) -> tuple:
    own = accuracy_estimate(curve, column, all_images=curve.crossed.images >= other.images)
    theirs = _with_spread(curve, column, accuracy, other)
    low, high = mover_difference(own, theirs)
    agrees = None if math.isnan(theirs.low) else low <= 0 <= high
    return (*_ends(own), *_ends(theirs), own.value - accuracy, low, high, agrees)


def _with_spread(curve: LevelCurve, column: int, accuracy: float, other: Published) -> Estimate:
    """Returns a published mean with the interval that the study's own spread of draws gives it."""
    draws = curve.crossed.by_draw[column]
    if not at_level(curve, column).draws_matter:
        width = 0.0
    elif len(draws) < 2:
        return Estimate(accuracy, math.nan, math.nan, Sampled.DRAWS)
    else:
        width = quantile(0.95, len(draws) - 1) * float(draws.std(ddof=1)) / math.sqrt(other.draws)
    width += other.rounding
    return Estimate(accuracy, max(accuracy - width, 0.0), min(accuracy + width, 1.0), Sampled.DRAWS)


def _ends(found: Estimate) -> tuple[float, float, float]:
    return found.value, found.low, found.high


def _as_quantity(accuracy: np.ndarray, intact: float, chance: float, quantity: str) -> np.ndarray:
    if quantity == "relative_above_chance":
        return relative_above_chance(accuracy, intact, chance)
    return accuracy / intact if quantity == "relative" else accuracy
