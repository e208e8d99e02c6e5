"""``jaxperturb table OUT``: the table of a study again."""

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug, define_metric


def _define(values: flags.FlagValues) -> None:
    define_metric(values)
    define_debug(values)


def _run(values: flags.FlagValues, out: str) -> None:
    from jaxperturb.show.results import load_results
    from jaxperturb.show.tables import summary_text

    print(summary_text(load_results(out), values.metric))


COMMAND = Command(
    name="table",
    summary="Prints the table of a finished or running study again.",
    details="A row for each perturbation and layer: intact accuracy, half-life level, accuracy at 0.7. OUT is what "
    "sweep wrote.",
    examples=(
        ("the study of 'jaxperturb sweep'", "table runs/alexnet-digits"),
        ("by the five highest scores", "table runs/alexnet-digits --metric=top5"),
    ),
    define=_define,
    run=_run,
    arguments=("OUT",),
)
