"""Perturbations: pure functions ``f(key, params, level, *, layers="*", ...) -> params`` over any tree of weights."""

from jaxperturb.perturb.catalogue import CATALOGUE, Asked, Perturbation, parse_perturbations
from jaxperturb.perturb.knockout import node_knockout, synapse_knockout
from jaxperturb.perturb.noise import gaussian_noise
from jaxperturb.perturb.rearrange import resample

__all__ = [
    "CATALOGUE",
    "Asked",
    "Perturbation",
    "gaussian_noise",
    "node_knockout",
    "parse_perturbations",
    "resample",
    "synapse_knockout",
]
