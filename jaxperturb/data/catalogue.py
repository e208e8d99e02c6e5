"""The data sets that can be named: two literal tables, and whatever TensorFlow Datasets knows."""

import os
from collections.abc import Callable, Mapping

from jaxperturb.data.arrays import load_npz
from jaxperturb.data.dataset import Dataset
from jaxperturb.data.digits import load_digits
from jaxperturb.data.folder import load_folder
from jaxperturb.errors import DataError

DATASETS: Mapping[str, tuple[str, Callable[[str | None], Dataset]]] = {
    "digits": ("scikit-learn's handwritten digits, 8 by 8 grey: splits test (500) and train (1,297)", load_digits),
}

# What goes before a colon and a path.
PLACES: Mapping[str, tuple[str, Callable[[str, str | None], Dataset]]] = {
    "folder": (
        "pictures of your own: a folder for each class (named by WordNet ids, words or numbers), or all in one with "
        "--labels_file; --split=val takes PATH/val",
        load_folder,
    ),
    "npz": ("arrays saved by numpy.savez: images and labels, or x_test and y_test with --split=test", load_npz),
}


def datasets() -> dict[str, str]:
    """Returns one line about each data set by its name."""
    places = {f"{kind}:PATH": summary for kind, (summary, _) in PLACES.items()}
    tfds = {"NAME": "any image classification set of TensorFlow Datasets that is prepared: imagenet2012, cifar10, ..."}
    return {name: summary for name, (summary, _) in DATASETS.items()} | places | tfds


def load_dataset(
    name: str,
    split: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    labels_file: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Returns a data set by name.

    Args:
        name: as `datasets` lists them: "digits", "folder:PATH", "npz:PATH", or a set of TensorFlow Datasets.
        split: a part of it; None takes its default, that for testing.
        data_dir: where it lies on disk, for a set of TensorFlow Datasets.
        labels_file: which picture is of which class, for a folder that holds them all.

    Raises:
        DataError: an unknown data set or split, one that is not where it should be, or an option that it does not take.
    """
    kind, colon, path = name.partition(":")
    known_here = name in DATASETS or (colon and kind in PLACES)
    if data_dir is not None and known_here:
        where = "comes with its library" if name in DATASETS else "names its place itself"
        raise DataError(f"{name} {where}; leave out data_dir ({data_dir})")
    if labels_file is not None and kind != "folder":
        raise DataError(f"{name} knows its labels; leave out labels_file ({labels_file}), which is for folder:PATH")
    if name in DATASETS:
        return DATASETS[name][1](split)
    if colon and kind in PLACES:
        if not path:
            raise DataError(f"expected {kind}:PATH, got {name!r}")
        return PLACES[kind][1](path, split) if labels_file is None else load_folder(path, split, labels_file)
    if name.startswith(("/", ".", "~")) or name.endswith(".npz"):
        kind = "npz" if name.endswith(".npz") else "folder"
        raise DataError(f"unknown data set {name!r}; for what lies there, write {kind}:{name}")
    from jaxperturb.data.tfds import load_tfds

    return load_tfds(name, split, data_dir)
