"""Times how photographs are read: decoded by one and two threads, from the cache, and by Pillow in a plain loop.

    python scripts/benchmark_data.py [--shared=../shared/data] [--copies=13] [--repeats=3] [--json=FILE]

The 96 photographs are copied under other names into a temporary folder, resized to a short side of 256 and cropped to
224, as torchvision does for ImageNet. All files are read once before, so that no side pays for the disk. Sides take
turns; each one's best of the repeats is told. A reading through the cache begins with the digests of all files.
"""

import csv
import dataclasses
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import app, flags
from PIL import Image

from jaxperturb.data import Dataset, load_dataset
from jaxperturb.data.cache import PixelCache
from jaxperturb.data.prepared import PreparedImages, prepare
from jaxperturb.data.reading import Reader, read_blocks
from jaxperturb.networks.preprocessing import IMAGENET

ROOT = Path(__file__).resolve().parents[1]
SHARED = flags.DEFINE_string("shared", str(ROOT.parent / "shared" / "data"), "Folder with photos/ and photos.csv.")
COPIES = flags.DEFINE_integer("copies", 13, "Of each of the 96 photographs.", lower_bound=1)
REPEATS = flags.DEFINE_integer("repeats", 3, "Timed readings of each side.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "File for the figures.")
BLOCK = 250


def copy_photographs(shared: Path, folder: Path, copies: int) -> Path:
    """Returns a folder with a folder for each class, with so many copies of its photograph."""
    with (shared / "photos.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        place = folder / row["wnid"]
        place.mkdir(parents=True)
        for copy in range(copies):
            shutil.copyfile(shared / "photos" / row["file"], place / f"{copy}.jpg")
    return folder


def plain_loop(folder: Path) -> int:
    """Reads all as torchvision would, one after the other; returns how many."""
    files = sorted(folder.glob("*/*.jpg"))
    for file in files:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
        short = min(picture.size)
        width, height = (256 if side == short else int(256 * side / short) for side in picture.size)
        picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - 224) / 2), round((height - 224) / 2)
        np.asarray(picture.crop((left, top, left + 224, top + 224)))
    return len(files)


def bounds(images: PreparedImages) -> list[tuple[int, int]]:
    """Returns the first image of each block, and the one after its last."""
    return [(start, min(start + BLOCK, len(images))) for start in range(0, len(images), BLOCK)]


def read_all(images: PreparedImages) -> int:
    """Reads all pixels, a block at a time; returns how many images."""
    for start, stop in bounds(images):
        images.read_pixels(start, stop)
    return len(images)


def read_to_device(images: PreparedImages) -> int:
    """Reads all images as a network takes them; returns how many."""
    for block in read_blocks(images, bounds(images)):
        jax.block_until_ready(block.inputs)
    return len(images)


def sides(data: Dataset, folder: Path, cache: PixelCache) -> dict[str, Callable[[], int]]:
    """Returns what is timed, by name."""

    def images(reader: Reader | None) -> PreparedImages:
        return dataclasses.replace(prepare(data, IMAGENET), reader=reader)

    def first(workers: int) -> int:
        cache.empty()
        return read_all(images(Reader(cache, workers)))

    return {
        "Pillow in a plain loop": lambda: plain_loop(folder),
        "decoded, 1 worker": lambda: read_all(images(Reader(None, 1))),
        "decoded, 2 workers": lambda: read_all(images(Reader(None, 2))),
        "first reading, 1 worker, into the cache": lambda: first(1),
        "first reading, 2 workers, into the cache": lambda: first(2),
        "from the cache": lambda: read_all(images(Reader(cache))),
        "from the cache to normalised inputs on the device": lambda: read_to_device(images(Reader(cache))),
    }


def measure(data: Dataset, folder: Path, cache: PixelCache, repeats: int) -> dict[str, float]:
    """Returns the best images per second of each side."""
    best: dict[str, float] = {}
    for _ in range(repeats):
        for name, side in sides(data, folder, cache).items():
            begun = time.perf_counter()
            count = side()
            best[name] = max(best.get(name, 0.0), count / (time.perf_counter() - begun))
    return best


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}")
    with tempfile.TemporaryDirectory() as name:
        folder = copy_photographs(Path(SHARED.value), Path(name) / "photographs", COPIES.value)
        data = load_dataset(f"folder:{folder}")
        for file in folder.glob("*/*"):
            file.read_bytes()
        best = measure(data, folder, PixelCache(Path(name) / "cache", 10**10), REPEATS.value)
    print(f"{len(data)} photographs, images per second (best of {REPEATS.value})")
    loop = best["Pillow in a plain loop"]
    for side, speed in best.items():
        print(f"  {side:<50} {speed:9.0f}   {speed / loop:6.2f} x the plain loop")
    ratio = best["from the cache"] / best["first reading, 1 worker, into the cache"]
    print(f"from the cache / first reading with 1 worker: {ratio:.0f}")
    if JSON.value:
        Path(JSON.value).write_text(json.dumps({"photographs": len(data), "images_per_second": best}, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
