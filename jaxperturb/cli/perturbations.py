"""``jaxperturb perturbations``: the kinds of damage that can be named."""

from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug

if TYPE_CHECKING:
    from jaxperturb.perturb import Perturbation


def _run(values: flags.FlagValues) -> None:
    del values
    from jaxperturb.perturb import CATALOGUE

    for one in CATALOGUE.values():
        print(f"{one.name}: {one.summary}")
        print(f"    level    {one.unit}, {_range(one)}; by default {one.grid}, on a {one.axis} axis")
        print(f"    options  {_options(one)}")


def _range(one: "Perturbation") -> str:
    from jaxperturb.levels import format_level

    low = format_level(one.low)
    return f"{low} or more" if one.high is None else f"{low} to {format_level(one.high)}"


def _options(one: "Perturbation") -> str:
    from jaxperturb.perturb.grammar import format_call

    return ", ".join(format_call("", {name: default})[1:-1] for name, default in one.options.items()) or "none"


COMMAND = Command(
    name="perturbations",
    summary="Lists the perturbations: what they do, what their level counts, their options.",
    details="Any of them goes after --perturbations, with options in brackets; so does a function of your own, as "
    "package.module:function.",
    examples=(
        ("what is there", "perturbations"),
        ("use two of them, one with an option", "sweep --perturbations='resample,node_knockout(include_bias=false)'"),
    ),
    define=define_debug,
    run=_run,
)
