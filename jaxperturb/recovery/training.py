"""Trains copies of one network from one evaluation to the next."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxperturb.engine.memory import free_bytes
from jaxperturb.errors import DivergedError
from jaxperturb.networks.network import ImageShape, Network
from jaxperturb.random import draw_key
from jaxperturb.random.keys import name_word
from jaxperturb.recovery.batches import TrainingImages, augmented, batch_places, stream_key
from jaxperturb.recovery.step import Arrays, Copy, Recipe, stacked, step_program, unstacked
from jaxperturb.types import AnyArray, Key

_PIECE = 25  # steps between two looks at the losses
_ROOM = 0.5  # of the free memory is what copies that are trained together may take
_STATES = 5  # arrays of the size of the weights that a copy takes: itself, gradient, update, two moments
_PASSES = 3  # times its activations that a step keeps at its peak


@dataclass(frozen=True, eq=False)
class Training:
    """How copies are trained.

    Attributes:
        recipe: of the step.
        images: that are learnt from.
        seed: of batches, augmentation, dropout and fresh damage.
        batch_size: images per step.
        augment: how images are varied.
        on_steps: called with the number of steps that were made, times copies.
    """

    recipe: Recipe
    images: TrainingImages
    seed: int
    batch_size: int
    augment: tuple[str, ...]
    on_steps: Callable[[int], None]

    def advance(
        self, copies: Sequence[Copy], shared: Arrays, draws: Sequence[int], start: int, stop: int
    ) -> tuple[list[Copy], Float[np.ndarray, " copies"]]:
        """Returns copies after some steps, and the mean loss of each.

        All of them see the same batches, with the same augmentation and dropout.

        Args:
            copies: that are trained together.
            shared: leaves that neither learn nor are damaged.
            draws: the number of each copy's draw.
            start: number of the first step.
            stop: after the last one.

        Raises:
            DivergedError: a loss is not finite; names the step.
        """
        several = len(copies) > 1
        program, copy = step_program(self.recipe, several), stacked(copies) if several else copies[0]
        losses = []
        for step in range(start, stop):
            copy, loss = program(copy, shared, *self._inputs(step), self._damage_keys(draws, step))
            losses.append(loss)
            if len(losses) % _PIECE == 0 or step == stop - 1:
                done = (len(losses) - 1) % _PIECE + 1
                _check_finite(losses[-done:], draws, step - done + 1)
                self.on_steps(done * len(copies))
        mean = np.mean(np.asarray(losses, np.float64).reshape(stop - start, len(copies)), axis=0)
        return unstacked(copy, len(copies)) if several else [copy], mean

    def _inputs(self, step: int) -> tuple[jax.Array, jax.Array, Key]:
        places = batch_places(self.seed, step, len(self.images), self.batch_size)
        images, labels = self.images.read(places)
        pixels = jnp.asarray(images)
        if self.augment:
            pixels = _augment(stream_key(self.seed, "augment", step), pixels, self.augment)
        return pixels, jnp.asarray(labels), stream_key(self.seed, "dropout", step)

    def _damage_keys(self, draws: Sequence[int], step: int) -> jax.Array:
        keys = [jax.random.fold_in(jax.random.fold_in(draw_key(self.seed, draw), _DAMAGE), step) for draw in draws]
        return jnp.stack(keys) if len(keys) > 1 else keys[0]


def copies_at_once(network: Network, image_shape: ImageShape, batch_size: int, draws: int) -> int:
    """Returns how many copies are trained together: as many as half of the free memory takes; on a CPU one.

    With kernels and inputs of several copies, a convolution is a grouped one, which on a CPU takes five times as long
    as one copy after another.
    """
    if jax.default_backend() == "cpu":
        return 1
    program = network.program(image_shape)
    made = [v.aval for equation in program.equations for v in equation.outvars]
    passes = sum(aval.size * aval.dtype.itemsize for aval in made if hasattr(aval, "size")) * batch_size
    weights = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(network.params))
    each = _PASSES * passes // program.batch + _STATES * weights
    return max(1, min(draws, int(_ROOM * free_bytes()) // max(1, each)))


_DAMAGE = np.uint32(name_word("recovery/damage"))
_augment = jax.jit(augmented, static_argnums=2)


def _check_finite(losses: Sequence[AnyArray], draws: Sequence[int], first: int) -> None:
    values = np.asarray(losses).reshape(len(losses), len(draws))
    wrong = np.argwhere(~np.isfinite(values))
    if wrong.size:
        step, copy = wrong[0]
        raise DivergedError(f"the loss of draw {draws[copy]} is not finite at step {first + step + 1}")
