"""The perturbations by name: what their level means, their grids, and how a study asks for them."""

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from types import MappingProxyType
from typing import Any

from jaxperturb.errors import PerturbationError, did_you_mean
from jaxperturb.levels import check_range, parse_levels
from jaxperturb.perturb.grammar import format_call, parse_calls
from jaxperturb.perturb.knockout import node_knockout, synapse_knockout
from jaxperturb.perturb.noise import gaussian_noise
from jaxperturb.perturb.rearrange import resample
from jaxperturb.perturb.request import (
    Request,
    all_selected,
    entries_selected,
    entry_counts,
    unit_counts,
    units_selected,
)

# What a study hands over by itself, or what has no text: not options of a name.
_HANDED = {"layers", "scope", "count", "norms", "mask", "units"}


@dataclass(frozen=True)
class Perturbation:
    """A perturbation as the catalogue lists it.

    Attributes:
        name: as asked for; ``package.module:function`` for a user's own.
        function: ``f(key, params, level, *, layers, **options) -> params``.
        summary: one line.
        unit: what the level counts.
        low: lowest level.
        high: highest level, or None for no bound.
        grid: default levels.
        axis: ``linear`` or ``log``, of the level in figures.
        no_damage: the level that leaves the reference network as it is, or None where there is none.
        certain: levels at which all draws coincide, beside `no_damage`.
        draws_matter: whether draws differ at all.
        counts: the exact numbers that stand for a level (handed to ``count=``), or None where the level itself is.
        selected: how many entries a level selects, or None where that is not known.
        encodes: whether the options encode the weights, so that the encoded network is the reference.
    """

    name: str
    function: Callable[..., Any]
    summary: str
    unit: str
    low: Decimal = Decimal(0)
    high: Decimal | None = None
    grid: str = "0:1:0.1"
    axis: str = "linear"
    no_damage: Decimal | None = Decimal(0)
    certain: tuple[Decimal, ...] = ()
    draws_matter: bool = True
    counts: Callable[[Request], dict[str, int]] | None = None
    selected: Callable[[Request], int | None] | None = None
    encodes: Callable[[Mapping[str, Any]], bool] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The options of the function, with their defaults."""
        return {name: default for name, default in self._keywords().items() if name not in _HANDED}

    def takes(self, keyword: str) -> bool:
        """Whether the function has a keyword of this name."""
        return keyword in self._keywords()

    def levels(self) -> tuple[Decimal, ...]:
        """The default levels."""
        return parse_levels(self.grid)

    def _keywords(self) -> dict[str, Any]:
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


@dataclass(frozen=True)
class Asked:
    """A perturbation with its options, as a study asks for it.

    Attributes:
        perturbation: from the catalogue, or a user's own.
        options: those that differ from their defaults, by name.
    """

    perturbation: Perturbation
    options: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def text(self) -> str:
        """The one text that identifies it in a study: ``node_knockout(include_bias=false)``."""
        return format_call(self.perturbation.name, dict(self.options))

    def check_levels(self, levels: Sequence[Decimal]) -> tuple[Decimal, ...]:
        """Returns the levels, or raises `LevelError` where one is out of range."""
        known = self.perturbation
        return tuple(check_range(level, known.low, known.high, known.name) for level in levels)

    @property
    def encodes(self) -> bool:
        """Whether the reference is the encoded network, and not the intact one."""
        encodes = self.perturbation.encodes
        return bool(encodes and encodes(self.all_options()))

    def is_intact(self, level: Decimal) -> bool:
        """Whether the level leaves the intact network as it is."""
        return level == self.perturbation.no_damage and not self.encodes

    def coincides(self, level: Decimal) -> bool:
        """Whether all draws give one network at this level."""
        known = self.perturbation
        return not known.draws_matter or level == known.no_damage or level in known.certain

    def counts(self, request: Request) -> dict[str, int] | None:
        """Returns the exact numbers that stand for a level, or None where the level itself is handed over."""
        counts = self.perturbation.counts
        return counts(request) if counts else None

    def selected(self, request: Request) -> int | None:
        """Returns how many entries of the tree a level selects, or None where that is not known."""
        selected = self.perturbation.selected
        return selected(request) if selected else None

    def all_options(self) -> dict[str, Any]:
        """Returns the options with the defaults of those that are not given."""
        return self.perturbation.options | dict(self.options)


def ask(what: str | Asked | Perturbation | Callable[..., Any]) -> Asked:
    """Returns what is asked for by a name with options, an entry of the catalogue, or a user's own function."""
    match what:
        case Asked():
            return what
        case Perturbation():
            return Asked(what)
        case str():
            (asked,) = parse_perturbations(what)
            return asked
        case _ if callable(what):
            return Asked(_own(what, f"{what.__module__}:{getattr(what, '__qualname__', type(what).__name__)}"))
    raise PerturbationError(f"expected a perturbation's name or a function, got {what!r}")


def parse_perturbations(asked: str | Sequence[Any]) -> tuple[Asked, ...]:
    """Reads ``"synapse_knockout,node_knockout(include_bias=false)"``, or a sequence of names and functions.

    Raises:
        PerturbationError: an unknown name or option, a text that cannot be read, one asked for twice, or none.
    """
    if isinstance(asked, str):
        found = [Asked(named(name), _options(named(name), options)) for name, options in parse_calls(asked)]
    else:
        found = [ask(item) for item in asked]
    texts = [item.text for item in found]
    if twice := sorted({text for text in texts if texts.count(text) > 1}):
        raise PerturbationError(f"perturbation {twice[0]!r} is asked for twice")
    if not found:
        raise PerturbationError(f"expected a perturbation, got none (known: {', '.join(CATALOGUE)})")
    return tuple(found)


def named(name: str) -> Perturbation:
    """Returns a perturbation by its name in the catalogue, or a user's function by ``package.module:function``."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    if ":" in name:
        return _own(_imported(name), name)
    known = f"known: {', '.join(CATALOGUE)}, or package.module:function"
    raise PerturbationError(f"unknown perturbation {name!r}{did_you_mean(name, CATALOGUE)} ({known})")


def _options(perturbation: Perturbation, given: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
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
    return tuple(sorted((name, value) for name, value in given.items() if value != known[name]))


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
            ),
            Perturbation(
                "gaussian_noise",
                gaussian_noise,
                "adds normal noise to every weight",
                "multiple of each tensor's standard deviation",
                grid="0:2:0.2",
                selected=all_selected,
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
        )
    }
)
