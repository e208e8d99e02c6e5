"""Who computes, and with what: recorded for each run, and said aloud where it is not what the run before had."""

import importlib.metadata
import json
import os
import platform
import shlex
import socket
import sys
from collections.abc import Mapping
from typing import Any

from jaxperturb.engine.devices import describe as describe_devices
from jaxperturb.study.planned import Shard
from jaxperturb.study.rows import RunRecord
from jaxperturb.study.study import Study

_VERSIONS = ("jaxperturb", "jax", "jaxlib", "flax", "numpy")
_DEVICE = ("platform", "device", "devices")


def describe_run(study: Study, batch_size: int, shard: Shard | None) -> RunRecord:
    """Returns the record of a run of this process.

    Args:
        study: what is asked.
        batch_size: images per block.
        shard: the share of the cells, None for all.
    """
    versions = {"python": platform.python_version()} | {name: _version(name) for name in _VERSIONS}
    tiling = {"block": batch_size, "shard": shard and str(shard), "tiles": study.identity.tiles}
    return RunRecord(
        host=socket.gethostname(),
        pid=os.getpid(),
        device=json.dumps(describe_devices(), sort_keys=True, default=str),
        versions=json.dumps(versions),
        command=shlex.join(sys.argv),
        precision=study.identity.precision,
        tiling=json.dumps(tiling, sort_keys=True),
        asked=study.to_json(),
    )


def shard_of(record: RunRecord) -> Shard | None:
    """Returns the share of the cells that a run computes, None for all."""
    text = json.loads(record.tiling).get("shard")  # records of the first version hold tiles alone
    return Shard.parse(text) if isinstance(text, str) else None


def device_text(record: RunRecord) -> str:
    """Returns on what a run computes, in a few words."""
    device = json.loads(record.device)
    number = f"{device.get('devices')} devices" if device.get("devices") != 1 else "1 device"
    return f"{device.get('platform')} ({device.get('device')}, {number})"


def changes(before: RunRecord, after: RunRecord) -> list[str]:
    """Returns how device and versions differ between two runs, a phrase for each."""
    return [
        f"{name}: {old.get(name)} before, {new.get(name)} now"
        for old, new, names in (
            (_loaded(before.device), _loaded(after.device), _DEVICE),
            (_loaded(before.versions), _loaded(after.versions), ("python", *_VERSIONS)),
        )
        for name in names
        if old.get(name) != new.get(name)
    ]


def _loaded(text: str) -> Mapping[str, Any]:
    return json.loads(text)


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a source tree that is not installed
        return "unknown"
