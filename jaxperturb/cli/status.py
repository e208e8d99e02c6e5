"""``jaxperturb status OUT``: how far a study is."""

import shlex
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug

if TYPE_CHECKING:
    from jaxperturb.study.status import Status


def _run(values: flags.FlagValues, out: str) -> None:
    del values
    from jaxperturb.show.results import STORE_NAME
    from jaxperturb.study.status import read_status

    path = Path(out)
    folder = path if path.is_dir() else path.parent
    status = read_status(folder / STORE_NAME if path.is_dir() else path)
    print("\n".join([*_lines(status), *_last_lines(status, folder / "config.json")]))


def _lines(status: "Status") -> Iterator[str]:
    from jaxperturb.study.progress import duration

    study, left = status.study, status.planned - status.done
    share = f", share {status.shard}" if status.shard else ""
    yield (
        f"{study.network} on {study.images:,} images of {f'{study.dataset} {study.split}'.strip()}{share}: "
        f"{status.done:,} of {status.planned:,} lesions are done"
    )
    width = max((len(row.perturbation) for row in status.rows), default=0)
    for row in status.rows:
        if row.done < row.planned:
            yield f"  {row.perturbation:<{width}}  {row.target}: {row.done:,} of {row.planned:,}"
    if status.methods:
        yield "How:"
        yield from (f"  {line}" for line in status.methods)
    if status.waiting and study.goal is not None:
        wanted = f"a half-width of {study.goal.half_width:g}"
        yield f"{status.waiting} layers wait for their first look, which decides on more draws and images for {wanted}."
    if left:
        pace = "" if status.seconds is None else f", about {duration(status.seconds)} at the pace so far"
        yield f"Left: {left:,} lesions, {status.evaluations:,} evaluations of an image{pace}."


def _last_lines(status: "Status", config: Path) -> Iterator[str]:
    if status.writer is not None:
        silent = max(0, time.time() - status.writer.beat)
        yield f"Being written by {status.writer.text()}; last sign of life {silent:.0f} s ago."
    elif status.last is None:
        yield "No run has begun yet."
    else:
        outcome = "was killed" if status.last.ended is None else f"ended {status.last.ended}, {status.last.outcome}"
        yield f"Nobody writes it; run {status.last.number}, of {status.last.started}, {outcome}."
        if status.done < status.planned and config.is_file():
            yield f"To continue: jaxperturb sweep --config={shlex.quote(str(config))}"


COMMAND = Command(
    name="status",
    summary="Shows how far a study is: what is done, what is left, how long it will take, and who writes.",
    details="OUT is what sweep writes; it may be writing it now.",
    examples=(("the study of 'jaxperturb sweep'", "status runs/alexnet-digits"),),
    define=define_debug,
    run=_run,
    arguments=("OUT",),
)
