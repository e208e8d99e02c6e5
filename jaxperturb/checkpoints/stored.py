"""Where a tensor lies in a weight file, checked against its storage before any memory is taken."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import ml_dtypes
import numpy as np

from jaxperturb.errors import CheckpointError

MAX_DIMENSIONS = 32
# A tensor may repeat its storage (stride 0, overlapping windows), but not so that a small file asks for terabytes.
MAX_REPEATED_BYTES = 1 << 24

# PyTorch's names of the element types that NumPy, with ml_dtypes, knows.
DTYPES = {
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "complex64": np.dtype(np.complex64),
    "complex128": np.dtype(np.complex128),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "uint64": np.dtype(np.uint64),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
}


@dataclass(frozen=True, slots=True)
class Segment:
    """The bytes of one storage in the file.

    Attributes:
        start: position of the first byte.
        size: number of bytes.
        crc: the CRC-32 that the container states, or None where it states none.
    """

    start: int
    size: int
    crc: int | None = None


@dataclass(frozen=True, slots=True)
class Storage:
    """A storage as the pickle names it: `count` elements of `dtype` (None: bytes), from element `first` of `key`."""

    key: str
    dtype: np.dtype | None
    count: int
    first: int = 0

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.count * (1 if self.dtype is None else self.dtype.itemsize)


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as the pickle names it; `offset` and `strides` count elements. Made by `tensor_ref`, which checks."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a weight file, known without reading its values.

    Attributes:
        name: the path of keys that leads to it, joined by "/".
        shape: its axes.
        dtype: element type, in this machine's byte order.
        strides: bytes from one element to the next along each axis.
        start: position in the file of its first element.
        segment: the storage that holds it.
        swapped: whether the file's byte order is not this machine's.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    strides: tuple[int, ...]
    start: int
    segment: Segment
    swapped: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of a contiguous copy."""
        return self.size * self.dtype.itemsize

    @property
    def fills_segment(self) -> bool:
        """Whether the tensor is its whole storage, row-major and in this machine's byte order."""
        ordered = self.strides == contiguous_strides(self.shape, self.dtype.itemsize)
        return ordered and 0 < self.nbytes == self.segment.size and not self.swapped


def tensor_ref(storage: Storage, dtype: np.dtype, offset: object, shape: object, strides: object) -> TensorRef:
    """Returns the tensor if all its elements lie in its storage.

    Raises:
        CheckpointError: an element would lie outside, or the tensor would repeat its storage into more than 16 MiB.
    """
    shape, strides = _counts(shape, "shape"), _counts(strides, "strides")
    if len(shape) != len(strides):
        raise CheckpointError(f"a tensor has {len(shape)} axes and {len(strides)} strides; the file is damaged")
    if not isinstance(offset, int) or isinstance(offset, bool) or offset < 0:
        raise CheckpointError(f"a tensor starts at {scalar_text(offset)} in its storage; the file is damaged")
    elements, available = math.prod(shape), storage.size // dtype.itemsize
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    if elements and last >= available:
        raise CheckpointError(
            f"a tensor of shape {list(shape)} reaches element {last} of a storage of {available}; the file is damaged"
        )
    _check_size(shape, elements, available, dtype)
    return TensorRef(storage, dtype, offset, shape, strides)


def contiguous_strides(shape: Iterable[int], itemsize: int) -> tuple[int, ...]:
    """Returns the strides, in bytes, of a row-major array."""
    strides = [itemsize]
    for n in reversed(tuple(shape)):
        strides.append(strides[-1] * max(1, n))
    return tuple(reversed(strides[:-1]))


def brief(text: str, limit: int = 80) -> str:
    """Returns the text on one line and shortened: what a hostile file says may be long."""
    text = text[: limit + 1]
    text = text if text.isprintable() else repr(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def scalar_text(value: object) -> str:
    """Returns the text of a plain value, and of anything else its type: the text of nested lists can be endless."""
    if isinstance(value, str | bytes):
        return brief(repr(value[:80]))
    return repr(value) if value is None or isinstance(value, int | float) else f"a {type(value).__name__}"


def _check_size(shape: tuple[int, ...], elements: int, available: int, dtype: np.dtype) -> None:
    if elements > available and elements * dtype.itemsize > MAX_REPEATED_BYTES:
        raise CheckpointError(
            f"a tensor of shape {list(shape)} repeats a storage of {available} elements; "
            "re-save it in PyTorch with .contiguous()"
        )
    # NumPy multiplies the axes that are not 0, even of an array that is empty.
    if math.prod(max(1, n) for n in shape) * dtype.itemsize >= 1 << 62:
        raise CheckpointError(f"a tensor has the impossible shape {list(shape)}; the file is damaged")


def _counts(values: object, what: str) -> tuple[int, ...]:
    # The length comes first: one long list may be named as the shape of a hundred thousand tensors.
    if not isinstance(values, tuple | list) or len(values) > MAX_DIMENSIONS:
        raise CheckpointError(
            f"the {what} of a tensor is not a list of up to {MAX_DIMENSIONS} counts; the file is damaged"
        )
    if not all(type(n) is int and n >= 0 for n in values):
        raise CheckpointError(f"the {what} of a tensor holds something else than counts; the file is damaged")
    return tuple(values)
