"""Repeats the study of Cheney, Schrimpf and Kreiman (2017), and tells which of the paper's sentences hold.

    python scripts/reproduce_cheney2017.py --data_dir=photos/tfds
    python scripts/reproduce_cheney2017.py --weights=alexnet,vgg16 --dataset=imagenet2012 --data_dir=tfds --images=50000

An AlexNet and a VGG are lesioned layer by layer: weights removed, units silenced, noise added. Each sentence has its
criterion in `CRITERIA`, fixed before the run, and holds, does not hold, or cannot be told. Into --out go a store for
each network, verdicts.md, verdicts.json and the figures; a run that was stopped goes on where it was. With an AlexNet
alone the sentences on VGG are left open. Where the networks are the real ones, each number of an independent
replication is compared with the study's, interval against interval.
"""

import dataclasses
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from absl import app, flags
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import jaxperturb as jp
from jaxperturb.cli.backend import start
from jaxperturb.data import Dataset, load_dataset
from jaxperturb.show import figures, style
from jaxperturb.show.claims import (
    FAILS,
    HOLDS,
    MEASURES,
    OPEN,
    Criterion,
    Number,
    Subjects,
    Verdict,
    check,
    published_subject,
    subject_of,
)
from jaxperturb.show.compared import common_images
from jaxperturb.show.formats import with_interval
from jaxperturb.show.published import beside_published_figure, compare_published, published
from jaxperturb.show.results import Results
from jaxperturb.show.tables import describe
from jaxperturb.stats.intervals import Estimate

ALEXNET, VGG = ROLES = ("AlexNet", "VGG")
REAL = ("AlexNet", "VGG16")  # of each role: whose curves are published
SYNAPSE, NODE, NOISE = PERTURBATIONS = ("synapse_knockout", "node_knockout", "gaussian_noise")
ABSTRACT, SUMMARY = "abstract", "D. Stutz's summary"
_ROBUST = (
    '"less than a 30% decrease in classification performance when randomly removing over 70% of weight connections in '
    'the top convolutional or dense layers"'
)
_CHANCE = '"almost at chance with the same perturbation in the first convolutional layer"'
_FRAGILE = (
    '"surprisingly robust to a number of internal perturbations in the higher convolutional layers but the bottom '
    'convolutional layers are much more fragile"'
)
_FIRST = "removing weights hits the lower layers hardest, the first one most"
_WEAKER = 'noise: a similar pattern, but "less significant"'
_METRICS = "the same for top-1 and top-5"
_OTHERS = "the same for other architectures"
_STURDIER = 'VGG: the effect is "significantly less pronounced"'
# A sentence holds when the whole 95 % interval of its number lies on that side of that bound. `MEASURES` says what the
# numbers are; "over 70 %" is level 0.7, and the top and the bottom are two convolutions each (see `Criterion`).
CRITERIA = (
    Criterion("top layers hold out", _ROBUST, ABSTRACT, "lost", ALEXNET, SYNAPSE, "below", 0.30),
    Criterion("first layer near chance", _CHANCE, ABSTRACT, "left", ALEXNET, SYNAPSE, "below", 0.10),
    Criterion("lower layers more fragile", _FRAGILE, ABSTRACT, "gradient", ALEXNET, SYNAPSE, "above", 0.0),
    Criterion("lower layers more fragile: noise", _FRAGILE, ABSTRACT, "gradient", ALEXNET, NOISE, "above", 0.0),
    Criterion("lower layers more fragile: units", _FRAGILE, ABSTRACT, "gradient", ALEXNET, NODE, "above", 0.0),
    Criterion("first layer hit hardest", _FIRST, SUMMARY, "rank", ALEXNET, SYNAPSE, "below", 1.5),
    Criterion("noise less significant", _WEAKER, SUMMARY, "steeper", ALEXNET, NOISE, "below", 0.0, against=SYNAPSE),
    Criterion(
        "lower layers more fragile: other metric",
        _METRICS,
        SUMMARY,
        "gradient",
        ALEXNET,
        SYNAPSE,
        "above",
        0.0,
        other_metric=True,
    ),
    Criterion("VGG: top layers hold out", _OTHERS, SUMMARY, "lost", VGG, SYNAPSE, "below", 0.30),
    Criterion("VGG: lower layers more fragile", _OTHERS, SUMMARY, "gradient", VGG, SYNAPSE, "above", 0.0),
    Criterion("VGG: lower layers more fragile: noise", _OTHERS, SUMMARY, "gradient", VGG, NOISE, "above", 0.0),
    Criterion("VGG less affected", _STURDIER, SUMMARY, "sturdier", VGG, SYNAPSE, "above", 0.0, against=ALEXNET),
    Criterion("VGG less affected: noise", _STURDIER, SUMMARY, "sturdier", VGG, NOISE, "above", 0.0, against=ALEXNET),
    Criterion("VGG less affected: units", _STURDIER, SUMMARY, "sturdier", VGG, NODE, "above", 0.0, against=ALEXNET),
)

COLOURS = {HOLDS: "#009E73", FAILS: "#D55E00", OPEN: "0.5"}  # told apart with any colour vision
LIMITS = (-0.6, 1.0)  # of the figure of sentences
_REAL_STYLE = {"marker": "D", "markersize": 4, "color": style.INK, "markerfacecolor": "white", "linestyle": "none"}


def run_studies(
    weights: Sequence[str], data: Dataset, out: Path, *, draws: int, images: int, seed: int, batch_size: int
) -> list[Results]:
    """Runs the paper's three perturbations on each network, or goes on with what its store lacks."""
    networks = [jp.load_network(one) for one in weights]  # all of them, before anything is computed
    found = []
    for one, network in zip(weights, networks, strict=True):
        print(f"{one}: {out / Path(one).name}", file=sys.stderr)
        found.append(
            jp.sweep(
                network,
                data,
                PERTURBATIONS,
                draws=draws,
                images=images,
                seed=seed,
                batch_size=batch_size,
                out=out / Path(one).name,
                progress=True,
                flags={"weights": one},
            )
        )
    return found


@dataclass(frozen=True)
class Outcome:
    """What came out for a sentence: the verdict on the studies, and the numbers of the real network where known."""

    verdict: Verdict
    real: tuple[Number, ...]


def outcomes_of(studies: Sequence[Results]) -> list[Outcome]:
    """Returns what came out for each sentence, from the study of an AlexNet and perhaps that of a VGG."""
    paired = len(studies) < 2 or common_images(studies[0], studies[1]) is not None
    own = Subjects(dict(zip(ROLES, map(subject_of, studies), strict=False)), paired)
    real = Subjects({role: published_subject(published(name)) for role, name in zip(ROLES, REAL, strict=True)})
    return [Outcome(check(own, criterion), check(real, criterion).numbers) for criterion in CRITERIA]


def shown(found: Estimate) -> str:
    """Returns a number with its ends."""
    return with_interval(found.value, found.low, found.high)


def lines_of(outcome: Outcome) -> list[str]:
    """Returns what is said of a sentence."""
    verdict, criterion = outcome.verdict, outcome.verdict.criterion
    lines = [
        f"{criterion.name}: {verdict.verdict.upper()}" + (f" ({verdict.reason})" if verdict.reason else ""),
        f"  {criterion.sentence} ({criterion.source})",
        f"  {criterion.network}, {criterion.perturbation}; {MEASURES[criterion.measure].label}, {demand(criterion)}",
    ]
    for number in verdict.numbers:
        beside = f"; {number.beside[0]} {shown(number.beside[1])}" if number.beside else ""
        doubts = f" [{'; '.join(number.found.flags)}]" if number.found.flags else ""
        lines.append(f"    {number.of}: {shown(number.found)}{doubts}{beside}")
    if outcome.real:
        numbers = ", ".join(f"{number.of} {number.found.value:.3f}" for number in outcome.real)
        lines.append(f"    the real {REAL[ROLES.index(criterion.network)]}, by published means: {numbers}")
    return lines


def demand(criterion: Criterion) -> str:
    """Returns what a criterion asks of a number."""
    if criterion.measure == "rank":
        return "must be 1"
    return f"must be {criterion.side} {criterion.bound:g}"


def markdown(studies: Sequence[Results], outcomes: Sequence[Outcome]) -> str:
    """Returns the verdicts as a page."""
    head = "| sentence | damage | measured | number (95 % interval) | real network | verdict |"
    rows = [_row(outcome) for outcome in outcomes]
    lines = [
        "# Which of the paper's sentences hold",
        "",
        *(f"- {describe(study, study.study.metric)}" for study in studies),
        "",
        "A sentence holds when the whole 95 % interval (over draws and images) lies where it must, and all of them",
        "where several layers are meant; it does not hold when one lies wholly elsewhere, jointly at 95 %.",
        "Each sentence is judged by itself. Areas are means over the levels of what is left above chance.",
        "The real network's numbers are those of an independent replication (means of 3 draws).",
        "",
        head,
        "|" + " --- |" * (head.count("|") - 1),
        *rows,
        "",
        "```",
        *(line for outcome in outcomes for line in (*lines_of(outcome), "")),
        "```",
    ]
    return "\n".join(lines) + "\n"


def _row(outcome: Outcome) -> str:
    verdict, criterion = outcome.verdict, outcome.verdict.criterion
    cells = [
        f"{criterion.name}",
        criterion.perturbation,
        f"{MEASURES[criterion.measure].label}, {demand(criterion)}",
        "<br>".join(f"{number.of}: {shown(number.found)}" for number in verdict.numbers) or verdict.reason,
        "<br>".join(f"{number.of}: {number.found.value:.3f}" for number in outcome.real) or "-",
        f"**{verdict.verdict}**",
    ]
    return f"| {' | '.join(cells)} |"


def as_json(studies: Sequence[Results], outcomes: Sequence[Outcome], compared: Mapping[str, pd.DataFrame]) -> str:
    """Returns the verdicts, and the comparisons with published numbers, for programs."""
    told = {
        "studies": [describe(study, study.study.metric) for study in studies],
        "verdicts": [
            {
                **dataclasses.asdict(outcome.verdict.criterion),
                "verdict": outcome.verdict.verdict,
                "reason": outcome.verdict.reason,
                "numbers": [_number_json(number) for number in outcome.verdict.numbers],
                "real": {number.of: number.found.value for number in outcome.real},
            }
            for outcome in outcomes
        ],
        "compared_with_published": {
            name: json.loads(table.to_json(orient="records")) for name, table in compared.items()
        },
    }
    return json.dumps(told, indent=2) + "\n"


def _number_json(number: Number) -> dict[str, object]:
    beside = {number.beside[0]: _ends_json(number.beside[1])} if number.beside else {}
    return {"of": number.of, **_ends_json(number.found), "flags": list(number.found.flags), "beside": beside}


def _ends_json(found: Estimate) -> dict[str, float | None]:
    ends = {"value": found.value, "low": found.low, "high": found.high}
    return {name: end if math.isfinite(end) else None for name, end in ends.items()}


def comparisons(studies: Sequence[Results]) -> dict[str, pd.DataFrame]:
    """Returns the published numbers beside those of a study, for each study of a real network."""
    real = [published(name) for name in REAL]
    return {one.network: compare_published(study, one) for study in studies for one in real if one.fits(study)}


def comparison_text(network: str, table: pd.DataFrame) -> str:
    """Returns how many of the published numbers agree, and which do not."""
    told = table[table["agrees"].notna()]
    off = told[~told["agrees"].astype(bool)]
    lines = [
        f"the published numbers of the real {network}: {len(told) - len(off)} of {len(told)} agree with these "
        f"(at 95 %, about {0.05 * len(told):.0f} would not by chance)"
    ]
    for row in off.to_dict("records"):
        own = f"{row['own']:.3f} ({row['own_low']:.3f}, {row['own_high']:.3f})"
        theirs = f"{row['published']:.3f} ({row['published_low']:.3f}, {row['published_high']:.3f})"
        lines.append(f"  {row['perturbation']} of {row['layer']} at {row['level']:g}: {own}, published {theirs}")
    return "\n".join(lines)


def draw(studies: Sequence[Results], outcomes: Sequence[Outcome]) -> dict[str, Figure]:
    """Returns the figures by the stem of their files."""
    pairs = [(study, published(name)) for study, name in zip(studies, REAL, strict=False)]
    drawn = {text: beside_published_figure(pairs, text) for text in (SYNAPSE, NODE)}
    if len(studies) == 2:
        drawn[NOISE] = figures.side_by_side_figure(*studies, NOISE, quantity="relative")
    else:
        drawn[NOISE] = figures.curves_figure(studies[0], NOISE, quantity="relative")
    drawn["sentences"] = sentences_figure(outcomes)
    return drawn


def sentences_figure(outcomes: Sequence[Outcome]) -> Figure:
    """Returns a figure of all numbers that have a bound, each with its interval, coloured by the verdict."""
    told = [one for one in outcomes if one.verdict.numbers and one.verdict.criterion.measure != "rank"]
    rows = sum(1 + len(one.verdict.numbers) for one in told)
    figure = Figure(figsize=(style.SIZE[0], 0.9 + 0.19 * rows), layout="constrained")
    axes = figure.add_subplot()
    labels: dict[int, str] = {}
    place = 0
    for one in told:
        _draw_sentence(axes, one, place)
        labels |= {place + 1 + below: number.of for below, number in enumerate(one.verdict.numbers)}
        place += 1 + len(one.verdict.numbers)
    axes.set_yticks(list(labels), list(labels.values()), fontsize=style.TINY)
    axes.set_ylim(place - 0.3, -0.7)
    axes.set_xlim(*LIMITS)
    axes.set_xlabel("share of accuracy, or difference of areas")
    style.plain_axes(axes)
    axes.grid(visible=False, axis="y")
    handles = [Line2D([], [], color=colour, marker="o", label=verdict) for verdict, colour in COLOURS.items()]
    handles.append(Line2D([], [], label="real network (replication)", **_REAL_STYLE))
    figure.legend(handles=handles, loc="outside upper right", ncols=4, frameon=False, fontsize=style.SMALL)
    return figure


def _draw_sentence(axes: Axes, outcome: Outcome, place: int) -> None:
    """Draws a sentence's name, its bound with the side on which it holds, and its numbers below one another."""
    verdict, criterion = outcome.verdict, outcome.verdict.criterion
    heights = (place + 0.5, place + len(verdict.numbers) + 0.5)
    reach = (LIMITS[0], criterion.bound) if criterion.side == "below" else (criterion.bound, LIMITS[1])
    name = axes.text(LIMITS[0] + 0.01, place, criterion.name, fontsize=style.SMALL, fontweight="bold", va="center")
    what = f"{MEASURES[criterion.measure].short}, {demand(criterion)}"
    axes.annotate(what, (1, 0.5), (5, 0), name, "offset points", fontsize=style.TINY, color=style.INK, va="center")
    axes.fill_betweenx(heights, *reach, color=COLOURS[HOLDS], alpha=0.08, linewidth=0)
    axes.vlines(criterion.bound, *heights, color=style.INK, linewidth=1.0)
    for below, number in enumerate(verdict.numbers):
        found = number.found
        axes.errorbar(
            found.value,
            place + 1 + below,
            xerr=[[found.value - found.low], [found.high - found.value]],
            color=COLOURS[verdict.verdict],
            marker="o",
            markersize=4,
            capsize=2.5,
            linewidth=1.4,
        )
    if len(outcome.real) == len(verdict.numbers):
        for below, number in enumerate(outcome.real):
            axes.plot(number.found.value, place + 1 + below, **_REAL_STYLE)


def write_all(studies: Sequence[Results], outcomes: Sequence[Outcome], out: Path) -> None:
    """Writes the verdicts and the figures."""
    compared = comparisons(studies)
    page = [markdown(studies, outcomes), *(comparison_text(*item) + "\n" for item in compared.items())]
    (out / "verdicts.md").write_text("\n".join(page), encoding="utf-8")
    (out / "verdicts.json").write_text(as_json(studies, outcomes, compared), encoding="utf-8")
    (out / "figures").mkdir(exist_ok=True)
    for stem, figure in draw(studies, outcomes).items():
        style.save(figure, out / "figures", stem)


def main(argv: list[str]) -> None:
    values = flags.FLAGS
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    if not 1 <= len(values.weights) <= 2:
        raise app.UsageError("expected --weights of an AlexNet, or of an AlexNet and a VGG")
    out = Path(values.out)
    try:
        start(None)
        data = load_dataset(values.dataset, values.split, values.data_dir)
        studies = run_studies(values.weights, data, out, draws=values.draws, images=values.images, seed=values.seed,
                              batch_size=values.batch_size)  # fmt: skip
        outcomes = outcomes_of(studies)
        write_all(studies, outcomes, out)
    except jp.JaxPerturbError as error:
        sys.exit(f"reproduce_cheney2017: {error}")
    for study in studies:
        print(describe(study, study.study.metric))
    for outcome in outcomes:
        print("\n" + "\n".join(lines_of(outcome)))
    for item in comparisons(studies).items():
        print("\n" + comparison_text(*item))
    print(f"\nverdicts and figures: {out}", file=sys.stderr)


if __name__ == "__main__":
    flags.DEFINE_list("weights", ["alexnet-cifar10", "vgg11-cifar10"], "an AlexNet, and a VGG to set beside it")
    flags.DEFINE_string("dataset", "cifar10", "the images, as 'jaxperturb sweep' takes them")
    flags.DEFINE_string("split", None, "part of the data set; default: that for testing")
    flags.DEFINE_string("data_dir", None, "where a set of TensorFlow Datasets lies")
    flags.DEFINE_integer("images", 1000, "of the data set's study order", lower_bound=2)
    flags.DEFINE_integer("draws", 10, "lesions of each kind, layer and level", lower_bound=2)
    flags.DEFINE_integer("seed", 0, "of all draws", lower_bound=0)
    flags.DEFINE_integer("batch_size", 1000, "images that are kept at a time", lower_bound=1)
    flags.DEFINE_string("out", "runs/cheney2017", "folder for the stores, the verdicts and the figures")
    app.run(main)
