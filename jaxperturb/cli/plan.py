"""``jaxperturb plan``: how many draws, images or faults an answer takes."""

import math

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug, define_metric
from jaxperturb.cli.reading import define_format
from jaxperturb.errors import UsageError


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_float(
        "half_width", None, "Wanted half-width of each level's 95 % interval, such as 0.02.", flag_values=values
    )
    flags.DEFINE_enum(
        "of",
        "accuracy",
        ["accuracy", "relative"],
        "The accuracy itself, or relative to the reference network's.",
        flag_values=values,
    )
    define_metric(values)
    flags.DEFINE_integer("max_draws", 50, "No more draws.", lower_bound=5, flag_values=values)
    flags.DEFINE_integer("max_images", None, "No more images (default: any number).", lower_bound=2, flag_values=values)
    flags.DEFINE_float(
        "margin",
        None,
        "Without OUT: wanted half-width of the share of faults that matter, such as 0.01.",
        flag_values=values,
    )
    flags.DEFINE_float("confidence", 0.95, "Of --margin.", lower_bound=0.5, upper_bound=0.9999, flag_values=values)
    flags.DEFINE_integer(
        "population",
        None,
        "Possible faults, such as the stored bits of a layer (default: no end of them).",
        lower_bound=1,
        flag_values=values,
    )
    define_format(values)
    define_debug(values)


def _run(values: flags.FlagValues, out: str | None = None) -> None:
    if values.margin is not None:
        if out is not None or values.half_width is not None:
            raise UsageError("--margin plans a fault campaign by itself; OUT and --half_width plan by a pilot")
        _print_faults(values)
    elif values.half_width is None:
        raise UsageError("plan needs --half_width=0.02, say, with OUT, or --margin=0.01 for a fault campaign")
    elif out is None:
        raise UsageError("--half_width needs OUT, the study that serves as a pilot")
    else:
        _print_plan(values, out)


def _print_faults(values: flags.FlagValues) -> None:
    from jaxperturb.stats.campaign import faults_needed

    if not 0 < values.margin < 1:
        raise UsageError(f"--margin takes a number between 0 and 1, such as 0.01, not {values.margin:g}")
    population = math.inf if values.population is None else values.population
    print(faults_needed(values.margin, values.confidence, population))


def _print_plan(values: flags.FlagValues, out: str) -> None:
    from jaxperturb.show.formats import compacted, formatted
    from jaxperturb.show.planned import plan_study
    from jaxperturb.show.results import load_results
    from jaxperturb.study.progress import duration

    results = load_results(out)
    limit = math.inf if values.max_images is None else values.max_images
    table = plan_study(
        results, values.half_width, values.metric, of=values.of, max_draws=values.max_draws, max_images=limit
    )
    if values.format in ("json", "csv"):
        print(formatted(table, values.format))
        return
    print(formatted(compacted(table), values.format))
    known = table.dropna(subset=["draws"])
    if len(known) < len(table):
        print(f"\n-: not within {values.max_draws} draws" + (f", {limit} images" if limit < math.inf else ""))
    if len(known):
        draws, images = known["draws"].max(), known["images"].max()
        seconds = known["seconds"].sum(min_count=1)
        about = "" if math.isnan(seconds) else f", about {duration(seconds)} at the pilot's pace"
        evaluations = f"in all {known['evaluations'].sum():,} evaluations{about}"
        print(f"\n{evaluations}; as one study: --draws={draws} --images={images}")
        print("the pilot knows the spread of its draws but roughly: look again when more are there")


COMMAND = Command(
    name="plan",
    summary="Says how many draws and images, or how many faults, an answer takes.",
    details="By a pilot study OUT, for each perturbation and layer: the cheapest draws and images with which the "
    "interval of every level gets the wanted half-width, and what they cost in evaluations of one image and in seconds "
    "at the pilot's pace. Or, with --margin and without OUT: how many faults to inject so that the share that matters "
    "is known to within a margin.",
    examples=(
        ("a pilot", "sweep --draws=5 --images=200 --out=runs/pilot"),
        ("what two points either way would take", "plan runs/pilot --half_width=0.02"),
        ("the same for performance relative to the intact network", "plan runs/pilot --half_width=0.02 --of=relative"),
        ("faults to inject for one point either way at 99 %", "plan --margin=0.01 --confidence=0.99"),
        ("the same of a layer with 27,648 stored bits", "plan --margin=0.01 --confidence=0.99 --population=27648"),
    ),
    define=_define,
    run=_run,
    optional=("OUT",),
)
