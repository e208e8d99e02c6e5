"""Whether one study may continue another, and the study that contains both."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from jaxperturb.data.fingerprints import LINK
from jaxperturb.study.goal import joined_looks
from jaxperturb.study.study import Study

_PLACES = ("in the store", "asked")


def differences(stored: Study, asked: Study, places: tuple[str, str] = _PLACES) -> list[str]:
    """Returns what keeps a study from continuing a stored one, a phrase for each difference.

    Args:
        stored: the study that is there.
        asked: the one that would continue it.
        places: what the phrases call the two.
    """
    old, new = asdict(stored.identity), asdict(asked.identity)
    found = image_differences(old.pop("images"), new.pop("images"))
    for field in old:
        found += value_differences(field, old[field], new[field], places)
    before, after = _common(_codes(stored), _codes(asked))
    for text, code in before.items():
        found += value_differences(f"source file of {text}", code, after[text], places)
    return found


def merge(stored: Study, asked: Study) -> Study:
    """Returns the study that contains both; names, metric and goal are those of the one asked.

    What was decided for a goal stays decided, also where levels were added since; for another goal it is not.
    """
    curves = {curve.text: curve for curve in stored.perturbations}
    for curve in asked.perturbations:
        before = curves.get(curve.text, curve)
        levels, once = _union(before.levels, curve.levels), _union(before.once, curve.once)
        curves[curve.text] = replace(curve, levels=levels, once=once)
    targets = _union(asked.targets, stored.targets)
    longer = max(stored, asked, key=lambda study: study.images)
    return replace(
        asked,
        targets=tuple(sorted(targets, key=lambda name: _place(name, asked.layers))),
        perturbations=tuple(curves.values()),
        draws=max(stored.draws, asked.draws),
        images=longer.images,
        identity=replace(asked.identity, images=longer.identity.images),
        costs={**stored.costs, **asked.costs},
        looks=joined_looks(stored.looks, asked.looks) if stored.goal == asked.goal else asked.looks,
    )


def _place(target: str, layers: Sequence[str]) -> int:
    return layers.index(target) if target in layers else len(layers)


def _union(first: Iterable[str], second: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*first, *second]))


def _common(first: Mapping, second: Mapping) -> tuple[dict, dict]:
    keys = [key for key in first if key in second]
    return {key: first[key] for key in keys}, {key: second[key] for key in keys}


def _codes(study: Study) -> dict[str, str | None]:
    return {curve.text: curve.code for curve in study.perturbations}


def image_differences(old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Compares two chains, of which the shorter must be the beginning of the longer."""
    for link, (before, after) in enumerate(zip(old, new, strict=False)):
        if before != after:
            return [f"images: they or their labels differ from number {link * LINK} of the study's order on"]
    return []


def value_differences(name: str, old: Any, new: Any, places: tuple[str, str]) -> list[str]:
    """Compares two values, or two mappings entry by entry; a phrase for each difference."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return [
            phrase
            for key in _union(old, new)
            for phrase in value_differences(f"{name}.{key}", old.get(key), new.get(key), places)
        ]
    old, new = _plain(old), _plain(new)
    return [] if old == new else [f"{name}: {_short(old)} {places[0]}, {_short(new)} {places[1]}"]


def _plain(value: Any) -> Any:
    """Returns a value as JSON gives it back, since one side was read from a store: tuples become lists."""
    return json.loads(json.dumps(value))


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]
    return text if len(text) <= 60 else f"{text[:57]}..."
