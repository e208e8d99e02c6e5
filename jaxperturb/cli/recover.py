"""``jaxperturb recover``: damage, then training, and what it gives back."""

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from jaxperturb.cli import backend, options
from jaxperturb.cli.command import Command
from jaxperturb.cli.inputs import class_options, read_dataset, read_network
from jaxperturb.cli.interrupt import Interrupts, Stopped

if TYPE_CHECKING:
    from jaxperturb.data import Dataset
    from jaxperturb.show.recovery import Recovery

_SAME = (
    *("layers", "draws", "seed", "train", "steps", "evaluate_every", "augment", "dropout", "images", "train_images"),
    *("damage_while_training", "draws_at_once", "metric", "save_networks", "level", "new_head"),
)


def _define(values: flags.FlagValues) -> None:
    options.define_network(values)
    options.define_data(values)
    flags.DEFINE_string(
        "train_dataset", None, "Images to learn from (default: those of --dataset).", flag_values=values
    )
    flags.DEFINE_string("train_split", "train", "Part of the data set to learn from.", flag_values=values)
    flags.DEFINE_integer(
        "train_images",
        None,
        "Learn from only this many images, the classes in proportion (default: all).",
        lower_bound=1,
        flag_values=values,
    )
    _define_lesion(values)
    _define_training(values)
    options.define_metric(values)
    options.define_device(values)
    flags.DEFINE_string(
        "out",
        None,
        "Folder of the recovery, which is continued where there is one (default: runs/NETWORK-recovery, with the seed "
        "unless it is 0).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "save_networks", False, "Write each trained network to networks/ in OUT, as .safetensors.", flag_values=values
    )
    options.define_talking(values)


def _define_lesion(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "perturbation",
        "synapse_knockout",
        "Kind of damage that training starts from, options in brackets; none for no damage.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "layers",
        "*",
        "Layers to damage, each with a training of its own: names or patterns.",
        flag_values=values,
    )
    flags.DEFINE_string("level", None, "How much damage (default: 0.7).", flag_values=values)
    flags.DEFINE_string(
        "progress",
        None,
        "Progressive damage: levels such as 0.1:0.9:0.1 to which the lesion of a draw grows, with --steps of training "
        "after each; what is gone stays gone.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "lesion",
        "held",
        "held: damaged weights stay as they are; free: they may grow back; held,free: both.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "damage_while_training",
        None,
        "A lesion that every step draws anew, such as synapse_knockout:0.5@conv1.",
        flag_values=values,
    )
    flags.DEFINE_integer("draws", 3, "Random lesions of each layer.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "seed",
        0,
        "Decides all random choices: lesions, batches, augmentation.",
        lower_bound=0,
        upper_bound=2**32 - 1,
        flag_values=values,
    )


def _define_training(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "train", "all", "Which layers learn: all, damaged, others, or names and patterns.", flag_values=values
    )
    flags.DEFINE_bool(
        "new_head",
        False,
        "Put a fresh output layer in place of the network's own, for the classes of the training set: learn something "
        "new.",
        flag_values=values,
    )
    flags.DEFINE_enum("optimizer", "adam", ["sgd", "adam"], "How weights are moved.", flag_values=values)
    flags.DEFINE_float(
        "learning_rate", None, "The highest (default: 0.0003 for adam, 0.01 for sgd).", flag_values=values
    )
    flags.DEFINE_float("momentum", 0.9, "Of sgd.", flag_values=values)
    flags.DEFINE_float("weight_decay", 0.0, "Of either; adam's is decoupled (AdamW).", flag_values=values)
    flags.DEFINE_enum(
        "schedule",
        "constant",
        ["constant", "linear", "cosine"],
        "How the learning rate goes: stays, or falls to 0 at the last step.",
        flag_values=values,
    )
    flags.DEFINE_integer("warmup", 0, "Steps in which the learning rate rises.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("steps", 300, "Of training.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "batch_size", 64, "Images per step; it is part of the training.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "evaluate_every", 50, "Steps between two looks at the accuracy.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_string(
        "augment",
        "none",
        "Vary training images: crop (moved by up to an eighth), flip, or both.",
        flag_values=values,
    )
    flags.DEFINE_bool("dropout", False, "Let dropout layers of Flax Linen act.", flag_values=values)
    flags.DEFINE_integer(
        "draws_at_once",
        None,
        "Draws that are trained together; it changes results by rounding alone (default: what fits the device; one on "
        "a CPU, where more is slower).",
        lower_bound=1,
        flag_values=values,
    )


def _run(values: flags.FlagValues) -> None:
    backend.start(values.device)
    network = read_network(values)
    out = Path(values.out or default_out(network.name, values.seed))
    recovery = _recover(values, network, out)
    from jaxperturb.show.formats import aligned
    from jaxperturb.show.recovery import summary_lines, write_tables
    from jaxperturb.show.recovery_figures import save_recovery_figures

    write_tables(recovery, out)
    figures = save_recovery_figures(recovery, out / "figures")
    print(aligned(summary_lines(recovery)))
    if not values.quiet:
        print(f"\nFigures: {figures[0].parent}; tables: {out / 'recovery.csv'}; everything: {out}", file=sys.stderr)


def _recover(values: flags.FlagValues, network: Any, out: Path) -> "Recovery":
    from jaxperturb.api.recovery import recover
    from jaxperturb.recovery.optimizers import Optimizer

    asked: dict[str, Any] = {name: values[name].value for name in _SAME} | class_options(values)
    names = ("learning_rate", "momentum", "weight_decay", "schedule", "warmup")
    settings: dict[str, Any] = {name: values[name].value for name in names}
    with Interrupts() as interrupts:
        interrupts.listen()
        try:
            return recover(
                network,
                _training_set(values),
                read_dataset(values),
                None if values.perturbation == "none" else values.perturbation,
                **asked,
                lesion=values.lesion,
                optimizer=Optimizer(values.optimizer, **settings),
                batch_size=values.batch_size,
                progress_levels=values.progress,
                out=out,
                progress=not values.quiet,
                on_steps=lambda _: interrupts.check(),
            )
        except KeyboardInterrupt:
            if not (out / "recovery.sqlite").is_file():
                raise
            raise Stopped(
                f"interrupted; what was computed is in {out}, and the same command continues it",
                interrupts.received or signal.SIGINT,
            ) from None


def _training_set(values: flags.FlagValues) -> "Dataset":
    from jaxperturb.data import load_dataset

    return load_dataset(values.train_dataset or values.dataset, split=values.train_split, data_dir=values.data_dir)


def default_out(network: str, seed: int) -> str:
    """Returns the folder of a recovery that has none given: ``runs/alexnet-digits-recovery``."""
    return f"runs/{network}-recovery" + (f"-seed{seed}" if seed else "")


COMMAND = Command(
    name="recover",
    summary="Damages a network layer by layer, lets it learn on, and measures what comes back.",
    details="Each layer is damaged by itself, several times, and the network trained; a table is printed, and OUT gets "
    "recovery.sqlite, recovery.csv, curves.csv, changes.csv and figures/. Ctrl-C keeps what is done, the same command "
    "continues it to the very same result, and more draws, layers or kinds of lesion extend it. Batch norms keep their "
    "running statistics.",
    examples=(
        ("the bundled network: 70 % of each layer's synapses gone, 300 steps", "recover"),
        ("removed weights may grow back, beside the same with weights held at 0", "recover --lesion=held,free"),
        ("only the damaged layer learns", "recover --layers='conv*' --train=damaged --optimizer=sgd --schedule=cosine"),
        (
            "photographs, varied while training",
            "recover --weights=alexnet-cifar10 --dataset=cifar10 --data_dir=photos/tfds --augment=crop,flip",
        ),
        (
            "damage that grows, with training after each step",
            "recover --layers=conv2 --progress=0.1:0.9:0.1 --steps=50",
        ),
        (
            "learn something new: which layers move?",
            "recover --weights=alexnet-digits --dataset=cifar10 --data_dir=photos/tfds --new_head --perturbation=none",
        ),
        (
            "does training under damage make a network robust? (a sweep of the result says)",
            "recover --perturbation=none --damage_while_training=synapse_knockout:0.5@conv1 --draws=1 --save_networks",
        ),
    ),
    define=_define,
    run=_run,
)
