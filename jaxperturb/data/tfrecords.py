"""TFRecord files read without TensorFlow: where each record lies, and its bytes."""

import os
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from jaxperturb.errors import DataError

# A record is a length (8 bytes, little-endian), a checksum of it (4), the bytes, and a checksum of them (4).
_HEAD, _CHECKSUM = 12, 4


@dataclass(frozen=True, slots=True)
class Record:
    """Where one record's bytes lie.

    Attributes:
        path: of its file.
        start: position of its first byte.
        size: number of bytes.
    """

    path: Path
    start: int
    size: int

    def read(self) -> bytes:
        """Returns the record's bytes.

        Raises:
            DataError: the file has changed or cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.start)
                content = file.read(self.size)
        except OSError as error:
            raise DataError(f"cannot read {self.path}: {error}") from None
        if len(content) != self.size:
            raise DataError(f"{self.path} has become shorter while it was read; prepare the data set again")
        return content


def index_records(path: str | os.PathLike[str]) -> list[Record]:
    """Returns the records of one file, found by their lengths alone.

    Raises:
        DataError: the file cannot be read, or its lengths do not end with it.
    """
    path = Path(path)
    records: list[Record] = []
    try:
        with path.open("rb") as file:
            end, place = os.fstat(file.fileno()).st_size, 0
            while place < end:
                file.seek(place)
                head = file.read(_HEAD)
                size = struct.unpack("<Q", head[:8])[0] if len(head) == _HEAD else end
                following = place + _HEAD + size + _CHECKSUM
                if following > end:
                    raise DataError(
                        f"{path} is cut off or damaged at byte {place} of {end}; prepare the data set again"
                    )
                records.append(Record(path, place + _HEAD, size))
                place = following
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from None
    return records


def select_records(parts: Iterable[tuple[str, int, int]]) -> Sequence[Record]:
    """Returns the records of several files, one part of each: (path, how many to skip, how many to take).

    Raises:
        DataError: a file cannot be read, or holds fewer records than are to be taken.
    """
    selected: list[Record] = []
    for path, skip, take in parts:
        found = index_records(path)
        if len(found) < skip + take:
            raise DataError(f"{path} holds {len(found)} records, expected {skip + take}; prepare the data set again")
        selected += found[skip : skip + take]
    return selected
