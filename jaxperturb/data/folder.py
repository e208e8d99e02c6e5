"""Folders of pictures: one folder per class, or all in one with a file of labels, like ILSVRC's validation part."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from jaxperturb.data.dataset import Dataset, Image
from jaxperturb.data.label_files import read_labels
from jaxperturb.data.pictures import SUFFIXES, file_digest, read_picture
from jaxperturb.errors import DataError, did_you_mean

_SPLITS = ("test", "val", "validation", "valid", "train")


def load_folder(
    path: str | os.PathLike[str], split: str | None = None, labels_file: str | os.PathLike[str] | None = None
) -> Dataset:
    """Returns the pictures of a folder.

    Without a file of labels each sub-folder is a class, named and numbered as torchvision's ImageFolder does (sorted by
    name, folders within it searched too), but for names that are all numbers: these are class numbers, sorted as such.
    With one, all pictures in the folder count.

    Args:
        path: the folder that holds the classes, or one folder for each split.
        split: a sub-folder of it.
        labels_file: Kaggle's ``LOC_val_solution.csv``, caffe's ``val.txt``, ILSVRC's ground truth with ``meta.mat``
            beside it, or any ``name,label`` lines; a label is a WordNet id, a name, or a number from 0.

    Raises:
        DataError: there is no such folder, it holds no pictures, or a picture has no label.
    """
    root, name, split = _find(Path(path), split, labels_file is not None)
    if labels_file is None:
        classes, found = _classes_and_files(root)
        files = [file for file, _ in found]
        labels = [label for _, label in found]
    else:
        files = [Path(entry.name) for entry in sorted(root.iterdir()) if _is_picture(entry.name)]
        _check_any(files, root, "")
        classes, labels = read_labels(Path(labels_file), [file.name for file in files])
    pictures = _Pictures(root, tuple(files))
    return Dataset(
        name=name,
        split=split,
        classes=classes,
        labels=np.asarray(labels, np.int32),
        identifiers=tuple(file.as_posix() for file in files),
        read=pictures.read,
        digest=pictures.digest,
    )


@dataclasses.dataclass(frozen=True)
class _Pictures:
    root: Path
    files: tuple[Path, ...]

    def read(self, i: int) -> Image:
        return read_picture(self.root / self.files[i])

    def digest(self, i: int) -> str:
        return file_digest(self.root / self.files[i])


def _find(path: Path, split: str | None, flat: bool) -> tuple[Path, str, str]:
    """The folder to read, and what to call set and split; the same whether the split is part of the path or not."""
    path = path.expanduser()
    if not path.is_dir():
        what = "is a file, not a folder" if path.exists() else "is not there"
        raise DataError(f"{path} {what}; give the folder that holds a folder of pictures for each class")
    known = [folder.name for folder in _folders(path)]
    if split is not None:
        if split not in known:
            raise DataError(f"{path} has no folder {split!r}{did_you_mean(split, known)}")
        return path / split, path.resolve().name or "folder", split
    if known and not flat and set(known) <= set(_SPLITS):
        raise DataError(f"{path} holds splits ({', '.join(known)}), not classes; name one with --split={known[0]}")
    resolved = path.resolve()
    if resolved.name in _SPLITS and resolved.parent.name:
        return path, resolved.parent.name, resolved.name
    return path, resolved.name or "folder", ""


def _classes_and_files(root: Path) -> tuple[tuple[str, ...], list[tuple[Path, int]]]:
    names = [folder.name for folder in _folders(root)]
    if not names:
        flat = any(_is_picture(entry.name) for entry in root.iterdir())
        raise DataError(
            f"{root} holds pictures but no folders for classes; put them into a folder for each class, or give"
            " --labels_file=FILE"
            if flat
            else f"{root} holds no folders of pictures; give the folder that holds a folder for each class"
        )
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
        if len({int(name) for name in names}) < len(names):
            raise DataError(f"two folders of {root} are the same class number but for leading zeros")
    found = [(file, label) for label, name in enumerate(names) for file in _pictures_below(root, name)]
    _check_any([file for file, _ in found], root, " in its folders")
    return tuple(names), found


def _folders(root: Path) -> list[Path]:
    # Hidden folders are the system's, such as .ipynb_checkpoints.
    return sorted(entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _pictures_below(root: Path, name: str) -> Iterator[Path]:
    for place, _, files in sorted(os.walk(root / name, followlinks=True)):
        for file in sorted(files):
            if _is_picture(file):
                yield (Path(place) / file).relative_to(root)


def _is_picture(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")


def _check_any(files: list[Path], root: Path, where: str) -> None:
    if not files:
        raise DataError(f"{root} holds no pictures{where} ({' '.join(SUFFIXES)})")
