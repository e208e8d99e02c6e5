"""The public checkpoints of torchvision that are known by name: what they are, and how to have them."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jaxperturb.checkpoints.cache import cache_folder
from jaxperturb.checkpoints.download import Patience, Progress, checked_url, download
from jaxperturb.checkpoints.partial import Expected, check_file
from jaxperturb.errors import CheckpointError, did_you_mean

BASE_URL = "https://download.pytorch.org/models/"
MEBIBYTE = 1 << 20
# torchvision states sizes to 0.001 MiB.
ROUNDING = MEBIBYTE // 1000


@dataclass(frozen=True)
class Known:
    """A public file of weights, trained on ImageNet-1K.

    Attributes:
        name: what it is called here, as in torchvision.
        file: its name on the server, which holds the first eight digits of its SHA-256.
        sha256: its digest in hexadecimal: all 64 digits, or the first eight where no more is published.
        size: bytes, or None where only `mebibytes` is published.
        mebibytes: its size in MiB, to three decimals.
        architecture: what the weights fit.
        parameters: number of trained numbers.
        top1: percent of ImageNet's validation images whose class comes first, as torchvision reports it.
        top5: percent whose class is among the first five.
        licence: of the file, as an SPDX identifier: torchvision's.
    """

    name: str
    file: str
    sha256: str
    size: int | None
    mebibytes: float
    architecture: str
    parameters: int
    top1: float
    top5: float
    licence: str = "BSD-3-Clause"

    @property
    def expected(self) -> Expected:
        """What the file must be."""
        if self.size is not None:
            return Expected(self.sha256, self.size, self.size)
        about = round(self.mebibytes * MEBIBYTE)
        return Expected(self.sha256, about - ROUNDING, about + ROUNDING)

    @property
    def summary(self) -> str:
        """One line for lists."""
        million = self.parameters / 1e6
        return (
            f"torchvision, ImageNet, {million:.1f} million parameters, "
            f"top-1 {self.top1:.1f} %, top-5 {self.top5:.1f} %; {self.mebibytes:.0f} MiB to download"
        )


_FILES = (
    Known(
        name="alexnet",
        file="alexnet-owt-7be5be79.pth",
        sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
        size=244_408_911,
        mebibytes=233.087,
        architecture="alexnet",
        parameters=61_100_840,
        top1=56.522,
        top5=79.066,
    ),
    Known("vgg11", "vgg11-8a719046.pth", "8a719046", None, 506.840, "vgg11", 132_863_336, 69.020, 88.628),
    Known("vgg11_bn", "vgg11_bn-6002323d.pth", "6002323d", None, 506.881, "vgg11_bn", 132_868_840, 70.370, 89.810),
    Known("vgg13", "vgg13-19584684.pth", "19584684", None, 507.545, "vgg13", 133_047_848, 69.928, 89.246),
    Known("vgg13_bn", "vgg13_bn-abd245e5.pth", "abd245e5", None, 507.590, "vgg13_bn", 133_053_736, 71.586, 90.374),
    Known(
        name="vgg16",
        file="vgg16-397923af.pth",
        sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        size=553_433_881,
        mebibytes=527.796,
        architecture="vgg16",
        parameters=138_357_544,
        top1=71.592,
        top5=90.382,
    ),
    Known(
        name="vgg16_bn",
        file="vgg16_bn-6c64b313.pth",
        sha256="6c64b3138f2f4fcb3bcc4cafde11619c4f440eb1631787e93a682fd88305888a",
        size=553_507_836,
        mebibytes=527.866,
        architecture="vgg16_bn",
        parameters=138_365_992,
        top1=73.360,
        top5=91.516,
    ),
    Known(
        name="vgg19",
        file="vgg19-dcbb9e9d.pth",
        sha256="dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44",
        size=574_673_361,
        mebibytes=548.051,
        architecture="vgg19",
        parameters=143_667_240,
        top1=72.376,
        top5=90.876,
    ),
    Known(
        name="vgg19_bn",
        file="vgg19_bn-c79401a0.pth",
        sha256="c79401a0cf3cb42714e4182f5868c7a6f4f4534f5df9e956e2bb2098de41cbb6",
        size=574_769_405,
        mebibytes=548.143,
        architecture="vgg19_bn",
        parameters=143_678_248,
        top1=74.218,
        top5=91.842,
    ),
    Known(
        name="squeezenet1_0",
        file="squeezenet1_0-b66bff10.pth",
        sha256="b66bff10",
        size=None,
        mebibytes=4.778,
        architecture="squeezenet1_0",
        parameters=1_248_424,
        top1=58.092,
        top5=80.420,
    ),
    Known(
        name="squeezenet1_1",
        file="squeezenet1_1-b8a52dc0.pth",
        sha256="b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
        size=4_958_839,
        mebibytes=4.729,
        architecture="squeezenet1_1",
        parameters=1_235_496,
        top1=58.178,
        top5=80.624,
    ),
)


def known() -> Mapping[str, Known]:
    """Returns the known checkpoints by name; none of them needs to be here yet."""
    return {record.name: record for record in _FILES}


@functools.cache
def imagenet_names() -> tuple[str, ...]:
    """Returns a name for each class of ImageNet-1K in torchvision's order, that of the WordNet ids.

    They are those of Keras's `imagenet_class_index.json`; "crane" and "maillot" are there twice.
    """
    table = resources.files("jaxperturb").joinpath("data", "imagenet_classes.csv").read_text(encoding="utf-8")
    return tuple(line.partition(",")[2].replace("_", " ") for line in table.splitlines()[1:])


def find(name: str) -> Known:
    """Returns a known checkpoint.

    Raises:
        CheckpointError: none has that name.
    """
    names = known()
    if name not in names:
        raise CheckpointError(
            f"no known checkpoint is called {name!r}{did_you_mean(name, names)}; known are {', '.join(names)}"
        )
    return names[name]


def place(name: str | Known) -> Path:
    """Returns where the file of a known checkpoint is kept, or would be; one may put it there by hand."""
    return cache_folder() / "weights" / _record(name).file


def cached(name: str | Known) -> Path | None:
    """Returns the file of a known checkpoint if it is here, after reading and checking it; never uses the network.

    Args:
        name: of a known checkpoint, or a record of one's own.

    Raises:
        CheckpointError: none has that name, or the file here is another one or incomplete. It is left alone: it may
            have been put there by hand, or still be on its way.
    """
    record = _record(name)
    path = place(record)
    if not path.is_file():
        return None
    check_file(path, record.expected)
    return path


def fetch(
    name: str | Known,
    *,
    base_url: str | None = None,
    progress: Progress | None = None,
    patience: Patience | None = None,
) -> Path:
    """Returns the file of a known checkpoint, which is downloaded if it is not here; see `download.download`.

    Args:
        name: of a known checkpoint, or a record of one's own.
        base_url: the address of a folder that has the file, instead of torchvision's.
        progress: told how many bytes are there, and how many there will be (None while nobody knows).
        patience: how long to wait for the server, and how often to try.

    Raises:
        CheckpointError: none has that name; the file here is another one; or it cannot be downloaded.
        OutputError: the cache cannot be written to.
    """
    record = _record(name)
    url = checked_url(f"{(base_url or BASE_URL).rstrip('/')}/{record.file}")
    here = cached(record)
    if here is not None:
        return here
    return download(url, place(record), record.expected, progress=progress, patience=patience)


def _record(name: str | Known) -> Known:
    return name if isinstance(name, Known) else find(name)
