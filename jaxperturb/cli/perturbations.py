"""``jaxperturb perturbations``: the kinds of damage that can be named."""

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.lists import print_list
from jaxperturb.cli.options import define_debug


def _run(values: flags.FlagValues) -> None:
    del values
    from jaxperturb.perturb import CATALOGUE

    print_list({one.name: f"{one.summary}; level: {one.unit}, by default {one.grid}" for one in CATALOGUE.values()})


COMMAND = Command(
    name="perturbations",
    summary="Lists the perturbations, one line each, with what their level counts.",
    details="Any of them goes after --perturbations, with options in brackets; so does a function of your own, as "
    "package.module:function.",
    examples=(
        ("what is there", "perturbations"),
        ("use two of them, one with an option", "sweep --perturbations='resample,node_knockout(include_bias=false)'"),
    ),
    define=define_debug,
    run=_run,
)
