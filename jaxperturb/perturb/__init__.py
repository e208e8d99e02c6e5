"""Perturbations: pure functions ``f(key, params, level, *, layers="*", ...) -> params`` over any tree of weights."""

from jaxperturb.perturb.ablation import mean_ablation
from jaxperturb.perturb.catalogue import CATALOGUE, Asked, Perturbation, compose, parse_perturbations
from jaxperturb.perturb.faults import bit_flip, stuck_at
from jaxperturb.perturb.knockout import node_knockout, synapse_knockout
from jaxperturb.perturb.noise import gaussian_noise
from jaxperturb.perturb.ordered import magnitude_knockout, saliency_knockout
from jaxperturb.perturb.precision import quantize
from jaxperturb.perturb.rearrange import resample, shuffle, sign_flip
from jaxperturb.perturb.replaying import replay
from jaxperturb.perturb.rerandomize import rerandomize

__all__ = [
    "CATALOGUE",
    "Asked",
    "Perturbation",
    "bit_flip",
    "compose",
    "gaussian_noise",
    "magnitude_knockout",
    "mean_ablation",
    "node_knockout",
    "parse_perturbations",
    "quantize",
    "replay",
    "rerandomize",
    "resample",
    "saliency_knockout",
    "shuffle",
    "sign_flip",
    "stuck_at",
    "synapse_knockout",
]
