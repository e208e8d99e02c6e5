"""A worker of a cluster: holds the network, its compiled programs and the images, and computes the tasks it is given.

Nothing here imports JAX before `Worker` has set its environment, for JAX reads that only once.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jaxperturb.study.exchange import Inputs, Job, Place, Programs, Report

if TYPE_CHECKING:
    from jaxperturb.data.dataset import Dataset
    from jaxperturb.data.prepared import PreparedImages
    from jaxperturb.engine.plan import Cell
    from jaxperturb.engine.run import Part
    from jaxperturb.networks.network import Network
    from jaxperturb.study.tasks import Task

_REPORT_SECONDS = 1.0  # what is lost with a worker is no more than that
_GIB = 2**30


@dataclass
class _Held:
    """What lasts from task to task."""

    network: Any = None
    dataset: Any = None
    links: dict[str, tuple[str, ...]] = field(default_factory=dict)
    images: Any = None
    job: Any = None
    parts: Iterator[Any] = field(default_factory=lambda: iter(()))
    skipped: list[tuple[int, str]] = field(default_factory=list)
    events: list[tuple[str, str]] = field(default_factory=list)


class Worker:
    """Computes tasks, one after another, in a process of its own."""

    def __init__(self, place: Place) -> None:
        """Sets the process up; to be called before it imports JAX."""
        os.environ.update(place.environment)
        sys.path += [entry for entry in place.path if entry not in sys.path]
        with contextlib.suppress(OSError):  # a machine without that folder: whoever needs it will say so
            os.chdir(place.folder)
        self._cpus = place.cpus
        self._held = _Held()

    def programs(self) -> Programs:
        """Returns who this is."""
        from jaxperturb.study.admission import own_programs

        return own_programs()

    def prepare(self, job: Job, network: "Network | None" = None, dataset: "Dataset | None" = None) -> Inputs:
        """Takes over what the following tasks are of, and returns what was found.

        Args:
            job: what they have in common.
            network: where it is another one than before.
            dataset: likewise.
        """
        from jaxperturb.study.admission import own_inputs

        held = self._held
        if network is not None:
            held.network = network
        if dataset is not None:
            held.dataset, held.links = dataset, {}
        held.job, held.parts = job, iter(())
        held.images = self._images(job)
        found = own_inputs(held.network, held.images, job.asked, job.options)
        held.network = _on_device(held.network)
        return found

    def advance(self, task: "Task | None") -> Report:
        """Computes for about a second, and returns what is finished.

        Args:
            task: to begin; None continues the one before.
        """
        held = self._held
        if task is not None:
            held.parts = self._begin(task)
        until, parts, finished = time.monotonic() + _REPORT_SECONDS, [], True
        for part in held.parts:
            parts.append(part)
            if time.monotonic() > until:
                finished = False
                break
        skipped, events = tuple(held.skipped), tuple(held.events)
        held.skipped, held.events = [], []
        return Report(tuple(parts), skipped, events, finished)

    def _images(self, job: Job) -> "PreparedImages":
        from jaxperturb.data.prepared import PreparedImages
        from jaxperturb.data.reading import read_fast

        images = PreparedImages(
            **job.images, dataset=self._held.dataset, _links=self._held.links, on_skip=self._note_skipped
        )
        return read_fast(images, self._cpus)

    def _note_skipped(self, place: int, reason: str) -> None:
        self._held.skipped.append((place, reason))

    def _begin(self, task: "Task") -> Iterator["Part"]:
        from jaxperturb.engine.plan import INTACT
        from jaxperturb.engine.run import Part, evaluate_network, run

        held, job, wanted = self._held, self._held.job, frozenset(task.cells)
        if not job.asked:
            own = {name: value for name, value in job.options.items() if name in ("tile", "precision")}
            outcomes = evaluate_network(held.network, held.images, batch_size=job.batch_size, **own)
            return iter([Part(INTACT, task.start, task.stop, outcomes, 0, 0, "intact")])

        def done(cell: "Cell", start: int, stop: int) -> bool:
            return cell not in wanted or start < task.start or stop > task.stop

        # All targets: what is measured on images is measured for them together. Perturbations are measured alone.
        used = {cell.perturbation for cell in task.cells if cell != INTACT} or {job.asked[0].text}
        return run(
            held.network,
            held.images,
            [one for one in job.asked if one.text in used],
            job.levels,
            job.targets,
            job.draws,
            job.seed,
            batch_size=job.batch_size,
            done=done,
            intact=INTACT in wanted,
            on_event=lambda kind, text: held.events.append((kind, text)),
            **_options(job.options, self._memory_gb),
        )

    def _memory_gb(self) -> float | None:
        """This worker's share of what is free on its machine; None where a device has memory of its own."""
        import jax

        from jaxperturb.engine import memory

        if jax.default_backend() != "cpu":
            return None
        share = min(1.0, self._cpus / usable_cpus())
        return (memory.used_bytes() + share * memory.free_bytes() / 2) / _GIB


def _options(options: Mapping[str, Any], own_memory: Callable[[], float | None]) -> dict[str, Any]:
    """The engine's options for a worker, which has its own devices, and a share of its machine's memory."""
    found = {name: value for name, value in options.items() if name != "devices"}
    return found | {"memory_gb": own_memory() if options.get("memory_gb") is None else options["memory_gb"]}


def usable_cpus() -> int:
    """Returns how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _on_device(network: "Network") -> "Network":
    """The network with its arrays where they are used, so that not every task takes them there."""
    from dataclasses import replace

    import jax
    import jax.numpy as jnp

    return replace(network, params=jax.tree.map(jnp.asarray, network.params))
