"""What is said on standard error while a study runs: a line at the start, then one bar with the time left."""

import sys
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from tqdm import tqdm

if TYPE_CHECKING:
    from jaxperturb.engine.run import Part
    from jaxperturb.study.runner import Start

_FORM = "{percentage:3.0f}% |{bar}| {n:.0f} of {total} lesions, {remaining} left"
_SECONDS_BETWEEN_STEPS = 10.0  # where standard error is a file, to which every step adds


class Progress:
    """A study's progress; hand `start` and `advance` to the library as ``on_start`` and ``on_part``.

    On leaving its context it takes the bar away, and tells who interrupted the study where it can be continued.

    Attributes:
        quiet: whether to say nothing.
        out: the study's folder.
    """

    def __init__(self, quiet: bool, out: Path) -> None:
        self.quiet = quiet
        self.out = out
        self._bar: tqdm | None = None
        self._images = 1
        self._stored = False

    def start(self, start: "Start") -> None:
        """Says what is to be computed, and opens the bar."""
        self._images, self._stored = start.study.images, True
        if self.quiet:
            return
        if not start.cells:
            print(f"All of it is in {self.out} already; nothing to compute.", file=sys.stderr)
            return
        print(
            f"{start.study.network} on {self._images} images: {start.cells} lesions, into {self.out}", file=sys.stderr
        )
        watched = sys.stderr.isatty()
        self._bar = tqdm(
            total=start.cells,
            bar_format=_FORM,
            mininterval=0.1 if watched else _SECONDS_BETWEEN_STEPS,
            file=sys.stderr,
            leave=not watched,  # a bar in a file cannot be taken away
        )

    def advance(self, part: "Part") -> None:
        """Moves the bar by a part: a lesion's share of the images."""
        if self._bar is not None:
            self._bar.update((part.stop - part.start) / self._images)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if isinstance(error, KeyboardInterrupt) and self._stored:
            raise KeyboardInterrupt(
                f"interrupted; what was computed is in {self.out}, and the same command continues it"
            ) from None
