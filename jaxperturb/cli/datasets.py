"""``jaxperturb datasets``: the data sets that can be named; prepares those of TensorFlow Datasets."""

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.lists import print_list
from jaxperturb.cli.options import define_debug
from jaxperturb.errors import UsageError


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "prepare", None, "Download this set of TensorFlow Datasets and prepare it for reading.", flag_values=values
    )
    flags.DEFINE_string("data_dir", None, "Where to put it (default: ~/tensorflow_datasets).", flag_values=values)
    define_debug(values)


def _run(values: flags.FlagValues) -> None:
    if values.prepare is not None:
        from jaxperturb.data.tfds import prepare_tfds

        print(f"{values.prepare} is prepared in {prepare_tfds(values.prepare, values.data_dir)}")
        return
    if values.data_dir is not None:
        raise UsageError("--data_dir goes with --prepare=NAME; leave it out to list the data sets")
    from jaxperturb.data import datasets

    print_list(datasets())


COMMAND = Command(
    name="datasets",
    summary="Lists the data sets, one line each, or prepares one.",
    details="Any of them goes after --dataset.",
    examples=(
        ("what is there", "datasets"),
        ("have CIFAR-10 (this downloads it)", "datasets --prepare=cifar10 --data_dir=sets"),
    ),
    define=_define,
    run=_run,
)
