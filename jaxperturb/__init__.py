"""Lesions of trained convolutional networks in JAX.

Public names are loaded on first use, so that ``import jaxperturb`` is quick and starts no JAX.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxperturb.errors import JaxPerturbError as JaxPerturbError

if TYPE_CHECKING:
    from jaxperturb import data as data
    from jaxperturb import random as random
    from jaxperturb.api import activations as activations
    from jaxperturb.api import compare_precisions as compare_precisions
    from jaxperturb.api import evaluate as evaluate
    from jaxperturb.api import fault_list as fault_list
    from jaxperturb.api import lesion as lesion
    from jaxperturb.api import load_results as load_results
    from jaxperturb.api import mean_activations as mean_activations
    from jaxperturb.api import saliency as saliency
    from jaxperturb.api import sweep as sweep
    from jaxperturb.api.recovery import recover as recover
    from jaxperturb.api.recovery import weight_change as weight_change
    from jaxperturb.checkpoints import load_network as load_network
    from jaxperturb.checkpoints import load_weights as load_weights
    from jaxperturb.data import load_dataset as load_dataset
    from jaxperturb.networks.head import replace_head as replace_head
    from jaxperturb.networks.network import Network as Network
    from jaxperturb.perturb import bit_flip as bit_flip
    from jaxperturb.perturb import compose as compose
    from jaxperturb.perturb import gaussian_noise as gaussian_noise
    from jaxperturb.perturb import magnitude_knockout as magnitude_knockout
    from jaxperturb.perturb import mean_ablation as mean_ablation
    from jaxperturb.perturb import node_knockout as node_knockout
    from jaxperturb.perturb import quantize as quantize
    from jaxperturb.perturb import replay as replay
    from jaxperturb.perturb import rerandomize as rerandomize
    from jaxperturb.perturb import resample as resample
    from jaxperturb.perturb import saliency_knockout as saliency_knockout
    from jaxperturb.perturb import shuffle as shuffle
    from jaxperturb.perturb import sign_flip as sign_flip
    from jaxperturb.perturb import stuck_at as stuck_at
    from jaxperturb.perturb import synapse_knockout as synapse_knockout
    from jaxperturb.recovery.optimizers import Optimizer as Optimizer
    from jaxperturb.show import plots as plots
    from jaxperturb.show.recovery import Recovery as Recovery
    from jaxperturb.show.recovery import load_recovery as load_recovery
    from jaxperturb.show.report.page import report as report
    from jaxperturb.show.results import Results as Results

    __version__: str

# Where each public name is found: (module, name in it), or (module, None) for the module itself.
_PLACES: dict[str, tuple[str, str | None]] = {
    "Network": ("jaxperturb.networks.network", "Network"),
    "Optimizer": ("jaxperturb.recovery.optimizers", "Optimizer"),
    "Recovery": ("jaxperturb.show.recovery", "Recovery"),
    "Results": ("jaxperturb.show.results", "Results"),
    "activations": ("jaxperturb.api", "activations"),
    "bit_flip": ("jaxperturb.perturb", "bit_flip"),
    "compare_precisions": ("jaxperturb.api", "compare_precisions"),
    "compose": ("jaxperturb.perturb", "compose"),
    "data": ("jaxperturb.data", None),
    "evaluate": ("jaxperturb.api", "evaluate"),
    "fault_list": ("jaxperturb.api", "fault_list"),
    "gaussian_noise": ("jaxperturb.perturb", "gaussian_noise"),
    "lesion": ("jaxperturb.api", "lesion"),
    "load_dataset": ("jaxperturb.data", "load_dataset"),
    "load_network": ("jaxperturb.checkpoints", "load_network"),
    "load_recovery": ("jaxperturb.show.recovery", "load_recovery"),
    "load_results": ("jaxperturb.api", "load_results"),
    "load_weights": ("jaxperturb.checkpoints", "load_weights"),
    "magnitude_knockout": ("jaxperturb.perturb", "magnitude_knockout"),
    "mean_ablation": ("jaxperturb.perturb", "mean_ablation"),
    "mean_activations": ("jaxperturb.api", "mean_activations"),
    "node_knockout": ("jaxperturb.perturb", "node_knockout"),
    "plots": ("jaxperturb.show.plots", None),
    "quantize": ("jaxperturb.perturb", "quantize"),
    "random": ("jaxperturb.random", None),
    "recover": ("jaxperturb.api.recovery", "recover"),
    "replace_head": ("jaxperturb.networks.head", "replace_head"),
    "replay": ("jaxperturb.perturb", "replay"),
    "report": ("jaxperturb.show.report.page", "report"),
    "rerandomize": ("jaxperturb.perturb", "rerandomize"),
    "resample": ("jaxperturb.perturb", "resample"),
    "saliency": ("jaxperturb.api", "saliency"),
    "saliency_knockout": ("jaxperturb.perturb", "saliency_knockout"),
    "shuffle": ("jaxperturb.perturb", "shuffle"),
    "sign_flip": ("jaxperturb.perturb", "sign_flip"),
    "stuck_at": ("jaxperturb.perturb", "stuck_at"),
    "sweep": ("jaxperturb.api", "sweep"),
    "synapse_knockout": ("jaxperturb.perturb", "synapse_knockout"),
    "weight_change": ("jaxperturb.api.recovery", "weight_change"),
}

__all__ = [
    "JaxPerturbError",
    "Network",
    "Optimizer",
    "Recovery",
    "Results",
    "__version__",
    "activations",
    "bit_flip",
    "compare_precisions",
    "compose",
    "data",
    "evaluate",
    "fault_list",
    "gaussian_noise",
    "lesion",
    "load_dataset",
    "load_network",
    "load_recovery",
    "load_results",
    "load_weights",
    "magnitude_knockout",
    "mean_ablation",
    "mean_activations",
    "node_knockout",
    "plots",
    "quantize",
    "random",
    "recover",
    "replace_head",
    "replay",
    "report",
    "rerandomize",
    "resample",
    "saliency",
    "saliency_knockout",
    "shuffle",
    "sign_flip",
    "stuck_at",
    "sweep",
    "synapse_knockout",
    "weight_change",
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
