"""``jaxperturb plot OUT``: the figures of a study again."""

from pathlib import Path

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug, define_metric


def _define(values: flags.FlagValues) -> None:
    define_metric(values)
    flags.DEFINE_string("out", None, "Folder for the figures (default: figures/ in the study's).", flag_values=values)
    define_debug(values)


def _run(values: flags.FlagValues, out: str) -> None:
    from jaxperturb.show import plots
    from jaxperturb.show.results import load_results

    source = Path(out)
    folder = Path(values.out) if values.out else (source if source.is_dir() else source.parent) / "figures"
    for path in plots.save_figures(load_results(source), folder, values.metric):
        print(path)


COMMAND = Command(
    name="plot",
    summary="Draws the figures of a study again, without computing anything.",
    details="One PNG and one PDF for each perturbation: accuracy against level, a line for each layer. OUT is what "
    "sweep wrote; the paths of the figures are printed.",
    examples=(
        ("the study of 'jaxperturb sweep'", "plot runs/alexnet-digits"),
        ("by the five highest scores, elsewhere", "plot runs/alexnet-digits --metric=top5 --out=figures"),
    ),
    define=_define,
    run=_run,
    arguments=("OUT",),
)
