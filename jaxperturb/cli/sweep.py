"""``jaxperturb sweep``: the main job."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags, logging

from jaxperturb.cli import backend, options
from jaxperturb.cli.command import Command
from jaxperturb.cli.config import read_config
from jaxperturb.cli.inputs import class_options, read_dataset, read_network, tell_classes
from jaxperturb.cli.interrupt import Interrupts, Stopped

if TYPE_CHECKING:
    from jaxperturb.show.results import Results

_RECORDED = ("weights", "network", "dataset", "split", "data_dir", "labels_file", "preprocessing")
_COMPUTING = ("precision", "convolutions", "masks_per_call", "memory_gb", "devices")
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
    options.define_half_width(values)
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
    options.define_lesioning(values)
    flags.DEFINE_string(
        "out",
        None,
        "Folder of the study, which is continued where there is one (default: runs/NETWORK-DATASET, with the seed "
        "unless it is 0).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "shard",
        None,
        "Compute only a share of the lesions, such as 3/16: the third of 16 that cost about the same; 'jaxperturb "
        "merge' joins them.",
        flag_values=values,
    )
    options.define_cluster(values)
    flags.DEFINE_string(
        "config",
        None,
        "The config.json of a study, to repeat or continue it; flags beside it have the last word (OUT is the file's "
        "folder unless given).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run", False, "Only say what would be computed, on what, and about how long it takes.", flag_values=values
    )
    options.define_talking(values)
    flags.DEFINE_integer("v", 0, "1 logs what is done and when, 2 what JAX says, too.", flag_values=values)


def _run(values: flags.FlagValues) -> None:
    if values.v:
        logging.set_verbosity(logging.INFO if values.v == 1 else logging.DEBUG)
    recorded = {} if values.config is None else read_config(Path(values.config), values)
    if values.cluster is not None:
        backend.share_gpu()
    backend.start(values.device)

    network, dataset = read_network(values), read_dataset(values)
    out = Path(values.out or default_out(network.name, dataset.name, values.seed, values.shard))
    asked: dict[str, Any] = {
        **{name: values[name].value for name in ("perturbations", "layers", "levels", "draws", "seed", "images")},
        **{name: values[name].value for name in ("metric", "shard", "half_width", "half_width_of", "max_draws")},
        **{name: values[name].value for name in _COMPUTING},
        **class_options(values),
        "net": network,
        "data": dataset,
        "out": out,
        "recorded": recorded,
        "on_images": None if values.quiet else tell_classes,
    }
    if values.dry_run:
        from jaxperturb.api import preview
        from jaxperturb.study.progress import start_lines

        print("\n".join(start_lines(preview(**asked), str(out))))
        return
    results = _sweep(values, asked, out)
    if values.shard:
        print(f"share {values.shard} is in {out}; 'jaxperturb merge' joins it with the others")
        return
    from jaxperturb.show.met import met_text
    from jaxperturb.show.tables import summary_text

    print(summary_text(results))
    if not values.quiet:
        if met := met_text(results):
            print(f"\n{met[0].upper()}{met[1:]}", file=sys.stderr)
        print(f"\nFigures: {out / 'figures'}; lesions: {out / 'results.csv'}; everything: {out}", file=sys.stderr)


def _sweep(values: flags.FlagValues, asked: dict[str, Any], out: Path) -> "Results":
    from jaxperturb import api

    given = {name: value for name in _RECORDED if (value := values[name].value) is not None}
    with Interrupts() as interrupts:
        try:
            return api.sweep(
                **asked,
                batch_size=values.batch_size,
                cluster=values.cluster,
                cpus_per_worker=values.cpus_per_worker,
                progress=not values.quiet,
                on_start=interrupts.listen,
                on_part=lambda _: interrupts.check(),
                on_wait=interrupts.check,
                flags=given,
            )
        except KeyboardInterrupt:
            if not (out / "results.sqlite").is_file():
                raise
            raise Stopped(
                f"interrupted; what was computed is in {out}, and the same command continues it",
                interrupts.received or signal.SIGINT,
            ) from None


def default_out(network: str, dataset: str, seed: int, shard: str | None = None) -> str:
    """Returns the folder of a study that has none given: ``runs/alexnet-digits``, ``runs/mine-digits-seed3``."""
    name = network if network.endswith(dataset) else f"{network}-{dataset}"
    share = f"-shard{shard.strip().replace('/', 'of')}" if shard else ""
    return f"runs/{name}" + (f"-seed{seed}" if seed else "") + share


COMMAND = Command(
    name="sweep",
    summary="Damages a network layer by layer and measures what is left.",
    details="Every layer gets every perturbation at every level, several times; a table is printed, and OUT gets "
    "results.sqlite, results.csv, config.json and figures/. Ctrl-C (or SIGTERM) keeps what is done, the same command "
    "continues it, and more draws, levels, layers or images extend it.",
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
        ("no more draws and images than it takes to know each accuracy to 2 points", "sweep --half_width=0.02"),
        ("what it would compute, and how long that takes", "sweep --draws=20 --dry_run"),
        ("a study again, from its own record", "sweep --config=runs/alexnet-digits/config.json --out=runs/again"),
        ("with several processes on this machine", "sweep --draws=100 --cluster=auto --cpus_per_worker=2"),
        ("one of 16 jobs that share a study", "sweep --draws=100 --shard=3/16 --out=runs/share3"),
    ),
    define=_define,
    run=_run,
)
