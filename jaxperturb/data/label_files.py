"""Files that say of which class each picture of a folder is, in the forms in which ILSVRC's are handed round."""

import re
from collections.abc import Sequence
from pathlib import Path

from jaxperturb.data.labels import is_wnid
from jaxperturb.errors import DataError

_ILSVRC_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+")
_META = "meta.mat"


def read_labels(path: Path, files: Sequence[str]) -> tuple[tuple[str, ...], list[int]]:
    """Returns the classes that a file of labels names, and the label of each picture.

    Three forms: Kaggle's ``LOC_val_solution.csv`` and any ``name,label`` or ``name label`` lines, where a name may lack
    its suffix and a label is a WordNet id, a name or a number from 0 (caffe's ``val.txt``); ILSVRC's ground truth, one
    ILSVRC2012_ID per line in the order of the pictures' numbers, with ``meta.mat`` beside it, since these ids are not
    in the order of the WordNet ids.

    Args:
        path: of the file.
        files: names of the pictures.

    Returns:
        Names of all classes in the file, sorted, numbers as numbers; and for each picture the place of its class.

    Raises:
        DataError: it cannot be read, or says nothing of a picture.
    """
    lines = [line.strip() for line in _read_text(path).splitlines()]
    lines = [line for line in lines if line]
    if not lines:
        raise DataError(f"{path} is empty; expected lines such as 'ILSVRC2012_val_00000001.JPEG 65'")
    if all(line.isdecimal() for line in lines):
        texts, all_texts = _ground_truth(path, lines, files)
    else:
        texts, all_texts = _named(path, lines, files)
    numbers = all(text.isdecimal() for text in all_texts)
    classes = sorted({str(int(text)) for text in all_texts}, key=int) if numbers else sorted(all_texts)
    places = {name: place for place, name in enumerate(classes)}
    return tuple(classes), [places[str(int(text)) if numbers else text] for text in texts]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"there is no file of labels {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the file of labels {path} cannot be read: {error}") from None


def _named(path: Path, lines: Sequence[str], files: Sequence[str]) -> tuple[list[str], set[str]]:
    """The label of each picture, and all labels of the file."""
    known = {*files, *(Path(file).stem for file in files)}
    given: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, label = _split_line(line)
        if not name or not label:
            raise DataError(f"{path}, line {number}: expected a picture's name and its label, got {line!r}")
        if number == 1 and name not in known and not (label.isdecimal() or is_wnid(label)):
            continue  # a heading
        if given.setdefault(name, label) != label:
            raise DataError(f"{path}, line {number}: {name} has two labels, {given[name]} and {label}")
    labels = [given.get(file, given.get(Path(file).stem)) for file in files]
    missing = [file for file, label in zip(files, labels, strict=True) if label is None]
    if missing:
        raise DataError(f"{path} has no label for {len(missing)} of {len(files)} pictures, {missing[0]} among them")
    return [label for label in labels if label is not None], set(given.values())


def _split_line(line: str) -> tuple[str, str]:
    """A picture's name and its label: of Kaggle's list of boxes the first word, which all its boxes share."""
    name, comma, rest = line.partition(",")
    if not comma:
        name, _, rest = line.partition("\t") if "\t" in line else line.rpartition(" ")
    words = rest.split()
    label = words[0] if words and is_wnid(words[0]) else rest.strip()
    return Path(name.strip()).name, label


def _ground_truth(path: Path, lines: Sequence[str], files: Sequence[str]) -> tuple[list[str], set[str]]:
    """The WordNet id of each picture, and all of them."""
    matches = [_ILSVRC_NAME.fullmatch(file) for file in files]
    numbers = [int(match[1]) for match in matches if match]
    if len(numbers) < len(files):
        odd = next(file for file, match in zip(files, matches, strict=True) if not match)
        raise DataError(
            f"{path} has one number per line, for pictures called ILSVRC2012_val_00000001.JPEG and so on, not {odd};"
            " give lines with names, 'picture label'"
        )
    if not all(1 <= number <= len(lines) for number in numbers):
        raise DataError(f"{path} has {len(lines)} lines, but there is a picture number {max(numbers)}")
    wnids = _wnids_by_id(path.parent / _META, path)
    unknown = next((line for line in lines if int(line) not in wnids), None)
    if unknown is not None:
        raise DataError(f"{path}: the id {unknown} is not in {_META}")
    return [wnids[int(lines[number - 1])] for number in numbers], set(wnids.values())


def _wnids_by_id(meta: Path, path: Path) -> dict[int, str]:
    """The WordNet id of each of ILSVRC's leaf classes by its ILSVRC2012_ID."""
    from scipy import io

    if not meta.is_file():
        raise DataError(
            f"{path} numbers classes by ILSVRC2012_ID, which are not in the order of the WordNet ids; put the"
            f" development kit's {_META} beside it"
        )
    try:
        rows = io.loadmat(meta, squeeze_me=True, struct_as_record=True)["synsets"]
        return {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in rows if int(row["num_children"]) == 0}
    except Exception as error:  # SciPy raises whatever a damaged file makes it stumble over
        raise DataError(f"{meta} cannot be read ({' '.join(str(error).split())}); fetch it again") from error
