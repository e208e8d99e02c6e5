"""Runs a study's cells: a generator of finished parts, on which storing, progress and a user's callback hang."""

import itertools
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import numpy as np
from jaxtyping import Bool

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.data.reading import Block, read_blocks
from jaxperturb.engine import memory
from jaxperturb.engine.allocator import return_pages
from jaxperturb.engine.cells import Event, ignore, run_cells
from jaxperturb.engine.check import agrees, plain_logits
from jaxperturb.engine.devices import local_devices
from jaxperturb.engine.intact import intact_pass
from jaxperturb.engine.jobs import Done, Job, JobName, by_faults, groups, job_of, unfinished
from jaxperturb.engine.lesions import Lesions
from jaxperturb.engine.loop import Found, Loop, Tile, loop_of
from jaxperturb.engine.mappings import make_room
from jaxperturb.engine.measure import extras_for
from jaxperturb.engine.methods import Method, Wanted, method_of, wanted
from jaxperturb.engine.plan import INTACT, Cell, plan
from jaxperturb.engine.programs import PLANES, first_classes
from jaxperturb.engine.setting import Setting, setting_of
from jaxperturb.engine.tiling import Tiling, block_size, tiling
from jaxperturb.networks.network import Network
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.random.keys import draw_key
from jaxperturb.types import Key

__all__ = ["PLANES", "Part", "evaluate_network", "run", "tiling"]

# As many times the largest tensor's bytes are held beside: what is drawn for it, what a lesion leaves of it, and both
# again where the cut is checked; and the next while one is used.
_TENSORS = 5
# Bytes of handed-over values that no later job needs, from which on they are dropped: returning pages takes 15 ms.
_DROPPED = 2**24


@dataclass(frozen=True)
class Part:
    """What came of one cell on one block of images.

    Attributes:
        cell: the lesion.
        start: first image, in the study's order.
        stop: after the last image.
        outcomes: one plane for each of `PLANES`, (5, stop - start).
        selected: entries of the tree that the lesion chose, or None where the perturbation does not say.
        changed: entries whose value it changed, bit for bit.
        shortcut: why one computation stands for several draws; empty where it does not.
    """

    cell: Cell
    start: int
    stop: int
    outcomes: Bool[np.ndarray, "p n"]
    selected: int | None
    changed: int | None
    shortcut: str = ""


def run(
    network: Network,
    images: PreparedImages,
    asked: Sequence[Asked],
    levels: Mapping[str, Sequence[Decimal]],
    targets: Sequence[str],
    draws: int,
    seed: int,
    *,
    batch_size: int,
    done: Done | None = None,
    tile: Tiling | None = None,
    precision: str = "float32",
    memory_gb: float | int | None = None,
    devices: int | None = None,
    intact: bool = False,
    on_event: Event | None = None,
) -> Iterator[Part]:
    """Yields the parts of a study as they are finished, images outermost.

    Args:
        network: the intact network.
        images: prepared, in the study's order.
        asked: the perturbations.
        levels: of each perturbation, by its text.
        targets: what is perturbed, as `jaxperturb.perturb.targets.parse_targets` gives it.
        draws: number of draws.
        seed: of the study, from 0 to 2**32 - 1.
        batch_size: images of a block, rounded up to whole tiles, fewer where memory asks for it; it changes no count.
        done: whether a cell's images from start to stop are already known; such parts are left out.
        tile: of the compiled programs; None for the backend's own.
        precision: one of `jaxperturb.engine.precision.PRECISIONS`; whether the device is good at it is not asked.
        memory_gb: what the process, or on an accelerator the device, may take, in GiB; None for half of what is free.
            It changes no count.
        devices: how many of this machine's are used at most; None for all. It changes no count.
        intact: whether the network as it is, the cell `jaxperturb.engine.plan.INTACT`, is computed too.
        on_event: called with the kind and the text of what should be known of the run: ``method``, ``fallback``,
            ``memory``.

    Raises:
        DeviceError: there are fewer devices.
    """
    keys = [draw_key(seed, draw) for draw in range(draws)]
    setting = replace(
        setting_of(network, images, tile, precision),
        keys=keys,
        on_event=on_event or ignore,
        devices=local_devices(devices),
    )
    extras = {item.text: extras_for(network, images, item, targets) for item in asked}
    work = plan(asked, levels, targets, draws, intact=intact)
    lesions = [Lesions.of(network, item.asked, item.target, extras[item.asked.text]) for item in work]
    jobs = [job_of(setting, item, own) for item, own in zip(work, lesions, strict=True)]
    size, room = _sizes(setting, images, batch_size, memory_gb)
    total = len(images.labels)
    settled: dict[JobName, Method] = {}
    bounds = [(start, min(start + size, total)) for start in range(0, total, size)]
    left = (some for some in bounds if unfinished(jobs, done, *some))
    for block in _blocks(images, left, ahead=size >= min(batch_size, total)):
        yield from _run_block(setting, block, jobs, done, room, settled)
        del block  # before the next one is read


def _blocks(images: PreparedImages, bounds: Iterable[tuple[int, int]], *, ahead: bool) -> Iterator[Block]:
    """Reads blocks, each while the one before is used, or where memory is short one after another."""
    if ahead:
        yield from read_blocks(images, bounds)
        return
    for some in bounds:
        yield from read_blocks(images, [some])


def _run_block(
    setting: Setting,
    block: Block,
    jobs: Sequence[Job],
    done: Done | None,
    room: int,
    settled: dict[JobName, Method],
) -> Iterator[Part]:
    start, pixels, labels = block.start, np.asarray(block.inputs), block.labels
    left = [part for job in unfinished(jobs, done, start, block.stop) for part in by_faults(setting, job)]
    for group, most in groups(setting, left, len(labels), room):
        for first in range(0, len(labels), most):
            last = min(first + most, len(labels))
            missing = unfinished(group, done, start + first, start + last)
            if missing:
                some = pixels[first:last], labels[first:last]
                yield from _run_group(setting, missing, *some, start + first, settled)


def evaluate_network(
    network: Network,
    images: PreparedImages,
    *,
    batch_size: int,
    tile: Tiling | None = None,
    precision: str = "float32",
    memory_gb: float | int | None = None,
) -> Bool[np.ndarray, "p n"]:
    """Returns the outcomes of the network as it is, one plane for each of `PLANES`, (5, images).

    Its arguments are those of `run`.
    """
    setting = setting_of(network, images, tile, precision)
    size, _ = _sizes(setting, images, batch_size, memory_gb)
    total = len(images.labels)
    bounds = [(start, min(start + size, total)) for start in range(0, total, size)]
    found = [
        intact_pass(setting.shape, setting.leaves, np.asarray(block.inputs), block.labels, Wanted()).outcomes
        for block in read_blocks(images, bounds)
    ]
    return np.concatenate(found, axis=1)


def _sizes(setting: Setting, images: PreparedImages, batch_size: int, memory_gb: float | int | None) -> tuple[int, int]:
    """The images of a block, and the bytes that may hold what is handed over of them."""
    largest, tile = max((leaf.nbytes for leaf in setting.leaves), default=0), setting.shape.tiling.large
    room = memory.budget(memory_gb, _TENSORS * largest + memory.PROGRAMS)
    of_image = 4 * int(np.prod(setting.shape.image_shape))
    size = block_size(memory.block(batch_size, len(images.labels), of_image, tile, room), tile)
    left = room - memory.of_block(size, len(images.labels), of_image)
    return size, max(memory.LEAST, left) // memory.copies(setting.devices)


def _run_group(
    setting: Setting,
    jobs: Sequence[Job],
    pixels: np.ndarray,
    labels: np.ndarray,
    start: int,
    settled: dict[JobName, Method],
) -> Iterator[Part]:
    jobs = [replace(job, method=settled.get(job.name, job.method)) for job in jobs]
    own = [wanted(job.method) if job.work.cells else Wanted() for job in jobs]
    of_the_rest = list(itertools.accumulate(reversed(own), operator.or_))[::-1]  # of each job and those after it
    held = of_the_rest[0]
    intact = intact_pass(setting.shape, setting.leaves, pixels, labels, held)
    stop = start + len(labels)
    for job, needs in zip(jobs, of_the_rest, strict=True):
        for cell in job.work.intact:
            for_all_draws = cell == INTACT or job.work.asked.is_intact(cell.level)
            yield Part(cell, start, stop, intact.outcomes, 0, 0, "intact" if for_all_draws else "")
        if not job.work.cells:
            continue
        make_room()
        dropped = len(labels) * (held.bytes_per_image(setting.shape) - needs.bytes_per_image(setting.shape))
        if dropped >= _DROPPED:
            intact = replace(intact, tiles=tuple(tile.only(needs.early, needs.late) for tile in intact.tiles))
            held = needs
            return_pages()  # what comes next is of other sizes
        founds = _founds(setting, job, intact.tiles)
        if job.name not in settled:
            plain = _plain(setting, job, pixels)  # before its lesion is made again: one is in memory at a time
            first = next(founds)
            settled[job.name] = _settled(setting, job, first, plain)
            if settled[job.name] is job.method:
                founds = itertools.chain([first], founds)
            else:
                job = replace(job, method=settled[job.name])
                held = needs | wanted(job.method)
                intact = intact_pass(setting.shape, setting.leaves, pixels, labels, held)
                founds = _founds(setting, job, intact.tiles)
        for found in founds:
            yield _part(setting, job, found, intact.tiles, start)


def _plain(setting: Setting, job: Job, pixels: np.ndarray) -> np.ndarray:
    """The plain network's logits under the first lesion of a job."""
    cell = job.work.cells[0]
    return plain_logits(setting.shape, job.lesions, setting.leaves, cell, setting.keys[cell.draw], pixels)


def _settled(setting: Setting, job: Job, found: Found, plain: np.ndarray) -> Method:
    """The method of a job, or the plain network where its first lesion has other logits than that."""
    if agrees(found.logits[0], plain, setting.tolerance):
        return job.method
    cell = found.cell
    text = f"{cell.target}, {cell.perturbation}: the cut network disagrees with the plain one, which is run instead"
    setting.on_event("fallback", text)
    return method_of(setting.shape, job.lesions, plain=True)


def _founds(setting: Setting, job: Job, tiles: Sequence[Tile]) -> Iterator[Found]:
    reference = job.lesions.encoded(setting.keys[0], setting.leaves)
    loop = loop_of(setting.shape, job.lesions, job.method, setting.leaves, reference)
    if job.work.asked.encodes:
        tiles = _encoded(loop, tiles, setting.keys[0])
    return run_cells(loop, job.work.cells, setting.keys, tiles, setting.on_event, setting.devices)


def _part(setting: Setting, job: Job, found: Found, tiles: Sequence[Tile], start: int) -> Part:
    kept = [np.asarray(planes)[:, : tile.images] for planes, tile in zip(found.planes, tiles, strict=True)]
    cell, outcomes = found.cell, np.concatenate(kept, axis=1)
    selected = job.lesions.selected(cell, setting.keys[cell.draw])
    shortcut = "all draws coincide" if job.work.asked.coincides(cell.level) else ""
    return Part(cell, start, start + outcomes.shape[1], outcomes, selected, int(found.changed), shortcut)


def _encoded(loop: Loop, tiles: Sequence[Tile], key: Key) -> list[Tile]:
    """The tiles with the first classes of the encoded network, without faults, as the reference."""
    asked = loop.lesions.asked
    level = asked.perturbation.no_damage
    assert level is not None
    (found,) = run_cells(loop, [Cell(asked.text, loop.lesions.target.name, level, 0)], [key], tiles)
    return [replace(tile, reference=first_classes(own)) for tile, own in zip(tiles, found.logits, strict=True)]
