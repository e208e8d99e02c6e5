"""What is asked of a recovery, and what must agree before it may be continued."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from jaxperturb.data.prepared import PreparedImages
from jaxperturb.errors import RecoveryError, StoreError, did_you_mean

HELD, FREE = "held", "free"
LESIONS = (HELD, FREE)
FINGERPRINTED = 256  # training images whose content tells a training set from another
_EXTENDED = ("targets", "lesions", "draws", "metric")


@dataclass(frozen=True)
class Arm:
    """One curve of a recovery.

    Attributes:
        target: what is damaged, empty where nothing is.
        lesion: ``held``, damaged weights stay as they are, or ``free``, they may grow back.
        draw: number of the draw.
    """

    target: str
    lesion: str
    draw: int

    @property
    def file_name(self) -> str:
        """A name for its files: ``conv1-held-draw0``."""
        return f"{self.target.replace('/', '.').replace(':', '-') or 'intact'}-{self.lesion}-draw{self.draw}"


@dataclass(frozen=True)
class Experiment:
    """What was asked.

    Attributes:
        network: its name.
        dataset: of the test images, with its split.
        train_set: of the training images, with its split.
        layers: all layers of the network, in the order of its program.
        outputs: number of classes that the network tells apart.
        weights: fingerprint of the intact network.
        images: chain of hashes over the test images.
        count: of the test images.
        train_images: fingerprint of the training images.
        scoring: how classes are matched, and what restricts them.
        perturbation: its text, empty where nothing is damaged at the start.
        code: SHA-256 of the source of a user's own perturbation, None for a built-in one.
        levels: of damage, ascending: with more than one, the lesion grows, and training follows each step.
        seed: of all draws, batches and augmentation.
        semantics: version of all drawn numbers.
        train: which layers learn.
        optimizer: its settings, or what a user's own is called.
        steps: of training after each level.
        batch_size: images per step.
        evaluate_every: steps between two evaluations.
        augment: how training images are varied.
        dropout: whether dropout layers act.
        damage: what is drawn anew in every step, empty for nothing.
        targets: what is damaged, one after another.
        lesions: of `LESIONS`.
        draws: per target.
        metric: of tables and figures.
    """

    network: str
    dataset: str
    train_set: str
    layers: tuple[str, ...]
    outputs: int
    weights: str
    images: tuple[str, ...]
    count: int
    train_images: str
    scoring: Mapping[str, Any]
    perturbation: str
    code: str | None
    levels: tuple[str, ...]
    seed: int
    semantics: int
    train: str
    optimizer: Mapping[str, Any]
    steps: int
    batch_size: int
    evaluate_every: int
    augment: tuple[str, ...]
    dropout: bool
    damage: str
    targets: tuple[str, ...]
    lesions: tuple[str, ...]
    draws: int
    metric: str = field(default="top1")

    @property
    def stages(self) -> tuple[str, ...]:
        """The levels, or one empty text where nothing is damaged at the start."""
        return self.levels or ("",)

    def arms(self) -> Iterator[tuple[str, str, list[Arm]]]:
        """Yields the arms by target and lesion."""
        for target in self.targets:
            for lesion in self.lesions:
                yield target, lesion, [Arm(target, lesion, draw) for draw in range(self.draws)]

    def points(self) -> tuple[int, ...]:
        """Returns the steps of a stage at which the network is evaluated: the first, 0, is before any training."""
        return tuple(dict.fromkeys((*range(0, self.steps, self.evaluate_every), self.steps)))

    def merged(self, other: "Experiment") -> "Experiment":
        """Returns what both ask for, in this one's metric."""
        together = {
            "targets": tuple(dict.fromkeys((*other.targets, *self.targets))),
            "lesions": tuple(dict.fromkeys((*other.lesions, *self.lesions))),
            "draws": max(self.draws, other.draws),
        }
        return Experiment(**{**self.values(), **together})

    def values(self) -> dict[str, Any]:
        """Returns the fields by name."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def to_json(self) -> str:
        """Returns JSON text, sorted by key."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Experiment":
        """Reads what `to_json` wrote.

        Raises:
            StoreError: text that is no such record.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            tuples = {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
            return cls(**values | tuples)
        except (ValueError, TypeError, AttributeError) as error:
            raise StoreError(f"expected the record of a recovery, got one that cannot be read: {error!r}") from error


def differences(stored: Experiment, asked: Experiment) -> list[str]:
    """Returns how two differ in what may not, a phrase for each; draws, targets and lesions may be more or less."""
    old, new = json.loads(stored.to_json()), json.loads(asked.to_json())
    return [
        f"{name}: {_brief(old[name])} there, {_brief(new[name])} here"
        for name in old
        if name not in _EXTENDED and old[name] != new[name]
    ]


def training_fingerprint(images: PreparedImages) -> str:
    """Returns a SHA-256 of all labels and identifiers of a training set, and of the content of its first images.

    All of the content would have to be read for a whole hash, which of ImageNet takes an hour.
    """
    first = images.first(min(FINGERPRINTED, len(images))).chain[-1]
    digest = hashlib.sha256(first.encode())
    digest.update(images.own_labels.astype("<i4").tobytes())
    digest.update("\n".join(images.identifiers).encode())
    return digest.hexdigest()


def parse_lesions(text: str | Sequence[str]) -> tuple[str, ...]:
    """Reads ``"held"``, ``"free"`` or both.

    Raises:
        RecoveryError: another word.
    """
    words = [word.strip() for word in (text.split(",") if isinstance(text, str) else text)]
    for word in words:
        if word not in LESIONS:
            raise RecoveryError(f"unknown kind of lesion {word!r}{did_you_mean(word, LESIONS)}: expected held or free")
    return tuple(dict.fromkeys(words))


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
