"""``jaxperturb datasets``: the data sets that can be named."""

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.lists import print_list
from jaxperturb.cli.options import define_debug


def _run(values: flags.FlagValues) -> None:
    del values
    from jaxperturb.data import datasets

    print_list(datasets())


COMMAND = Command(
    name="datasets",
    summary="Lists the data sets, one line each.",
    details="Any of them goes after --dataset.",
    examples=(("what is there", "datasets"),),
    define=define_debug,
    run=_run,
)
