"""How much a compiled program takes at once: the tile.

With one tile the counts are identical whatever the block, order or number of devices (a block is a whole number of
tiles, so an image always has the same place in its tile). So the tile follows from the backend, the network and the
precision alone, never from the block, the number of images, levels or layers, or the free memory.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import jax

from jaxperturb.engine.rewrite import Rewrites, rewrites
from jaxperturb.engine.stages import split_of
from jaxperturb.networks.network import ImageShape, Network
from jaxperturb.networks.program import Program
from jaxperturb.perturb.targets import Target
from jaxperturb.trees import Layer

# Entries of the largest value of a tile: what stays near a CPU's caches, what fills an accelerator.
_ENTRIES = {"cpu": 2**22}
_ENTRIES_ACCELERATOR = 2**28
_LEAST, _MOST = 16, 512
_MOST_MASKS = 64


@dataclass(frozen=True)
class Tiling:
    """The shapes of the compiled programs.

    Attributes:
        small: images at a time in convolutions, and whatever else stands before the last dense layers.
        large: images at a time in those; a multiple of `small`.
        masks: lesions at a time by `vmap`, or None for one after another.
        rewrites: equations that are replaced by faster equal ones.
    """

    small: int
    large: int
    masks: int | None = None
    rewrites: Rewrites = field(default_factory=Rewrites)

    def to_json(self) -> dict[str, int | str]:
        """Returns what a study keeps of it, and what must agree for it to be continued."""
        found: dict[str, int | str] = {"small": self.small, "large": self.large}
        if self.masks is not None:
            found["masks"] = self.masks
        return found | {"convolutions": self.rewrites.name}


def tiling(
    network: Network,
    image_shape: ImageShape,
    *,
    convolutions: str = "auto",
    masks_per_call: int | None = None,
) -> Tiling:
    """Returns the tile of a network on this backend.

    Args:
        network: intact.
        image_shape: of its images.
        convolutions: ``auto``, ``xla`` or ``winograd``.
        masks_per_call: lesions at a time; None for the backend's own: one after another on a CPU, and on an
            accelerator what fills it.
    """
    backend = jax.default_backend()
    program = network.program(image_shape)
    split = split_of(program)
    early, late = (_most_entries(program, some) for some in (range(split), range(split, len(program.equations))))
    small, large = _images(early, backend), _images(late, backend)
    if backend != "cpu" and masks_per_call is None:
        masks_per_call = max(1, min(_MOST_MASKS, _ENTRIES_ACCELERATOR // (small * early)))
    if masks_per_call is not None:
        large = small
    return Tiling(small, max(small, large), masks_per_call, rewrites(backend, convolutions))


def block_size(batch_size: int, tile: int) -> int:
    """Returns the images of a block: those asked for, rounded up to a whole number of tiles."""
    return -(-batch_size // tile) * tile


def target_leaves(layers: Mapping[str, Layer], target: str) -> tuple[int, ...]:
    """Returns the indices of all leaves that a lesion of a target may touch, those of norms among them."""
    return tuple(leaf.index for name in Target.of(target).layers for leaf in layers[name].leaves(include_norm=True))


def _images(entries: int, backend: str) -> int:
    room = _ENTRIES.get(backend, _ENTRIES_ACCELERATOR) // entries
    size = _LEAST
    while size < _MOST and 2 * size <= room:
        size *= 2
    return size


def _most_entries(program: Program, numbers: range) -> int:
    """Entries for one image of the largest value that some equations make or read."""
    chosen = [program.equations[number] for number in numbers]
    values = [v for equation in chosen for v in (*equation.invars, *equation.outvars)]
    sizes = [v.aval.size // program.batch for v in values if program.batch in v.aval.shape[:1]]
    return max(sizes, default=1)
