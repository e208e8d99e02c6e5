"""The data sets that are known by name: one literal table."""

import os
from collections.abc import Callable, Mapping

from jaxperturb.data.dataset import Dataset
from jaxperturb.data.digits import load_digits
from jaxperturb.errors import DataError, did_you_mean

DATASETS: Mapping[str, tuple[str, Callable[[str | None], Dataset]]] = {
    "digits": ("scikit-learn's handwritten digits, 8 by 8 grey: splits test (500) and train (1,297)", load_digits),
}


def datasets() -> dict[str, str]:
    """Returns one line about each data set by its name."""
    return {name: summary for name, (summary, _) in DATASETS.items()}


def load_dataset(name: str, split: str | None = None, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Returns a data set by name.

    Args:
        name: a key of `datasets`.
        split: a part of it; None takes its default, that for testing.
        data_dir: where it lies on disk, for those that do not come with a library.

    Raises:
        DataError: an unknown data set or split, or a place for one that needs none.
    """
    if name not in DATASETS:
        raise DataError(f"unknown data set {name!r}{did_you_mean(name, DATASETS)} (known: {', '.join(DATASETS)})")
    if data_dir is not None:
        raise DataError(f"{name} comes with its library and is read from no folder; leave out data_dir ({data_dir})")
    return DATASETS[name][1](split)
