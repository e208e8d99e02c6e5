"""From the value that a pickle describes to plain data and a flat list of tensors."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from jaxperturb.checkpoints.pickle_machine import DAMAGED, MAX_NAME
from jaxperturb.checkpoints.stored import Segment, Storage, StoredTensor, TensorRef, scalar_text
from jaxperturb.errors import CheckpointError

MAX_VALUES = 200_000
MAX_DEPTH = 64

Place = Callable[[Storage], Segment]


def collect(value: object, place: Place, *, swapped: bool) -> tuple[dict[str, StoredTensor], object]:
    """Returns the tensors by name, and the same nesting as plain data with `StoredTensor` for tensors.

    Args:
        value: what the pickle describes.
        place: gives the bytes of a storage, or raises.
        swapped: whether the file's byte order is not this machine's.

    Raises:
        CheckpointError: the value contains itself, is too deep or too large, or two tensors have one name.
    """
    walk = _Walk(place, swapped)
    content = walk.plain(value, ())
    return walk.tensors, content


@dataclass(slots=True)
class _Walk:
    place: Place
    swapped: bool
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    visited: int = 0

    def plain(self, value: object, path: tuple[str, ...]) -> object:
        # One list that is named many times is walked as often: this bounds lists of lists of lists.
        self.visited += 1
        if self.visited > MAX_VALUES or len(path) > MAX_DEPTH:
            raise CheckpointError(
                f"it holds more than {MAX_VALUES} values or {MAX_DEPTH} levels, or contains itself; refused"
            )
        if isinstance(value, dict):
            return {key: self.plain(item, (*path, str(key))) for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = (self.plain(item, (*path, str(i))) for i, item in enumerate(value))
            return list(items) if isinstance(value, list) else tuple(items)
        if isinstance(value, TensorRef):
            return self.tensor(value, "/".join(path) or "tensor")
        return _scalar(value)

    def tensor(self, ref: TensorRef, name: str) -> StoredTensor:
        if name in self.tensors or len(name) > MAX_NAME:
            why = "two tensors have one name" if name in self.tensors else "a name is too long"
            raise CheckpointError(f"{why}, {scalar_text(name)}; rename it")
        stored = _stored(ref, name, self.place(ref.storage), self.swapped)
        self.tensors[name] = stored
        return stored


def _stored(ref: TensorRef, name: str, segment: Segment, swapped: bool) -> StoredTensor:
    width = ref.dtype.itemsize
    first = ref.storage.first * (ref.storage.dtype.itemsize if ref.storage.dtype is not None else 1)
    strides = tuple(step * width for step in ref.strides)
    start = segment.start + first + ref.offset * width
    return StoredTensor(name, ref.shape, ref.dtype, strides, start, segment, swapped and width > 1)


def _scalar(value: object) -> object:
    if value is None or isinstance(value, str | bytes | bool | int | float):
        return value
    if isinstance(value, np.dtype):
        return value.name
    raise CheckpointError(f"it holds {scalar_text(value)} where data are expected; {DAMAGED}")


def nested_tensors(content: object) -> Iterator[StoredTensor]:
    """Yields the tensors anywhere inside a file's content."""
    if isinstance(content, StoredTensor):
        yield content
    elif isinstance(content, dict | list | tuple):
        for item in content.values() if isinstance(content, dict) else content:
            yield from nested_tensors(item)
