"""Preprocessed images kept on disk: a file of pixels for each 256 images, named by the content that it was made from.

A file appears whole or not at all, and its name says all that its pixels depend on. So nothing is ever out of date,
two processes that make one file make the same, and one that was killed leaves only a temporary file, which no reader
looks at.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import UInt8

from jaxperturb.checkpoints.cache import cache_folder
from jaxperturb.errors import DataError, OutputError
from jaxperturb.networks.preprocessing import Preprocessing

LIMIT_VARIABLE = "JAXPERTURB_CACHE_GB"
DEFAULT_GB = 10.0
_FOLDER = "pixels"
_FORMAT = 1
_TEMPORARY = ".part-"
_STALE_SECONDS = 3600.0

Pixels = UInt8[np.ndarray, "n h w c"]


@dataclasses.dataclass(frozen=True)
class Entry:
    """All cached images of one data set with one preprocessing.

    Attributes:
        name: of its folder.
        files: how many there are.
        size: of all together, in bytes.
    """

    name: str
    files: int
    size: int


@dataclasses.dataclass(frozen=True)
class PixelCache:
    """A folder of preprocessed images.

    Attributes:
        folder: where; it is made when something is kept.
        limit: of the size of everything in it, in bytes.
    """

    folder: Path
    limit: int

    def load(self, entry: str, key: str, shape: tuple[int, ...]) -> Pixels | None:
        """Returns pixels that were kept, mapped from disk, or None where there are none of this shape."""
        path = self._path(entry, key)
        try:
            pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None  # not there, or damaged: it is made anew
        if pixels.dtype != np.uint8 or pixels.shape != shape:
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return pixels

    def save(self, entry: str, key: str, pixels: Pixels) -> bool:
        """Keeps pixels where there is room for them; returns whether there was.

        What other entries used longest ago makes room. Where nothing can be written, a warning says so.
        """
        try:
            if not self._make_room(entry, pixels.nbytes):
                return False
            self._write(self._path(entry, key), pixels)
        except OSError as error:
            warnings.warn(
                f"images cannot be kept in {self.folder} ({error.strerror or error}), so they are decoded each time;"
                f" set JAXPERTURB_CACHE to another folder, or {LIMIT_VARIABLE}=0",
                stacklevel=2,
            )
            return False
        return True

    def entries(self) -> list[Entry]:
        """Returns what is kept, by name."""
        sizes: dict[str, list[int]] = {}
        for path, stat in self._files():
            sizes.setdefault(path.parent.name, []).append(stat.st_size)
        return [Entry(name, len(some), sum(some)) for name, some in sorted(sizes.items())]

    def empty(self) -> int:
        """Removes everything; returns how many bytes that freed.

        Raises:
            OutputError: something cannot be removed.
        """
        freed = sum(entry.size for entry in self.entries())
        try:
            if self.folder.is_dir():
                shutil.rmtree(self.folder)
        except OSError as error:
            raise OutputError(f"cannot empty {self.folder}: {error}") from None
        return freed

    def _path(self, entry: str, key: str) -> Path:
        return self.folder / entry / f"{key}.npy"

    def _files(self) -> list[tuple[Path, os.stat_result]]:
        """All finished files; another process may be removing some."""
        found = []
        for path in self.folder.glob("*/[!.]*.npy"):
            with contextlib.suppress(FileNotFoundError):
                found.append((path, path.stat()))
        return found

    def _make_room(self, entry: str, wanted: int) -> bool:
        files = self._files()
        excess = sum(stat.st_size for _, stat in files) + wanted - self.limit
        others = sorted((stat.st_mtime, path, stat.st_size) for path, stat in files if path.parent.name != entry)
        if excess > sum(size for _, _, size in others):
            return False
        for _, path, size in others:
            if excess <= 0:
                break
            path.unlink(missing_ok=True)
            excess -= size
        return True

    def _write(self, path: Path, pixels: Pixels) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path.parent)
        handle, temporary = tempfile.mkstemp(prefix=_TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, pixels)
                file.flush()
                # Else a power cut after the rename could leave a file of the right length and wrong content.
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def pixel_cache() -> PixelCache | None:
    """Returns the user's cache: in ``$JAXPERTURB_CACHE``, up to ``$JAXPERTURB_CACHE_GB`` gigabytes (10); None for 0.

    Raises:
        DataError: the limit is no number of gigabytes.
        OutputError: there is no place for a cache.
    """
    text = os.environ.get(LIMIT_VARIABLE, "").strip() or str(DEFAULT_GB)
    try:
        limit = float(text) * 1e9
        if not 0 <= limit < 1e18:
            raise ValueError
    except ValueError:
        raise DataError(f"{LIMIT_VARIABLE} must be a number of gigabytes, 0 for no cache, got {text!r}") from None
    return PixelCache(cache_folder() / _FOLDER, round(limit)) if limit else None


def entry_name(dataset: str, preprocessing: Preprocessing) -> str:
    """Returns the name of an entry: the data set's for people, and a digest of what makes its images into pixels.

    Mean, standard deviation and scale are left out: they are applied to the pixels later.
    """
    made = {name: getattr(preprocessing, name) for name in ("resize", "crop", "interpolation", "channels")}
    text = json.dumps({"format": _FORMAT, "pillow": PIL.__version__, **made}, sort_keys=True)
    readable = re.sub(r"[^A-Za-z0-9_]+", "-", dataset).strip("-")[-60:] or "images"
    return f"{readable}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _remove_stale(folder: Path) -> None:
    """Removes what processes that were killed have left."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
