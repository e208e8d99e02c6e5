"""``jaxperturb sweep``: the main job."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli import backend, options
from jaxperturb.cli.command import Command
from jaxperturb.cli.inputs import read_dataset, read_network

if TYPE_CHECKING:
    from jaxperturb.data import Dataset
    from jaxperturb.networks.network import Network
    from jaxperturb.show.results import Results

_RECORDED = ("weights", "network", "dataset", "split", "data_dir", "images")
DEFAULT_PERTURBATIONS = "synapse_knockout,node_knockout,gaussian_noise"


def _define(values: flags.FlagValues) -> None:
    options.define_network(values)
    options.define_data(values)
    flags.DEFINE_string(
        "perturbations",
        DEFAULT_PERTURBATIONS,
        "Kinds of damage, separated by commas, options in brackets; 'jaxperturb perturbations' lists them; one of your "
        "own is package.module:function.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "layers",
        "*",
        "Layers to damage, one after another: names or patterns such as conv*, separated by commas; 'jaxperturb "
        "layers' lists them.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "levels",
        None,
        "How much damage: 0,0.5,1 or 0:1:0.1 (both ends) for all perturbations, or for each: "
        "'gaussian_noise=0:2:0.2;synapse_knockout=0:1:0.1' (default: each perturbation's own grid).",
        flag_values=values,
    )
    flags.DEFINE_integer("draws", 5, "Random lesions of each kind, layer and level.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "seed",
        0,
        "Decides all random choices; the same seed gives the same counts.",
        lower_bound=0,
        upper_bound=2**32 - 1,
        flag_values=values,
    )
    options.define_metric(values)
    options.define_computing(values)
    flags.DEFINE_string(
        "out",
        None,
        "Folder of the study, which is continued where there is one (default: runs/NETWORK-DATASET, with the seed "
        "unless it is 0).",
        flag_values=values,
    )
    options.define_talking(values)


def _run(values: flags.FlagValues) -> None:
    backend.start(values.device)
    from jaxperturb.show.tables import summary_text

    network, dataset = read_network(values), read_dataset(values)
    out = Path(values.out or default_out(network.name, dataset.name, values.seed))
    results = _sweep(values, network, dataset, out)
    print(summary_text(results))
    if not values.quiet:
        print(f"\nFigures: {out / 'figures'}; lesions: {out / 'results.csv'}; everything: {out}", file=sys.stderr)


def _sweep(values: flags.FlagValues, network: "Network", dataset: "Dataset", out: Path) -> "Results":
    from jaxperturb import api
    from jaxperturb.cli.progress import Progress

    with Progress(values.quiet, out) as progress:
        return api.sweep(
            network,
            dataset,
            values.perturbations,
            values.layers,
            values.levels,
            values.draws,
            values.seed,
            images=values.images,
            batch_size=values.batch_size,
            metric=values.metric,
            out=out,
            on_start=progress.start,
            on_part=progress.advance,
            flags={name: value for name in _RECORDED if (value := values[name].value) is not None},
        )


def default_out(network: str, dataset: str, seed: int) -> str:
    """Returns the folder of a study that has none given: ``runs/alexnet-digits``, ``runs/mine-digits-seed3``."""
    name = network if network.endswith(dataset) else f"{network}-{dataset}"
    return f"runs/{name}" + (f"-seed{seed}" if seed else "")


COMMAND = Command(
    name="sweep",
    summary="Damages a network layer by layer and measures what is left.",
    details="Every layer gets every perturbation at every level, several times; a table is printed, and OUT gets "
    "results.sqlite, results.csv, config.json and figures/. Ctrl-C keeps what is done, the same command continues it, "
    "and more draws, levels, layers or images extend it.",
    examples=(
        ("the bundled network: all layers, three kinds of damage (a few minutes)", "sweep"),
        ("a quick look first; the full run continues it", "sweep --images=100 --draws=2"),
        (
            "one kind of damage, convolutions only, a finer grid",
            "sweep --perturbations=synapse_knockout --layers='conv*' --levels=0:1:0.05",
        ),
        (
            "a grid for each kind",
            "sweep --perturbations=resample,gaussian_noise --levels='resample=0:1:0.25;gaussian_noise=0,1,2'",
        ),
        ("a checkpoint of your own, into a folder of your choice", "sweep --weights=checkpoints/mine --out=runs/mine"),
    ),
    define=_define,
    run=_run,
)
