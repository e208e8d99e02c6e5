"""``jaxperturb changes A B``: how far two networks of one architecture are apart, layer by layer."""

from pathlib import Path

from absl import flags

from jaxperturb.cli import options
from jaxperturb.cli.command import Command
from jaxperturb.cli.reading import define_format


def _define(values: flags.FlagValues) -> None:
    options.define_own_network(values)
    define_format(values)
    flags.DEFINE_string("figure", None, "Folder for a bar plot of the layers.", flag_values=values)
    options.define_debug(values)


def _run(values: flags.FlagValues, a: str, b: str) -> None:
    from jaxperturb.api.recovery import weight_change
    from jaxperturb.checkpoints import load_network
    from jaxperturb.show.formats import formatted

    networks = [load_network(name, values.network) for name in (a, b)]
    table = weight_change(*networks)
    print(formatted(table, values.format))
    if values.figure:
        from jaxperturb.show.recovery_figures import save_change_figure

        for path in save_change_figure(table, Path(values.figure), f"{networks[0].name} and {Path(b).stem}"):
            print(path)


COMMAND = Command(
    name="changes",
    summary="Compares the weights of two networks of one architecture, layer by layer.",
    details="For each weight and bias: z_change, the mean absolute change in standard deviations of A's absolute "
    "weights; z_score, the same as the code of Cheney et al. (2017) has it, which is not 0 where nothing changed; "
    "relative_norm, |B - A| / |A|; and the cosine of the angle between them. A and B are what --weights takes.",
    examples=(
        (
            "a network before and after training",
            "changes alexnet-digits runs/alexnet-digits-recovery/networks/conv1-held-draw0.safetensors",
        ),
        ("as a figure, too", "changes alexnet-digits retrained.safetensors --figure=figures"),
    ),
    define=_define,
    run=_run,
    arguments=("A", "B"),
)
