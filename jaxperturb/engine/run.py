"""Runs a study's cells: a generator of finished parts, on which storing, progress and a user's callback hang."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxperturb.data.preprocess import PreparedImages
from jaxperturb.data.reading import read_blocks
from jaxperturb.engine import memory
from jaxperturb.engine.allocator import keep_pages
from jaxperturb.engine.cells import Event, ignore, run_cells
from jaxperturb.engine.check import agrees
from jaxperturb.engine.devices import warn_if_not_deterministic
from jaxperturb.engine.intact import intact_pass
from jaxperturb.engine.lesions import Lesions
from jaxperturb.engine.loop import Found, Loop, Tile, loop_of
from jaxperturb.engine.measure import extras_for
from jaxperturb.engine.methods import MEANING, Method, Wanted, method_of, wanted
from jaxperturb.engine.plan import Cell, Work, plan
from jaxperturb.engine.programs import PLANES, Shape, first_classes
from jaxperturb.engine.tiling import Tiling, block_size, tiling
from jaxperturb.networks.network import Network, specification
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.random.keys import draw_key
from jaxperturb.types import AnyArray, Key

__all__ = ["PLANES", "Part", "evaluate_network", "run", "tiling"]

_Name = tuple[str, str]  # target and perturbation


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


@dataclass(frozen=True, eq=False)
class _Setting:
    """What all blocks share."""

    network: Network
    leaves: Sequence[AnyArray]
    shape: Shape
    keys: Sequence[Key]
    on_event: Event


@dataclass(frozen=True, eq=False)
class _Job:
    """The cells of one perturbation and target, and how they are computed."""

    work: Work
    lesions: Lesions
    method: Method

    @property
    def name(self) -> _Name:
        return self.work.target, self.work.asked.text


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
    done: Callable[[Cell, int, int], bool] | None = None,
    tile: Tiling | None = None,
    memory_gb: float | None = None,
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
        batch_size: images of a block, rounded up to whole tiles; it changes no count.
        done: whether a cell's images from start to stop are already known; such parts are left out.
        tile: of the compiled programs; None for the backend's own.
        memory_gb: what the process, or on an accelerator the device, may take, in GiB; None for half of what is free.
            It changes no count.
        on_event: called with the kind and the text of what should be known of the run: ``method``, ``fallback``.
    """
    keys = [draw_key(seed, draw) for draw in range(draws)]
    setting = _setting(network, images, tile, keys, on_event or ignore)
    extras = {item.text: extras_for(network, images, item, targets) for item in asked}
    work = plan(asked, levels, targets, draws)
    jobs = [_job(setting, item, Lesions.of(network, item.asked, item.target, extras[item.asked.text])) for item in work]
    size, total = block_size(batch_size, setting.shape.tiling.large), len(images.labels)
    settled: dict[_Name, Method] = {}
    room = memory.budget(memory_gb, _reserved(setting, images, size))
    bounds = [(start, min(start + size, total)) for start in range(0, total, size)]
    for block in read_blocks(images, (some for some in bounds if _todo(jobs, done, *some))):
        start, pixels, labels = block.start, np.asarray(block.inputs), block.labels
        for group, most in _groups(setting, _todo(jobs, done, start, block.stop), len(labels), room):
            for first in range(0, len(labels), most):
                last = min(first + most, len(labels))
                left = _todo(group, done, start + first, start + last)
                if left:
                    some = pixels[first:last], labels[first:last]
                    yield from _run_group(setting, left, *some, start + first, settled)


def evaluate_network(
    network: Network, images: PreparedImages, *, batch_size: int, tile: Tiling | None = None
) -> Bool[np.ndarray, "p n"]:
    """Returns the outcomes of the network as it is, one plane for each of `PLANES`, (5, images)."""
    setting = _setting(network, images, tile, (), ignore)
    size, total = block_size(batch_size, setting.shape.tiling.large), len(images.labels)
    bounds = [(start, min(start + size, total)) for start in range(0, total, size)]
    found = [
        intact_pass(setting.shape, setting.leaves, np.asarray(block.inputs), block.labels, Wanted())
        for block in read_blocks(images, bounds)
    ]
    return np.concatenate([one.outcomes for one in found], axis=1)


def _setting(
    network: Network, images: PreparedImages, tile: Tiling | None, keys: Sequence[Key], on_event: Event
) -> _Setting:
    keep_pages()
    warn_if_not_deterministic()
    image_shape = network.shape_of_images(images.image_shape)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(network.params)]
    shape = Shape(network.apply, specification(network.params), image_shape, tile or tiling(network, image_shape))
    return _Setting(network, leaves, shape, keys, on_event)


def _job(setting: _Setting, work: Work, lesions: Lesions) -> _Job:
    method = method_of(setting.shape, lesions)
    if work.cells:
        setting.on_event("method", f"{work.target}, {work.asked.text}: {MEANING[method.name]}")
    return _Job(work, lesions, method)


def _reserved(setting: _Setting, images: PreparedImages, block: int) -> int:
    """Bytes beside what is handed over: masks, the largest lesioned tensor twice, the images of a block."""
    largest = max((leaf.nbytes for leaf in setting.leaves), default=0)
    of_images = min(block, len(images.labels)) * 4 * int(np.prod(setting.shape.image_shape))
    return 3 * largest + 2 * of_images


def _todo(jobs: Sequence[_Job], done: Callable[[Cell, int, int], bool] | None, start: int, stop: int) -> list[_Job]:
    left = [_missing(job, done, start, stop) for job in jobs] if done else jobs
    return [job for job in left if job.work.intact or job.work.cells]


def _missing(job: _Job, done: Callable[[Cell, int, int], bool], start: int, stop: int) -> _Job:
    intact, cells = (
        tuple(cell for cell in some if not done(cell, start, stop)) for some in (job.work.intact, job.work.cells)
    )
    return replace(job, work=replace(job.work, intact=intact, cells=cells))


def _groups(setting: _Setting, jobs: Sequence[_Job], images: int, room: int) -> Iterator[tuple[list[_Job], int]]:
    """Yields jobs that share one pass of the intact network, with the images of a pass, such that memory holds them."""
    group: list[_Job] = []
    needs = Wanted()
    for job in jobs:
        own = wanted(job.method) if job.work.cells else Wanted()
        if group and (needs | own).bytes_per_image(setting.shape) * images > room and needs != needs | own:
            yield group, _fitting(setting, needs, images, room)
            group, needs = [], Wanted()
        group, needs = [*group, job], needs | own
    yield group, _fitting(setting, needs, images, room)


def _fitting(setting: _Setting, needs: Wanted, images: int, room: int) -> int:
    """As many images as memory holds: whole tiles."""
    tile = setting.shape.tiling.large
    most = room // max(1, needs.bytes_per_image(setting.shape))
    return images if most >= images else max(tile, most // tile * tile)


def _run_group(
    setting: _Setting,
    jobs: Sequence[_Job],
    pixels: np.ndarray,
    labels: np.ndarray,
    start: int,
    settled: dict[_Name, Method],
) -> Iterator[Part]:
    jobs = [replace(job, method=settled.get(job.name, job.method)) for job in jobs]
    needs = Wanted()
    for job in jobs:
        needs |= wanted(job.method) if job.work.cells else Wanted()
    intact = intact_pass(setting.shape, setting.leaves, pixels, labels, needs)
    stop = start + len(labels)
    for job in jobs:
        yield from (Part(cell, start, stop, intact.outcomes, 0, 0, "intact") for cell in job.work.intact)
        if job.work.cells:
            if job.name not in settled:
                settled[job.name] = _settled(setting, job, pixels, intact.tiles[0])
            if settled[job.name] is not job.method:
                job = replace(job, method=settled[job.name])
                intact = intact_pass(setting.shape, setting.leaves, pixels, labels, needs | wanted(job.method))
            yield from _run_job(setting, job, intact.tiles, start)


def _settled(setting: _Setting, job: _Job, pixels: np.ndarray, tile: Tile) -> Method:
    """The method of a job, or the plain network where it gives other logits than that."""
    cell, method = job.work.cells[0], job.method
    key = setting.keys[cell.draw]
    if agrees(setting.shape, job.lesions, method, setting.leaves, cell, key, pixels, tile):
        return method
    text = f"{cell.target}, {cell.perturbation}: the cut network disagrees with the plain one, which is run instead"
    setting.on_event("fallback", text)
    return method_of(setting.shape, job.lesions, plain=True)


def _run_job(setting: _Setting, job: _Job, tiles: Sequence[Tile], start: int) -> Iterator[Part]:
    reference = job.lesions.encoded(setting.keys[0], setting.leaves)
    loop = loop_of(setting.shape, job.lesions, job.method, setting.leaves, reference)
    if job.work.asked.encodes:
        tiles = _encoded(loop, tiles, setting.keys[0])
    for found in run_cells(loop, job.work.cells, setting.keys, tiles, setting.on_event):
        yield _part(setting, job, found, tiles, start)


def _part(setting: _Setting, job: _Job, found: Found, tiles: Sequence[Tile], start: int) -> Part:
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
