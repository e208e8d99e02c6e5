"""Several perturbations, one after another, as one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import jax

from jaxperturb.errors import LevelError, PerturbationError
from jaxperturb.levels import format_level
from jaxperturb.perturb.asked import Asked, Perturbation
from jaxperturb.perturb.request import Request
from jaxperturb.perturb.scope import Count, Layers, Level, Norms, Shared
from jaxperturb.types import AnyArray, Key, Params

_LEVEL = "level"  # stands among counts for the level itself, of a part that counts nothing


@dataclass(frozen=True)
class Composition:
    """A perturbation of the common signature that applies its parts one after another, at the same level.

    Attributes:
        parts: at least two, with their options.
    """

    parts: tuple[Asked, ...]

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise PerturbationError(f"expected two perturbations or more to compose, got {len(self.parts)}")

    def __call__(
        self,
        key: Key,
        params: Params,
        level: Level = None,
        *,
        layers: Layers = "*",
        include_bias: bool | None = None,
        include_norm: bool | None = None,
        scope: Shared = "each",
        count: Count = None,
        norms: Norms = None,
        means: Mapping[str, AnyArray] | None = None,
        scores: Params | None = None,
        values: Params | None = None,
    ) -> Params:
        """Returns the tree after all parts.

        The key of the second part is the key folded with 1, and so on, so that equal parts differ.

        Args:
            key: a key of any JAX implementation; the first part gets it as it is.
            params: a tree of weights; the second part gets what the first returns.
            level: of every part.
            layers: of every part.
            include_bias: of every part that has the option; None leaves each its own.
            include_norm: the same.
            scope: ``joint`` only if every part has it.
            count: of every part, instead of a level; or what `counts` of a study's cell gives, by part.
            norms: of every part that takes them.
            means: for parts that take them, as all that follow.
            scores: see `saliency_knockout`.
            values: see `rerandomize`.

        Raises:
            JaxPerturbError: whatever a part raises, or what a part cannot take.
        """
        if scope != "each":
            _check_all_take(self.parts, "scope")
        if count is not None and not isinstance(count, Mapping):
            _check_all_take(self.parts, "count")
        common: dict[str, Any] = {"include_bias": include_bias, "include_norm": include_norm, "norms": norms}
        common |= {"means": means, "scores": scores, "values": values, "scope": scope}
        for i, part in enumerate(self.parts):
            known = part.perturbation
            options = {name: value for name, value in common.items() if value is not None and known.takes(name)}
            amount, counted = _amount(i, level, count)
            own = key if i == 0 else jax.random.fold_in(key, i)
            options = dict(part.options) | options | counted
            params = known.function(own, params, amount, layers=layers, **options)
        return params


def composed(composition: Composition) -> Perturbation:
    """Returns how a study asks for a composition: ``compose(synapse_knockout,gaussian_noise)``.

    Raises:
        PerturbationError: no level suits all parts.
    """
    parts = composition.parts
    known = [part.perturbation for part in parts]
    name = f"compose({','.join(part.text for part in parts)})"
    low, highs = max(one.low for one in known), [one.high for one in known if one.high is not None]
    high = min(highs, default=None)
    if high is not None and low > high:
        raise PerturbationError(f"{name}: no level suits all parts")
    same = {one.no_damage for one in known}
    certain = {level for one in known for level in one.certain}
    grids = [one for one in known if all(low <= x and (high is None or x <= high) for x in one.levels())]
    whole = any(one.whole for one in known)
    return Perturbation(
        name,
        composition,
        ", then ".join(one.summary for one in known),
        " and ".join(dict.fromkeys(one.unit for one in known)),
        low=low,
        high=high,
        grid=next((one.grid for one in grids if one.whole == whole), format_level(low)),
        axis=known[0].axis,
        no_damage=same.pop() if len(same) == 1 else None,
        certain=tuple(sorted(level for level in certain if all(part.coincides(level) for part in parts))),
        draws_matter=any(one.draws_matter for one in known),
        whole=whole,
        counts=_counts_of(parts),
        encodes=_encodes_of(parts),
        measured=tuple(dict.fromkeys(name for one in known for name in one.measured)),
    )


def _check_all_take(parts: tuple[Asked, ...], keyword: str) -> None:
    for part in parts:
        if not part.perturbation.takes(keyword):
            raise PerturbationError(f"{part.perturbation.name} takes no {keyword}, so it cannot be composed with one")


def _amount(i: int, level: Level, count: Count) -> tuple[Level, dict[str, Any]]:
    """The level of a part, and its count where it has one."""
    if not isinstance(count, Mapping):
        return level, {} if count is None else {"count": count}
    if level is not None:
        raise LevelError("expected either a level or a count, got both")
    own = {name.partition(":")[2]: k for name, k in count.items() if name.startswith(f"{i}:")}
    if not own:
        raise LevelError(f"expected counts by part, such as '{i}:conv1/kernel', got {', '.join(count) or 'none'}")
    return (own[_LEVEL], {}) if _LEVEL in own else (None, {"count": own})


@dataclass(frozen=True)
class _Counts:
    """The exact numbers of each part, by part: a value, so that equal compositions are equal."""

    parts: tuple[Asked, ...]

    def __call__(self, request: Request) -> dict[str, int | Decimal]:
        found: dict[str, int | Decimal] = {}
        for i, part in enumerate(self.parts):
            key = request.key if i == 0 else jax.random.fold_in(request.key, i)
            own = Request(request.params, request.target, request.level, part.all_options(), key, request.norms)
            # How many weights are not 0 is known only after the parts before.
            late = i > 0 and own.options.get("among") == "nonzero"
            counts = None if late else part.counts(own)
            found |= {f"{i}:{name}": k for name, k in ({_LEVEL: request.level} if counts is None else counts).items()}
        return found


def _counts_of(parts: tuple[Asked, ...]) -> Callable[[Request], Mapping[str, int | Decimal] | None] | None:
    return _Counts(parts) if any(part.perturbation.counts for part in parts) else None


def _encodes_of(parts: tuple[Asked, ...]) -> Callable[[Mapping[str, Any]], bool] | None:
    return _always if any(part.encodes for part in parts) else None


def _always(options: Mapping[str, Any]) -> bool:
    del options
    return True
