"""Files of the safetensors library, which checks the header; the values are read from our own memory map."""

import json
import os
from collections.abc import Mapping
from mmap import mmap

import numpy as np
from safetensors import SafetensorError, safe_open

from jaxperturb.checkpoints.stored import DTYPES, Segment, StoredTensor, contiguous_strides, scalar_text
from jaxperturb.errors import CheckpointError

MAX_HEADER = 4 << 20

NAMES = {
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "BOOL": "bool",
}


def is_safetensors(head: bytes, size: int) -> bool:
    """Says whether a file that begins like this claims to be one."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= size


def read_safetensors(path: str | os.PathLike[str], data: mmap) -> tuple[Mapping[str, StoredTensor], Mapping[str, str]]:
    """Returns the tensors by name, and the file's own remarks.

    Raises:
        CheckpointError: the header is too large, or the library finds it wrong.
    """
    length = int.from_bytes(data[:8], "little")
    if length > MAX_HEADER:
        raise CheckpointError(f"its header has {length} bytes, expected up to {MAX_HEADER}; no state dict is like that")
    try:
        with safe_open(path, framework="numpy"):
            header = json.loads(data[8 : 8 + length], object_pairs_hook=_once)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the safetensors library refuses it ({error}); it is damaged, get it again") from error
    remarks = header.pop("__metadata__", None) or {}
    return {name: _stored(name, entry, 8 + length) for name, entry in header.items()}, remarks


def _stored(name: str, entry: Mapping, base: int) -> StoredTensor:
    known = NAMES.get(entry["dtype"])
    if known is None:
        raise CheckpointError(f"the tensor {scalar_text(name)} has the element type {entry['dtype']}; save it as F32")
    dtype, shape = DTYPES[known], tuple(entry["shape"])
    start, stop = (base + offset for offset in entry["data_offsets"])
    if shape and any(n >= 1 << 48 for n in shape):
        raise CheckpointError(f"the tensor {scalar_text(name)} has the impossible shape {list(shape)}; it is damaged")
    strides = contiguous_strides(shape, dtype.itemsize)
    # Safetensors files are little-endian everywhere.
    return StoredTensor(name, shape, dtype, strides, start, Segment(start, stop - start), np.little_endian is False)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is there twice")
    return made
