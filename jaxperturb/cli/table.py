"""``jaxperturb table OUT``: the tables of a study."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug
from jaxperturb.cli.reading import (
    ACCURACIES,
    define_format,
    define_images_are,
    define_measure,
    define_perturbation,
)
from jaxperturb.errors import UsageError

if TYPE_CHECKING:
    import pandas as pd

    from jaxperturb.show.results import Results

_OF = ("layers", "levels", "ranking", "differences", "perturbations", "classes", "images")


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_enum(
        "of",
        None,
        list(_OF),
        "layers: half-life, accuracy at 0.7, area and rank of each; levels: each level; ranking: layers, the most "
        "fragile first; differences: between layers; perturbations: differences between them, layer by layer; classes: "
        "each true class; images: which survive, to which level (default: layers; levels for what is no accuracy).",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "rows",
        None,
        ["cells", "layers", "images"],
        "Rows for other programs instead, each with what identifies it: cells: each lesion with its counts; layers: "
        "each perturbation and layer; images: each image under each lesion.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "to", None, "File for these rows (default: standard output; parquet needs one).", flag_values=values
    )
    define_measure(values)
    define_perturbation(values, "Of ranking and images: which (needed where there are several).")
    define_format(values, "text", "markdown", "latex", "json", "csv", "parquet")
    define_images_are(values)
    flags.DEFINE_float(
        "critical_drop",
        0.01,
        "Of --metric=critical: the accuracy that may be lost, 0.01 for a point.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "confidence",
        0.95,
        "Of the intervals of --of=levels.",
        lower_bound=0.5,
        upper_bound=0.9999,
        flag_values=values,
    )
    flags.DEFINE_bool("output_layer", False, "Rank the output layer too where units are silenced.", flag_values=values)
    define_debug(values)


def _run(values: flags.FlagValues, out: str) -> None:
    from jaxperturb.show.formats import compacted, formatted
    from jaxperturb.show.results import load_results
    from jaxperturb.show.tables import summary_text

    results = load_results(out)
    if values.rows is not None:
        _give_rows(results, values)
        return
    for name, given in (("--to", values.to), ("--format=parquet", values.format == "parquet")):
        if given:
            raise UsageError(f"{name} is for rows; give --rows=cells, layers or images")
    accuracy = values.metric in (None, *ACCURACIES)
    what = values.of or ("layers" if accuracy else "levels")
    if not accuracy and what in ("layers", "ranking", "differences", "perturbations"):
        raise UsageError(
            f"--of={what} takes an accuracy as --metric ({', '.join(ACCURACIES)}), not {values.metric}; "
            "--of=levels takes any"
        )
    if values.metric == "critical" and what != "levels":
        raise UsageError(f"--metric=critical counts draws, so it has no --of={what}; use --of=levels")
    if what == "layers" and values.format not in ("json", "csv"):
        print(summary_text(results, values.metric, images_are=values.images_are, form=values.format))
    else:
        table = _table(results, what, values)
        print(formatted(table if values.format in ("json", "csv") else compacted(table), values.format))


def _give_rows(results: "Results", values: flags.FlagValues) -> None:
    """Prints rows for other programs, or writes them into a file."""
    from jaxperturb.show.formats import formatted
    from jaxperturb.show.records import FORMATS, records, write_records

    form = values.format if values["format"].present else "csv"
    if form not in FORMATS:
        raise UsageError(f"--rows takes a --format of {', '.join(FORMATS)}, not {form}")
    if form == "parquet" and values.to is None:
        raise UsageError(f"parquet needs a file; give --to={values.rows}.parquet")
    found = records(results, values.rows, values.metric)
    if values.to is None:
        print(formatted(found, form))
    else:
        write_records(found, form, Path(values.to))


def _table(results: "Results", what: str, values: flags.FlagValues) -> "pd.DataFrame":
    match what:
        case "layers":
            return results.summary(values.metric, images_are=values.images_are)
        case "levels":
            return results.by_level(
                values.metric,
                images_are=values.images_are,
                critical_drop=values.critical_drop,
                confidence=values.confidence,
            )
        case "ranking":
            return results.ranking(values.perturbation, values.metric, output_layer=values.output_layer)
        case "classes":
            return results.by_class(values.metric)
        case "images":
            return results.by_image(values.perturbation, values.metric)
    return results.differences(values.metric, between="layers" if what == "differences" else "perturbations")


COMMAND = Command(
    name="table",
    summary="Prints tables of a finished or running study, with intervals.",
    details="A row for each perturbation and layer: intact accuracy, half-life level, accuracy at 0.7, area under the "
    "curve, rank; or what --of asks for. Intervals are 95 % ones over draws and images; what they cannot promise is "
    "said. OUT is what sweep wrote.",
    examples=(
        ("the study of 'jaxperturb sweep'", "table runs/alexnet-digits"),
        ("every level, for a paper", "table runs/alexnet-digits --of=levels --format=latex"),
        ("which layers differ, after Holm", "table runs/alexnet-digits --of=differences"),
        ("a fault campaign: how often the first class changes", "table runs/faults --metric=sdc1"),
        (
            "share of faults that cost more than a point, at 99 %",
            "table runs/faults --metric=critical --critical_drop=0.01 --confidence=0.99",
        ),
        ("every lesion, for pandas or R", "table runs/alexnet-digits --rows=cells --format=parquet --to=cells.parquet"),
        ("which images survive", "table runs/alexnet-digits --of=images --perturbation=node_knockout --format=csv"),
    ),
    define=_define,
    run=_run,
    arguments=("OUT",),
)
