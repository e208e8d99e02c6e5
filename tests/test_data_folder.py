"""Folders of pictures: torchvision's ImageFolder, and ILSVRC's validation pictures in all forms of their labels."""

import csv
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import io

from jaxperturb.data import load_dataset
from jaxperturb.data.fingerprints import split_fingerprint
from jaxperturb.data.labels import imagenet_classes, match_classes
from jaxperturb.data.prepared import prepare
from jaxperturb.errors import DataError, ImageError
from jaxperturb.networks.preprocessing import Preprocessing

SMALL = Preprocessing(resize=4, crop=4)


def paint(path: Path, grey: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 5), (grey, grey, grey)).save(path)


def image_folder(root: Path) -> tuple[list[str], list[tuple[str, int]]]:
    """torchvision.datasets.folder: find_classes and make_dataset."""
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    samples = []
    for label, name in enumerate(classes):
        for place, _, files in sorted(os.walk(root / name, followlinks=True)):
            for file in sorted(files):
                if file.lower().endswith((".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")):
                    samples.append((os.path.relpath(Path(place) / file, root), label))
    return classes, samples


def test_classes_and_files_are_image_folder_s(tmp_path: Path):
    for name in ("b/2.png", "b/10.PNG", "a/deep/er/1.jpeg", "a/deep/0.png", "a/z.webp", "C/x.bmp", "empty/no.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        paint(tmp_path / name) if not name.endswith("txt") else (tmp_path / name).write_text("no picture")
    data = load_dataset(f"folder:{tmp_path}")
    classes, samples = image_folder(tmp_path)
    assert data.classes == tuple(classes)
    assert list(zip(data.identifiers, data.labels.tolist(), strict=True)) == samples


def test_numbers_are_not_sorted_as_words(tmp_path: Path):
    for number in (0, 2, 10, 999):
        paint(tmp_path / str(number) / "a.png", number % 256)
    data = load_dataset(f"folder:{tmp_path}")
    assert data.classes == ("0", "2", "10", "999")
    found = match_classes(data.classes, range(4), None, 1000)
    assert found.apply(data.labels).tolist() == [0, 2, 10, 999]
    assert [int(data.read(i)[0, 0, 0]) for i in range(4)] == [0, 2, 10, 231]


def test_a_split_is_the_same_set_whether_in_the_path_or_not(tmp_path: Path):
    for split in ("train", "val"):
        for name in ("n01440764/a.png", "n02102040/b.png"):
            paint(tmp_path / "set" / split / name, 9)
    by_flag = load_dataset(f"folder:{tmp_path}/set", "val")
    by_path = load_dataset(f"folder:{tmp_path}/set/val")
    assert (by_flag.name, by_flag.split) == (by_path.name, by_path.split) == ("set", "val")
    assert split_fingerprint(by_flag) == split_fingerprint(by_path)
    with pytest.raises(DataError, match=r"holds splits \(train, val\), not classes; name one with --split=train"):
        load_dataset(f"folder:{tmp_path}/set")
    with pytest.raises(DataError, match=r"has no folder 'vall'; did you mean 'val'\?"):
        load_dataset(f"folder:{tmp_path}/set", "vall")


def test_the_fingerprint_is_of_files_labels_and_names(tmp_path: Path):
    for name in ("a/1.png", "b/2.png"):
        paint(tmp_path / "x" / name)
    shutil.copytree(tmp_path / "x", tmp_path / "elsewhere")
    first = split_fingerprint(load_dataset(f"folder:{tmp_path}/x"))
    assert split_fingerprint(load_dataset(f"folder:{tmp_path}/elsewhere")) == first
    paint(tmp_path / "elsewhere/b/2.png", 1)
    assert split_fingerprint(load_dataset(f"folder:{tmp_path}/elsewhere")) != first
    (tmp_path / "x/b/2.png").rename(tmp_path / "x/b/3.png")
    assert split_fingerprint(load_dataset(f"folder:{tmp_path}/x")) != first


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "holds no folders of pictures"),
        (["1.png", "2.png"], "holds pictures but no folders for classes; .*--labels_file"),
        ([".hidden/1.png"], "holds no folders of pictures"),
        (["a/1.txt", "b/"], r"holds no pictures in its folders \(\.jpg"),
        (["a/.hidden.png"], "holds no pictures in its folders"),
        (["7/1.png", "07/1.png"], "are the same class number"),
    ],
)
def test_a_folder_that_is_none_is_one_line(tmp_path: Path, files: list[str], message: str):
    for file in files:
        if file.endswith("png"):
            paint(tmp_path / file)
        else:
            (tmp_path / file).parent.mkdir(exist_ok=True)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"folder:{tmp_path}")
    assert "\n" not in str(caught.value)


def test_a_path_that_is_no_folder_is_one_line(tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="nowhere is not there"):
        load_dataset(f"folder:{tmp_path}/nowhere")
    with pytest.raises(DataError, match="is a file, not a folder"):
        load_dataset(f"folder:{tmp_path}/file")
    with pytest.raises(DataError, match="leave out data_dir"):
        load_dataset(f"folder:{tmp_path}", data_dir="/data")
    with pytest.raises(DataError, match=f"unknown data set .*; for what lies there, write folder:{tmp_path}$"):
        load_dataset(str(tmp_path))


# ILSVRC's validation pictures: 40 of them, four classes, whose ILSVRC2012_IDs are not in the order of the ids.
WNIDS = ["n03888257", "n01440764", "n02102040", "n03000684"]
OF_PICTURE = [WNIDS[(7 * i + i // 3) % 4] for i in range(40)]


@pytest.fixture
def flat(tmp_path: Path) -> Path:
    folder = tmp_path / "val"
    for number in range(1, 41):
        paint(folder / f"ILSVRC2012_val_{number:08d}.JPEG", number)
    return folder


def write_kaggle(path: Path) -> Path:
    lines = ["ImageId,PredictionString"]
    for number, wnid in reversed(list(enumerate(OF_PICTURE, 1))):
        boxes = f"{wnid} 85 1 499 272 " * (1 + number % 3)
        lines.append(f"ILSVRC2012_val_{number:08d},{boxes}")
    (path / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    return path / "LOC_val_solution.csv"


def write_caffe(path: Path) -> Path:
    order = {wnid: place for place, (wnid, _) in enumerate(imagenet_classes())}
    lines = [f"ILSVRC2012_val_{number:08d}.JPEG {order[wnid]}\n" for number, wnid in enumerate(OF_PICTURE, 1)]
    (path / "val.txt").write_text("".join(lines))
    return path / "val.txt"


def write_ground_truth(path: Path, meta: bool = True) -> Path:
    (path / "ILSVRC2012_validation_ground_truth.txt").write_text(
        "".join(f"{WNIDS.index(wnid) + 1}\n" for wnid in OF_PICTURE)
    )
    fields = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O"), ("num_children", "O")]
    synsets = np.zeros((6, 1), fields)
    for row, (wnid, children) in enumerate([*((wnid, 0) for wnid in WNIDS), ("n00001740", 3), ("n00002137", 2)]):
        synsets[row, 0] = (row + 1, wnid, "words", "gloss", children)
    if meta:
        io.savemat(path / "meta.mat", {"synsets": synsets})
    return path / "ILSVRC2012_validation_ground_truth.txt"


@pytest.mark.parametrize("write", [write_kaggle, write_caffe, write_ground_truth])
def test_all_forms_of_ilsvrc_s_labels_say_the_same(tmp_path: Path, flat: Path, write):
    data = load_dataset(f"folder:{flat}", labels_file=write(tmp_path))
    assert data.identifiers == tuple(f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 41))
    found = match_classes(data.classes, range(len(data.classes)), None, 1000).apply(data.labels)
    assert [imagenet_classes()[i][0] for i in found] == OF_PICTURE
    assert abs(int(data.read(6)[0, 0, 0]) - 7) <= 1  # the JPEG of picture 7


@pytest.mark.parametrize("write", [write_kaggle, write_caffe, write_ground_truth])
def test_some_of_ilsvrc_s_pictures_keep_their_labels(tmp_path: Path, flat: Path, write):
    labels = write(tmp_path)
    for number in (1, 2, 17, 40):
        (flat / f"ILSVRC2012_val_{number:08d}.JPEG").unlink()
    data = load_dataset(f"folder:{flat}", labels_file=labels)
    kept = [wnid for number, wnid in enumerate(OF_PICTURE, 1) if number not in (1, 2, 17, 40)]
    found = match_classes(data.classes, range(len(data.classes)), None, 1000).apply(data.labels)
    assert [imagenet_classes()[i][0] for i in found] == kept


def test_lines_of_names_and_labels(tmp_path: Path):
    for name in ("a b.png", "c.png"):
        paint(tmp_path / "all" / name)
    labels = tmp_path / "labels.csv"
    labels.write_text("file,label\nc.png,sea lion\na b,dog\nnot here.png,cat\n")
    data = load_dataset(f"folder:{tmp_path}/all", labels_file=labels)
    assert data.identifiers == ("a b.png", "c.png")
    assert [data.classes[i] for i in data.labels] == ["dog", "sea lion"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("ILSVRC2012_val_00000001.JPEG 3\n", r"has no label for 39 of 40 pictures, ILSVRC2012_val_00000002\.JPEG"),
        ("a.png,1\na.png,2\n", r"line 2: a\.png has two labels, 1 and 2"),
        ("a.png,\n", "line 1: expected a picture's name and its label"),
        ("1\n2\n", "has 2 lines, but there is a picture number 40"),
    ],
)
def test_a_file_of_labels_that_does_not_fit_is_one_line(tmp_path: Path, flat: Path, text: str, message: str):
    (tmp_path / "labels.txt").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(f"folder:{flat}", labels_file=tmp_path / "labels.txt")
    assert "\n" not in str(caught.value)


def test_ground_truth_needs_its_meta_file_and_its_names(tmp_path: Path, flat: Path):
    labels = write_ground_truth(tmp_path, meta=False)
    with pytest.raises(DataError, match=r"not in the order of the WordNet ids; put the development kit's meta\.mat"):
        load_dataset(f"folder:{flat}", labels_file=labels)
    (tmp_path / "meta.mat").write_bytes(b"not MATLAB's")
    with pytest.raises(DataError, match=r"meta\.mat cannot be read"):
        load_dataset(f"folder:{flat}", labels_file=labels)
    write_ground_truth(tmp_path)
    labels.write_text("5\n" * 40)
    with pytest.raises(DataError, match=r"the id 5 is not in meta\.mat"):
        load_dataset(f"folder:{flat}", labels_file=labels)
    paint(flat / "odd.png")
    with pytest.raises(DataError, match=r"for pictures called ILSVRC2012_val_00000001\.JPEG and so on, not odd\.png"):
        load_dataset(f"folder:{flat}", labels_file=labels)


def test_a_missing_file_of_labels_is_one_line(flat: Path):
    with pytest.raises(DataError, match="there is no file of labels nowhere"):
        load_dataset(f"folder:{flat}", labels_file="nowhere")


# Pictures that cannot be read.


@pytest.fixture
def hurt(tmp_path: Path, shared: Path) -> Path:
    """Eight sound pictures of two classes, and among them one of each fault."""
    root = tmp_path / "hurt"
    for number in range(8):
        paint(root / "ab"[number % 2] / f"{number}.png", 30 * number)
    for name in ("empty.jpg", "text.jpg", "truncated.jpg"):
        shutil.copy(shared / "data/odd" / name, root / "a" / name)
    return root


def test_a_bad_picture_is_an_error_that_names_the_file(hurt: Path):
    images = prepare(load_dataset(f"folder:{hurt}"), SMALL)
    with pytest.raises(ImageError, match=r"hurt/a/(empty|text|truncated)\.jpg") as caught:
        images.block(0, len(images))
    assert "\n" not in str(caught.value)


def test_bad_pictures_are_skipped_and_keep_their_places(hurt: Path):
    told: dict[int, str] = {}
    images = prepare(load_dataset(f"folder:{hurt}"), SMALL, on_bad_image="skip")
    block, readable = replace(images, on_skip=told.__setitem__).read_block(0, 11)
    bad = [place for place, name in enumerate(images.identifiers) if name.endswith("jpg")]
    assert sorted(told) == bad == np.flatnonzero(~readable).tolist()
    assert all(images.identifiers[place] in reason for place, reason in told.items())
    for place, name in enumerate(images.identifiers):
        grey = 0 if place in bad else 30 * int(Path(name).stem)
        np.testing.assert_allclose(block[place], grey / 255, atol=1e-6)


def test_a_picture_that_vanishes_during_the_run(hurt: Path):
    data = load_dataset(f"folder:{hurt}")
    (hurt / "b/3.png").unlink()
    images = prepare(data, SMALL, on_bad_image="skip")
    place = images.identifiers.index("b/3.png")
    assert not images.read_block(place, place + 1)[1][0]
    with pytest.raises(ImageError, match=r"b/3\.png is gone"):
        prepare(data, SMALL).block(place, place + 1)
    assert len(images.chain) == 1
    with pytest.raises(ImageError, match="is gone"):
        _ = replace(images, on_bad_image="raise").chain


def test_the_chain_is_the_same_whether_bad_pictures_are_skipped_or_not(hurt: Path):
    data = load_dataset(f"folder:{hurt}")
    assert prepare(data, SMALL, on_bad_image="skip").chain == prepare(data, SMALL).chain


def test_a_set_of_bad_pictures_alone_is_refused(tmp_path: Path):
    for name in ("1.jpg", "2.jpg"):
        (tmp_path / "a").mkdir(exist_ok=True)
        (tmp_path / "a" / name).write_bytes(b"")
    with pytest.raises(ImageError, match=r"none of the 2 images can be read; the last: .*\.jpg is empty"):
        prepare(load_dataset(f"folder:{tmp_path}"), SMALL, on_bad_image="skip")


def test_an_unknown_policy_is_refused(hurt: Path):
    with pytest.raises(DataError, match=r"on_bad_image must be raise or skip, got 'skp'; did you mean 'skip'\?"):
        prepare(load_dataset(f"folder:{hurt}"), SMALL, on_bad_image="skp")


def test_photographs_are_read_under_their_own_names(shared: Path, tmp_path: Path):
    with (shared / "data/photos.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = tmp_path / "labels.csv"
    labels.write_text("".join(f"{row['file']},{row['wnid']}\n" for row in rows))
    data = load_dataset(f"folder:{shared}/data/photos", labels_file=labels)
    assert data.name == "photos"
    assert data.read(0).shape == (int(rows[0]["height"]), int(rows[0]["width"]), 3)
    assert [data.classes[i] for i in data.labels] == [row["wnid"] for row in rows]
