"""What a study computes: the cells of each perturbation and target with their way, and which share a pass."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from jaxperturb.engine.few import MOST_FAULTS, units_touched
from jaxperturb.engine.lesions import Lesions
from jaxperturb.engine.methods import MEANING, Method, Wanted, few_method_of, method_of, wanted
from jaxperturb.engine.plan import Cell, Work
from jaxperturb.engine.setting import Setting

Done = Callable[[Cell, int, int], bool]  # whether the outcomes of a cell from an image to another are known
JobName = tuple[str, str, str]  # target, perturbation and way


@dataclass(frozen=True, eq=False)
class Job:
    """The cells of one perturbation and target, and how they are computed.

    Attributes:
        work: the cells.
        lesions: of the perturbation and target.
        method: the way.
        few: another one for those of the cells that touch few units, or None where there is none.
    """

    work: Work
    lesions: Lesions
    method: Method
    few: Method | None = None

    @property
    def name(self) -> JobName:
        """What tells it from others."""
        return self.work.target, self.work.asked.text, self.method.name


def job_of(setting: Setting, work: Work, lesions: Lesions) -> Job:
    """Returns the cells of one perturbation and target with the shortest way of computing them, and says which."""
    method, few = method_of(setting.shape, lesions), few_method_of(setting.shape, lesions)
    for some in (few, method) if work.cells else ():
        if some:
            setting.on_event("method", f"{work.target}, {work.asked.text}: {MEANING[some.name]}")
    return Job(work, lesions, method, few)


def by_faults(setting: Setting, job: Job) -> list[Job]:
    """Returns a job as one of few faults and one of all others; where there is none, the intact network stands."""
    if job.work.asked.perturbation.places is None:
        return [job]
    intact, few, many = list(job.work.intact), [], []
    narrow = job.few.narrow if job.few else None
    for cell in job.work.cells:
        key = setting.keys[cell.draw]
        faults = job.lesions.selected(cell, key)
        if faults == 0 and not job.work.asked.encodes:
            intact.append(cell)
        elif narrow and _is_few(faults) and units_touched(job.lesions, cell, key, narrow) is not None:
            few.append(cell)
        else:
            many.append(cell)
    others = replace(job, work=replace(job.work, intact=tuple(intact), cells=tuple(many)), few=None)
    if job.few is None:
        return [others]
    return [replace(job, work=replace(job.work, intact=(), cells=tuple(few)), method=job.few, few=None), others]


def _is_few(faults: int | None) -> bool:
    return faults is not None and faults <= MOST_FAULTS


def unfinished(jobs: Sequence[Job], done: Done | None, start: int, stop: int) -> list[Job]:
    """Returns what is left of some jobs for the images from start to stop, without those that are done."""
    left = [_missing(job, done, start, stop) for job in jobs] if done else jobs
    return [job for job in left if job.work.intact or job.work.cells]


def _missing(job: Job, done: Done, start: int, stop: int) -> Job:
    intact, cells = (
        tuple(cell for cell in some if not done(cell, start, stop)) for some in (job.work.intact, job.work.cells)
    )
    return replace(job, work=replace(job.work, intact=intact, cells=cells))


def groups(setting: Setting, jobs: Sequence[Job], images: int, room: int) -> Iterator[tuple[list[Job], int]]:
    """Yields jobs that share one pass of the intact network, with the images of a pass, such that memory holds them."""
    group: list[Job] = []
    needs = Wanted()
    for job in jobs:
        own = wanted(job.method) if job.work.cells else Wanted()
        if group and (needs | own).bytes_per_image(setting.shape) * images > room and needs != needs | own:
            yield group, _fitting(setting, needs, images, room)
            group, needs = [], Wanted()
        group, needs = [*group, job], needs | own
    yield group, _fitting(setting, needs, images, room)


def _fitting(setting: Setting, needs: Wanted, images: int, room: int) -> int:
    """As many images as memory holds: whole tiles."""
    tile = setting.shape.tiling.large
    most = room // max(1, needs.bytes_per_image(setting.shape))
    return images if most >= images else max(tile, most // tile * tile)
