"""A study on several workers: each is given tasks, and what they report comes back as the engine's own parts would.

Every part is a pure function of its name, so a worker that is lost costs only time: another takes its place and what
was left of its task.
"""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import jax

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.engine.plan import INTACT, plan
from jaxperturb.engine.run import Part, tiling
from jaxperturb.engine.tiling import block_size
from jaxperturb.errors import ClusterError, EngineError
from jaxperturb.networks.network import Network
from jaxperturb.perturb.asked import Asked
from jaxperturb.study.admission import check_inputs, check_programs, own_programs
from jaxperturb.study.cost import costs
from jaxperturb.study.exchange import Inputs, Job, Place, Programs, Report
from jaxperturb.study.pool import Pool, WorkerLostError
from jaxperturb.study.round import TRIES, Round
from jaxperturb.study.tasks import Task, choose, tasks_of
from jaxperturb.types import Outcomes

_WAIT_SECONDS = 1.0
_KEPT_HERE = {"dataset", "reader", "on_skip", "_links"}  # fields of images that do not travel with a job
_VARIABLES = ("JAX_", "XLA_", "JAXPERTURB_", "XDG_CACHE_HOME")
# What may have been set by jax.config, and decides how a worker computes or how fast it starts.
_SETTINGS = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs", "jax_enable_x64")


@dataclass(eq=False)
class _Hand:
    """A worker, and what it does.

    Attributes:
        worker: in its pool.
        promise: of the call that it works on, or None where it has nothing to do.
        stage: name of that call.
        job: that it is prepared for.
        given: the network and the data set that it holds.
        task: that it was given.
        name: process and machine, once they are known.
        targets: of its tasks so far.
    """

    worker: Any
    promise: Any = None
    stage: str = ""
    job: Job | None = None
    given: tuple[Any, Any] = (None, None)
    task: Task | None = None
    name: str = "a worker"
    targets: frozenset[str] = frozenset()


class Cluster:
    """Workers that stand in for the engine: `run` and `evaluate` are called like its functions."""

    def __init__(
        self,
        open_pool: Callable[[], contextlib.AbstractContextManager[Pool]],
        cpus: int,
        on_wait: Callable[[], object] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            open_pool: where workers come from, opened when they are first needed.
            cpus: processors for each worker.
            on_wait: called about every second while workers are waited for; what it raises ends the run.
        """
        self._open_pool, self._cpus, self._on_wait = open_pool, cpus, on_wait
        self._stack = contextlib.ExitStack()
        self._hands: list[_Hand] = []
        self._stand_ins: dict[str, tuple[Any, Any]] = {}
        self._failures = 0

    def __enter__(self) -> "Cluster":
        """Returns the cluster itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all workers."""
        for hand in self._hands:
            self._pool.stop(hand.worker)
        self._hands = []
        self._stack.close()

    @property
    def size(self) -> int:
        """How many workers there are."""
        return self._pool.size()

    def describe(self) -> str:
        """Returns what the workers are, in a few words."""
        return self._pool.describe()

    def run(
        self,
        network: Network,
        images: PreparedImages,
        asked: Sequence[Asked],
        levels: Mapping[str, Any],
        targets: Sequence[str],
        draws: int,
        seed: int,
        *,
        batch_size: int,
        done: Callable[[Any, int, int], bool] | None = None,
        intact: bool = False,
        on_event: Callable[[str, str], None] | None = None,
        **options: Any,
    ) -> Iterator[Part]:
        """Yields the parts of a study as they are finished, in any order; arguments as of `jaxperturb.engine.run.run`.

        Raises:
            ClusterError: a worker has other programs or other inputs than this process, or none can be had.
            EngineError: workers were lost again and again on one task.
        """
        job = Job(_travelling(images), tuple(asked), dict(levels), tuple(targets), draws, seed, batch_size, options)
        tile = options.get("tile") or tiling(network, images.image_shape)
        size, total = block_size(batch_size, tile.large), len(images)
        tasks = tasks_of(
            plan(asked, levels, targets, draws, intact=intact),
            [(start, min(start + size, total)) for start in range(0, total, size)],
            lambda cell, start, stop: done is None or not done(cell, start, stop),
            costs(network, images.image_shape, targets),
            self.size,
        )
        yield from self._parts(job, network, images, tasks, on_event)

    def evaluate(self, network: Network, images: PreparedImages, *, batch_size: int, **options: Any) -> Outcomes:
        """Returns the outcomes of the network as it is; arguments as of `jaxperturb.engine.run.evaluate_network`."""
        job = Job(_travelling(images), (), {}, (), 0, 0, batch_size, options)
        task = Task(0, len(images), (INTACT,), 1)
        (part,) = self._parts(job, network, images, [task], None)
        return part.outcomes

    @functools.cached_property
    def _pool(self) -> Pool:
        return self._stack.enter_context(self._open_pool())

    @functools.cached_property
    def _programs(self) -> Programs:
        return own_programs()

    @functools.cached_property
    def _place(self) -> Place:
        return Place(_environment(self._cpus), tuple(sys.path), str(Path.cwd()), self._cpus)

    def _parts(
        self,
        job: Job,
        network: Network,
        images: PreparedImages,
        tasks: Sequence[Task],
        on_event: Callable[[str, str], None] | None,
    ) -> Iterator[Part]:
        """Gives out tasks until all are done; yields what comes of them."""
        if not tasks:
            return
        work = Round(job, network, images, list(tasks), on_event or (lambda *_: None))
        if job.asked:
            work.on_event("cluster", self.describe())
        for _ in range(len(self._hands), min(self._pool.size(), len(tasks))):
            self._hands.append(self._started())
        try:
            while work.tasks or any(hand.task for hand in self._hands):
                for hand in self._hands:
                    if hand.promise is None:
                        self._next(hand, work, None)
                for hand in self._ready():
                    yield from self._come(hand, work)
        finally:
            for hand in [hand for hand in self._hands if hand.task]:  # the consumer has had enough
                self._pool.stop(hand.worker)
                self._hands.remove(hand)

    def _ready(self) -> list[_Hand]:
        waiting = {id(hand.promise): hand for hand in self._hands if hand.promise is not None}
        promises = [hand.promise for hand in waiting.values()]
        found = self._pool.wait(promises, _WAIT_SECONDS)
        if self._on_wait is not None:
            self._on_wait()
        return [waiting[id(promise)] for promise in found]

    def _come(self, hand: _Hand, work: "Round") -> Iterator[Part]:
        """Takes what a worker's call gave, and gives it the next one before its parts are stored."""
        try:
            found = self._pool.result(hand.promise)
        except WorkerLostError as lost:
            self._replace(hand, work, lost)
            return
        hand.promise = None
        if hand.stage == "advance":
            self._failures = 0
        self._next(hand, work, found)
        if isinstance(found, Report):
            yield from work.told(found)

    def _next(self, hand: _Hand, work: "Round", found: Any) -> None:
        """Decides what a worker does next."""
        match hand.stage, found:
            case "programs", Programs():
                check_programs(self._programs, found)
                hand.name = f"process {found.pid} on {found.host}"
            case "prepare", Inputs():
                check_inputs(work.inputs, found, hand.name)
                work.compare_devices(found, hand.name)
            case "advance", Report():
                assert hand.task is not None
                left = hand.task.without((part.cell, part.start, part.stop) for part in found.parts)
                hand.task = left if left and not found.finished else None
                if hand.task is not None:
                    self._call(hand, "advance", None)
                    return
        if hand.job is not work.job and work.tasks:
            self._prepare(hand, work)
        elif work.tasks:
            own, taken = hand.targets, frozenset().union(*(other.targets for other in self._hands))
            hand.task = choose(work.tasks, own, taken)
            work.tasks.remove(hand.task)
            hand.targets |= {*hand.task.targets}
            self._call(hand, "advance", hand.task)

    def _prepare(self, hand: _Hand, work: "Round") -> None:
        if not hand.stage:
            self._call(hand, "programs")
            return
        network, dataset = work.network, work.images.dataset
        own_network, own_dataset = hand.given
        hand.job, hand.given = work.job, (network, dataset)
        self._call(
            hand,
            "prepare",
            work.job,
            None if network is own_network else self._shared("network", network),
            None if dataset is own_dataset else self._shared("data set", dataset),
        )

    def _call(self, hand: _Hand, method: str, *args: Any) -> None:
        hand.stage, hand.promise = method, self._pool.call(hand.worker, method, *args)

    def _shared(self, what: str, value: Any) -> Any:
        """The stand-in of a large argument, made once. It is kept, since later workers need it."""
        known = self._stand_ins
        if what not in known or known[what][0] is not value:
            try:
                known[what] = (value, self._pool.share(value))
            except (TypeError, AttributeError, ValueError) as error:  # what pickling raises
                raise ClusterError(
                    f"the {what} cannot be sent to workers ({' '.join(str(error).split())}); give it by name, or "
                    "make it of functions and classes of a module"
                ) from error
        return known[what][1]

    def _started(self) -> _Hand:
        return _Hand(self._pool.start(self._place))

    def _replace(self, hand: _Hand, work: "Round", lost: WorkerLostError) -> None:
        """Starts a worker in the place of one that was lost, and takes back its task."""
        self._failures += 1
        if hand.task is not None:
            work.lost(hand.task)
        elif self._failures >= TRIES * max(1, len(self._hands)):
            raise EngineError(f"workers end before they begin: {lost}")
        work.on_event("worker lost", f"{hand.name} is gone; another one takes its place")
        self._pool.stop(hand.worker)  # it may only have been out of reach
        self._hands[self._hands.index(hand)] = self._started()


def _travelling(images: PreparedImages) -> dict[str, Any]:
    names = {one.name for one in dataclasses.fields(images)} - _KEPT_HERE
    return {name: getattr(images, name) for name in names}


def _environment(cpus: int) -> dict[str, str]:
    """The variables that a worker needs to compute as this process does, on so many processors."""
    found = {name: value for name, value in os.environ.items() if name.startswith(_VARIABLES)}
    for name in _SETTINGS:
        if (value := getattr(jax.config, name, None)) is not None:
            found[name.upper()] = str(value)
    # XLA's threads on a CPU; those of others are bounded by Ray.
    return found | {"NPROC": str(cpus), "PJRT_NPROC": str(cpus), "JAX_PLATFORMS": _platforms()}


def _platforms() -> str:
    backend = jax.default_backend()
    return {"gpu": "cuda,cpu"}.get(backend, backend)
