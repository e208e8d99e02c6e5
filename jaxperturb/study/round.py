"""The tasks of one call of a cluster, and what is known of them while workers come and go."""

from collections import Counter
from collections.abc import Callable, Iterator

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.engine.run import Part
from jaxperturb.errors import EngineError
from jaxperturb.networks.network import Network
from jaxperturb.study.admission import own_inputs
from jaxperturb.study.exchange import Inputs, Job, Report
from jaxperturb.study.tasks import Task

TRIES = 3  # of a task, or of a start; more often a worker is not lost by accident


class Round:
    """The tasks of one call, and what is known of them."""

    def __init__(
        self,
        job: Job,
        network: Network,
        images: PreparedImages,
        tasks: list[Task],
        on_event: Callable[[str, str], None],
    ) -> None:
        self.job, self.network, self.images, self.tasks = job, network, images, tasks
        self._told: set[tuple[str, str]] = set()
        self._losses: Counter[Task] = Counter()
        self._on_event = on_event
        self.inputs = own_inputs(network, images, job.asked, job.options)

    def on_event(self, kind: str, text: str) -> None:
        """Passes an event on, once for all workers."""
        if (kind, text) not in self._told:
            self._told.add((kind, text))
            self._on_event(kind, text)

    def compare_devices(self, found: Inputs, name: str) -> None:
        """Says where a worker computes on another device than this process would; that is no reason to refuse it."""
        if found.device != self.inputs.device:
            text = f"{name} computes on {found.device}, this process on {self.inputs.device}"
            self.on_event("environment", f"{text}: predictions that hang on the last bit may differ")

    def told(self, report: Report) -> Iterator[Part]:
        """Passes on what a worker reports."""
        for place, reason in report.skipped:
            if self.images.on_skip is not None:
                self.images.on_skip(place, reason)
        for kind, text in report.events:
            self.on_event(kind, text)
        yield from report.parts

    def lost(self, task: Task) -> None:
        """Takes back what a lost worker left of its task, as the first to be given out again.

        Raises:
            EngineError: it has cost too many workers already.
        """
        self._losses[task] += 1  # what is left of it, so that only losses without any progress count
        if self._losses[task] >= TRIES:
            raise EngineError(
                f"{TRIES} workers were lost on {', '.join(task.targets)}, images {task.start} to {task.stop}; what "
                "was computed is stored. Is their memory large enough (--memory_gb, --batch_size, --cpus_per_worker)?"
            )
        self.tasks.insert(0, task)
