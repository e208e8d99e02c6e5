"""Classes of data sets against classes of networks."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from jaxperturb.data.labels import NONE, ClassMap, imagenet_classes, match_classes, read_class_file
from jaxperturb.errors import DataError

TEN = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
IMAGENETTE = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257"


def matched(names, network_names, outputs, used=None, given=None) -> ClassMap:
    return match_classes(names, range(len(names)) if used is None else used, network_names, outputs, given, "FILE")


def test_the_thousand_are_those_that_keras_publishes(shared: Path):
    published = json.loads((shared / "data/imagenet_class_index.json").read_text())
    assert imagenet_classes() == tuple(tuple(published[str(i)]) for i in range(1000))
    assert [wnid for wnid, _ in imagenet_classes()] == sorted(wnid for wnid, _ in imagenet_classes())


def test_photographs_are_matched_by_wordnet_id(shared: Path):
    with (shared / "data/photos.csv").open() as file:
        rows = list(csv.DictReader(file))
    found = matched([row["wnid"] for row in rows], None, 1000)
    assert found.how == "WordNet id"
    assert list(found.targets) == [int(row["class_index"]) for row in rows]
    assert found.target_names[0] == "goldfish"


def test_imagenette_s_ten_are_the_published_numbers(shared: Path):
    published = json.loads((shared / "data/imagenette_wnids.json").read_text())
    found = matched([wnid for wnid, *_ in published], None, 1000)
    assert list(found.targets) == [index for _, index, _ in published]


def test_a_wordnet_id_and_its_name_are_one_class():
    names = [name for wnid, name in imagenet_classes() if wnid in IMAGENETTE]
    for data, network in ((IMAGENETTE.split(), names[::-1]), (names[::-1], IMAGENETTE.split())):
        assert matched(data, network, 10).targets == tuple(range(9, -1, -1))


def test_a_list_of_the_thousand_that_differs_in_words_is_still_theirs():
    names = [f"{name}, a thing" if i % 20 else "other words" for i, (_, name) in enumerate(imagenet_classes())]
    assert matched(["n02102040", "tench"], names, 1000).targets == (217, 0)
    shuffled = names[500:] + names[:500]
    with pytest.raises(DataError, match="class 'n01440764' of the data set is none of the network's 1000"):
        matched(["n01440764"], ["so", *shuffled[1:]], 1000)


def test_names_are_matched_whatever_their_case_spaces_and_order():
    found = matched(["Sea_Lion", "tree frog"], ["tree-frog", "x", "sea lion"], 3)
    assert (found.how, found.targets) == ("name", (2, 0))


def test_numbers_are_numbers_not_places():
    assert matched(["3", "17", "100"], None, 1000).targets == (3, 17, 100)
    assert matched(["0", "1", "2"], ["zero", "one", "two"], 3).how == "number"
    assert matched(["0", "1"], ["1", "0"], 2).targets == (1, 0)  # the network's own names come first


def test_a_network_without_names_takes_equally_many_in_order():
    found = matched(["cat", "dog"], None, 2)
    assert (found.how, found.targets, found.is_plain()) == ("order", (0, 1), True)
    assert matched(TEN, [str(i) for i in range(10)], 10).how == "order"
    assert matched([f"thing {i}" for i in range(1000)], None, 1000).how == "order"


@pytest.mark.parametrize(
    ("names", "network", "outputs", "message"),
    [
        (["cat", "dog"], None, 3, "class 'cat' and 1 more of the data set is none of the network's 3 classes"),
        (["cat", "dgo"], ["cat", "dog"], 2, r"class 'dgo' of the data set .*; did you mean 'dog'\?"),
        (["0", "1000"], None, 1000, r"class '1000' of the data set is none of the network's 1000 classes \(0 to 999\)"),
        (["n01440764", "n00007846"], None, 1000, "class 'n00007846' of the data set"),
        (TEN, ["plane", "car", *TEN[2:]], 10, "class 'airplane' and 1 more"),
        (["train", "val"], TEN, 10, "class 'train' and 1 more"),
        (["crane"], None, 1000, "several classes of the network are called 'crane'"),
        ([f"thing {i}" for i in range(1000)], [n for _, n in imagenet_classes()], 1000, "'thing 0' and 999 more"),
    ],
)
def test_a_class_that_the_network_does_not_have_is_refused(names, network, outputs, message):
    if names == ["crane"]:
        network = [name for _, name in imagenet_classes()]
        network[0] = network[134]  # not in ILSVRC's places any more, were it for this one alone
        network = ["x"] * 200 + network[200:600] + ["crane", "crane"] + ["y"] * 398
    with pytest.raises(DataError, match=message) as caught:
        matched(names, network, outputs)
    assert "--classes=FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_class_without_images_needs_no_match():
    found = matched(["cat", "unicorn"], ["dog", "cat"], 2, used={0})
    assert found.targets == (1, NONE)
    assert found.apply(np.array([0, 0])).tolist() == [1, 1]


def test_a_given_map_overrides_and_may_join_classes():
    given = {"airplane": "plane", "automobile": 1, "bird": "n01440764"}
    network = ["plane", "car", "tench", *TEN[3:]]
    found = matched(TEN, network, 10, given=given)
    assert (found.how, found.targets) == ("FILE", tuple(range(10)))
    assert matched(["persian", "tabby", "dog"], ["cat", "dog"], 2, given={"persian": 0, "tabby": "cat"}).targets == (
        *(0, 0, 1),
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"catt": "cat"}, r"FILE: the data set has no class 'catt'; did you mean 'cat'\?"),
        ({"cat": "dgo"}, r"FILE: 'dgo' is none of the network's 2 classes \(0 to 1\); did you mean 'dog'\?"),
        ({"cat": 2}, "FILE: '2' is none of the network's 2 classes"),
        ({"cat": -1}, "FILE: '-1' is none"),
    ],
)
def test_a_given_map_is_checked(given, message):
    with pytest.raises(DataError, match=message):
        matched(["cat", "dog"], ["dog", "cat"], 2, given=given)


def test_a_file_of_classes(tmp_path: Path):
    file = tmp_path / "classes.csv"
    file.write_text('\ufeff# remark\n"great white shark, white shark", 2\n\nn01440764,tench\n', encoding="utf-8")
    assert read_class_file(file) == {"great white shark, white shark": "2", "n01440764": "tench"}
    file.write_text("a b\tc\n")
    assert read_class_file(file) == {"a b": "c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a\n", "line 1: expected"), ("a,b\na,c\n", "line 2: 'a' is there twice"), ("a,\n", "line 1: expected")],
)
def test_a_file_of_classes_that_cannot_be_read_is_one_line(tmp_path: Path, text: str, message: str):
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_class_file(tmp_path / "classes.csv")
    with pytest.raises(DataError, match="nowhere cannot be read: No such file"):
        read_class_file(tmp_path / "nowhere")


def test_labels_become_places_among_the_competing_logits():
    found = matched(["n02102040", "n01440764", "n03888257"], None, 1000)
    labels = np.array([2, 0, 1, 1])
    assert found.apply(labels).tolist() == [701, 217, 0, 0]
    few = found.restricted()
    assert few.restriction == (0, 217, 701)
    assert few.apply(labels).tolist() == [2, 1, 0, 0]


def test_one_class_cannot_be_restricted_to():
    with pytest.raises(DataError, match=r"all images are of one class \(n01440764\)"):
        matched(["n01440764"], None, 1000).restricted()


def test_the_map_is_told_in_one_line():
    assert matched(TEN, TEN, 10).describe() == "10 classes by name, scored among the network's 10"
    found = matched(["n02102040", "n01440764"], None, 1000)
    assert found.describe() == (
        "2 classes by WordNet id, scored among the network's 1000: n02102040 = 217 English_springer, n01440764 = 0 tench"
    )
    assert "scored among them alone: n02102040 = 217" in found.restricted().describe()
    assert matched(["7", "3"], None, 10).describe().endswith(": 7 = 7, 3 = 3")
