"""A file that is still coming: its bytes so far, and their SHA-256 so far."""

import contextlib
import hashlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from jaxperturb.checkpoints.cache import VARIABLE
from jaxperturb.errors import CheckpointError, OutputError


@dataclass(frozen=True)
class Expected:
    """What a file must be.

    Attributes:
        digest: the hexadecimal digits that its SHA-256 begins with: all 64, or the first.
        smallest: bytes that it has at least.
        largest: bytes that it has at most.
    """

    digest: str
    smallest: int
    largest: int

    @property
    def size(self) -> int | None:
        """Its exact number of bytes, if known."""
        return self.smallest if self.smallest == self.largest else None

    def takes(self, size: int) -> bool:
        """Returns whether the file may have so many bytes."""
        return self.smallest <= size <= self.largest


def check_file(path: Path, expected: Expected) -> None:
    """Reads a file and holds it against what it must be.

    Raises:
        CheckpointError: it is another file, or cannot be read.
    """
    try:
        size = path.stat().st_size
        if not expected.takes(size):
            raise CheckpointError(
                f"{path} has {size:,} bytes, expected {sizes(expected)}; remove it, or put the right file there"
            )
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path} ({error.strerror or error}); remove it, or put the right file there"
        ) from None
    if not found.startswith(expected.digest):
        raise CheckpointError(
            f"{path} is not the file of its name: {digests(found, expected)}; remove it, or put the right file there"
        )


def sizes(expected: Expected) -> str:
    """Says how many bytes are expected."""
    return f"{expected.smallest:,}" if expected.size else f"{expected.smallest:,} to {expected.largest:,}"


def digests(found: str, expected: Expected) -> str:
    """Says how a SHA-256 differs from the expected one."""
    return f"its SHA-256 begins with {found[:8]}, expected {expected.digest[:8]}"


class Partial:
    """The bytes of a file that came so far, on disk, and their hash, which grows with them.

    Attributes:
        path: where they are.
        expected: what the whole must be.
        size: number of bytes so far.
        resumed: whether they come from more than one answer of a server.
    """

    def __init__(self, path: Path, file: io.BufferedRandom, expected: Expected) -> None:
        self.path = path
        self.expected = expected
        self._file = file
        file.seek(0)
        self._hash = hashlib.file_digest(file, "sha256")
        self.size = file.tell()
        self.resumed = self.size > 0

    @property
    def digest(self) -> str:
        """The SHA-256 of the bytes so far, in hexadecimal."""
        return self._hash.hexdigest()

    @property
    def is_right(self) -> bool:
        """Whether it is the whole file, and the right one."""
        return self.expected.takes(self.size) and self.digest.startswith(self.expected.digest)

    def add(self, block: bytes) -> None:
        """Writes more bytes.

        Raises:
            OutputError: the disk is full, or failed.
        """
        with _writing(self.path):
            self._file.write(block)
            self._file.flush()
        self._hash.update(block)
        self.size += len(block)

    def restart(self) -> None:
        """Drops all bytes."""
        with _writing(self.path):
            self._file.truncate(0)
        self._hash, self.size, self.resumed = hashlib.sha256(), 0, False

    def sync(self) -> None:
        """Returns when the bytes are on the disk itself, so that a rename after a power cut names no empty file."""
        with _writing(self.path):
            os.fsync(self._file.fileno())


@contextlib.contextmanager
def open_partial(path: Path, expected: Expected) -> Iterator[Partial]:
    """Opens the bytes that came before, if any; those that are there when the block ends stay, however it ends.

    Raises:
        OutputError: the file cannot be made.
    """
    try:
        with contextlib.ExitStack() as stack:
            with _writing(path):
                partial = Partial(path, stack.enter_context(path.open("a+b")), expected)
            yield partial
    finally:
        with _writing(path):
            if path.exists() and not path.stat().st_size:
                path.unlink()


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise OutputError(f"cannot write {path} ({reason}); make room, or set {VARIABLE} to another folder") from None
