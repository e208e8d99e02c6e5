"""``jaxperturb export NET OUT.safetensors``: a network, intact or lesioned, for PyTorch and others."""

from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli import backend, options
from jaxperturb.cli.command import Command
from jaxperturb.errors import UsageError

if TYPE_CHECKING:
    from jaxperturb.networks.network import Network

_OF_A_LESION = ("layers", "level", "draw", "seed")


def _define(values: flags.FlagValues) -> None:
    options.define_own_network(values)
    flags.DEFINE_string(
        "perturbation",
        None,
        "Damage it first: one perturbation, options in brackets; 'jaxperturb perturbations' lists them.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "layers",
        None,
        "Layers to damage together: names or patterns; 'jaxperturb layers' lists them.",
        flag_values=values,
    )
    flags.DEFINE_string("level", None, "How much damage, such as 0.3.", flag_values=values)
    flags.DEFINE_integer("draw", None, "Number of the draw, from 0 (default: 0).", lower_bound=0, flag_values=values)
    flags.DEFINE_integer(
        "seed", None, "Seed of the study (default: 0).", lower_bound=0, upper_bound=2**32 - 1, flag_values=values
    )
    options.define_device(values)
    options.define_debug(values)


def _run(values: flags.FlagValues, net: str, out: str) -> None:
    _check(values)
    backend.start(values.device)
    from jaxperturb.checkpoints import load_network
    from jaxperturb.checkpoints.export import export_network

    intact = load_network(net, values.network)
    network, remark = _lesioned(intact, values)
    path = export_network(network, out, remark=remark)
    print(f"{path}: {network.name}, {remark or 'intact'}")


def _check(values: flags.FlagValues) -> None:
    """Refuses a lesion that is only half said."""
    if values.perturbation is None:
        given = [name for name in _OF_A_LESION if values[name].value is not None]
        if given:
            raise UsageError(f"--{given[0]} is of a lesion; say which with --perturbation, or leave it out")
        return
    for name in ("layers", "level"):
        if values[name].value is None:
            raise UsageError(f"--perturbation needs --{name}: a lesion is one perturbation of some layers at one level")


def _lesioned(network: "Network", values: flags.FlagValues) -> tuple["Network", str]:
    if values.perturbation is None:
        return network, ""
    from jaxperturb import api

    draw, seed = values.draw or 0, values.seed or 0
    lesioned = api.lesion(network, values.perturbation, values.layers, values.level, draw, seed)
    return lesioned, f"{values.perturbation} of {values.layers} at level {values.level}, draw {draw}, seed {seed}"


COMMAND = Command(
    name="export",
    summary="Writes a network, intact or lesioned, as .safetensors for PyTorch.",
    details="NET is what --weights takes: a name, a checkpoint folder, a weight file. torchvision's architectures get "
    "its names and layouts, so that PyTorch loads the file; other networks keep their own. With --perturbation it is "
    "the very network of that cell of a study.",
    examples=(
        ("a checkpoint of your own for PyTorch", "export checkpoints/mine mine.safetensors"),
        (
            "the lesion behind a cell of a study",
            "export alexnet-digits lesioned.safetensors --perturbation=synapse_knockout --layers=conv1 --level=0.3 "
            "--draw=7",
        ),
    ),
    define=_define,
    run=_run,
    arguments=("NET", "OUT"),
)
