"""``jaxperturb layers``: a network's layers in the order of its program."""

from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli import backend
from jaxperturb.cli.command import Command
from jaxperturb.cli.inputs import read_network
from jaxperturb.cli.options import define_debug, define_device, define_network

if TYPE_CHECKING:
    from jaxperturb.networks.network import LayerInfo

_HEADINGS = ("layer", "shape", "units", "weights", "zeros")


def _define(values: flags.FlagValues) -> None:
    define_network(values)
    define_device(values)
    define_debug(values)


def _run(values: flags.FlagValues) -> None:
    backend.start(values.device)
    rows = [_HEADINGS, *(_row(layer) for layer in read_network(values).layers())]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    for name, *rest in rows:
        numbers = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        print("  ".join((name.ljust(widths[0]), *numbers)))


def _row(layer: "LayerInfo") -> tuple[str, ...]:
    shape = "x".join(str(length) for length in layer.shape)
    return layer.name, shape, str(layer.units), str(layer.weights), f"{layer.zeros / layer.weights:.1%}"


COMMAND = Command(
    name="layers",
    summary="Lists a network's layers: name, shape, units, weights, share of zeros.",
    details="The order is that of the network's program. --layers takes these names, and patterns such as conv*.",
    examples=(
        ("the bundled network", "layers"),
        ("a checkpoint of your own", "layers --weights=checkpoints/mine"),
        ("a network from your own code", "layers --network=my_package.nets:make_net"),
    ),
    define=_define,
    run=_run,
)
