"""A perturbation as the catalogue describes it, and as a study asks for it."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import numpy as np

from jaxperturb.errors import LevelError
from jaxperturb.levels import check_range, format_level, parse_levels
from jaxperturb.perturb.grammar import format_call
from jaxperturb.perturb.inject import Struck
from jaxperturb.perturb.request import Request
from jaxperturb.trees import Leaf
from jaxperturb.types import AnyArray

# What a study hands over by itself, or what has no text: not options of a name.
_HANDED = {"layers", "scope", "count", "norms", "mask", "units", "means", "scores", "values"}


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
        whole: whether levels are whole numbers.
        counts: the exact numbers that stand for a level (handed to ``count=``), or None where the level itself is;
            raises where the perturbation does not fit the weights.
        selected: how many entries a level selects, or None where that is not known.
        encodes: whether the options encode the weights, so that the encoded network is the reference.
        variants: the sets of options, each in its one form, that given options stand for; raises `PerturbationError`
            where one does not fit. None takes them as they are.
        measured: options that a study measures on images, and hands over.
        by_unit: whether the options leave it a replacement of whole units, chosen by `chosen_units`, by values that
            neither draw nor level decides.
        linear: whether what it adds to each entry is proportional to the level.
        places: where the faults are, as entries and bits of each leaf by its index, or None where it has no bits.
        struck: what becomes of a tensor's faulty words alone: of options, the tensor and its intact values a function
            of the entries and bits. With `places` only.
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
    whole: bool = False
    counts: Callable[[Request], Mapping[str, int | Decimal] | None] | None = None
    selected: Callable[[Request], int | None] | None = None
    encodes: Callable[[Mapping[str, Any]], bool] | None = None
    variants: Callable[[Mapping[str, Any]], list[dict[str, Any]]] | None = None
    measured: tuple[str, ...] = ()
    by_unit: Callable[[Mapping[str, Any]], bool] | None = None
    linear: bool = False
    places: Callable[[Request], dict[int, tuple[np.ndarray, np.ndarray]]] | None = None
    struck: Callable[[Mapping[str, Any], Leaf, AnyArray], Struck] | None = None

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
        if known.whole and (broken := [level for level in levels if level != level.to_integral_value()]):
            raise LevelError(f"expected whole numbers as levels of {known.name}, got {format_level(broken[0])}")
        return tuple(check_range(level, known.low, known.high, known.name) for level in levels)

    @property
    def encodes(self) -> bool:
        """Whether the reference is the encoded network, and not the intact one."""
        encodes = self.perturbation.encodes
        return bool(encodes and encodes(self.all_options()))

    @property
    def by_unit(self) -> bool:
        """Whether whole units are replaced, each by what the options and the layer alone decide."""
        by_unit = self.perturbation.by_unit
        return bool(by_unit and by_unit(self.all_options()))

    def is_intact(self, level: Decimal) -> bool:
        """Whether the level leaves the intact network as it is."""
        return level == self.perturbation.no_damage and not self.encodes

    def coincides(self, level: Decimal) -> bool:
        """Whether all draws give one network at this level."""
        known = self.perturbation
        return not known.draws_matter or level == known.no_damage or level in known.certain

    def counts(self, request: Request) -> Mapping[str, int | Decimal] | None:
        """Returns the exact numbers that stand for a level, or None where the level itself is handed over."""
        counts = self.perturbation.counts
        return counts(request) if counts else None

    def places(self, request: Request) -> dict[int, tuple[np.ndarray, np.ndarray]] | None:
        """Returns where the faults of a request are, or None where the perturbation does not hit bits."""
        places = self.perturbation.places
        return places(request) if places else None

    def struck(self, leaf: Leaf, array: AnyArray) -> Struck:
        """Returns what becomes of a tensor's faulty words alone; only where `places` says where they are."""
        assert self.perturbation.struck is not None
        return self.perturbation.struck(self.all_options(), leaf, array)

    def selected(self, request: Request) -> int | None:
        """Returns how many entries of the tree a level selects, or None where that is not known."""
        selected = self.perturbation.selected
        return selected(request) if selected else None

    def all_options(self) -> dict[str, Any]:
        """Returns the options with the defaults of those that are not given."""
        return self.perturbation.options | dict(self.options)
