"""How far a network in other precisions agrees with itself in float32, and how fast it is."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.data.reading import read_blocks
from jaxperturb.engine.intact import Intact, intact_pass
from jaxperturb.engine.methods import Wanted
from jaxperturb.engine.setting import Setting, setting_of
from jaxperturb.engine.tiling import Tiling, block_size
from jaxperturb.networks.network import Network


@dataclass(frozen=True, eq=False)
class InPrecision:
    """An intact network in one precision.

    Attributes:
        precision: of the computation.
        outcomes: one plane for each of `PLANES`, (5, images).
        same: whether an image's first class is that in float32.
        difference: largest distance of an image's logits from those in float32; NaN where one is not a number.
        images_per_second: of passes whose programs were compiled already.
    """

    precision: str
    outcomes: Bool[np.ndarray, "p n"]
    same: Bool[np.ndarray, " n"]
    difference: Float32[np.ndarray, " n"]
    images_per_second: float


def compare_precisions(
    network: Network, images: PreparedImages, precisions: Sequence[str], *, batch_size: int, tile: Tiling | None = None
) -> tuple[InPrecision, ...]:
    """Returns how a network does in float32, and in each of some precisions.

    Args:
        network: intact.
        images: of the comparison.
        precisions: of `jaxperturb.engine.precision.PRECISIONS`; whether the device is good at them is not asked.
        batch_size: images of a block.
        tile: of the compiled programs; None for the backend's own.
    """
    names = tuple(dict.fromkeys(("float32", *precisions)))
    settings = {name: setting_of(network, images, tile, name) for name in names}
    size, total = block_size(batch_size, settings["float32"].shape.tiling.large), len(images.labels)
    found: dict[str, list[tuple[np.ndarray, ...]]] = {name: [] for name in names}
    seconds = dict.fromkeys(names, 0.0)
    for block in read_blocks(images, [(start, min(start + size, total)) for start in range(0, total, size)]):
        pixels = np.asarray(block.inputs)
        plain = np.zeros(())
        for name, setting in settings.items():
            if not found[name]:
                _pass(setting, pixels[:1], block.labels[:1])  # compiles
            start = time.perf_counter()
            intact = _pass(setting, pixels, block.labels)
            own = _logits(intact)
            seconds[name] += time.perf_counter() - start
            plain = own if name == "float32" else plain
            found[name].append((intact.outcomes, own.argmax(-1) == plain.argmax(-1), np.abs(own - plain).max(-1)))
    return tuple(_joined(name, found[name], total / seconds[name]) for name in names)


def _joined(precision: str, of_blocks: Sequence[tuple[np.ndarray, ...]], images_per_second: float) -> InPrecision:
    outcomes, same, difference = (np.concatenate(some, axis=-1) for some in zip(*of_blocks, strict=True))
    return InPrecision(precision, outcomes, same, difference, images_per_second)


def _pass(setting: Setting, pixels: np.ndarray, labels: np.ndarray) -> Intact:
    return intact_pass(setting.shape, setting.leaves, pixels, labels, Wanted())


def _logits(intact: Intact) -> np.ndarray:
    pairs = zip(intact.logits, intact.tiles, strict=True)
    return np.concatenate([np.asarray(own, np.float32)[: tile.images] for own, tile in pairs])
