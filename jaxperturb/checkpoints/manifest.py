"""What a checkpoint's `manifest.json` says, read strictly and written plainly."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxperturb.errors import CheckpointError, did_you_mean
from jaxperturb.networks.preprocessing import Preprocessing

FILE = "manifest.json"
FORMAT = "jaxperturb-checkpoint"
VERSION = 1


@dataclasses.dataclass(frozen=True)
class ArrayRecord:
    """One stored array.

    Attributes:
        shape: its lengths.
        dtype: NumPy's name of the type on disk.
        sha256: hexadecimal digest of its bytes (C order, little-endian).
    """

    shape: tuple[int, ...]
    dtype: str
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Everything about a checkpoint but the arrays themselves.

    Attributes:
        name: the network's name in tables and file names.
        summary: one line for lists.
        architecture: a key of `networks.catalogue.ARCHITECTURES`.
        options: what it is built with.
        image_shape: (height, width, channels) that the network takes.
        licence: of the weights, as an SPDX identifier.
        arrays: a record for each array, by its path in the variables tree ("params/conv1/kernel").
        storage: how the arrays are kept.
        classes: a name for each logit, in order, or None.
        preprocessing: what makes an image of a data set into an input, or None.
        training: data, seed, steps and settings.
        accuracy: what the intact network got: data set, split, its fingerprint, images, top1, top5 (counts).
        source: where the weights come from.
        versions: of the libraries that made them.
    """

    name: str
    summary: str
    architecture: str
    options: Mapping[str, Any]
    image_shape: tuple[int, int, int]
    licence: str
    arrays: Mapping[str, ArrayRecord]
    storage: str = "safetensors"
    classes: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    training: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    accuracy: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    versions: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Returns plain values that `from_json` reads back to an equal record."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        values |= {
            "image_shape": list(self.image_shape),
            "classes": None if self.classes is None else list(self.classes),
            "preprocessing": None if self.preprocessing is None else self.preprocessing.to_json(),
            "arrays": {k: dataclasses.asdict(r) | {"shape": list(r.shape)} for k, r in self.arrays.items()},
        }
        return {"format": FORMAT, "version": VERSION, **values}

    @classmethod
    def from_json(cls, values: object) -> "Manifest":
        """Reads what `to_json` wrote.

        Raises:
            CheckpointError: not such a table, of a newer version, or a field is missing, unknown or ill-typed.
        """
        if not isinstance(values, Mapping) or values.get("format") != FORMAT:
            raise CheckpointError(f"not a manifest of jaxperturb: it must be a table with format {FORMAT!r}")
        if values.get("version") != VERSION:
            raise CheckpointError(
                f"manifest version {values.get('version')!r} is not the {VERSION} known here; update jaxperturb"
            )
        fields = {k: v for k, v in values.items() if k not in ("format", "version")}
        _check_names(fields, [f.name for f in dataclasses.fields(cls)])
        classes, preprocessing = fields["classes"], fields["preprocessing"]
        texts = {k: _typed(fields, k, str) for k in ("name", "summary", "architecture", "licence", "storage")}
        tables = {k: _typed(fields, k, dict) for k in ("options", "training", "accuracy", "source", "versions")}
        return cls(
            image_shape=read_image_shape(_typed(fields, "image_shape", list)),
            arrays={k: _record(k, v) for k, v in _typed(fields, "arrays", dict).items()},
            classes=None if classes is None else class_names(_typed(fields, "classes", list)),
            preprocessing=None if preprocessing is None else Preprocessing.from_json(preprocessing),
            **texts,
            **tables,
        )


def read_manifest(folder: Path) -> Manifest:
    """Reads the manifest of a checkpoint folder.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    path = folder / FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} is no checkpoint: it has no {FILE}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {path}: {error}; get the checkpoint again") from None
    try:
        return Manifest.from_json(values)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None


def to_text(manifest: Manifest) -> str:
    """Returns the content of `manifest.json`: the same text for the same manifest."""
    return json.dumps(manifest.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _check_names(fields: Mapping[str, Any], known: list[str]) -> None:
    for name in fields:
        if name not in known:
            raise CheckpointError(f"unknown field {name!r}{did_you_mean(str(name), known)}")
    for name in known:
        if name not in fields:
            raise CheckpointError(f"the field {name!r} is missing")


def _typed(fields: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(fields[name], kind):
        words: dict[type, str] = {str: "text", list: "a list", dict: "a table"}
        raise CheckpointError(f"{name} must be {words[kind]}, got {fields[name]!r}")
    return fields[name]


def _record(name: str, values: object) -> ArrayRecord:
    if not isinstance(values, Mapping) or set(values) != {"shape", "dtype", "sha256"}:
        raise CheckpointError(f"the array {name!r} must have shape, dtype and sha256, got {values!r}")
    shape, dtype, sha256 = values["shape"], values["dtype"], values["sha256"]
    if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
        raise CheckpointError(f"the array {name!r} has the shape {shape!r}: expected a list of lengths")
    if not isinstance(dtype, str) or not isinstance(sha256, str):
        raise CheckpointError(f"the array {name!r} must have texts as dtype and sha256, got {dtype!r} and {sha256!r}")
    return ArrayRecord(tuple(shape), dtype, sha256)


def read_image_shape(shape: list[Any]) -> tuple[int, int, int]:
    """Checks [height, width, channels].

    Raises:
        CheckpointError: it is something else.
    """
    if len(shape) != 3 or not all(type(n) is int and n > 0 for n in shape):
        raise CheckpointError(f"image_shape must be [height, width, channels], got {shape!r}")
    return shape[0], shape[1], shape[2]


def class_names(names: list[Any]) -> tuple[str, ...]:
    """Checks the names of classes.

    Raises:
        CheckpointError: one is no text.
    """
    if not all(isinstance(name, str) for name in names):
        raise CheckpointError(f"classes must be texts, got {names!r}")
    return tuple(names)
