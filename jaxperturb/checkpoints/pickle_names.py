"""The names that a state dict may hold, each with our own stand-in. Nothing is imported by a name from a file."""

from collections.abc import Mapping

import numpy as np

from jaxperturb.checkpoints.pickle_instructions import interpret
from jaxperturb.checkpoints.pickle_machine import DAMAGED, Bytes, Function, NumpyType, Persistent, put
from jaxperturb.checkpoints.stored import DTYPES, Storage, TensorRef, brief, scalar_text, tensor_ref
from jaxperturb.errors import CheckpointError

STATE_DICT_ONLY = 're-save in PyTorch with torch.save(model.state_dict(), "new.pth")'
WHOLE_MODULE = f"it is a whole pickled model, which only its own code can open; {STATE_DICT_ONLY}"
QUANTISED = f"it holds quantised tensors; dequantise the model, then {STATE_DICT_ONLY}"

STORAGES = {
    "HalfStorage": DTYPES["float16"],
    "BFloat16Storage": DTYPES["bfloat16"],
    "FloatStorage": DTYPES["float32"],
    "DoubleStorage": DTYPES["float64"],
    "ComplexFloatStorage": DTYPES["complex64"],
    "ComplexDoubleStorage": DTYPES["complex128"],
    "ByteStorage": DTYPES["uint8"],
    "CharStorage": DTYPES["int8"],
    "ShortStorage": DTYPES["int16"],
    "IntStorage": DTYPES["int32"],
    "LongStorage": DTYPES["int64"],
    "BoolStorage": DTYPES["bool"],
}
NUMPY_CODES = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")

NOT_PLAIN = {
    "_rebuild_qtensor": QUANTISED,
    "per_tensor_affine": QUANTISED,
    "per_channel_affine": QUANTISED,
    "qint8": QUANTISED,
    "quint8": QUANTISED,
    "qint32": QUANTISED,
    "QInt8Storage": QUANTISED,
    "QUInt8Storage": QUANTISED,
    "QInt32Storage": QUANTISED,
    "QUInt4x2Storage": QUANTISED,
    "QUInt2x4Storage": QUANTISED,
    "_rebuild_sparse_tensor": "it holds sparse tensors; re-save them in PyTorch with .to_dense()",
    "_rebuild_nested_tensor": "it holds nested tensors; re-save them in PyTorch as ordinary ones",
    "_rebuild_wrapper_subclass": "it holds tensors of a class of their own; re-save them in PyTorch as ordinary ones",
    "_rebuild_meta_tensor_no_storage": "it holds tensors without values (device 'meta'); re-save it with its weights",
}


class UnknownNameError(CheckpointError):
    """A pickle names something that is not in our table."""


def interpret_saved(data: Bytes, start: int, persistent: Persistent) -> tuple[object, int]:
    """Returns the value of a pickle by torch.save, with `TensorRef` for tensors, and the position after it.

    Raises:
        CheckpointError: the pickle is damaged, or describes more than data.
    """
    try:
        return interpret(data, start, look_up, persistent)
    except UnknownNameError as error:
        # The first name in a pickled model is the user's own class; what it is shows from what follows.
        if data.find(b"torch.nn.modules.", start, len(data)) >= 0:
            raise CheckpointError(f"{error.args[0].split(',')[0]}: {WHOLE_MODULE}") from error
        raise


def look_up(module: str, name: str) -> object:
    """Returns our stand-in for a name in a pickle.

    Raises:
        CheckpointError: the name is none that a state dict needs; the message says what the file seems to be.
    """
    found = NAMES.get((module, name))
    if found is not None:
        return found
    if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
        return STORAGES[name]
    if module == "torch" and name in DTYPES:
        return DTYPES[name]
    if module.split(".")[0] == "torch" and name in NOT_PLAIN:
        raise CheckpointError(NOT_PLAIN[name])
    full = brief(f"{module}.{name}")
    if module.startswith(("torch.nn.modules.", "torchvision.models.")):
        raise CheckpointError(f"it names {full}: {WHOLE_MODULE}")
    raise UnknownNameError(f"it names {full}, which a state dict never needs and which is not run; {STATE_DICT_ONLY}")


def storage_of(saved: object) -> Storage:
    """Returns the storage that a persistent id (a tuple of PyTorch's) names.

    Raises:
        CheckpointError: it is the id of something else.
    """
    if isinstance(saved, tuple) and saved[:1] == ("module",):
        raise CheckpointError(WHOLE_MODULE)
    if not isinstance(saved, tuple) or len(saved) not in (5, 6) or saved[0] != "storage":
        raise CheckpointError(f"its pickle refers to something outside that is no storage; {DAMAGED}")
    dtype, key, _, count = saved[1:5]
    if not isinstance(dtype, np.dtype) and dtype is not UNTYPED:
        raise CheckpointError(f"its pickle gives a storage an unknown type; {DAMAGED}")
    if not isinstance(key, str) or type(count) is not int or count < 0:
        raise CheckpointError(f"its pickle gives a storage no name or size; {DAMAGED}")
    storage = Storage(key, dtype if isinstance(dtype, np.dtype) else None, count)
    return storage if len(saved) == 5 or saved[5] is None else _view(storage, saved[5])


def _view(whole: Storage, view: object) -> Storage:
    if not isinstance(view, tuple) or len(view) != 3 or not all(type(n) is int and n >= 0 for n in view[1:]):
        raise CheckpointError(f"its pickle describes a part of a storage wrongly; {DAMAGED}")
    first, count = view[1:]
    if first + count > whole.count:
        raise CheckpointError(f"a part of a storage ends at {first + count} of {whole.count} elements; {DAMAGED}")
    return Storage(whole.key, whole.dtype, count, first)


def _expect(arguments: tuple, least: int, most: int, name: str) -> None:
    if not least <= len(arguments) <= most:
        raise CheckpointError(f"its pickle calls {name} with {len(arguments)} arguments; {DAMAGED}")


def _tensor(arguments: tuple) -> TensorRef:
    _expect(arguments, 4, 7, "_rebuild_tensor")
    storage, offset, shape, strides = arguments[:4]
    if not isinstance(storage, Storage) or storage.dtype is None:
        raise CheckpointError(f"a tensor has no storage of a known type; {DAMAGED}")
    _refuse_lazy(arguments[6:])
    return tensor_ref(storage, storage.dtype, offset, shape, strides)


def _tensor_of_type(arguments: tuple) -> TensorRef:
    _expect(arguments, 7, 8, "_rebuild_tensor_v3")
    storage, offset, shape, strides, _, _, dtype = arguments[:7]
    if not isinstance(storage, Storage) or not isinstance(dtype, np.dtype):
        raise CheckpointError(f"a tensor has no storage of a known type; {DAMAGED}")
    _refuse_lazy(arguments[7:])
    return tensor_ref(storage, dtype, offset, shape, strides)


def _refuse_lazy(metadata: tuple) -> None:
    if metadata and metadata[0]:
        raise CheckpointError(
            "a tensor is stored as a conjugate or negative that is not yet computed; "
            "re-save it in PyTorch with .resolve_conj().resolve_neg()"
        )


def _parameter(arguments: tuple) -> object:
    _expect(arguments, 1, 4, "Parameter")
    if not isinstance(arguments[0], TensorRef):
        raise CheckpointError(f"a parameter holds {scalar_text(arguments[0])}, expected a tensor; {DAMAGED}")
    return arguments[0]


def _tensor_with_attributes(arguments: tuple) -> object:
    _expect(arguments, 4, 4, "_rebuild_from_type_v2")
    function, _, inner, _ = arguments
    if function not in (TENSOR, TENSOR_OF_TYPE) or not isinstance(inner, tuple):
        raise CheckpointError(f"a tensor is rebuilt by something that is no function for it; {DAMAGED}")
    return function.call(inner)


def _dictionary(arguments: tuple) -> dict:
    _expect(arguments, 0, 1, "OrderedDict")
    source = arguments[0] if arguments else ()
    if not isinstance(source, dict | list | tuple):
        raise CheckpointError(f"a dictionary is made of {scalar_text(source)}; {DAMAGED}")
    made: dict = {}
    for pair in source.items() if isinstance(source, dict) else source:
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            raise CheckpointError(f"a dictionary is made of something else than pairs; {DAMAGED}")
        put(made, pair[0], pair[1])
    return made


def _sequence(arguments: tuple) -> list:
    _expect(arguments, 0, 1, "set or Size")
    source = arguments[0] if arguments else []
    if not isinstance(source, list | tuple):
        raise CheckpointError(f"a sequence is made of {scalar_text(source)}; {DAMAGED}")
    return list(source)


def _size(arguments: tuple) -> tuple:
    return tuple(_sequence(arguments))


def _device(arguments: tuple) -> str:
    _expect(arguments, 1, 2, "torch.device")
    return ":".join(scalar_text(part).strip("'") for part in arguments)


def _encode(arguments: tuple) -> bytes:
    _expect(arguments, 1, 2, "_codecs.encode")
    text = arguments[0]
    if not isinstance(text, str) or arguments[1:] not in ((), ("latin1",), ("latin-1",)):
        raise CheckpointError(f"its pickle encodes something else than latin-1 text; {DAMAGED}")
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as error:
        raise CheckpointError(f"its pickle calls a text latin-1 that is not; {DAMAGED}") from error


def _numpy_type(arguments: tuple) -> NumpyType:
    _expect(arguments, 1, 3, "numpy.dtype")
    if arguments[0] not in NUMPY_CODES:
        raise CheckpointError(f"it holds a NumPy value of type {scalar_text(arguments[0])}; save plain numbers instead")
    return NumpyType(arguments[0])


def _numpy_scalar(arguments: tuple) -> object:
    _expect(arguments, 2, 2, "numpy scalar")
    kind, raw = arguments
    # A Python-2 string that happened to be UTF-8 was decoded on the way; encoding gives its bytes back.
    raw = raw.encode("utf-8", "surrogatepass") if isinstance(raw, str) and len(raw) <= 8 else raw
    if not isinstance(kind, NumpyType) or not isinstance(raw, bytes):
        raise CheckpointError(f"a NumPy value is not made of a type and bytes; {DAMAGED}")
    dtype = np.dtype(kind.order + kind.code)
    if len(raw) != dtype.itemsize:
        raise CheckpointError(f"a NumPy value of {dtype.itemsize} bytes has {len(raw)}; {DAMAGED}")
    return np.frombuffer(raw, dtype)[0].item()


def _unusable(_arguments: tuple) -> object:
    raise CheckpointError(f"its pickle calls a type that is only a label; {DAMAGED}")


UNTYPED = Function("torch.storage.UntypedStorage", _unusable)
TENSOR = Function("torch._utils._rebuild_tensor_v2", _tensor)
TENSOR_OF_TYPE = Function("torch._utils._rebuild_tensor_v3", _tensor_of_type)
PARAMETER = Function("torch.nn.parameter.Parameter", _parameter)
DICTIONARY = Function("collections.OrderedDict", _dictionary)
SET = Function("set", _sequence)
SCALAR = Function("numpy scalar", _numpy_scalar)

NAMES: Mapping[tuple[str, str], Function] = {
    ("collections", "OrderedDict"): DICTIONARY,
    ("collections", "Counter"): DICTIONARY,
    ("torch._utils", "_rebuild_tensor"): TENSOR,
    ("torch._utils", "_rebuild_tensor_v2"): TENSOR,
    ("torch._utils", "_rebuild_tensor_v3"): TENSOR_OF_TYPE,
    ("torch._utils", "_rebuild_parameter"): PARAMETER,
    ("torch._utils", "_rebuild_parameter_with_state"): PARAMETER,
    ("torch._tensor", "_rebuild_from_type_v2"): Function(
        "torch._tensor._rebuild_from_type_v2", _tensor_with_attributes
    ),
    ("torch.nn.parameter", "Parameter"): PARAMETER,
    ("torch", "Tensor"): Function("torch.Tensor", _unusable),
    ("torch.storage", "UntypedStorage"): UNTYPED,
    ("torch", "Size"): Function("torch.Size", _size),
    ("torch", "device"): Function("torch.device", _device),
    ("_codecs", "encode"): Function("_codecs.encode", _encode),
    ("numpy", "dtype"): Function("numpy.dtype", _numpy_type),
    ("numpy.core.multiarray", "scalar"): SCALAR,
    ("numpy._core.multiarray", "scalar"): SCALAR,
    ("__builtin__", "set"): SET,
    ("__builtin__", "frozenset"): SET,
    ("builtins", "set"): SET,
    ("builtins", "frozenset"): SET,
}
