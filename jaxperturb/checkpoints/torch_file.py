"""Reads weight files of PyTorch and safetensors into NumPy arrays, without PyTorch; nothing in them is run."""

import mmap
import os
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import EllipsisType

import numpy as np

from jaxperturb.checkpoints.contents import collect
from jaxperturb.checkpoints.legacy_container import is_legacy, read_legacy
from jaxperturb.checkpoints.pickle_names import STATE_DICT_ONLY, interpret_saved, storage_of
from jaxperturb.checkpoints.safetensors_container import is_safetensors, read_safetensors
from jaxperturb.checkpoints.stored import Segment, Storage, StoredTensor, scalar_text
from jaxperturb.checkpoints.zip_container import TRUNCATED, member_bytes, zip_entries, zip_members
from jaxperturb.errors import CheckpointError, did_you_mean

MAX_PICKLE = 16 << 20
BLOCK = 8 << 20

FOREIGN = (
    (b"version https://git-lfs", "it is a pointer of Git LFS, not the file itself; fetch it with `git lfs pull`"),
    (b"<", "it is a web page, not weights; the download went wrong, get it again"),
    (b"\x89HDF\r\n", "it is an HDF5 file (Keras); only PyTorch and safetensors files are read"),
    (b"\x93NUMPY", "it is a NumPy array; only PyTorch and safetensors files are read"),
    (b"\x1f\x8b", "it is compressed with gzip; unpack it first"),
)


@dataclass(frozen=True)
class WeightsFile:
    """An open weight file: what is in it is known at once, values are read on request.

    Attributes:
        path: the file.
        container: "zip", "legacy" or "safetensors".
        tensors: each tensor's shape, element type and place, by name: the path of keys joined by "/".
        content: what the file holds: plain dictionaries, lists, tuples, texts, numbers, and `StoredTensor` for tensors.
        metadata: the remarks of a safetensors file.
    """

    path: Path
    container: str
    tensors: Mapping[str, StoredTensor]
    content: object
    _data: mmap.mmap = field(repr=False, compare=False)
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names, in the order of the file."""
        return tuple(self.tensors)

    def read(self, name: str) -> np.ndarray:
        """Returns one tensor as a fresh array, row-major and in this machine's byte order.

        Raises:
            CheckpointError: there is no such tensor, or its bytes do not fit the file's checksum.
        """
        stored = self._stored(name)
        array = np.empty(stored.shape, stored.dtype)
        for rows, block in self.blocks(name):
            array[rows] = block
        return array

    def blocks(self, name: str, rows: int | None = None) -> Iterator[tuple[slice | EllipsisType, np.ndarray]]:
        """Yields one tensor in pieces along its first axis, so that no second copy of a large one is needed.

        Args:
            name: a tensor.
            rows: length of a piece along the first axis; None takes pieces of about 8 MiB.

        Yields:
            The rows (or ``...`` for a tensor without axes), and a view of them that is valid until the next piece.

        Raises:
            CheckpointError: there is no such tensor, or its bytes do not fit the file's checksum. This may show only
                after the last piece.
        """
        stored = self._stored(name)
        if stored.fills_segment and stored.shape:
            yield from self._checked_pieces(stored, rows)
            return
        self._verify(stored)
        if stored.size and not stored.shape:
            yield ..., self._view(stored)
        elif stored.size:
            yield from self._pieces(stored, rows)

    def _checked_pieces(self, stored: StoredTensor, rows: int | None) -> Iterator[tuple[slice, np.ndarray]]:
        # One pass for values and checksum: going through a large file twice takes twice as long.
        crc = 0
        for part, block in self._pieces(stored, rows):
            if stored.segment.crc is not None:
                crc = zlib.crc32(block.reshape(-1).view(np.uint8).data, crc)
            yield part, block
        self._check_crc(stored, crc)

    def _pieces(self, stored: StoredTensor, rows: int | None) -> Iterator[tuple[slice, np.ndarray]]:
        whole = self._view(stored)
        rows = rows or max(1, BLOCK // max(1, stored.nbytes // stored.shape[0]))
        for start in range(0, stored.shape[0], rows):
            part = slice(start, min(start + rows, stored.shape[0]))
            yield part, whole[part]
            self._release(stored.segment)

    def _stored(self, name: str) -> StoredTensor:
        if name not in self.tensors:
            raise CheckpointError(f"{self.path} has no tensor {name!r}{did_you_mean(name, self.tensors)}")
        return self.tensors[name]

    def _view(self, stored: StoredTensor) -> np.ndarray:
        if not stored.swapped:
            return np.ndarray(stored.shape, stored.dtype, self._data, stored.start, stored.strides)
        # Types of ml_dtypes (kind V) know no byte order; integers of their size do.
        carrier = np.dtype(f"u{stored.dtype.itemsize}") if stored.dtype.kind == "V" else stored.dtype
        raw = np.ndarray(stored.shape, carrier.newbyteorder(), self._data, stored.start, stored.strides)
        return raw.astype(carrier).view(stored.dtype)

    def _verify(self, stored: StoredTensor) -> None:
        segment = stored.segment
        if segment.crc is None:
            return
        crc, stop = 0, segment.start + segment.size
        with memoryview(self._data) as data:
            for start in range(segment.start, stop, BLOCK):
                with data[start : min(start + BLOCK, stop)] as piece:
                    crc = zlib.crc32(piece, crc)
                self._release(Segment(start, BLOCK))
        self._check_crc(stored, crc)

    def _check_crc(self, stored: StoredTensor, crc: int) -> None:
        if stored.segment.crc not in (None, crc):
            raise CheckpointError(f"{self.path}: the checksum of {stored.name} does not fit; {TRUNCATED}")

    def _release(self, segment: Segment) -> None:
        """Gives the pages back: they stay in the system's cache, but no longer count as this process's memory."""
        if isinstance(self._data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED") and segment.size >= BLOCK // 8:
            start = segment.start // mmap.PAGESIZE * mmap.PAGESIZE
            length = min(segment.start + segment.size, len(self._data)) - start
            self._data.madvise(mmap.MADV_DONTNEED, start, length)


def open_weights(path: str | os.PathLike[str]) -> WeightsFile:
    """Opens a `.pth`, `.pt` or `.safetensors` file; the kind is seen from the contents, not from the name.

    Nothing in the file is run or imported, and no tensor is read yet. The file is memory-mapped: do not change it while
    the result is in use.

    Raises:
        CheckpointError: the file is missing, damaged, hostile, or of another kind; the message says which, and how to
            save it again.
    """
    path = Path(path).expanduser()
    data = _map(path)
    try:
        return _read(path, data)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _map(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise CheckpointError(f"{path}: it is empty; get it again")
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise CheckpointError(f"{path}: cannot be opened ({reason}); give the path of a weight file") from error


def _read(path: Path, data: mmap.mmap) -> WeightsFile:
    head = data[:512]
    if head.startswith(b"PK"):
        return _read_zip(path, data)
    if is_legacy(head):
        value, segments = read_legacy(data)
        tensors, content = collect(value, lambda storage: segments[storage.key], swapped=sys.byteorder == "big")
        return WeightsFile(path, "legacy", tensors, content, data)
    if is_safetensors(head, len(data)):
        stored, remarks = read_safetensors(path, data)
        return WeightsFile(path, "safetensors", stored, dict(stored), data, remarks)
    raise CheckpointError(_foreign(head))


def _foreign(head: bytes) -> str:
    for signature, reason in FOREIGN:
        if head.lstrip().startswith(signature):
            return reason
    if head[257:262] == b"ustar" or head.startswith(b"sys_info\0"):
        return f"it is in the tar container of before 2017; open it once in PyTorch and {STATE_DICT_ONLY}"
    if head[:1] == b"\x80":
        return f"it is a pickle, but not one of torch.save; open it with what wrote it and {STATE_DICT_ONLY}"
    return "it is neither a PyTorch nor a safetensors file; give the path of a weight file"


def _read_zip(path: Path, data: mmap.mmap) -> WeightsFile:
    entries, end = zip_entries(data)
    root = _root([entry.name for entry in entries])
    members = zip_members(data, entries, end)
    order = _byte_order(data, members.get(f"{root}/byteorder"))
    pickle = member_bytes(data, members[f"{root}/data.pkl"], MAX_PICKLE, "data.pkl")
    value, _ = interpret_saved(pickle, 0, storage_of)

    def place(storage: Storage) -> Segment:
        segment = members.get(f"{root}/data/{storage.key}")
        if segment is None:
            raise CheckpointError(f"it lacks the storage {scalar_text(storage.key)}; {TRUNCATED}")
        if segment.size != storage.size:
            raise CheckpointError(
                f"the storage {scalar_text(storage.key)} has {segment.size} bytes, expected {storage.size}; {TRUNCATED}"
            )
        return segment

    tensors, content = collect(value, place, swapped=order != sys.byteorder)
    return WeightsFile(path, "zip", tensors, content, data)


def _root(members: Sequence[str]) -> str:
    roots = {name.removesuffix("/data.pkl") for name in members if name.count("/") == 1 and name.endswith("/data.pkl")}
    if any("/code/" in name or name.endswith(("/constants.pkl", "/model.json")) for name in members):
        raise CheckpointError(
            "it is a TorchScript archive, a program with weights; "
            're-save in PyTorch with torch.save(torch.jit.load(path).state_dict(), "new.pth")'
        )
    if len(roots) != 1:
        raise CheckpointError(f"it is a zip archive, but not one of torch.save (no data.pkl); {STATE_DICT_ONLY}")
    return roots.pop()


def _byte_order(data: mmap.mmap, segment: Segment | None) -> str:
    if segment is None:
        return "little"
    order = member_bytes(data, segment, 6, "byteorder").decode("latin-1")
    if order not in ("little", "big"):
        raise CheckpointError(f"its byte order is {order!r}, expected little or big; {TRUNCATED}")
    return order
