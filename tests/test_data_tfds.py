"""Sets of TensorFlow Datasets against the very files that they were prepared from."""

import importlib.util
import io
import json
import os
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from jaxperturb.cli import main
from jaxperturb.data import load_dataset
from jaxperturb.data.tfds import load_tfds, prepare_tfds
from jaxperturb.errors import DataError

CLASSES = "airplane automobile bird cat deer dog frog horse ship truck".split()


@pytest.fixture
def packed(shared):
    """The JPEG bytes and labels of CIFAR-10's test images, by the identifier that they were given."""
    spec = importlib.util.spec_from_file_location("prepare", shared / "data" / "prepare.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    pairs = script.jpegs(shared / "data" / "cifar10_test_jpeg.npz")
    return {f"cifar10/test_{i:05d}": pair for i, pair in enumerate(pairs)}


@pytest.fixture
def sets(photographs):
    return photographs / "tfds"


def pixels(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)))


def test_images_and_labels_are_those_of_the_files(sets, packed):
    data = load_dataset("cifar10", data_dir=sets)
    assert (data.name, data.split, len(data), list(data.classes)) == ("cifar10", "test", 10_000, CLASSES)
    assert sorted(data.identifiers) == sorted(packed)
    assert all(packed[name][1] == label for name, label in zip(data.identifiers, data.labels, strict=True))
    for i in (0, 1, 999, 1000, 9999):
        np.testing.assert_array_equal(data.read(i), pixels(packed[data.identifiers[i]][0]))


def test_images_are_the_same_from_many_threads(sets, packed):
    data = load_dataset("cifar10", "test[:300]", sets)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(data.read, range(300)))
    for name, image in zip(data.identifiers, found, strict=True):
        np.testing.assert_array_equal(image, pixels(packed[name][0]))


def test_parts_of_splits(sets):
    whole, part = (load_dataset("cifar10", split, sets) for split in ("test", "test[40:50]"))
    assert part.identifiers == whole.identifiers[40:50]
    np.testing.assert_array_equal(part.read(3), whole.read(43))
    assert part.digest(3) == whole.digest(43) != whole.digest(44)
    assert len(load_dataset("cifar10:3.0.2", "train[:1%]", sets)) == 500


@pytest.mark.parametrize(
    ("name", "split", "message"),
    [
        ("cifr10", None, "unknown data set 'cifr10'; did you mean 'cifar10'?"),
        ("cifar100", None, "cifar100 is not prepared in {sets}; give the right --data_dir, or prepare it (this"),
        ("cifar100", None, "jaxperturb datasets --prepare=cifar100 --data_dir={sets}"),
        ("cifar10:1.0.0", None, "cifar10:1.0.0 is not prepared in {sets}"),
        ("cifar10", "tets", "cifar10 has no split 'tets'; did you mean 'test'?; it has train, test, and parts"),
        ("cifar10", "test[:x]", "cifar10 has no split 'test[:x]'"),
        ("cifar10", "test[5:5]", "the split 'test[5:5]' of cifar10 has no images"),
    ],
)
def test_what_is_not_there_is_one_line(sets, name, split, message):
    with pytest.raises(DataError) as caught:
        load_tfds(name, split, sets)
    assert message.format(sets=sets) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="there is no folder .*none; give as data_dir the one under which cifar10"):
        load_tfds("cifar10", data_dir=tmp_path / "none")


@pytest.fixture
def small(sets, tmp_path):
    """A copy of CIFAR-10 that may be damaged."""
    shutil.copytree(sets / "cifar10", tmp_path / "sets" / "cifar10")
    return tmp_path / "sets" / "cifar10" / "3.0.2"


def test_a_damaged_file_is_said_to_be(small):
    (path,) = small.glob("*test*")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4000] = bytes(4000)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cifar10.* is damaged \(.*\); prepare it again"):
        load_tfds("cifar10", data_dir=small.parents[1])
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="prepare it again"):
        load_tfds("cifar10", data_dir=small.parents[1])


def crc32c(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data):
    """The checksum of TFRECORD files, which TensorFlow would demand."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


@pytest.fixture
def tfrecord(small):
    """The first 30 test images as TFRECORD in two files: what TensorFlow would have written."""
    (path,) = small.glob("*test*")
    reader = ArrayRecordReader(str(path))
    records = reader.read(list(range(30)))
    reader.close()
    for shard, part in enumerate((records[:20], records[20:])):
        framed = [(struct.pack("<Q", len(record)), record) for record in part]
        content = b"".join(size + masked(size) + record + masked(record) for size, record in framed)
        (small / f"cifar10-test.tfrecord-{shard:05d}-of-00002").write_bytes(content)
    for old in small.glob("*.array_record-*"):
        old.unlink()
    info = json.loads((small / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    info["splits"] = [split for split in info["splits"] if split["name"] == "test"]
    info["splits"][0]["shardLengths"] = ["20", "10"]
    (small / "dataset_info.json").write_text(json.dumps(info))
    return small


def test_tfrecord_files_are_read_without_tensorflow(tfrecord, packed):
    data = load_tfds("cifar10", data_dir=tfrecord.parents[1])
    assert len(data) == 30
    for i, name in enumerate(data.identifiers):
        np.testing.assert_array_equal(data.read(i), pixels(packed[name][0]))
        assert data.labels[i] == packed[name][1]
    part = load_tfds("cifar10", "test[15:25]", tfrecord.parents[1])
    assert part.identifiers == data.identifiers[15:25]


@pytest.mark.parametrize("cut", [1, 4, 20, 1000])
def test_cut_tfrecord_files_are_refused(tfrecord, cut):
    path = tfrecord / "cifar10-test.tfrecord-00001-of-00002"
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(DataError, match="cifar10-test.tfrecord-00001-of-00002 is cut off or damaged at byte"):
        load_tfds("cifar10", data_dir=tfrecord.parents[1])


def test_a_damaged_tfrecord_is_said_to_be(tfrecord):
    path = tfrecord / "cifar10-test.tfrecord-00000-of-00002"
    content = bytearray(path.read_bytes())
    content[12:60] = b"\xff" * 48  # the first record's own bytes; its length stays
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cifar10.* is damaged \(.*\); prepare it again"):
        load_tfds("cifar10", data_dir=tfrecord.parents[1])


class TinyPhotos(tfds.core.GeneratorBasedBuilder):
    """Six grey pictures of two classes."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {"image": tfds.features.Image(shape=(5, 4, 1)), "label": tfds.features.ClassLabel(num_classes=2)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, _):
        return {"validation": self._generate_examples()}

    def _generate_examples(self):
        for i in range(6):
            file = io.BytesIO()
            Image.fromarray(np.full((5, 4), 40 * i, np.uint8)).save(file, "PNG")
            yield str(i), {"image": io.BytesIO(file.getvalue()), "label": i % 2}


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    """No pictures."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()}))

    def _split_generators(self, _):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        yield "a", {"text": "a"}


def test_a_set_is_prepared_when_asked(tmp_path, capsys):
    assert main.run(["datasets", "--prepare=tiny_photos", f"--data_dir={tmp_path}"]) == 0
    assert f"tiny_photos is prepared in {tmp_path}" in capsys.readouterr().out
    data = load_dataset("tiny_photos", data_dir=tmp_path)
    assert (data.split, data.classes) == ("validation", ("0", "1"))
    values = [int(data.read(i)[0, 0, 0]) for i in range(6)]
    assert sorted(values) == [0, 40, 80, 120, 160, 200]
    assert [value // 40 % 2 for value in values] == data.labels.tolist()
    assert data.identifiers == tuple(f"tiny_photos/validation/{i}" for i in range(6))


class TinyContest(TinyPhotos):
    """The same, and a test split whose classes are kept secret."""

    def _split_generators(self, _):
        secret = ((name, example | {"label": -1}) for name, example in self._generate_examples())
        return {"test": secret, "train": self._generate_examples(), "validation": self._generate_examples()}


def test_a_split_without_labels_is_not_taken(tmp_path):
    prepare_tfds("tiny_contest", tmp_path)
    assert load_tfds("tiny_contest", data_dir=tmp_path).split == "validation"
    with pytest.raises(DataError, match="the split 'test' of tiny_contest has no labels; it has test, train, valid"):
        load_tfds("tiny_contest", "test", tmp_path)


def test_a_set_without_pictures_is_refused(tmp_path):
    prepare_tfds("tiny_texts", tmp_path)
    with pytest.raises(DataError, match=r"tiny_texts does not hold images with one label each: .* \['text'\]"):
        load_tfds("tiny_texts", data_dir=tmp_path)


def test_what_cannot_be_prepared_is_one_line(tmp_path, monkeypatch, capsys):
    assert main.run(["datasets", "--prepare=tiny_foto"]) == 2
    assert "unknown data set 'tiny_foto'; did you mean 'tiny_photos'?" in capsys.readouterr().err

    def fail(error):
        def generate(*_):
            raise error

        monkeypatch.setattr(TinyPhotos, "_generate_examples", generate)

    fail(OSError("no route to host\nand more"))
    assert main.run(["datasets", "--prepare=tiny_photos", f"--data_dir={tmp_path}"]) == 2
    assert "tiny_photos could not be prepared: OSError: no route to host (see https" in capsys.readouterr().err
    fail(ModuleNotFoundError("No module named 'tensorflow'"))
    assert main.run(["datasets", "--prepare=tiny_photos", f"--data_dir={tmp_path}"]) == 2
    assert "No module named 'tensorflow'; install what is missing" in capsys.readouterr().err


def test_reading_imports_no_tensorflow(sets, photographs, tmp_path):
    trap = tmp_path / "trap" / "tensorflow" / "__init__.py"
    trap.parent.mkdir(parents=True)
    trap.write_text("raise SystemExit('tensorflow was imported')")
    np.savez(tmp_path / "some.npz", images=np.zeros((2, 4, 4, 3), np.uint8), labels=np.arange(2))
    code = f"""
import sys
from jaxperturb.data import load_dataset
for name, place, split in (("cifar10", {str(sets)!r}, "test[:10]"),
                           ("folder:{photographs / "imagenette64"}", None, "val"),
                           ("npz:{tmp_path / "some.npz"}", None, None), ("digits", None, None)):
    data = load_dataset(name, split, place)
    print(name, len(data), data.read(0).shape)
assert not any(name.split(".")[0] == "tensorflow" for name in sys.modules)
"""
    path = os.pathsep.join((str(trap.parents[1]), str(Path(__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert "cifar10 10 (32, 32, 3)" in done.stdout
