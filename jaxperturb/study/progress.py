"""What is said on standard error while a study runs: a line at the start, then one bar with the time left."""

import sys
import time
import warnings
from types import TracebackType
from typing import Any

from jaxperturb.engine.run import Part
from jaxperturb.study.goal import range_text
from jaxperturb.study.planned import images_of, work
from jaxperturb.study.runner import Start
from jaxperturb.study.study import Study

_FORM = "{percentage:3.0f}% |{bar}| {desc}, {remaining} left"
_SECONDS_BETWEEN_STEPS = 10.0  # where standard error is a file, to which every step adds
_PRUNED = 0.05  # share of weights that are 0 from which on it is said
_DIFFERENT = "predictions that hang on the last bit may differ"


class Progress:
    """A study's progress; hand `start` and `advance` to the library as ``on_start`` and ``on_part``.

    Leaving its context takes the bar away.
    """

    def __init__(self, place: str = "memory", share_of_zeros: float = 0.0) -> None:
        """Takes where the results go, and which share of the network's weights is 0, for what is said at the start."""
        self._place, self._zeros = place, share_of_zeros
        self._bar: Any = None
        self._start: Start | None = None
        self._began = 0.0
        self._lesions = self._images = 0.0

    def start(self, start: Start) -> None:
        """Says what is to be computed, and opens the bar; the second look has one of its own."""
        self._close()
        self._start, self._began = start, time.monotonic()
        self._lesions = self._images = 0.0
        for line in start_lines(start, self._place):
            print(line, file=sys.stderr)
        if not start.cells:
            return
        if self._zeros >= _PRUNED and not start.second:
            pruned = f"{self._zeros:.1%} of the network's weights are 0 already (it was pruned)"
            print(f"{pruned}; synapse_knockout(among=nonzero) chooses among the others", file=sys.stderr)
        bar = bar_class()
        watched = sys.stderr.isatty() or bar.__module__ == "tqdm.notebook"
        self._bar = bar(
            total=max(1, start.work),  # by cost, since deep layers go faster
            desc=self._text(),
            bar_format=_FORM,
            mininterval=0.1 if watched else _SECONDS_BETWEEN_STEPS,
            smoothing=0.05,
            file=sys.stderr,
            leave=not watched,  # a bar in a file cannot be taken away
        )

    def advance(self, part: Part) -> None:
        """Moves the bar by a part: a lesion's share of the images."""
        if self._bar is None or self._start is None:
            return
        images = part.stop - part.start
        self._lesions += images / images_of(self._start.study, part.cell)
        self._images += images
        self._bar.set_description_str(self._text(), refresh=False)
        self._bar.update(work(self._start.study, part.cell, images))

    def __enter__(self) -> "Progress":
        """Returns the progress itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bar away."""
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _text(self) -> str:
        assert self._start is not None
        seconds = time.monotonic() - self._began
        pace = f", {self._images / seconds:,.0f} images/s, {60 * self._lesions / seconds:,.0f} masks/min"
        return f"{self._lesions:.0f} of {self._start.cells} lesions" + (pace if self._lesions else "")


def start_lines(start: Start, place: str) -> list[str]:
    """Returns what will be computed, on what, and about how long it takes; and what differs from the run before.

    Args:
        start: of a run.
        place: where the results go.
    """
    share = f" (share {start.shard} of the study)" if start.shard else ""
    if not start.cells:
        return [f"All of it{share} is in {place} already; nothing to compute."]
    about = "" if start.seconds is None else f", about {duration(start.seconds)}"
    numbers = f"{start.cells:,} lesions{share}, {start.evaluations:,} evaluations of an image"
    if start.second:
        return [f"Second look, {_sizes(start.study)}: {numbers}{about}"]
    images = f"{'' if start.study.goal is None else 'up to '}{start.study.images:,} images"
    lines = [f"{start.study.network} on {images}: {numbers}, on {start.device}{about}, into {place}", *_waiting(start)]
    if start.remarks:
        lines.append(f"Not as in the run before ({'; '.join(start.remarks)}): {_DIFFERENT}")
    return lines


def _sizes(study: Study) -> str:
    draws, images = ([getattr(look, name) for look in study.looks] for name in ("draws", "images"))
    return f"{range_text(draws)} draws on {range_text(images)} images"


def _waiting(start: Start) -> list[str]:
    """Says what decides on the rest of the study, where that is not known yet."""
    goal = start.study.goal
    if goal is None or not start.waiting:
        return []
    return [
        f"That is a first look at {goal.draws} draws on {goal.first_images:,} images; it decides for each layer how "
        f"many more a half-width of {goal.half_width:g} takes, within {goal.max_draws} draws and {goal.images:,} images"
    ]


def duration(seconds: float) -> str:
    """Returns a time in words, to two digits or so: ``"45 seconds"``, ``"3 minutes"``, ``"2.5 hours"``."""
    if seconds < 90:
        return _of(max(1, round(seconds)), "second")
    if seconds < 90 * 60:
        return _of(round(seconds / 60), "minute")
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def _of(number: int, name: str) -> str:
    return f"{number} {name}" + ("" if number == 1 else "s")


def bar_class() -> Any:
    """Returns tqdm's bar for the terminal, or the one for notebooks where this is one."""
    from tqdm import TqdmExperimentalWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmExperimentalWarning)
        from tqdm.autonotebook import tqdm
    return tqdm
