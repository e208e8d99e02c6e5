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
        "jaxperturb.Network, or a module of Linen, NNX or Equinox where weights are given; or an architecture's name, "
        "which the weights must then be of.",
        flag_values=values,
    )


def define_data(values: flags.FlagValues) -> None:
    """Adds ``--dataset`` with what belongs to it, ``--images`` and ``--preprocessing``."""
    flags.DEFINE_string(
        "dataset",
        DEFAULT_DATASET,
        "Labelled images: folder:PATH, npz:PATH, or a name; 'jaxperturb datasets' lists what there is.",
        flag_values=values,
    )
    flags.DEFINE_string("split", None, "Part of the data set (default: its test part).", flag_values=values)
    flags.DEFINE_string("data_dir", None, "Folder where the data set lies, for one that needs it.", flag_values=values)
    flags.DEFINE_string(
        "labels_file",
        None,
        "For folder:PATH with all pictures in one folder: which is of which class (Kaggle's LOC_val_solution.csv, "
        "caffe's val.txt, ILSVRC's ground truth with meta.mat beside it, or lines 'picture,label').",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "images",
        None,
        "Use only this many images, the classes in proportion; a larger number later extends the same study "
        "(default: all).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "on_bad_image",
        "raise",
        ["raise", "skip"],
        "What to do with an image that cannot be read: stop, or leave it out and list it.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "preprocessing",
        None,
        "How pictures become the network's inputs, where it does not say so itself or you know better: imagenet, none, "
        "or fields such as 'resize=256;crop=224;mean=0.5;std=0.5;channels=BGR;interpolation=bicubic'.",
        flag_values=values,
    )
    define_classes(values)


def define_classes(values: flags.FlagValues) -> None:
    """Adds ``--classes`` and ``--restrict_classes``."""
    flags.DEFINE_string(
        "classes",
        None,
        "File of lines 'class of the data set,class of the network' (a name, a WordNet id or a number), for classes "
        "that are not matched by themselves.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "restrict_classes",
        False,
        "Score images among the data set's classes alone, not among all that the network knows.",
        flag_values=values,
    )


def define_computing(values: flags.FlagValues) -> None:
    """Adds ``--batch_size``, ``--precision``, ``--convolutions`` and ``--device``."""
    flags.DEFINE_integer(
        "batch_size",
        1000,
        "Images that are loaded and kept in memory at a time; it changes no result.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "precision",
        "float32",
        ["float32", "tf32", "bfloat16", "float16"],
        "Numbers to compute in; others than float32 only on a GPU or TPU that gains by them.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "convolutions",
        "auto",
        ["auto", "xla", "winograd"],
        "Algorithm of convolutions: the fastest here, XLA's own, or Winograd's wherever it can be used.",
        flag_values=values,
    )
    define_device(values)


def define_lesioning(values: flags.FlagValues) -> None:
    """Adds ``--masks_per_call``, ``--memory_gb`` and ``--devices``."""
    flags.DEFINE_integer(
        "masks_per_call",
        0,
        "Lesions to compute at once, on each device (default: what suits it; on a CPU one after another).",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_float(
        "memory_gb",
        None,
        "GiB that the process, or on a GPU or TPU the device, may take; it changes no result (default: half of what is "
        "free).",
        lower_bound=0.1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "devices",
        None,
        "Use at most so many of this machine's devices; it changes no result (default: all).",
        lower_bound=1,
        flag_values=values,
    )


def define_cluster(values: flags.FlagValues) -> None:
    """Adds ``--cluster`` and ``--cpus_per_worker``."""
    flags.DEFINE_string(
        "cluster",
        None,
        "Give the work to several processes through Ray: 'auto' for those of this machine, or HOST:PORT to join a Ray "
        'that runs on several. They change no result. Needs pip install "jaxperturb[ray]".',
        flag_values=values,
    )
    flags.DEFINE_integer(
        "cpus_per_worker",
        None,
        "Processors for each of these (default: 2, or half of a machine that has fewer than 4). On GPUs each has one.",
        lower_bound=1,
        flag_values=values,
    )


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
        ["top1", "top5", "balanced"],
        "What counts as right in tables and figures: the true class first, or among the first five, or first with all "
        "classes weighed alike (default: top5 for 1000 classes, top1 otherwise).",
        flag_values=values,
    )


def define_talking(values: flags.FlagValues) -> None:
    """Adds ``--quiet`` and ``--debug``."""
    flags.DEFINE_bool("quiet", False, "Print results only: no progress, no remarks.", flag_values=values)
    define_debug(values)


def define_debug(values: flags.FlagValues) -> None:
    """Adds ``--debug``."""
    flags.DEFINE_bool("debug", False, "Show the traceback of an error.", flag_values=values)


def define_half_width(values: flags.FlagValues) -> None:
    """Adds ``--half_width``, ``--half_width_of`` and ``--max_draws``."""
    flags.DEFINE_float(
        "half_width",
        None,
        "Wanted half-width of each level's 95 % interval, such as 0.02: the study chooses its draws and images itself, "
        "layer by layer, after a first look at --draws draws (5 or more) on 512 images.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "half_width_of",
        "accuracy",
        ["accuracy", "relative"],
        "Of the accuracy itself, or of that relative to the reference network's.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_draws", 20, "No more draws than these for --half_width.", lower_bound=1, flag_values=values
    )
