"""``evaluate`` and ``sweep`` on pictures of one's own: folders, arrays, faults, classes and preprocessing."""

import dataclasses
import hashlib
import json
import re
import sqlite3
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import jaxperturb as jp
from jaxperturb.cli import main
from jaxperturb.data import load_dataset
from jaxperturb.data.prepared import prepare
from jaxperturb.stats.balance import balanced_accuracy

DIGITS = 60


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first digits as pictures, a folder for each class, to be read only."""
    root = tmp_path_factory.mktemp("own") / "digits"
    data = load_dataset("digits")
    for i in range(DIGITS):
        (root / str(data.labels[i])).mkdir(parents=True, exist_ok=True)
        Image.fromarray(data.read(i)[..., 0]).save(root / str(data.labels[i]) / f"{i:03d}.png")
    np.savez(root.parent / "digits.npz", x_test=[data.read(i) for i in range(DIGITS)], y_test=data.labels[:DIGITS])
    return root


def right_by_hand() -> int:
    """How many of the digits the bundled network gets right, by its logits alone."""
    data, network = load_dataset("digits"), jp.load_network("alexnet-digits")
    images = prepare(data, network.preprocessing)
    places = [images.positions.tolist().index(i) for i in range(DIGITS)]
    logits = np.asarray(network.apply(network.params, images.block(0, 500)))[places]
    return int((logits.argmax(axis=1) == data.labels[:DIGITS]).sum())


def said(capsys: pytest.CaptureFixture[str], *words: str, status: int = 0) -> tuple[str, str]:
    assert main.run(["evaluate", *words]) == status
    return capsys.readouterr()


@pytest.mark.parametrize("kind", ["folder", "npz"])
def test_pictures_of_ones_own_are_the_digits_that_they_were(capsys, digits: Path, kind: str):
    out, err = said(capsys, f"--dataset={kind}:{digits}{'.npz' if kind == 'npz' else ''}")
    assert f"on {DIGITS} images of digits" in out
    assert f"({right_by_hand()} right; chance 0.1)" in out
    assert err == ""


def test_some_classes_among_all_or_among_themselves(capsys, digits: Path, tmp_path: Path):
    for name in ("3", "8"):
        (tmp_path / "two" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "two" / name).symlink_to(digits / name)
    number = len(list((digits / "3").iterdir())) + len(list((digits / "8").iterdir()))
    out, err = said(capsys, f"--dataset=folder:{tmp_path}/two")
    assert f"on {number} images" in out
    assert "chance 0.1)" in out
    assert "2 classes by number, scored among the network's 10: 3 = 3, 8 = 8" in err
    out, err = said(capsys, f"--dataset=folder:{tmp_path}/two", "--restrict_classes")
    assert "chance 0.5)" in out
    assert "chance 1)" in out  # of two, the true one is always among the first five
    assert "scored among them alone" in err


def test_a_file_of_classes(capsys, digits: Path, tmp_path: Path):
    for name, folder in (("three", "3"), ("eight", "8")):
        (tmp_path / "two").mkdir(exist_ok=True)
        (tmp_path / "two" / name).symlink_to(digits / folder)
    _, err = said(capsys, f"--dataset=folder:{tmp_path}/two", status=2)
    assert "class 'eight' and 1 more of the data set is none of the network's 10 classes" in err
    assert err.count("\n") == 1
    (tmp_path / "map.csv").write_text("three,3\neight,8\n")
    out, err = said(capsys, f"--dataset=folder:{tmp_path}/two", f"--classes={tmp_path}/map.csv")
    assert "2 classes by map.csv" in err
    expected = said(capsys, f"--dataset=folder:{tmp_path}/two", f"--classes={tmp_path}/map.csv", "--restrict_classes")
    top1 = [float(re.search(r"top-1 +([\d.]+)", text)[1]) for text in (out, expected[0])]
    assert 0.8 < top1[0] <= top1[1]


def test_preprocessing_is_overridden(capsys, digits: Path):
    own = jp.load_network("alexnet-digits").preprocessing
    mean, std = own.mean[0], own.std[0]
    text = f"none;resize=64x64;channels=L;mean={mean};std={std}"
    out, _ = said(capsys, f"--dataset=folder:{digits}", f"--preprocessing={text}")
    assert f"({right_by_hand()} right" in out
    _, err = said(capsys, f"--dataset=folder:{digits}", "--preprocessing=none", status=2)
    assert "--preprocessing=imagenet" in err
    _, err = said(capsys, f"--dataset=folder:{digits}", "--preprocessing=crop=32", status=2)
    assert "expects images of shape (64, 64, 1), got (32, 32, 1)" in err


@pytest.fixture
def hurt(digits: Path, tmp_path: Path) -> Path:
    """The digits with four files that cannot be read."""
    root = tmp_path / "hurt"
    for folder in digits.iterdir():
        (root / folder.name).mkdir(parents=True)
        for file in folder.iterdir():
            (root / folder.name / file.name).write_bytes(file.read_bytes())
    whole = next((digits / "4").iterdir()).read_bytes()
    bad = {"0/a.jpg": b"", "4/b.png": whole[: len(whole) // 2], "4/c.jpg": b"no picture", "7/d.png": whole[:20]}
    for name, content in bad.items():
        (root / name).write_bytes(content)
    return root


def test_a_bad_picture_stops_or_is_left_out_and_listed(capsys, hurt: Path):
    _, err = said(capsys, f"--dataset=folder:{hurt}", status=2)
    assert re.search(r"^jaxperturb: .*hurt/\d/[abcd]\.\w+ is ", err.splitlines()[-1])
    out, err = said(capsys, f"--dataset=folder:{hurt}", "--on_bad_image=skip")
    assert f"on {DIGITS} images of hurt" in out
    assert f"({right_by_hand()} right" in out
    assert "left out: 4 images that cannot be read" in out
    assert len(re.findall(r"^left out: \d/[abcd]\.", err, re.MULTILINE)) == 4


SWEEP = ["--layers=fc8", "--perturbations=synapse_knockout", "--levels=0,0.5", "--draws=2", "--quiet"]


def test_a_study_counts_no_picture_that_it_left_out(capsys, digits: Path, hurt: Path, tmp_path: Path):
    assert main.run(["sweep", f"--dataset=folder:{hurt}", "--on_bad_image=skip", *SWEEP, "--out=a"]) == 0
    text = capsys.readouterr().out
    assert "4 images" in text
    assert main.run(["sweep", f"--dataset=folder:{digits}", *SWEEP, "--out=b"]) == 0
    hurt_cells, cells = pd.read_csv("a/results.csv"), pd.read_csv("b/results.csv")
    columns = ["images", "top1", "top5", "same1", "same5", "nonfinite"]
    pd.testing.assert_frame_equal(hurt_cells[columns], cells[columns])
    assert cells["images"].unique().tolist() == [DIGITS]
    results = jp.load_results("a")
    assert len(results.outcomes("synapse_knockout", "fc8", 0.5, 1).top1) == DIGITS
    with sqlite3.connect("a/results.sqlite") as connection:
        skipped = connection.execute("SELECT identifier FROM skipped JOIN image USING (position)").fetchall()
        view = connection.execute("SELECT images, top1, nonfinite FROM cells").fetchall()
        events = connection.execute("SELECT text FROM event WHERE kind = 'skipped image'").fetchall()
    connection.close()
    assert sorted(name for (name,) in skipped) == ["0/a.jpg", "4/b.png", "4/c.jpg", "7/d.png"]
    assert len(events) == 4
    assert {(images, nonfinite) for images, _, nonfinite in view} == {(DIGITS, 0)}


def test_a_picture_that_vanishes_is_left_out_of_what_was_stored_before(hurt: Path):
    data, network = load_dataset(f"folder:{hurt}"), jp.load_network("alexnet-digits")
    asked = {"perturbations": "synapse_knockout", "layers": "fc8", "levels": "0,0.5", "on_bad_image": "skip"}
    before = jp.sweep(network, data, draws=1, out="study", **asked).cells
    gone = data.identifiers.index(next(name for name in data.identifiers if name.startswith("5/")))
    chain = prepare(data, network.preprocessing, on_bad_image="skip").chain
    (hurt / data.identifiers[gone]).rename("elsewhere.png")

    def digest(i: int) -> str:  # as if the file were there while the study is named, and gone when it is read
        return hashlib.sha256(Path("elsewhere.png").read_bytes()).hexdigest() if i == gone else data.digest(i)

    vanishing = dataclasses.replace(data, digest=digest)
    assert prepare(vanishing, network.preprocessing, on_bad_image="skip").chain == chain
    after = jp.sweep(network, vanishing, draws=2, out="study", **asked)
    assert before["images"].unique().tolist() == [DIGITS]
    assert after.cells["images"].unique().tolist() == [DIGITS - 1]
    outcomes = after.outcomes("synapse_knockout", "fc8", 0.5, 0)
    row = after.cells[(after.cells["level"] == 0.5) & (after.cells["draw"] == 0)].iloc[0]
    assert (len(outcomes.top1), outcomes.top1.sum()) == (DIGITS - 1, row["top1"])
    assert before[before["level"] == 0.5]["top1"].iloc[0] - row["top1"] in (0, 1)


def test_class_map_and_restriction_are_part_of_a_study(capsys, digits: Path, tmp_path: Path):
    (tmp_path / "map.csv").write_text("0,1\n1,0\n")
    command = ["sweep", f"--dataset=folder:{digits}", *SWEEP, "--out=study"]
    assert main.run(command) == 0
    assert main.run([*command, f"--classes={tmp_path}/map.csv"]) == 2
    assert "class_map: none in the store, [1, 0, 2, 3, 4, 5, 6, 7, 8, 9] asked" in capsys.readouterr().err
    assert main.run([*command, "--restrict_classes"]) == 2
    assert "restriction: none in the store, [0, 1, 2," in capsys.readouterr().err


def test_the_record_of_a_study_repeats_it(digits: Path, tmp_path: Path):
    (tmp_path / "map.csv").write_text("0,1\n1,0\n")
    words = [f"--classes={tmp_path}/map.csv", "--restrict_classes", "--on_bad_image=skip", "--preprocessing=mean=0.5"]
    assert main.run(["sweep", f"--dataset=folder:{digits}", *SWEEP, *words, "--out=study"]) == 0
    flags = json.loads(Path("study/config.json").read_text())["flags"]
    assert flags["dataset"] == f"folder:{digits}"
    assert (flags["classes"], flags["restrict_classes"]) == (f"{tmp_path}/map.csv", True)
    assert (flags["on_bad_image"], flags["preprocessing"]) == ("skip", "mean=0.5")


def test_a_network_that_knows_nothing_gets_one_warning(capsys, digits: Path, tmp_path: Path):
    (tmp_path / "map.csv").write_text("".join(f"{i},{(i + 3) % 10}\n" for i in range(10)))
    _, err = said(capsys, f"--dataset=folder:{digits}", f"--classes={tmp_path}/map.csv")
    assert err.count("warning: alexnet-digits is hardly better than chance: are the labels right (--classes)") == 1
    _, err = said(capsys, f"--dataset=folder:{digits}")
    assert "warning" not in err


def test_a_set_of_one_class_is_said_to_be_one(capsys, digits: Path, tmp_path: Path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one/3").symlink_to(digits / "3")
    assert "unbalanced: 100.0% of the images are of the commonest class" in said(capsys, "--dataset=folder:one")[0]
    _, err = said(capsys, "--dataset=folder:one", "--restrict_classes", status=2)
    assert err == "jaxperturb: all images are of one class (3), so there is nothing to restrict scores to\n"


def test_an_unbalanced_set_is_said_to_be_one(capsys, digits: Path):
    data, network = load_dataset("digits"), jp.load_network("alexnet-digits")
    kept = [i for i in range(500) if data.labels[i] in (3, 8) or i < 30][:120]
    labels = data.labels[kept]
    np.savez("some.npz", images=[data.read(i) for i in kept], labels=labels)
    out, _ = said(capsys, "--dataset=npz:some.npz")
    share = np.bincount(labels).max() / len(labels)
    assert f"unbalanced: {share:.1%} of the images are of the commonest class" in out
    logits = np.asarray(network.apply(network.params, prepare(data, network.preprocessing).block(0, 500)))
    order = prepare(data, network.preprocessing).positions.tolist()
    right = np.array([logits[order.index(i)].argmax() == data.labels[i] for i in kept])
    assert f"balanced  {balanced_accuracy(right, labels):.4f}" in out
    assert "unbalanced" not in said(capsys)[0]
