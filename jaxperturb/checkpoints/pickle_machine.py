"""Interprets a pickle without running anything that it names.

A pickle is a program for a stack machine. This machine knows the instructions that data need and makes plain Python
values; a name in the file is looked up in a table of ours (`pickle_names.py`) and is never imported. Its work is
counted, so a hostile file ends within a bounded time and memory.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from mmap import mmap

from jaxperturb.checkpoints.stored import scalar_text
from jaxperturb.errors import CheckpointError

# An instruction, an item that is copied, and 16 bytes of text each count one. A state dict takes about 60 a tensor.
MAX_WORK = 500_000
MAX_NAME = 400

DAMAGED = "the file is damaged or was not written by torch.save"


Bytes = bytes | mmap  # both are indexed, sliced and searched alike


@dataclass(slots=True)
class NumpyType:
    """A NumPy element type; its byte order follows in the pickle as its state."""

    code: str
    order: str = "<"

    def set_order(self, state: object) -> None:
        """Takes the byte order from the state, a tuple (version, order, ...)."""
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise CheckpointError(f"its pickle gives a NumPy type an unknown byte order; {DAMAGED}")
        self.order = state[1]


@dataclass(frozen=True, slots=True)
class Function:
    """A name that may be called.

    Attributes:
        name: as the file has it, for messages.
        call: our own implementation, of the arguments as the file states them.
    """

    name: str
    call: Callable[[tuple[object, ...]], object]


Lookup = Callable[[str, str], object]
Persistent = Callable[[object], object]


@dataclass(slots=True)
class Machine:
    """The state of one interpretation: bytes, position, stack, memo and the work done so far."""

    data: Bytes
    position: int
    end: int
    lookup: Lookup
    persistent: Persistent
    stack: list = field(default_factory=list)
    marks: list[list] = field(default_factory=list)
    memo: dict[int, object] = field(default_factory=dict)
    work: int = 0

    def charge(self, amount: int) -> None:
        """Counts work beyond the instruction itself.

        Raises:
            CheckpointError: more than a state dict ever needs.
        """
        self.work += amount
        if self.work > MAX_WORK:
            raise CheckpointError(f"its pickle takes more than {MAX_WORK} steps, far more than any state dict; refused")

    def take(self, count: int) -> bytes:
        """Returns the next `count` bytes."""
        start = self.position
        if not 0 <= count <= self.end - start:
            raise CheckpointError(f"its pickle ends in the middle of a value; {DAMAGED}")
        self.position = start + count
        self.charge(count >> 4)
        return self.data[start : self.position]

    def number(self, layout: struct.Struct) -> int:
        """Returns the next integer of the given layout."""
        return layout.unpack(self.take(layout.size))[0]

    def line(self) -> str:
        """Returns the text up to the next line end."""
        stop = self.data.find(b"\n", self.position, min(self.end, self.position + 512))
        if stop < 0:
            raise CheckpointError(f"its pickle has an endless name; {DAMAGED}")
        text = decode(self.take(stop - self.position))
        self.position += 1
        return text if isinstance(text, str) else repr(text)

    def pop(self) -> object:
        """Returns the top of the stack."""
        if not self.stack:
            raise CheckpointError(f"its pickle takes from an empty stack; {DAMAGED}")
        return self.stack.pop()

    def top(self) -> object:
        """Returns the top of the stack and leaves it there."""
        if not self.stack:
            raise CheckpointError(f"its pickle looks at an empty stack; {DAMAGED}")
        return self.stack[-1]

    def pop_mark(self) -> list:
        """Returns what was pushed since the last mark."""
        if not self.marks:
            raise CheckpointError(f"its pickle misses a mark; {DAMAGED}")
        items, self.stack = self.stack, self.marks.pop()
        return items


def decode(raw: bytes) -> str | bytes:
    """Returns a Python-2 string as text where it is UTF-8, else as the bytes that it is."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def put(target: dict, key: object, value: object) -> None:
    """Adds one entry to a dictionary that the file describes.

    Raises:
        CheckpointError: the key is no text or integer (nested tuples can take for ever to hash), or is there already.
    """
    if not isinstance(key, str | int) or (isinstance(key, str) and len(key) > MAX_NAME):
        raise CheckpointError(f"a dictionary has {scalar_text(key)} for a key; expected a short text or an integer")
    if key in target:
        raise CheckpointError(f"the name {scalar_text(key)} is there twice; {DAMAGED}")
    target[key] = value
