"""PyTorch's container before version 1.6: five pickles one after the other, then the storages."""

import struct
from collections.abc import Mapping
from mmap import mmap

from jaxperturb.checkpoints.pickle_instructions import interpret
from jaxperturb.checkpoints.pickle_machine import DAMAGED
from jaxperturb.checkpoints.pickle_names import interpret_saved, storage_of
from jaxperturb.checkpoints.stored import Segment, Storage, scalar_text
from jaxperturb.errors import CheckpointError

MAGIC = 0x1950A86A20F9469CFC6C
# The pickle of that number, as every protocol from 2 on writes it.
MAGIC_PICKLE = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
VERSION = 1001
COUNT = struct.Struct("<q")


def is_legacy(head: bytes) -> bool:
    """Says whether a file that begins like this is in the legacy container."""
    return MAGIC_PICKLE in head[:32]


def read_legacy(data: mmap) -> tuple[object, Mapping[str, Segment]]:
    """Returns the value that the file describes (`TensorRef` for tensors) and the place of each storage by its key.

    Raises:
        CheckpointError: the file is damaged, truncated, or holds more than data.
    """
    position = _check_head(data)
    storages: dict[str, Storage] = {}

    def persistent(saved: object) -> Storage:
        storage = storage_of(saved)
        _note(storages, storage, saved)
        return storage

    value, position = interpret_saved(data, position, persistent)
    keys, position = interpret(data, position, _no_names, _no_storages)
    return value, _segments(data, position, keys, storages)


def _check_head(data: mmap) -> int:
    magic, position = interpret(data, 0, _no_names, _no_storages)
    version, position = interpret(data, position, _no_names, _no_storages)
    _, position = interpret(data, position, _no_names, _no_storages)
    if magic != MAGIC or version != VERSION:
        raise CheckpointError(f"its container has version {scalar_text(version)}, expected {VERSION}; {DAMAGED}")
    return position


def _note(storages: dict[str, Storage], storage: Storage, saved: object) -> None:
    whole = Storage(storage.key, storage.dtype, saved[4]) if isinstance(saved, tuple) else storage
    known = storages.setdefault(storage.key, whole)
    if known != whole:
        raise CheckpointError(f"the storage {scalar_text(storage.key)} has two types or sizes; {DAMAGED}")


def _segments(data: mmap, position: int, keys: object, storages: Mapping[str, Storage]) -> dict[str, Segment]:
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise CheckpointError(f"its list of storages is none; {DAMAGED}")
    if len(set(keys)) != len(keys) or set(keys) != set(storages):
        raise CheckpointError(f"its list of storages does not fit its tensors; {DAMAGED}")
    segments = {}
    for key in keys:
        segments[key] = _segment(data, position, storages[key])
        position = segments[key].start + segments[key].size
    return segments


def _segment(data: mmap, position: int, storage: Storage) -> Segment:
    start = position + COUNT.size
    if start + storage.size > len(data):
        raise CheckpointError(
            f"it has {len(data)} bytes, but its storages need at least {start + storage.size}; it is truncated"
        )
    (count,) = COUNT.unpack_from(data, position)
    if count != storage.count:
        raise CheckpointError(f"a storage of {storage.count} elements is followed by {count}; {DAMAGED}")
    return Segment(start, storage.size)


def _no_names(module: str, name: str) -> object:
    raise CheckpointError(
        f"a name, {scalar_text(f'{module}.{name}')}, stands where plain numbers are expected; {DAMAGED}"
    )


def _no_storages(_saved: object) -> object:
    raise CheckpointError(f"a storage stands where plain numbers are expected; {DAMAGED}")
