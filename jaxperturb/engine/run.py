"""Runs a study's cells: a generator of finished parts, on which storing, progress and a user's callback hang."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool

from jaxperturb.data.preprocess import PreparedImages
from jaxperturb.engine.devices import warn_if_not_deterministic
from jaxperturb.engine.lesions import Lesions
from jaxperturb.engine.measure import extras_for
from jaxperturb.engine.plan import Cell, Work, plan
from jaxperturb.engine.programs import PLANES, before_program, classes_program, outcome_program, reference_program
from jaxperturb.engine.tiling import REFERENCE, block_size, tile_sizes
from jaxperturb.networks.network import ImageShape, Network, Specification, specification
from jaxperturb.perturb.catalogue import Asked
from jaxperturb.random.keys import draw_key
from jaxperturb.types import AnyArray

__all__ = ["PLANES", "Part", "evaluate_network", "run", "tile_sizes"]


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


@dataclass(frozen=True)
class _Tile:
    """A tile of a block, padded to its size: what the layer is handed, labels, the reference's first classes."""

    handed: Sequence[AnyArray]
    labels: AnyArray
    reference: AnyArray
    images: int


@dataclass(frozen=True)
class _Setting:
    """What all blocks share: the network on the device, and how it is tiled."""

    network: Network
    leaves: Sequence[AnyArray]
    spec: Specification
    image_shape: ImageShape
    tiles: Mapping[str, int]


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
    """
    warn_if_not_deterministic()
    setting = _setting(network, images, targets)
    extras = {item.text: extras_for(network, images, item, targets) for item in asked}
    work = plan(asked, levels, targets, draws)
    lesions = [Lesions.of(network, item.asked, item.target, extras[item.asked.text]) for item in work]
    keys = [draw_key(seed, draw) for draw in range(draws)]
    size, total = block_size(batch_size, setting.tiles), len(images.labels)
    for start in range(0, total, size):
        stop = min(start + size, total)
        todo = [_missing(item, done, start, stop) for item in work] if done else work
        if any(item.intact or item.cells for item in todo):
            yield from _run_block(setting, images, list(zip(todo, lesions, strict=True)), keys, start, stop)


def evaluate_network(network: Network, images: PreparedImages, *, batch_size: int) -> Bool[np.ndarray, "p n"]:
    """Returns the outcomes of the network as it is, one plane for each of `PLANES`, (5, images)."""
    setting = _setting(network, images, ())
    size, total = block_size(batch_size, setting.tiles), len(images.labels)
    blocks = [slice(start, min(start + size, total)) for start in range(0, total, size)]
    found = [_reference(setting, images.block(block.start, block.stop), images.labels[block])[0] for block in blocks]
    return np.concatenate(found, axis=1)


def _setting(network: Network, images: PreparedImages, targets: Sequence[str]) -> _Setting:
    shape = network.shape_of_images(images.image_shape)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(network.params)]
    return _Setting(network, leaves, specification(network.params), shape, tile_sizes(network, shape, targets))


def _missing(work: Work, done: Callable[[Cell, int, int], bool], start: int, stop: int) -> Work:
    intact, cells = (tuple(cell for cell in some if not done(cell, start, stop)) for some in (work.intact, work.cells))
    return Work(work.asked, work.target, intact, cells)


def _run_block(
    setting: _Setting,
    images: PreparedImages,
    work: Sequence[tuple[Work, Lesions]],
    keys: Sequence[AnyArray],
    start: int,
    stop: int,
) -> Iterator[Part]:
    pixels, labels = images.block(start, stop), images.labels[start:stop]
    outcomes, reference = _reference(setting, pixels, labels)
    for target in dict.fromkeys(item.target for item, _ in work):
        own = [(item, lesions) for item, lesions in work if item.target == target]
        for item, _ in own:
            yield from (Part(cell, start, stop, outcomes, 0, 0, "intact") for cell in item.intact)
        if any(item.cells for item, _ in own):
            tiles = _tiles(setting, target, own[0][1].leaves, pixels, labels, reference)
            for item, lesions in own:
                yield from _run_work(setting, item, lesions, tiles, keys, start, stop)


def _reference(setting: _Setting, pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The outcomes of the intact network on a block, (5, images), and its first classes, (images, 5)."""
    tile = setting.tiles[REFERENCE]
    program = reference_program(setting.network.apply, setting.spec, setting.image_shape, tile)
    tiles = zip(_padded(pixels, tile), _padded(labels, tile), strict=True)
    found = [program(setting.leaves, tile_pixels, tile_labels) for tile_pixels, tile_labels in tiles]
    outcomes = np.concatenate([np.asarray(planes) for planes, _ in found], axis=1)
    first = np.concatenate([np.asarray(classes) for _, classes in found])
    return outcomes[:, : len(labels)], first[: len(labels)]


def _tiles(
    setting: _Setting,
    target: str,
    leaves: tuple[int, ...],
    pixels: np.ndarray,
    labels: np.ndarray,
    reference: np.ndarray,
) -> list[_Tile]:
    size = setting.tiles[target]
    program = before_program(setting.network.apply, setting.spec, setting.image_shape, size, leaves)
    parts = zip(*(_padded(array, size) for array in (pixels, labels, reference)), strict=True)
    counts = [min(size, len(labels) - first) for first in range(0, len(labels), size)]
    return [
        _Tile(program(setting.leaves, tile), jnp.asarray(tile_labels), jnp.asarray(tile_reference), count)
        for (tile, tile_labels, tile_reference), count in zip(parts, counts, strict=True)
    ]


def _run_work(
    setting: _Setting,
    work: Work,
    lesions: Lesions,
    tiles: Sequence[_Tile],
    keys: Sequence[AnyArray],
    start: int,
    stop: int,
) -> Iterator[Part]:
    if not work.cells:
        return
    shapes = (setting.network.apply, setting.spec, setting.image_shape, setting.tiles[work.target], lesions.leaves)
    outcome, classes = outcome_program(*shapes), classes_program(*shapes)
    reference = lesions.encoded(keys[0], setting.leaves)
    if work.asked.encodes:
        tiles = [replace(tile, reference=classes(setting.leaves, reference, tile.handed)) for tile in tiles]
    for cell in work.cells:
        key = keys[cell.draw]
        lesioned, changed = lesions.apply(cell, key, setting.leaves, reference)
        found = [outcome(setting.leaves, lesioned, tile.handed, tile.labels, tile.reference) for tile in tiles]
        kept = [np.asarray(planes)[:, : tile.images] for planes, tile in zip(found, tiles, strict=True)]
        selected = work.asked.selected(lesions.request(cell, key))
        shortcut = "all draws coincide" if work.asked.coincides(cell.level) else ""
        yield Part(cell, start, stop, np.concatenate(kept, axis=1), selected, int(changed), shortcut)


def _padded(array: np.ndarray, size: int) -> list[np.ndarray]:
    """Splits along the first axis into pieces of one size, the last one filled up with zeros."""
    missing = -len(array) % size
    whole = np.concatenate([array, np.zeros((missing, *array.shape[1:]), array.dtype)]) if missing else array
    return [whole[first : first + size] for first in range(0, len(whole), size)]
