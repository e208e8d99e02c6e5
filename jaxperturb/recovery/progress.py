"""What is said on standard error while networks train: a line at the start, then one bar with the time left."""

import sys
from types import TracebackType
from typing import Any

from jaxperturb.recovery.experiment import Experiment
from jaxperturb.study.progress import bar_class

_FORM = "{percentage:3.0f}% |{bar}| {desc}, {remaining} left"
_SECONDS_BETWEEN_STEPS = 10.0  # where standard error is a file, to which every step adds


class TrainingProgress:
    """The progress of a recovery: hand `advance` to the library as ``on_steps``. Leaving its context ends the bar."""

    def __init__(self, experiment: Experiment, trainings: int) -> None:
        """Takes what is asked, and how many trainings of it are not done."""
        self._experiment = experiment
        self._trainings = trainings
        self._steps = 0
        self._bar: Any = None

    def advance(self, steps: int) -> None:
        """Moves the bar by some steps of training."""
        if self._bar is None:
            return
        self._steps += steps
        self._bar.set_description_str(self._text(), refresh=False)
        self._bar.update(steps)

    def __enter__(self) -> "TrainingProgress":
        """Says what is to be computed, and opens the bar."""
        asked = self._experiment
        if not self._trainings:
            print("All of it is there already; nothing to compute.", file=sys.stderr)
            return self
        stages = f" after each of {len(asked.levels)} levels" if len(asked.levels) > 1 else ""
        print(
            f"{asked.network}: {self._trainings} trainings of {asked.steps} steps{stages}, {asked.batch_size} images "
            f"each of {asked.train_set}, evaluated on {asked.count:,} images of {asked.dataset}",
            file=sys.stderr,
        )
        bar = bar_class()
        watched = sys.stderr.isatty() or bar.__module__ == "tqdm.notebook"
        self._bar = bar(
            total=self._per_training * self._trainings,
            desc=self._text(),
            bar_format=_FORM,
            mininterval=0.1 if watched else _SECONDS_BETWEEN_STEPS,
            smoothing=0.05,
            file=sys.stderr,
            leave=not watched,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.close()

    @property
    def _per_training(self) -> int:
        return self._experiment.steps * len(self._experiment.stages)

    def _text(self) -> str:
        return f"{self._steps // self._per_training} of {self._trainings} trainings"
