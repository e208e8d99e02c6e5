"""Lesions of trained convolutional networks in JAX.

Public names are loaded on first use, so that ``import jaxperturb`` is quick and starts no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxperturb.errors import JaxPerturbError as JaxPerturbError

if TYPE_CHECKING:
    from jaxperturb import data as data
    from jaxperturb import random as random
    from jaxperturb.api import evaluate as evaluate
    from jaxperturb.api import lesion as lesion
    from jaxperturb.api import load_results as load_results
    from jaxperturb.api import sweep as sweep
    from jaxperturb.checkpoints import load_network as load_network
    from jaxperturb.data import load_dataset as load_dataset
    from jaxperturb.networks.network import Network as Network
    from jaxperturb.perturb import gaussian_noise as gaussian_noise
    from jaxperturb.perturb import node_knockout as node_knockout
    from jaxperturb.perturb import resample as resample
    from jaxperturb.perturb import synapse_knockout as synapse_knockout
    from jaxperturb.show import plots as plots
    from jaxperturb.show.results import Results as Results

    __version__: str

# Where each public name is found: (module, name in it), or (module, None) for the module itself.
_PLACES: dict[str, tuple[str, str | None]] = {
    "Network": ("jaxperturb.networks.network", "Network"),
    "Results": ("jaxperturb.show.results", "Results"),
    "data": ("jaxperturb.data", None),
    "evaluate": ("jaxperturb.api", "evaluate"),
    "gaussian_noise": ("jaxperturb.perturb", "gaussian_noise"),
    "lesion": ("jaxperturb.api", "lesion"),
    "load_dataset": ("jaxperturb.data", "load_dataset"),
    "load_network": ("jaxperturb.checkpoints", "load_network"),
    "load_results": ("jaxperturb.api", "load_results"),
    "node_knockout": ("jaxperturb.perturb", "node_knockout"),
    "plots": ("jaxperturb.show.plots", None),
    "random": ("jaxperturb.random", None),
    "resample": ("jaxperturb.perturb", "resample"),
    "sweep": ("jaxperturb.api", "sweep"),
    "synapse_knockout": ("jaxperturb.perturb", "synapse_knockout"),
}

__all__ = [
    "JaxPerturbError",
    "Network",
    "Results",
    "__version__",
    "data",
    "evaluate",
    "gaussian_noise",
    "lesion",
    "load_dataset",
    "load_network",
    "load_results",
    "node_knockout",
    "plots",
    "random",
    "resample",
    "sweep",
    "synapse_knockout",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value: Any = _read_version()
    elif name in _PLACES:
        module_name, attribute = _PLACES[name]
        module = importlib.import_module(module_name)
        value = module if attribute is None else getattr(module, attribute)
    else:
        raise AttributeError(f"module 'jaxperturb' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))


def _read_version() -> str:
    from importlib.metadata import version

    return version("jaxperturb")
