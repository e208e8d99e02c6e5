"""Image-classification sets of TensorFlow Datasets, read from disk without TensorFlow."""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxperturb.data.dataset import Dataset
from jaxperturb.data.pictures import decode_picture
from jaxperturb.data.tfrecords import Record, select_records
from jaxperturb.errors import DataError, did_you_mean

Example = Mapping[str, Any]
Examples = Callable[[list[int]], list[Example]]
_PREFERRED_SPLITS = ("test", "validation")
_IDENTIFYING = ("id", "file_name")
_AT_ONCE = 1000


def load_tfds(name: str, split: str | None = None, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Returns a prepared set of TensorFlow Datasets; nothing is downloaded.

    Sets kept as array_record or as TFRECORD are read, neither with TensorFlow. Each record is read once here, for its
    label; images are decoded when they are asked for.

    Args:
        name: as in TensorFlow Datasets: "cifar10", "imagenet_v2/matched-frequency", "cifar10:3.0.2".
        split: such as "test" or "train[:1000]"; by default the test split, else the validation split.
        data_dir: the folder under which the sets lie; by default that of TensorFlow Datasets.

    Raises:
        DataError: an unknown set or split, one that is not prepared, damaged, or not of labelled images.
    """
    builder = _prepared(name, data_dir)
    image, label = _features(builder)
    split = _default_split(builder, image, label) if split is None else split
    examples, count = _open(builder, split, image)
    if _is_unlabelled(examples, label):
        raise DataError(f"the split {split!r} of {builder.name} has no labels; it has {', '.join(builder.info.splits)}")
    labels, identifiers = _scan(examples, count, (builder.name, split), label)
    return Dataset(
        name=builder.name,
        split=split,
        classes=tuple(builder.info.features[label].names or map(str, range(builder.info.features[label].num_classes))),
        labels=labels,
        identifiers=identifiers,
        read=lambda i: decode_picture(_encoded(examples, image, i), identifiers[i]),
        digest=lambda i: hashlib.sha256(_encoded(examples, image, i)).hexdigest(),
    )


def prepare_tfds(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Downloads a set and prepares it as array_record, which is read without TensorFlow.

    Args:
        name: as in `load_tfds`.
        data_dir: where to put it.

    Returns:
        The folder that holds it.

    Raises:
        DataError: an unknown set, or one that cannot be prepared here: no connection, a library that its own code
            needs, files that must be fetched by hand.
    """
    import tensorflow_datasets as tfds

    _check_known(name)
    try:
        builder = tfds.builder(name, data_dir=_text(data_dir), file_format="array_record")
        builder.download_and_prepare(file_format="array_record")
    except (ImportError, tfds.core.DatasetNotFoundError) as error:
        raise DataError(
            f"{name} cannot be prepared here: {_first_line(error)}; install what is missing (often: pip install"
            " tensorflow) and prepare it again: reading it will not need that"
        ) from None
    except Exception as error:  # each set runs its own code, and fails in its own way
        raise DataError(
            f"{name} could not be prepared: {type(error).__name__}: {_first_line(error)}"
            f" (see https://www.tensorflow.org/datasets/catalog/{_base(name)})"
        ) from error
    return Path(builder.data_path)


def _prepared(name: str, data_dir: str | os.PathLike[str] | None) -> Any:
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import read_only_builder

    if data_dir is not None and not Path(data_dir).is_dir():
        raise DataError(f"there is no folder {data_dir}; give as data_dir the one under which {name} is prepared")
    try:
        return read_only_builder.builder_from_files(name, data_dir=_text(data_dir))
    except tfds.core.DatasetNotFoundError:
        _check_known(name)
        where = "" if data_dir is None else f" --data_dir={data_dir}"
        place = data_dir or "the folder of TensorFlow Datasets"
        raise DataError(
            f"{name} is not prepared in {place}; give the right --data_dir, or prepare it (this downloads it):"
            f" jaxperturb datasets --prepare={name}{where}"
        ) from None
    except (ValueError, OSError, KeyError) as error:
        raise DataError(f"cannot read {name}: {_first_line(error)}; prepare it again") from None


def _check_known(name: str) -> None:
    import tensorflow_datasets as tfds

    known = tfds.list_builders(with_community_datasets=False)
    if _base(name) not in known:
        raise DataError(
            f"unknown data set {name!r}{did_you_mean(_base(name), [*known, 'digits'])}"
            " (known: digits, and the sets of TensorFlow Datasets)"
        )


def _base(name: str) -> str:
    return name.partition("/")[0].partition(":")[0]


def _text(path: str | os.PathLike[str] | None) -> str | None:
    return None if path is None else os.fspath(path)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _features(builder: Any) -> tuple[str, str]:
    """Returns the names of the image and of its label."""
    import tensorflow_datasets as tfds

    features, keys = builder.info.features, builder.info.supervised_keys
    candidates = keys if keys and all(isinstance(key, str) for key in keys) else tuple(features)
    images = [key for key in candidates if isinstance(features[key], tfds.features.Image)]
    labels = [key for key in candidates if isinstance(features[key], tfds.features.ClassLabel)]
    if len(images) != 1 or len(labels) != 1:
        raise DataError(f"{builder.name} does not hold images with one label each: its features are {list(features)}")
    return images[0], labels[0]


def _default_split(builder: Any, image: str, label: str) -> str:
    known = list(builder.info.splits)
    for split in (name for name in _PREFERRED_SPLITS if name in known):
        # ILSVRC's test images, among others, are published without their classes.
        if not _is_unlabelled(_open(builder, split, image)[0], label):
            return split
    return known[-1]


def _is_unlabelled(examples: Examples, label: str) -> bool:
    return int(examples([0])[0][label]) < 0


def _check_split(builder: Any, split: str) -> None:
    known = list(builder.info.splits)
    try:
        count = builder.info.splits[split].num_examples
    except (ValueError, KeyError, AssertionError):
        hint = did_you_mean(split, known)
        raise DataError(
            f"{builder.name} has no split {split!r}{hint}; it has {', '.join(known)}, and parts such as"
            f" {known[0]}[:100]"
        ) from None
    if count == 0:
        raise DataError(f"the split {split!r} of {builder.name} has no images")


def _open(builder: Any, split: str, image: str) -> tuple[Examples, int]:
    """Returns a function that gives the examples at some positions, images encoded, and how many there are."""
    import tensorflow_datasets as tfds

    _check_split(builder, split)
    decoders = {image: tfds.decode.SkipDecoding()}
    place, stored = str(builder.data_path), builder.info.file_format
    if stored is tfds.core.FileFormat.TFRECORD:
        parts = [(i.filename, i.skip, i.take) for i in builder.info.splits[split].file_instructions]
        records = select_records(parts)
        features = builder.info.features
        read = functools.partial(_from_records, records, features, decoders)
        return functools.partial(_examples, read, place), len(records)
    if stored not in tfds.core.FileFormat.with_random_access():
        raise DataError(
            f"{builder.name} is kept as {stored.value}, which is not read here; convert it: tfds convert_format"
            f" --dataset_dir={place} --out_file_format=array_record --out_path={place}"
        )
    try:
        source = builder.as_data_source(split, decoders=decoders)
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"cannot open {place}: {_first_line(error)}; prepare it again") from None
    return functools.partial(_examples, source.__getitems__, place), len(source)


def _from_records(records: Sequence[Record], features: Any, decoders: Any, positions: list[int]) -> list[Example]:
    return [features.deserialize_example_np(records[i].read(), decoders=decoders) for i in positions]


def _examples(read: Examples, place: str, positions: list[int]) -> list[Example]:
    try:
        return read(positions)
    except DataError:
        raise
    except Exception as error:  # the readers below raise whatever a damaged record makes them stumble over
        raise DataError(f"{place} is damaged ({_first_line(error)}); prepare it again") from error


def _scan(
    examples: Examples, count: int, names: tuple[str, str], label: str
) -> tuple[Int32[np.ndarray, " n"], tuple[str, ...]]:
    """Returns labels and identifiers: what the set calls an image, else its place in the split."""
    name, split = names
    labels = np.empty(count, np.int32)
    identifiers: list[str] = []
    for place, example in enumerate(_each(examples, count)):
        labels[place] = example[label]
        own = next((example[key] for key in _IDENTIFYING if key in example), f"{split}/{place}")
        identifiers.append(f"{name}/{own.decode() if isinstance(own, bytes) else own}")
    return labels, tuple(identifiers)


def _each(examples: Examples, count: int) -> Iterator[Example]:
    for start in range(0, count, _AT_ONCE):
        yield from examples(list(range(start, min(start + _AT_ONCE, count))))


def _encoded(examples: Examples, image: str, position: int) -> bytes:
    return examples([position])[0][image]
