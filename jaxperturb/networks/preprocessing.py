"""What is done to an image before a network sees it: a record that travels with the weights."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from jaxperturb.errors import CheckpointError, NetworkError, did_you_mean

CHANNELS: Mapping[str, int] = {"RGB": 3, "BGR": 3, "L": 1}
INTERPOLATIONS = ("nearest", "bilinear", "bicubic")


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Resize, centre crop, channel order, then ``(pixel * scale - mean) / std`` on pixels from 0 to 255.

    Attributes:
        resize: the short side in pixels (the aspect is kept; the long side is rounded down, as torchvision does), or
            ``(height, width)``, or None to leave the size alone.
        crop: side in pixels of the square cut from the centre, or None. A smaller image is padded with black.
        interpolation: "nearest", "bilinear" or "bicubic"; all but the first are antialiased, as Pillow's are.
        channels: "RGB", "BGR" or "L" (one channel, grey).
        mean: what is subtracted after scaling: one number for all channels, or one for each in their order.
        std: what the difference is divided by, given like `mean`.
        scale: factor on the pixel values, before the mean.

    Raises:
        NetworkError: a value is of the wrong type or out of range.
    """

    resize: int | tuple[int, int] | None = None
    crop: int | None = None
    interpolation: str = "bilinear"
    channels: str = "RGB"
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255

    def __post_init__(self) -> None:
        """Refuses what cannot be applied to an image."""
        _check({field.name: getattr(self, field.name) for field in dataclasses.fields(self)})

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """(height, width, channels) of every result, or None where it depends on the image."""
        channels = CHANNELS[self.channels]
        if self.crop is not None:
            return self.crop, self.crop, channels
        return (*self.resize, channels) if isinstance(self.resize, tuple) else None

    def to_json(self) -> dict[str, Any]:
        """Returns plain values that `from_json` reads back to an equal record."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_json(cls, values: object) -> "Preprocessing":
        """Reads what `to_json` wrote; fields that are left out take their defaults.

        Raises:
            CheckpointError: it is not a table of known fields with values in range.
        """
        if not isinstance(values, Mapping):
            raise CheckpointError(f"preprocessing must be a table, got {values!r}")
        fields = {field.name: field.default for field in dataclasses.fields(cls)}
        for name in values:
            if name not in fields:
                raise CheckpointError(f"unknown preprocessing field {name!r}{did_you_mean(str(name), fields)}")
        read = fields | {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        try:
            _check(read)
        except NetworkError as error:
            raise CheckpointError(f"preprocessing: {error}") from None
        numbers = {name: tuple(float(v) for v in read[name]) for name in ("mean", "std")}
        return cls(**read | numbers | {"scale": float(read["scale"])})


def _check(fields: Mapping[str, Any]) -> None:
    resize = fields["resize"]
    sides = resize if isinstance(resize, tuple) else (resize,)
    if (isinstance(resize, tuple) and len(resize) != 2) or not all(_is_side(side) for side in sides):
        raise NetworkError(f"resize must be a short side or (height, width) in pixels, got {resize!r}")
    if not _is_side(fields["crop"]):
        raise NetworkError(f"crop must be a side in pixels, got {fields['crop']!r}")
    _check_choice("interpolation", fields["interpolation"], INTERPOLATIONS)
    _check_choice("channels", fields["channels"], tuple(CHANNELS))
    for name in ("mean", "std", "scale"):
        values = (fields[name],) if name == "scale" else fields[name]
        _check_numbers(name, values, CHANNELS[fields["channels"]])
    if 0 in fields["std"]:
        raise NetworkError(f"std must not be 0, got {fields['std']!r}")


def _is_side(value: object) -> bool:
    return value is None or (type(value) is int and value > 0)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise NetworkError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _check_numbers(name: str, values: object, channels: int) -> None:
    if not isinstance(values, tuple) or len(values) not in (1, channels):
        raise NetworkError(f"{name} must hold 1 or {channels} numbers, got {values!r}")
    if not all(type(v) in (int, float) and math.isfinite(v) for v in values):
        raise NetworkError(f"{name} must be finite numbers, got {values!r}")


# torchvision's for all its ImageNet classifiers of AlexNet's and VGG's time.
IMAGENET = Preprocessing(resize=256, crop=224, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

_WORDS = {"imagenet": IMAGENET, "none": None}


def parse_preprocessing(text: str, own: Preprocessing | None) -> Preprocessing | None:
    """Reads ``imagenet``, ``none``, or fields to change, such as ``resize=256;crop=227`` or ``imagenet;crop=227``.

    Args:
        text: fields as ``name=value`` between semicolons, perhaps after a word; a size is 256 or 224x192 (height and
            width), mean and std are one number or one for each channel between commas, "none" takes a size away.
        own: the network's, in which fields are changed where no word comes first.

    Raises:
        NetworkError: an unknown word or field, or a value of the wrong type or out of range.
    """
    first, *rest = [part.strip() for part in text.split(";")]
    if "=" in first:
        base, fields = own or Preprocessing(), [first, *rest]
    elif first in _WORDS:
        base, fields = _WORDS[first] or Preprocessing(), rest
    else:
        hint = did_you_mean(first, _WORDS)
        raise NetworkError(
            f"preprocessing: expected {', '.join(_WORDS)} or fields such as crop=224, got {first!r}{hint}"
        )
    if first == "none" and not rest:
        return None
    return dataclasses.replace(base, **dict(_parse_field(field) for field in fields))


def _parse_field(text: str) -> tuple[str, Any]:
    name, equals, value = (part.strip() for part in text.partition("="))
    known = [field.name for field in dataclasses.fields(Preprocessing)]
    if name not in known or not equals:
        raise NetworkError(
            f"preprocessing: unknown field {text!r}{did_you_mean(name, known)} (known: {', '.join(known)})"
        )
    try:
        return name, _PARSERS.get(name, str)(value)
    except ValueError:
        raise NetworkError(f"preprocessing: {name} cannot be {value!r}") from None


def _parse_size(text: str) -> int | tuple[int, int] | None:
    if text == "none":
        return None
    height, cross, width = text.partition("x")
    return (int(height), int(width)) if cross else int(height)


def _parse_numbers(text: str) -> tuple[float, ...]:
    return tuple(float(number) for number in text.split(","))


_PARSERS: Mapping[str, Callable[[str], Any]] = {
    "resize": _parse_size,
    "crop": _parse_size,
    "mean": _parse_numbers,
    "std": _parse_numbers,
    "scale": float,
}
