"""The perturbations by name: what their level means, their grids, and how a study asks for them."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from jaxperturb.errors import PerturbationError, did_you_mean
from jaxperturb.perturb.ablation import mean_ablation
from jaxperturb.perturb.asked import Asked as Asked
from jaxperturb.perturb.asked import Perturbation as Perturbation
from jaxperturb.perturb.compose import Composition, composed
from jaxperturb.perturb.faults import (
    bit_flip,
    encodes,
    fault_counts,
    fault_places,
    fault_variants,
    faults_selected,
    struck_words,
    stuck_at,
)
from jaxperturb.perturb.grammar import composed_texts, parse_call, split_calls
from jaxperturb.perturb.knockout import node_knockout, synapse_knockout
from jaxperturb.perturb.noise import gaussian_noise
from jaxperturb.perturb.ordered import magnitude_knockout, saliency_knockout
from jaxperturb.perturb.precision import quantize, quantize_variants
from jaxperturb.perturb.rearrange import resample, shuffle, sign_flip
from jaxperturb.perturb.replaying import check_replay, faults_replayed, replay, replay_variants
from jaxperturb.perturb.request import (
    all_selected,
    entries_selected,
    entry_counts,
    unit_counts,
    units_selected,
)
from jaxperturb.perturb.rerandomize import rerandomize


def ask(what: str | Asked | Perturbation | Callable[..., Any]) -> Asked:
    """Returns what is asked for by a name with options, an entry of the catalogue, or a user's own function."""
    match what:
        case Asked():
            return what
        case Perturbation():
            return Asked(what)
        case str():
            asked = parse_perturbations(what)
            if len(asked) > 1:
                raise PerturbationError(f"expected one perturbation, and {what!r} stands for {len(asked)}")
            return asked[0]
        case Composition():
            return Asked(composed(what))
        case _ if callable(what):
            if ours := [entry for entry in CATALOGUE.values() if entry.function is what]:
                return Asked(ours[0])
            return Asked(_own(what, f"{what.__module__}:{getattr(what, '__qualname__', type(what).__name__)}"))
    raise PerturbationError(f"expected a perturbation's name or a function, got {what!r}")


def parse_perturbations(asked: str | Sequence[Any]) -> tuple[Asked, ...]:
    """Reads ``"synapse_knockout,node_knockout(include_bias=false)"``, or a sequence of names and functions.

    Raises:
        PerturbationError: an unknown name or option, a text that cannot be read, one asked for twice, or none.
    """
    if isinstance(asked, str):
        found = [one for text in split_calls(asked) for one in _read(text)]
    else:
        some = (parse_perturbations(item) if isinstance(item, str) else (ask(item),) for item in asked)
        found = [one for ones in some for one in ones]
    texts = [item.text for item in found]
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise PerturbationError(f"perturbation {twice[0]!r} is asked for twice")
    if not found:
        raise PerturbationError(f"expected a perturbation, got none (known: {', '.join(CATALOGUE)})")
    return tuple(found)


def compose(*perturbations: str | Asked | Perturbation | Callable[..., Any]) -> Composition:
    """Returns one perturbation that applies several, one after another, at the same level.

    ``compose("synapse_knockout", "gaussian_noise")`` goes wherever a perturbation does: it is called as
    ``f(key, params, level, *, layers)``, and a study names it ``compose(synapse_knockout,gaussian_noise)``.

    Args:
        *perturbations: names with options, or functions; two or more.

    Raises:
        PerturbationError: a name or option that is not known, or less than two.
    """
    return Composition(tuple(ask(item) for item in perturbations))


def named(name: str) -> Perturbation:
    """Returns a perturbation by its name in the catalogue, or a user's function by ``package.module:function``."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    if ":" in name:
        return _own(_imported(name), name)
    known = f"known: {', '.join(CATALOGUE)}, or package.module:function"
    raise PerturbationError(f"unknown perturbation {name!r}{did_you_mean(name, CATALOGUE)} ({known})")


def _read(text: str) -> list[Asked]:
    """What one text stands for: a name with options, or a composition of such."""
    parts = composed_texts(text)
    if parts is not None:
        return [ask(compose(*parts))]
    name, options = parse_call(text)
    return _asked(named(name), options)


def _asked(perturbation: Perturbation, given: Mapping[str, Any]) -> list[Asked]:
    """What a name with options stands for: one perturbation, or one for each of its variants."""
    _check_options(perturbation, given)
    known = perturbation.options
    variants = perturbation.variants(known | dict(given)) if perturbation.variants else [given]
    chosen = [{name: value for name, value in options.items() if value != known[name]} for options in variants]
    return [Asked(perturbation, tuple(sorted(options.items()))) for options in chosen]


def _check_options(perturbation: Perturbation, given: Mapping[str, Any]) -> None:
    known = perturbation.options
    for option in given:
        if option not in known:
            options = f"options: {', '.join(known) or 'none'}"
            raise PerturbationError(
                f"{perturbation.name} has no option {option!r}{did_you_mean(option, known)} ({options})"
            )
        if isinstance(known[option], bool) and not isinstance(given[option], bool):
            what = f"option {option!r} of {perturbation.name}"
            raise PerturbationError(f"{what}: expected true or false, got {given[option]!r}")


def _own(function: Callable[..., Any], name: str) -> Perturbation:
    try:
        inspect.signature(function).bind(None, None, None, layers=())
    except TypeError as error:
        raise PerturbationError(f"{name}: expected a function f(key, params, level, *, layers): {error}") from None
    summary = (inspect.getdoc(function) or "a user's own").splitlines()[0]
    return Perturbation(name, function, summary, "as the function defines it")


def _imported(path: str) -> Callable[..., Any]:
    module, _, attribute = path.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise PerturbationError(f"perturbation {path!r}: module {module!r} cannot be imported: {error}") from None
    except AttributeError:
        raise PerturbationError(f"perturbation {path!r}: module {module!r} has no {attribute!r}") from None
    if not callable(function):
        raise PerturbationError(f"perturbation {path!r}: expected a function, got {type(function).__name__}")
    return function


_ONE = Decimal(1)
_FAULT_RATES = "0,1e-8:1e-3:x10"

CATALOGUE: Mapping[str, Perturbation] = MappingProxyType(
    {
        entry.name: entry
        for entry in (
            Perturbation(
                "synapse_knockout",
                synapse_knockout,
                "sets a share of the weights to zero",
                "fraction of each tensor's weights",
                high=_ONE,
                certain=(_ONE,),
                counts=entry_counts,
                selected=entries_selected,
            ),
            Perturbation(
                "node_knockout",
                node_knockout,
                "silences a share of the units: incoming weights and bias",
                "fraction of each layer's units",
                high=_ONE,
                certain=(_ONE,),
                counts=unit_counts,
                selected=units_selected,
                by_unit=lambda options: options["axis"] == "out",
            ),
            Perturbation(
                "gaussian_noise",
                gaussian_noise,
                "adds normal noise to every weight",
                "multiple of each tensor's standard deviation",
                grid="0:2:0.2",
                selected=all_selected,
                linear=True,
            ),
            Perturbation(
                "resample",
                resample,
                "gives a share of the weights the values of others",
                "fraction of each tensor's weights",
                high=_ONE,
                counts=entry_counts,
                selected=entries_selected,
            ),
            Perturbation(
                "shuffle",
                shuffle,
                "lets a share of the weights change places",
                "fraction of each tensor's weights",
                high=_ONE,
                counts=entry_counts,
                selected=entries_selected,
            ),
            Perturbation(
                "sign_flip",
                sign_flip,
                "changes the sign of a share of the weights",
                "fraction of each tensor's weights",
                high=_ONE,
                certain=(_ONE,),
                counts=entry_counts,
                selected=entries_selected,
            ),
            Perturbation(
                "rerandomize",
                rerandomize,
                "sets a share of the weights back to an initialiser's draw",
                "fraction of each tensor's weights",
                high=_ONE,
                counts=entry_counts,
                selected=entries_selected,
            ),
            Perturbation(
                "magnitude_knockout",
                magnitude_knockout,
                "sets the smallest weights to zero, or the largest",
                "fraction of each tensor's weights",
                high=_ONE,
                draws_matter=False,
                counts=entry_counts,
                selected=entries_selected,
            ),
            Perturbation(
                "saliency_knockout",
                saliency_knockout,
                "sets the weights that matter most to the loss to zero",
                "fraction of each tensor's weights",
                high=_ONE,
                draws_matter=False,
                counts=entry_counts,
                selected=entries_selected,
                measured=("scores",),
            ),
            Perturbation(
                "mean_ablation",
                mean_ablation,
                "fixes a share of the units at their mean activation",
                "fraction of each layer's units",
                high=_ONE,
                certain=(_ONE,),
                counts=unit_counts,
                selected=units_selected,
                measured=("means",),
                by_unit=lambda _: True,
            ),
            Perturbation(
                "quantize",
                quantize,
                "rounds every weight to a few bits",
                "bits of each weight",
                low=_ONE,
                high=Decimal(16),
                grid="1,2,3,4,5,6,8,16",
                no_damage=None,
                draws_matter=False,
                whole=True,
                selected=all_selected,
                variants=quantize_variants,
            ),
            Perturbation(
                "bit_flip",
                bit_flip,
                "flips bits of the stored weights",
                "faults per stored bit",
                high=_ONE,
                grid=_FAULT_RATES,
                axis="log",
                certain=(_ONE,),
                counts=fault_counts,
                selected=faults_selected,
                encodes=encodes,
                variants=fault_variants,
                places=fault_places,
                struck=struck_words,
            ),
            Perturbation(
                "stuck_at",
                stuck_at,
                "sticks bits of the stored weights at 0 or 1",
                "faults per stored bit",
                high=_ONE,
                grid=_FAULT_RATES,
                axis="log",
                certain=(_ONE,),
                counts=fault_counts,
                selected=faults_selected,
                encodes=encodes,
                variants=fault_variants,
                places=fault_places,
                struck=struck_words,
            ),
            Perturbation(
                "replay",
                replay,
                "injects the faults of a list",
                "0 for none of the faults, 1 for all",
                high=_ONE,
                grid="0,1",
                draws_matter=False,
                whole=True,
                counts=check_replay,
                selected=faults_replayed,
                encodes=encodes,
                variants=replay_variants,
            ),
        )
    }
)
