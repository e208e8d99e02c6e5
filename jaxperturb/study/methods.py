"""How a run computed its targets, as its events say."""

from collections.abc import Iterable, Sequence

METHOD = "method"  # kind of the events; their text is "target, perturbation: how"


def methods_of(events: Iterable[tuple[int | None, str, str, str]], run: int) -> list[str]:
    """Returns the texts of a run's events of this kind.

    Args:
        events: of a store: run, time, kind and text.
        run: its number.
    """
    return [text for number, _, kind, text in events if (number, kind) == (run, METHOD)]


def in_short(methods: Sequence[str]) -> tuple[str, ...]:
    """Returns a line for each way of each perturbation: ``"node_knockout of conv1, conv2: units are replaced ..."``."""
    found: dict[tuple[str, str], list[str]] = {}
    for text in methods:
        target, _, rest = text.partition(", ")
        perturbation, _, how = rest.rpartition(": ")
        found.setdefault((perturbation, how), []).append(target)
    return tuple(f"{perturbation} of {', '.join(targets)}: {how}" for (perturbation, how), targets in found.items())
