"""Reading by threads and through the cache gives what reading one by one gives, and decodes only once."""

import dataclasses
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image

from jaxperturb.data import from_arrays, load_dataset
from jaxperturb.data.cache import PixelCache
from jaxperturb.data.parallel import each
from jaxperturb.data.prepared import prepare
from jaxperturb.data.reading import Reader, read_blocks, read_fast
from jaxperturb.errors import DataError, ImageError
from jaxperturb.networks.preprocessing import Preprocessing

RECIPE = Preprocessing(resize=20, crop=16, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.1))
CLASSES, IMAGES = 3, 300


@pytest.fixture
def folder(tmp_path):
    """300 pictures of three classes, more than one link of the chain."""
    rng = np.random.default_rng(3)
    for i in range(IMAGES):
        place = tmp_path / "set" / f"class{i % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(17, 40, 2)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(place / f"{i}.png")
    return tmp_path / "set"


@pytest.fixture
def cache(tmp_path):
    return PixelCache(tmp_path / "pixels", 10**8)


def plain(folder, limit=None, **options):
    return prepare(load_dataset(f"folder:{folder}"), RECIPE, limit, **options)


def fast(folder, cache, limit=None, **options):
    return dataclasses.replace(plain(folder, limit, **options), reader=Reader(cache, 3))


def bounds(count, size):
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def test_blocks_equal_those_read_one_by_one(folder, cache):
    expected = plain(folder).block(0, IMAGES)
    for _ in range(2):  # decoded, then from the cache
        images = fast(folder, cache)
        for start, stop in ((0, 10), (0, IMAGES), (250, 260), (255, 257), (256, IMAGES), (7, 7)):
            np.testing.assert_array_equal(images.block(start, stop), expected[start:stop])
    np.testing.assert_array_equal(fast(folder, None).block(0, IMAGES), expected)


def test_the_second_reading_decodes_nothing(folder, cache):
    images = fast(folder, cache)
    expected = images.block(0, IMAGES)

    def fail(_):
        raise AssertionError("decoded again")

    again = dataclasses.replace(images, dataset=dataclasses.replace(images.dataset, read=fail))
    np.testing.assert_array_equal(again.block(0, IMAGES), expected)
    # So does a study of fewer images, and one with another mean.
    np.testing.assert_array_equal(
        dataclasses.replace(again, positions=again.positions[:50], labels=again.labels[:50]).block(0, 50), expected[:50]
    )
    other = dataclasses.replace(again, preprocessing=dataclasses.replace(RECIPE, mean=(0.0,), std=(1.0,)))
    low, high = other.block(0, IMAGES).min(), other.block(0, IMAGES).max()
    assert (low, high) == (0, 1)
    with pytest.raises(AssertionError, match="decoded again"):
        dataclasses.replace(again, preprocessing=dataclasses.replace(RECIPE, channels="BGR")).block(0, 1)


def test_a_picture_that_changed_is_decoded_anew(folder, cache):
    before = fast(folder, cache).block(0, IMAGES)
    images = plain(folder)
    Image.new("RGB", (30, 30), (255, 255, 255)).save(folder / images.identifiers[5])
    after = fast(folder, cache).block(0, IMAGES)
    np.testing.assert_array_equal(after, plain(folder).block(0, IMAGES))
    assert (before[5] != after[5]).any()


def test_unreadable_pictures_are_told_each_time(folder, cache):
    name = plain(folder).identifiers[270]
    (folder / name).write_bytes(b"text")
    with pytest.raises(ImageError, match="is not a picture"):
        fast(folder, cache).block(0, IMAGES)
    for _ in range(2):
        told = {}
        images = dataclasses.replace(fast(folder, cache, on_bad_image="skip"), on_skip=told.__setitem__)
        pixels, readable = images.read_block(260, 280)
        assert list(told) == [270]
        assert np.flatnonzero(~readable).tolist() == [10]
        np.testing.assert_array_equal(pixels, plain(folder, on_bad_image="skip").block(260, 280))
    assert sum(entry.files for entry in cache.entries()) == 1  # the link without it


def test_images_in_memory_are_not_cached(cache):
    data = from_arrays(np.zeros((4, 8, 8, 3), np.uint8), [0, 1, 0, 1])
    dataclasses.replace(prepare(data, RECIPE), reader=Reader(cache)).block(0, 4)
    floats = from_arrays(np.zeros((4, 8, 8, 3), np.float32), [0, 1, 0, 1])
    assert dataclasses.replace(prepare(floats, None), reader=Reader(cache)).block(0, 4).dtype == np.float32
    assert cache.entries() == []


def test_a_full_cache_changes_nothing(folder, cache):
    small = dataclasses.replace(cache, limit=1000)
    np.testing.assert_array_equal(fast(folder, small).block(0, IMAGES), plain(folder).block(0, IMAGES))
    assert small.entries() == []


@pytest.mark.parametrize("size", [1, 100, 299, 300, 1000])
def test_blocks_on_the_device_are_all_images_once(folder, cache, size):
    images = fast(folder, cache, 10 if size == 1 else None)
    blocks = list(read_blocks(images, bounds(len(images), size)))
    assert [(block.start, block.stop) for block in blocks][-1][1] == len(images)
    np.testing.assert_array_equal(np.concatenate([block.labels for block in blocks]), images.labels)
    assert all(len(block.inputs) == block.stop - block.start and not block.skipped for block in blocks)
    inputs = np.concatenate([np.asarray(block.inputs) for block in blocks])
    np.testing.assert_array_equal(inputs, plain(folder).block(0, len(images)))


def test_blocks_of_floats_are_left_as_they_are():
    floats = np.random.default_rng(0).normal(size=(5, 3, 3, 2)).astype(np.float32)
    images = prepare(from_arrays(floats, [0, 1, 0, 1, 1]), None)
    inputs = np.concatenate([np.asarray(block.inputs) for block in read_blocks(images, bounds(5, 2))])
    np.testing.assert_array_equal(inputs, floats[images.positions])


@pytest.mark.parametrize("channels", ["RGB", "BGR", "L"])
def test_normalisation_on_the_device_is_that_of_numpy(channels):
    values = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    each_own = channels != "L"
    mean, std = ((0.1, 0.5, 0.7), (0.3, 0.21, 0.9)) if each_own else ((0.3,), (0.7,))
    recipe = Preprocessing(channels=channels, mean=mean, std=std)
    (block,) = read_blocks(prepare(from_arrays(values, [0]), recipe), [(0, 1)])
    expected = (values.astype(np.float64) / 255 - mean) / std
    np.testing.assert_allclose(block.inputs, expected if each_own else expected[..., :1], atol=1e-6, rtol=1e-6)


def test_only_one_block_is_read_ahead(folder):
    images, taken = plain(folder), []

    def told():
        for pair in bounds(100, 20):
            taken.append(pair)
            yield pair

    blocks = read_blocks(images, told())
    assert next(blocks).stop == 20
    assert len(taken) == 2
    blocks.close()


def test_skips_are_told_in_the_users_thread_before_their_block(folder):
    images = plain(folder, on_bad_image="skip")
    for place in (30, 150):
        (folder / images.identifiers[place]).write_bytes(b"text")
    told = []
    images = dataclasses.replace(images, on_skip=lambda place, _: told.append((place, threading.current_thread())))
    blocks = read_blocks(images, bounds(IMAGES, 100))
    for places in ([30], [30, 150], [30, 150]):
        block = next(blocks)
        assert [place for place, _ in told] == places
        assert [place for place, _ in block.skipped] == [place for place in places if place >= block.start]
        np.testing.assert_array_equal(block.inputs, plain(folder, on_bad_image="skip").block(block.start, block.stop))
    assert {thread for _, thread in told} == {threading.current_thread()}


def test_an_error_in_a_later_block_arrives(folder):
    images = plain(folder)
    (folder / images.identifiers[250]).write_bytes(b"")
    with pytest.raises(ImageError, match="is empty"):
        list(read_blocks(images, bounds(IMAGES, 100)))


def test_work_is_done_in_order_and_its_first_error_raised():
    assert each(lambda x: x * x, range(100), 7) == [x * x for x in range(100)]
    assert each(str, [], 4) == []

    def fail(x):
        if x in (3, 5):
            raise DataError(f"image {x}")
        return x

    for workers in (1, 4):
        with pytest.raises(DataError, match="image 3"):
            each(fail, range(10), workers)


RACING = """
import sys
import hashlib
from jaxperturb.data import load_dataset
from jaxperturb.data.prepared import prepare
from jaxperturb.data.reading import read_fast
from jaxperturb.networks.preprocessing import Preprocessing
images = read_fast(prepare(load_dataset("folder:" + sys.argv[1]), Preprocessing(resize=20, crop=16)))
print("ready", flush=True)
sys.stdin.readline()
print(hashlib.sha256(images.read_pixels(0, len(images))[0].tobytes()).hexdigest())
"""


def test_two_processes_that_build_one_cache_end_with_one_good_one(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPERTURB_CACHE", str(tmp_path / "cache"))
    start = [sys.executable, "-c", RACING, str(folder)]
    racers = [subprocess.Popen(start, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    digests = {racer.communicate()[0] for racer in racers}
    assert len(digests) == 1
    assert all(racer.returncode == 0 for racer in racers)
    made = list((tmp_path / "cache" / "pixels").rglob("*.npy"))
    assert len(made) == 2  # 256 and 44 images
    kept = np.concatenate([np.load(path) for path in sorted(made, key=lambda path: -path.stat().st_size)])
    np.testing.assert_array_equal(kept, plain(folder).read_pixels(0, IMAGES)[0])
    assert not list((tmp_path / "cache").rglob(".part-*"))


def test_the_library_reads_fast(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXPERTURB_CACHE", str(tmp_path / "cache"))
    images = read_fast(plain(folder))
    np.testing.assert_array_equal(images.block(0, 5), plain(folder).block(0, 5))
    assert (tmp_path / "cache" / "pixels").is_dir()
    monkeypatch.setenv("JAXPERTURB_CACHE_GB", "0")
    assert read_fast(plain(folder)).reader.cache is None
