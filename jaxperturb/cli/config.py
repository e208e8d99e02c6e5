"""Reads the flags of a study from its own record, ``config.json``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from jaxperturb.errors import UsageError, did_you_mean


def read_config(path: Path, values: flags.FlagValues) -> Mapping[str, Any]:
    """Sets the flags that were not given on the command line to those of a record.

    Args:
        path: of the ``config.json`` that ``jaxperturb sweep`` wrote.
        values: the flags of this command line; ``out`` becomes the record's folder unless it was given.

    Returns:
        The record.

    Raises:
        UsageError: a file that is missing or no such record.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        given = dict(record["flags"])
    except OSError as error:
        raise UsageError(f"--config={path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"--config={path} is no record of a study; 'jaxperturb sweep' writes config.json") from error
    for name, value in given.items():
        if name not in values:
            raise UsageError(f"{path} has the unknown flag {name!r}{did_you_mean(name, values)}")
        if values[name].using_default_value:
            _set(values, name, value, path)
    if values.out is None:
        values["out"].value = str(path.parent)
    return record


def _set(values: flags.FlagValues, name: str, value: object, path: Path) -> None:
    try:
        values[name].parse(str(value))
    except flags.IllegalFlagValueError as error:
        raise UsageError(f"{path} gives --{name} the value {value!r}, which it cannot have") from error
