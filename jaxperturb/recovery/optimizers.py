"""How the weights are moved: SGD or Adam with a schedule, described so that it can be recorded and made again."""

import math
from dataclasses import dataclass

import optax

from jaxperturb.errors import RecoveryError

NAMES = ("sgd", "adam")
SCHEDULES = ("constant", "linear", "cosine")
DEFAULT_RATES = {"sgd": 1e-2, "adam": 3e-4}


@dataclass(frozen=True)
class Optimizer:
    """An optimiser of optax by name.

    Attributes:
        name: ``sgd`` or ``adam``.
        learning_rate: the highest; None takes 0.01 for SGD and 0.0003 for Adam.
        momentum: of SGD, from 0 to below 1.
        weight_decay: share of each weight that is taken away per step, times the learning rate: part of the gradient
            with SGD, decoupled (AdamW) with Adam.
        schedule: ``constant``, or down to 0 at the last step along a line or a cosine.
        warmup: steps in which the rate first rises from 0.
    """

    name: str = "adam"
    learning_rate: float | None = None
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0

    def __post_init__(self) -> None:
        """Refuses what no optimiser is."""
        _check(self.name in NAMES, f"the optimizer {self.name!r}", f"{' or '.join(NAMES)}")
        _check(self.schedule in SCHEDULES, f"the schedule {self.schedule!r}", ", ".join(SCHEDULES))
        rate = self.learning_rate
        _check(rate is None or (rate > 0 and math.isfinite(rate)), f"the learning rate {rate}", "a number above 0")
        _check(0 <= self.momentum < 1, f"the momentum {self.momentum}", "a number from 0 to below 1")
        _check(0 <= self.weight_decay < math.inf, f"the weight decay {self.weight_decay}", "a number of 0 or more")
        _check(self.warmup >= 0, f"a warm-up of {self.warmup} steps", "0 steps or more")

    def build(self, steps: int) -> optax.GradientTransformation:
        """Returns the optimiser for a training of so many steps."""
        rate = self._schedule(steps)
        if self.name == "adam":
            return optax.adamw(rate, weight_decay=self.weight_decay)
        return optax.chain(optax.add_decayed_weights(self.weight_decay), optax.sgd(rate, self.momentum or None))

    def _schedule(self, steps: int) -> optax.Schedule:
        rate = DEFAULT_RATES[self.name] if self.learning_rate is None else self.learning_rate
        left = max(1, steps - self.warmup)
        after = {
            "constant": lambda: optax.constant_schedule(rate),
            "linear": lambda: optax.linear_schedule(rate, 0.0, left),
            "cosine": lambda: optax.cosine_decay_schedule(rate, left),
        }[self.schedule]()
        if not self.warmup:
            return after
        return optax.join_schedules([optax.linear_schedule(0.0, rate, self.warmup), after], [self.warmup])


def _check(fits: bool, what: str, wanted: str) -> None:
    if not fits:
        raise RecoveryError(f"{what} cannot be used: expected {wanted}")
