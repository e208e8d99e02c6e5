"""Flags that several commands share, each defined once so that one word means one thing everywhere."""

from absl import flags

DEFAULT_WEIGHTS = "alexnet-digits"
DEFAULT_DATASET = "digits"


def define_network(values: flags.FlagValues) -> None:
    """Adds ``--weights`` and ``--network``."""
    flags.DEFINE_string(
        "weights",
        None,
        "Trained weights: a bundled name ('jaxperturb networks' lists them), a checkpoint folder, or a weight file of "
        f"PyTorch; they bring their network (default: {DEFAULT_WEIGHTS}). For a network of your own also an Orbax "
        "checkpoint, a msgpack file of Flax, or .safetensors.",
        flag_values=values,
    )
    define_own_network(values)


def define_own_network(values: flags.FlagValues) -> None:
    """Adds ``--network``."""
    flags.DEFINE_string(
        "network",
        None,
        "A network of your own, as package.module:function, which is called without arguments and returns a "
        "jaxperturb.Network, or a Linen module where weights are given; or an architecture's name, which the weights "
        "must then be of.",
        flag_values=values,
    )


def define_data(values: flags.FlagValues) -> None:
    """Adds ``--dataset``, ``--split``, ``--data_dir`` and ``--images``."""
    flags.DEFINE_string(
        "dataset", DEFAULT_DATASET, "Labelled images; 'jaxperturb datasets' lists what there is.", flag_values=values
    )
    flags.DEFINE_string("split", None, "Part of the data set (default: its test part).", flag_values=values)
    flags.DEFINE_string("data_dir", None, "Folder where the data set lies, for one that needs it.", flag_values=values)
    flags.DEFINE_integer(
        "images",
        None,
        "Use only this many images, the classes in proportion; a larger number later extends the same study "
        "(default: all).",
        lower_bound=1,
        flag_values=values,
    )


def define_computing(values: flags.FlagValues) -> None:
    """Adds ``--batch_size`` and ``--device``."""
    flags.DEFINE_integer(
        "batch_size",
        1000,
        "Images that are loaded and kept in memory at a time; it changes no result.",
        lower_bound=1,
        flag_values=values,
    )
    define_device(values)


def define_device(values: flags.FlagValues) -> None:
    """Adds ``--device``."""
    flags.DEFINE_enum(
        "device", None, ["cpu", "gpu", "tpu"], "Where to compute (default: the best that is there).", flag_values=values
    )


def define_metric(values: flags.FlagValues) -> None:
    """Adds ``--metric``."""
    flags.DEFINE_enum(
        "metric",
        None,
        ["top1", "top5"],
        "What counts as right in tables and figures: the true class first, or among the first five (default: top5 for "
        "1000 classes, top1 otherwise).",
        flag_values=values,
    )


def define_talking(values: flags.FlagValues) -> None:
    """Adds ``--quiet`` and ``--debug``."""
    flags.DEFINE_bool("quiet", False, "Print results only: no progress, no remarks.", flag_values=values)
    define_debug(values)


def define_debug(values: flags.FlagValues) -> None:
    """Adds ``--debug``."""
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)
