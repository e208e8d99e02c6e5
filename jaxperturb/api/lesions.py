"""Single lesions: the network that one leaves, and what it did."""

from collections.abc import Sequence
from dataclasses import replace

from jaxperturb.api.inputs import NetworkLike, OnePerturbation, network_of
from jaxperturb.engine.cell_faults import cell_faults
from jaxperturb.engine.lesions import lesioned_params
from jaxperturb.engine.plan import Cell
from jaxperturb.levels import LevelLike, as_level
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked, ask
from jaxperturb.perturb.fault_list import Fault
from jaxperturb.perturb.targets import Target, parse_targets
from jaxperturb.random import draw_key
from jaxperturb.trees import layers_of


def lesion(
    net: NetworkLike,
    perturbation: OnePerturbation,
    layers: str | Sequence[str],
    level: LevelLike,
    draw: int = 0,
    seed: int = 0,
) -> Network:
    """Returns a lesioned network: that of a study's cell, where the seed is the study's.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        perturbation: its name with options, or a function.
        layers: a target as `sweep` takes them; several are lesioned together.
        level: of damage, in the perturbation's range.
        draw: number of the draw, from 0.
        seed: 0 to 2**32 - 1.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    asked, network = ask(perturbation), network_of(net)
    cell = _cell(network, asked, layers, level, draw)
    return replace(network, params=lesioned_params(network, asked, cell, draw_key(seed, draw), {}))


def fault_list(
    net: NetworkLike,
    perturbation: OnePerturbation,
    layers: str | Sequence[str],
    level: LevelLike,
    draw: int = 0,
    seed: int = 0,
) -> tuple[Fault, ...]:
    """Returns what the lesion of a study's cell did, weight by weight; `replay` injects it again.

    Of `bit_flip` and `stuck_at` each fault, also one that changes nothing; of others each weight whose value changed.
    ``pandas.DataFrame(jp.fault_list(...))`` is a table of it.

    Args:
        net: a network, a bundled name, or a checkpoint's folder.
        perturbation: its name with options, or a function.
        layers: a target as `sweep` takes them; several are lesioned together.
        level: of damage, in the perturbation's range.
        draw: number of the draw, from 0.
        seed: 0 to 2**32 - 1.

    Raises:
        JaxPerturbError: one of its subclasses, for what cannot be done as asked.
    """
    asked, network = ask(perturbation), network_of(net)
    cell = _cell(network, asked, layers, level, draw)
    return cell_faults(network, asked, cell, draw_key(seed, draw))


def _cell(network: Network, asked: Asked, layers: str | Sequence[str], level: LevelLike, draw: int) -> Cell:
    (exact,) = asked.check_levels([as_level(level)])
    found = parse_targets(tuple(layers_of(network.params, network.norms)), layers)
    return Cell(asked.text, found[0] if len(found) == 1 else Target(found).name, exact, draw)
