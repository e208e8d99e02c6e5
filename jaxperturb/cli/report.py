"""``jaxperturb report OUT``: a study as one HTML file."""

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug
from jaxperturb.cli.reading import ACCURACIES, define_images_are


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_enum(
        "metric",
        None,
        list(ACCURACIES),
        "Accuracy of figures and tables: top1 or top5, the true class first or among the first five; balanced, top1 "
        "with all classes weighed alike (default: the study's).",
        flag_values=values,
    )
    define_images_are(values)
    flags.DEFINE_string("out", None, "The file to write (default: report.html beside the store).", flag_values=values)
    define_debug(values)


def _run(values: flags.FlagValues, out: str) -> None:
    from jaxperturb.show.report.page import report

    print(report(out, values.out, metric=values.metric, images_are=values.images_are))


COMMAND = Command(
    name="report",
    summary="Writes a study as one HTML file, to be read in a browser without any network.",
    details="The study in words, with a paragraph for a paper's section on methods; figures that answer to the mouse, "
    "in which layers can be switched off; tables that can be sorted; the network with its layers coloured by how "
    "fragile they are; where it all comes from, and the command that repeats it. Needs the extra 'report': pip install "
    "'jaxperturb[report]'. The file's path is printed. OUT is what sweep wrote.",
    examples=(
        ("the study of 'jaxperturb sweep'", "report runs/alexnet-digits"),
        ("by the five highest scores, elsewhere", "report runs/alexnet-digits --metric=top5 --out=study.html"),
    ),
    define=_define,
    run=_run,
    arguments=("OUT",),
)
