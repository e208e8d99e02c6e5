"""The cache of preprocessed images: whole files or none, its limit, and processes that die or race."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jaxperturb.cli import main
from jaxperturb.data.cache import PixelCache, entry_name, pixel_cache
from jaxperturb.errors import DataError
from jaxperturb.networks.preprocessing import IMAGENET, Preprocessing

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
SIZE = PIXELS.nbytes + 128  # a header of NumPy's


@pytest.fixture
def cache(tmp_path):
    return PixelCache(tmp_path / "pixels", 10**6)


def files(cache):
    return sorted(str(path.relative_to(cache.folder)) for path in cache.folder.rglob("*") if path.is_file())


def test_what_was_kept_is_read_back(cache):
    assert cache.load("set", "a", PIXELS.shape) is None
    assert cache.save("set", "a", PIXELS)
    np.testing.assert_array_equal(cache.load("set", "a", PIXELS.shape), PIXELS)
    assert isinstance(cache.load("set", "a", PIXELS.shape), np.memmap)
    assert cache.load("set", "b", PIXELS.shape) is None
    assert cache.load("other", "a", PIXELS.shape) is None
    assert cache.load("set", "a", (6, 5, 3, 4)) is None


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"text", None])
def test_a_damaged_file_counts_as_none_and_is_replaced(cache, content):
    cache.save("set", "a", PIXELS)
    path = cache.folder / "set" / "a.npy"
    path.write_bytes(path.read_bytes()[:-1] if content is None else content)
    assert cache.load("set", "a", PIXELS.shape) is None
    cache.save("set", "a", PIXELS)
    np.testing.assert_array_equal(cache.load("set", "a", PIXELS.shape), PIXELS)


def test_objects_are_never_unpickled(cache):
    (cache.folder / "set").mkdir(parents=True)
    np.save(cache.folder / "set" / "a.npy", np.array([print], object), allow_pickle=True)
    assert cache.load("set", "a", (1,)) is None


def test_the_limit_holds_and_the_longest_unused_makes_room(tmp_path):
    cache = PixelCache(tmp_path, 3 * SIZE)
    for age, entry in enumerate(("first", "second")):
        cache.save(entry, "a", PIXELS)
        os.utime(tmp_path / entry / "a.npy", (age, age))
    assert cache.load("first", "a", PIXELS.shape) is not None  # so it was used last
    assert cache.save("own", "a", PIXELS)
    assert cache.save("own", "b", PIXELS)
    assert files(cache) == ["first/a.npy", "own/a.npy", "own/b.npy"]
    assert cache.save("own", "c", PIXELS)
    # What is read again and again in one order would only be thrown out before it is used.
    assert not cache.save("own", "d", PIXELS)
    assert files(cache) == ["own/a.npy", "own/b.npy", "own/c.npy"]
    assert not PixelCache(tmp_path / "tiny", SIZE - 200).save("set", "a", PIXELS)


def test_entries_are_told_apart_by_what_makes_pixels():
    name = entry_name("folder val/of mine", IMAGENET)
    assert name.startswith("folder-val-of-mine-")
    same = Preprocessing(resize=256, crop=224)
    assert entry_name("folder val/of mine", same) == name  # mean and deviation come later
    others = (
        Preprocessing(resize=255, crop=224),
        Preprocessing(resize=256, crop=223),
        Preprocessing(resize=256, crop=224, interpolation="bicubic"),
        Preprocessing(resize=256, crop=224, channels="BGR"),
    )
    assert len({name, *(entry_name("folder val/of mine", other) for other in others)}) == 5


def test_a_folder_that_cannot_be_written_is_said_once_a_time(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(
        UserWarning, match="images cannot be kept in .*decoded each time; set JAXPERTURB_CACHE to another"
    ):
        assert not PixelCache(tmp_path / "file", 10**6).save("set", "a", PIXELS)


DYING = """
import os, sys
from pathlib import Path
import numpy as np
from jaxperturb.data.cache import PixelCache
def stop(_):
    print("writing", flush=True)
    sys.stdin.read()
os.fsync = stop
PixelCache(Path(sys.argv[1]), 10**6).save("set", "a", np.ones((6, 5, 4, 3), np.uint8))
"""


def test_a_process_killed_while_writing_leaves_nothing_that_is_trusted(cache):
    process = subprocess.Popen(
        [sys.executable, "-c", DYING, str(cache.folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdin.close()
    process.stdout.close()
    (left,) = files(cache)
    assert cache.load("set", "a", PIXELS.shape) is None
    assert cache.entries() == []
    assert cache.save("set", "a", PIXELS)
    np.testing.assert_array_equal(cache.load("set", "a", PIXELS.shape), PIXELS)
    # Young enough to be another process's, it stays for an hour.
    assert files(cache) == [left, "set/a.npy"]
    hours_ago = time.time() - 7200
    os.utime(cache.folder / left, (hours_ago, hours_ago))
    cache.save("set", "b", PIXELS)
    assert files(cache) == ["set/a.npy", "set/b.npy"]


def test_the_command_lists_and_empties(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("JAXPERTURB_CACHE", str(tmp_path))
    monkeypatch.setenv("JAXPERTURB_CACHE_GB", "0.5")
    cache = pixel_cache()
    assert (cache.folder, cache.limit) == (tmp_path / "pixels", 500_000_000)
    for entry in ("one", "two"):
        cache.save(entry, "a", np.zeros((256, 64, 64, 3), np.uint8))
    assert main.run(["cache"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[:3] for row in rows] == [["3.1", "MB", "one"], ["3.1", "MB", "two"], ["6.3", "MB", "of"]]
    (tmp_path / "weights").mkdir()
    assert main.run(["cache", "--empty"]) == 0
    assert "6.3 MB freed" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]
    assert main.run(["cache"]) == 0
    assert capsys.readouterr().out.split()[:2] == ["0.0", "MB"]
    monkeypatch.setenv("JAXPERTURB_CACHE_GB", "0")
    assert main.run(["cache"]) == 0
    assert "no images are kept" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["ten", "-1", "nan", "inf"])
def test_the_limit_must_be_a_number(monkeypatch, text):
    monkeypatch.setenv("JAXPERTURB_CACHE_GB", text)
    with pytest.raises(
        DataError, match=f"JAXPERTURB_CACHE_GB must be a number of gigabytes, 0 for no cache, got '{text}'"
    ):
        pixel_cache()
