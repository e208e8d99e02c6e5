"""The lesion that a list of faults stands for: exactly these, in the same weights."""

import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.errors import LayerError, LevelError, PerturbationError, did_you_mean
from jaxperturb.levels import as_level
from jaxperturb.perturb.fault_list import Fault, read_faults
from jaxperturb.perturb.request import Request
from jaxperturb.perturb.scope import Layers, Level, Norms, Tensor, Where, touched, traced_level
from jaxperturb.perturb.words import Word, check_granularity, decode, encode, scale_axis
from jaxperturb.trees import Layer, layers_of, replace_leaves
from jaxperturb.types import AnyArray, Key, Params

HASH_LETTERS = 16  # of the SHA-256 that a list is known by


def replay(
    key: Key,
    params: Params,
    level: Level = None,
    *,
    file: str | Path | None = None,
    sha256: str | None = None,
    layers: Layers = "*",
    include_bias: bool = True,
    include_norm: bool = False,
    word: str = "float32",
    granularity: str = "tensor",
    norms: Norms = None,
) -> Params:
    """Injects exactly the faults of a list (level 1), or none (level 0): what did that one draw, elsewhere or before?

    Each listed weight gets its value ``after``; it must have its value ``before``. Faults of layers that are not
    selected are left out. A list of words other than float32 needs the options of the lesion that it was written from
    (`word`, `granularity`, `include_bias`, `include_norm`), since these words round all weights.

    Source: fixed fault sets, as in PyTorchALFI (Gräfe et al., 2023) and SCI-FI (Gavarini et al., 2023).

    Args:
        key: not used; it is there so that all perturbations are called alike.
        params: a tree of weights (see `jaxperturb.trees`).
        level: 0 or 1; a float32 array counts as 1 from 0.5 on.
        file: the list, as ``jaxperturb faults`` writes it.
        sha256: first 16 letters of the content's SHA-256; a study adds it, so that a list that changed is another one.
        layers: names or `fnmatch` patterns.
        include_bias: whether biases were hit too; must be true where the list names them.
        include_norm: whether norms were.
        word: how weights were stored (see `bit_flip`).
        granularity: of the scale of integers.
        norms: names of norms that do not follow the rule of `jaxperturb.trees`, by layer.

    Returns:
        The tree with the same structure and types; what is not selected by `layers` is the same object.

    Raises:
        LevelError: another level.
        PerturbationError: a list that cannot be read, is not the one asked for, or does not fit the weights. (Values
            of traced weights cannot be compared; a study compares them beforehand.)
        LayerError: a layer that the tree does not have.
    """
    del key
    on = _switch(level)
    where = Where(layers, include_bias, include_norm, norms=norms)
    form = Word.of(word)
    check_granularity(granularity, form)
    wanted, changed = _by_tensor(_read(file, sha256), params, where, str(file)), {}
    for tensor, array in touched(params, where):
        base = _stored(array, form, tensor, granularity)
        faults = wanted.get((tensor.layer.name, tensor.leaf.name), ())
        if not isinstance(base, jax.core.Tracer):
            _check_before(faults, base, str(file))
        changed[tensor.leaf.index] = jnp.where(on, _injected(faults, base), base)
    return replace_leaves(params, changed)


def replay_variants(options: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the options of `replay` with the hash of the list's content, or raises `PerturbationError`."""
    check_granularity(options["granularity"], word := Word.of(options["word"]))
    content = _content(options["file"], options["sha256"])
    read_faults(_text(content, str(options["file"])), str(options["file"]))
    return [dict(options) | {"word": word.name, "file": str(options["file"]), "sha256": _hash(content)}]


def check_replay(request: Request) -> None:
    """Raises where the list of a request does not fit the weights: its level is handed over as it is."""
    faults_replayed(request)


def faults_replayed(request: Request) -> int:
    """Returns how many faults of the list are injected, or raises where it does not fit the weights."""
    options = request.options
    file, form = str(options["file"]), Word.of(options["word"])
    wanted = _by_tensor(_read(file, options["sha256"]), request.params, request.where, file)
    for tensor, array in touched(request.params, request.where):
        faults = wanted.get((tensor.layer.name, tensor.leaf.name), ())
        if faults:
            _check_before(faults, _stored(array, form, tensor, options["granularity"]), file)
    chosen = {(tensor.layer.name, tensor.leaf.name) for tensor, _ in touched(request.params, request.where)}
    return sum(len(faults) for name, faults in wanted.items() if name in chosen) if request.level else 0


def _switch(level: Level) -> AnyArray:
    if level is None:
        raise LevelError("expected a level of 0 or 1, got none")
    if isinstance(level, jax.Array | np.ndarray):
        return traced_level(level) >= 0.5
    exact = as_level(level)
    if exact not in (Decimal(0), Decimal(1)):
        raise LevelError(f"expected a level of 0 (no fault) or 1 (all faults of the list), got {level}")
    return jnp.asarray(exact == 1)


def _stored(array: AnyArray, word: Word, tensor: Tensor, granularity: str) -> AnyArray:
    if word.kind == "float32":
        return array
    axis = scale_axis(tensor.leaf, granularity)
    return decode(*encode(array, word, axis), word, array.dtype)


def _injected(faults: Sequence[Fault], base: AnyArray) -> AnyArray:
    if not faults:
        return base
    index = jnp.asarray([fault.index for fault in faults], jnp.int32)
    after = jnp.asarray(np.array([fault.after for fault in faults], np.float32)).astype(base.dtype)
    return jnp.ravel(base).at[index].set(after).reshape(base.shape)


def _check_before(faults: Sequence[Fault], base: AnyArray, file: str) -> None:
    if not faults:
        return
    found = np.asarray(base).ravel()[[fault.index for fault in faults]].astype(np.float32)
    listed = np.array([fault.before for fault in faults], np.float32)
    differ = np.flatnonzero((found != listed) & ~(np.isnan(found) & np.isnan(listed)))
    if differ.size:
        first = faults[differ[0]]
        place = f"{first.layer}/{first.tensor}[{first.index}]"
        raise PerturbationError(
            f"{file}: {place} is {found[differ[0]]} in this network and {np.float32(first.before)} in the list; "
            "replay needs the same weights, and the word and granularity that the list was written with"
        )


def _by_tensor(
    faults: Sequence[Fault], params: Params, where: Where, file: str
) -> dict[tuple[str, str], tuple[Fault, ...]]:
    """The faults of each tensor of the selected layers, after all that can be wrong without the weights was seen."""
    if draws := sorted({fault.draw for fault in faults})[1:]:
        raise PerturbationError(f"{file}: expected the faults of one draw, got several (draw {draws[0]} among them)")
    known = layers_of(params, where.norms)
    selected = {layer.name for layer in where.chosen(params)}
    found: dict[tuple[str, str], list[Fault]] = {}
    for fault in faults:
        _check_place(fault, known, file)
        if fault.layer in selected:
            _check_included(fault, known[fault.layer], where, file)
            found.setdefault((fault.layer, fault.tensor), []).append(fault)
    for same in found.values():
        _check_agreement(same, file)
    return {name: tuple(some) for name, some in found.items()}


def _check_place(fault: Fault, known: Mapping[str, Layer], file: str) -> None:
    if fault.layer not in known:
        raise LayerError(f"{file}: unknown layer {fault.layer!r}" + did_you_mean(fault.layer, known))
    sizes = {leaf.name: leaf.size for leaf in known[fault.layer].leaves(include_norm=True)}
    place = f"{fault.layer}/{fault.tensor}"
    if fault.tensor not in sizes:
        raise PerturbationError(f"{file}: there is no {place}; layer {fault.layer!r} has {', '.join(sizes)}")
    if not 0 <= fault.index < sizes[fault.tensor]:
        last = sizes[fault.tensor] - 1
        raise PerturbationError(f"{file}: {place} has the indices 0 to {last}, and no {fault.index}")


def _check_agreement(faults: Sequence[Fault], file: str) -> None:
    """Several faults of one weight are listed one by one, each with what all of them make of it."""
    after: dict[int, float] = {}
    for fault in faults:
        first = after.setdefault(fault.index, fault.after)
        if np.float32(first).tobytes() != np.float32(fault.after).tobytes():
            place = f"{fault.layer}/{fault.tensor}[{fault.index}]"
            raise PerturbationError(f"{file}: {place} becomes {first} and {fault.after}; expected one value")


def _check_included(fault: Fault, layer: Layer, where: Where, file: str) -> None:
    norm = fault.tensor.startswith("norm/")
    option = "include_norm" if norm else "include_bias"
    if norm or (layer.bias and fault.tensor == layer.bias.name):
        included = where.include_norm if norm else where.include_bias
        if not included:
            raise PerturbationError(f"{file}: the list has faults in {fault.layer}/{fault.tensor}; add {option}=true")


def _read(file: str | Path | None, sha256: str | None) -> tuple[Fault, ...]:
    return _parsed(_content(file, sha256), str(file))


@lru_cache(maxsize=2)
def _parsed(content: bytes, file: str) -> tuple[Fault, ...]:
    return read_faults(_text(content, file), file)


def _content(file: str | Path | None, sha256: str | None) -> bytes:
    if file is None:
        raise PerturbationError("replay needs a fault list, such as replay(file='faults.csv')")
    try:
        content = Path(file).read_bytes()
    except OSError as error:
        raise PerturbationError(f"the fault list {file} cannot be read: {error.strerror or error}") from None
    if sha256 is not None and _hash(content) != sha256[:HASH_LETTERS]:
        raise PerturbationError(f"{file} is not the fault list that was asked for: its content has changed")
    return content


def _text(content: bytes, file: str) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise PerturbationError(f"the fault list {file} is no text") from None


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:HASH_LETTERS]
