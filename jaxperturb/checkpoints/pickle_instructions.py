"""The instructions of a pickle, each as a step of our machine, and the loop that takes them."""

import struct
from collections.abc import Callable, Mapping

from jaxperturb.checkpoints.pickle_machine import (
    DAMAGED,
    Bytes,
    Function,
    Lookup,
    Machine,
    NumpyType,
    Persistent,
    decode,
    put,
)
from jaxperturb.checkpoints.stored import TensorRef, scalar_text
from jaxperturb.errors import CheckpointError


def interpret(
    data: Bytes, start: int, lookup: Lookup, persistent: Persistent, end: int | None = None
) -> tuple[object, int]:
    """Interprets the pickle that starts at a position.

    Args:
        data: the bytes that hold it.
        start: position of its first byte.
        lookup: gives for a module's and a member's name our own stand-in, or raises.
        persistent: gives for a persistent id our own stand-in, or raises.
        end: position that it may not pass; None is the end of `data`.

    Returns:
        The value, and the position after the pickle.

    Raises:
        CheckpointError: the pickle is damaged, endless, or asks for anything that is not data.
    """
    machine = Machine(data, start, len(data) if end is None else end, lookup, persistent)
    while True:
        machine.charge(1)
        code = machine.take(1)
        if code == b".":
            return _result(machine), machine.position
        step = INSTRUCTIONS.get(code)
        if step is None:
            raise CheckpointError(f"its pickle holds the instruction {code!r}, which no state dict needs; {DAMAGED}")
        step(machine)


def _protocol(version: int) -> None:
    if not 1 <= version <= 5:
        raise CheckpointError(f"its pickle has protocol {version}, expected 2 to 5; {DAMAGED}")


def _result(machine: Machine) -> object:
    if len(machine.stack) != 1 or machine.marks:
        raise CheckpointError(f"its pickle leaves {len(machine.stack)} values, expected one; {DAMAGED}")
    return machine.stack[0]


def _push(value: object) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(value)


def _push_new(make: Callable[[], object]) -> Callable[[Machine], None]:
    return lambda machine: machine.stack.append(make())


def _push_number(layout: str) -> Callable[[Machine], None]:
    form = struct.Struct(layout)
    return lambda machine: machine.stack.append(machine.number(form))


def _push_float(machine: Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _push_bytes(length: str, convert: Callable[[bytes], object]) -> Callable[[Machine], None]:
    form = struct.Struct(length)
    return lambda machine: machine.stack.append(convert(machine.take(machine.number(form))))


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"a text in its pickle is no UTF-8; {DAMAGED}") from error


def _long(raw: bytes) -> int:
    # PyTorch's magic number has 10 bytes; far longer integers only serve to burn time.
    if len(raw) > 16:
        raise CheckpointError(f"an integer of {len(raw)} bytes; {DAMAGED}")
    return int.from_bytes(raw, "little", signed=True)


def _tuple(count: int) -> Callable[[Machine], None]:
    def step(machine: Machine) -> None:
        items = [machine.pop() for _ in range(count)]
        machine.stack.append(tuple(reversed(items)))

    return step


def _marked_tuple(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(tuple(items))


def _marked_list(machine: Machine) -> None:
    items = machine.pop_mark()
    machine.stack.append(items)


def _marked_dict(machine: Machine) -> None:
    pairs = machine.pop_mark()
    machine.stack.append({})
    _set_pairs(machine, pairs)


def _append(machine: Machine) -> None:
    value = machine.pop()
    _list_on_top(machine).append(value)


def _append_marked(machine: Machine) -> None:
    items = machine.pop_mark()
    _list_on_top(machine).extend(items)


def _set_item(machine: Machine) -> None:
    value = machine.pop()
    _set_pairs(machine, [machine.pop(), value])


def _set_items(machine: Machine) -> None:
    pairs = machine.pop_mark()
    _set_pairs(machine, pairs)


def _set_pairs(machine: Machine, pairs: list) -> None:
    target = machine.top()
    if not isinstance(target, dict) or len(pairs) % 2:
        raise CheckpointError(f"its pickle sets entries of something that is no dictionary; {DAMAGED}")
    for i in range(0, len(pairs), 2):
        put(target, pairs[i], pairs[i + 1])


def _list_on_top(machine: Machine) -> list:
    target = machine.top()
    if not isinstance(target, list):
        raise CheckpointError(f"its pickle appends to something that is no list; {DAMAGED}")
    return target


def _mark(machine: Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_all(machine: Machine) -> None:
    machine.pop_mark()


def _frame(machine: Machine) -> None:
    machine.take(8)  # the length of a piece that follows anyway


def _duplicate(machine: Machine) -> None:
    machine.stack.append(machine.top())


def _memoize(machine: Machine) -> None:
    machine.memo[len(machine.memo)] = machine.top()


def _memo_put(layout: str) -> Callable[[Machine], None]:
    form = struct.Struct(layout)

    def step(machine: Machine) -> None:
        machine.memo[machine.number(form)] = machine.top()

    return step


def _memo_get(layout: str) -> Callable[[Machine], None]:
    form = struct.Struct(layout)

    def step(machine: Machine) -> None:
        index = machine.number(form)
        if index not in machine.memo:
            raise CheckpointError(f"its pickle refers to value {index}, which it never made; {DAMAGED}")
        machine.stack.append(machine.memo[index])

    return step


def _global(machine: Machine) -> None:
    module = machine.line()
    machine.stack.append(machine.lookup(module, machine.line()))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise CheckpointError(f"its pickle names something by a value that is no text; {DAMAGED}")
    machine.stack.append(machine.lookup(module, name))


def _call(machine: Machine) -> None:
    arguments, function = machine.pop(), machine.pop()
    if not isinstance(function, Function) or not isinstance(arguments, tuple):
        raise CheckpointError(f"its pickle calls something that is no function; {DAMAGED}")
    # One long list may be handed to a hundred thousand calls, each of which copies it.
    machine.charge(len(arguments))
    machine.charge(sum(len(part) for part in arguments if isinstance(part, str | bytes | list | tuple | dict)))
    machine.stack.append(function.call(arguments))


def _build(machine: Machine) -> None:
    state, target = machine.pop(), machine.top()
    if isinstance(target, NumpyType):
        target.set_order(state)
    elif not isinstance(target, dict | TensorRef):
        raise CheckpointError(f"its pickle sets attributes of {scalar_text(target)}; {DAMAGED}")
    # The state of a dictionary or a parameter (its _metadata, its hooks) says nothing about values.


def _persistent(machine: Machine) -> None:
    machine.stack.append(machine.persistent(machine.pop()))


INSTRUCTIONS: Mapping[bytes, Callable[[Machine], None]] = {
    b"\x80": lambda machine: _protocol(machine.take(1)[0]),
    b"\x95": _frame,
    b"(": _mark,
    b"0": _pop,
    b"1": _pop_all,
    b"2": _duplicate,
    b"N": _push(None),
    b"\x88": _push(True),
    b"\x89": _push(False),
    b"K": _push_number("<B"),
    b"M": _push_number("<H"),
    b"J": _push_number("<i"),
    b"\x8a": _push_bytes("<B", _long),
    b"\x8b": _push_bytes("<I", _long),
    b"G": _push_float,
    b"U": _push_bytes("<B", decode),
    b"T": _push_bytes("<I", decode),
    b"X": _push_bytes("<I", _text),
    b"\x8c": _push_bytes("<B", _text),
    b"\x8d": _push_bytes("<Q", _text),
    b"C": _push_bytes("<B", bytes),
    b"B": _push_bytes("<I", bytes),
    b"\x8e": _push_bytes("<Q", bytes),
    b"\x96": _push_bytes("<Q", bytes),
    b")": _push(()),
    b"\x85": _tuple(1),
    b"\x86": _tuple(2),
    b"\x87": _tuple(3),
    b"t": _marked_tuple,
    b"]": _push_new(list),
    b"l": _marked_list,
    b"a": _append,
    b"e": _append_marked,
    b"}": _push_new(dict),
    b"d": _marked_dict,
    b"s": _set_item,
    b"u": _set_items,
    # Sets come out as lists: as data they are the same, and nothing has to be hashed.
    b"\x8f": _push_new(list),
    b"\x90": _append_marked,
    b"\x91": _marked_list,
    b"\x94": _memoize,
    b"q": _memo_put("<B"),
    b"r": _memo_put("<I"),
    b"h": _memo_get("<B"),
    b"j": _memo_get("<I"),
    b"c": _global,
    b"\x93": _stack_global,
    b"R": _call,
    b"\x81": _call,
    b"b": _build,
    b"Q": _persistent,
}
