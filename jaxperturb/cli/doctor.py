"""``jaxperturb doctor``: what this installation is made of, for a bug report."""

import os
import platform
import sys
from collections.abc import Iterator
from importlib import metadata

from absl import flags

from jaxperturb.cli import backend
from jaxperturb.cli.command import Command
from jaxperturb.cli.lists import print_list
from jaxperturb.cli.options import define_debug, define_device
from jaxperturb.errors import JaxPerturbError

# What decides how a computation runs, beside jaxperturb's own flags.
_VARIABLES = ("JAX_", "XLA_", "OMP_", "CUDA_VISIBLE_DEVICES", "TF_", "XDG_CACHE_HOME", "JAXPERTURB_CACHE")


def _define(values: flags.FlagValues) -> None:
    define_device(values)
    define_debug(values)


def _run(values: flags.FlagValues) -> None:
    print_list({"jaxperturb": metadata.version("jaxperturb"), **_machine()})
    print("\nlibraries")
    print_list({f"  {name}": version for name, version in _libraries()})
    print("\nenvironment")
    print_list({f"  {name}": value for name, value in _environment()} or {"  (nothing set)": ""})
    print("\ncomputing")
    print_list({f"  {name}": text for name, text in _computing(values.device)})
    print("\nbundled networks")
    print_list({f"  {name}": state for name, state in _bundled()})


def _machine() -> dict[str, str]:
    return {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": platform.platform(),
        "threads": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
    }


def _libraries() -> Iterator[tuple[str, str]]:
    """Yields the version of everything that jaxperturb requires, and of JAX's own parts."""
    required = {
        line.split(";")[0].split(">=")[0].strip()
        for line in metadata.requires("jaxperturb") or ()
        if "extra" not in line
    }
    for name in sorted(required | {"jaxlib"}):
        try:
            yield name, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, "MISSING"


def _computing(device: str | None) -> Iterator[tuple[str, str]]:
    backend.start(device)
    from jaxperturb.engine.devices import describe

    told = describe()
    for name in ("platform", "device", "devices"):
        yield name, str(told[name])
    yield "compiled programs", str(backend.cache_folder())


def _environment() -> Iterator[tuple[str, str]]:
    return ((name, value) for name, value in sorted(os.environ.items()) if name.startswith(_VARIABLES))


def _bundled() -> Iterator[tuple[str, str]]:
    """Yields each bundled network with "intact", or with what is wrong with it."""
    from jaxperturb.checkpoints import bundled, load_network

    for name, folder in bundled().items():
        try:
            load_network(folder)
        except JaxPerturbError as error:
            yield name, f"DAMAGED: {error}"
        else:
            yield name, "intact"


COMMAND = Command(
    name="doctor",
    summary="Prints versions, devices, threads and settings, for a bug report.",
    details="It also checks the bundled networks.",
    examples=(("everything at once", "doctor"), ("whether a GPU can be used", "doctor --device=gpu")),
    define=_define,
    run=_run,
)
