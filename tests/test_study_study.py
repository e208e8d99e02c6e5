"""Identity of a study: what extends it, and what makes it another one."""

import functools
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from sample_study import make_curve, make_identity, make_study

from jaxperturb.errors import StudyError
from jaxperturb.perturb import synapse_knockout
from jaxperturb.study.extend import differences, merge
from jaxperturb.study.study import Study, check_metric, source_hash


def test_a_study_survives_json():
    study = make_study(perturbations=(make_curve(code="f" * 64), make_curve("resample")))
    assert Study.from_json(study.to_json()) == study


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"identity": {}, "perturbations": [], "network": 1}'])
def test_a_record_that_is_no_study_is_refused(text):
    with pytest.raises(StudyError, match="record of a study"):
        Study.from_json(text)


@pytest.mark.parametrize(
    ("fields", "phrase"),
    [
        ({"weights": "d" * 64}, "weights: aaaaaaaaaaaa in the store, dddddddddddd asked"),
        ({"seed": 1}, "seed: 0 in the store, 1 asked"),
        ({"semantics": 1}, "semantics: 0 in the store, 1 asked"),
        ({"precision": "tf32"}, "precision: float32 in the store, tf32 asked"),
        ({"outputs": 12}, "outputs: 10 in the store, 12 asked"),
        ({"classes": ("zero", "two")}, 'classes: ["zero", "one"] in the store, ["zero", "two"] asked'),
        ({"preprocessing": {"resize": 9, "mean": [0.5]}}, "preprocessing.resize: 8 in the store, 9 asked"),
        ({"tiles": {"small": 64, "large": 256, "convolutions": "xla"}}, "tiles.small: 128 in the store, 64 asked"),
        ({"image_shape": (9, 9, 1)}, "image_shape: [8, 8, 1] in the store, [9, 9, 1] asked"),
        (
            {"images": ("b" * 64, "d" * 64)},
            "images: they or their labels differ from number 256 of the study's order on",
        ),
    ],
)
def test_each_difference_is_spelt_out(fields, phrase):
    stored = Study.from_json(make_study().to_json())
    assert differences(stored, make_study(make_identity(**fields))) == [phrase]


def test_two_differences_are_both_said():
    found = differences(make_study(), make_study(make_identity(seed=1, precision="tf32")))
    assert [phrase.partition(":")[0] for phrase in found] == ["seed", "precision"]


def test_a_record_read_from_a_store_is_the_same_study():
    identity = make_identity(preprocessing={"resize": (8, 8), "mean": (0.5,)})
    study = make_study(identity)
    assert differences(Study.from_json(study.to_json()), study) == []


@pytest.mark.parametrize(
    "extended",
    [
        make_study(draws=10),
        make_study(targets=("conv10",)),
        make_study(perturbations=(make_curve("resample", ("0.1",)),)),
        make_study(perturbations=(make_curve(levels=("0.25",)),)),
        make_study(make_identity(images=("b" * 64,)), images=10),
        make_study(make_identity(images=("b" * 64, "c" * 64, "d" * 64)), images=600),
    ],
)
def test_more_or_less_of_the_same_is_no_difference(extended):
    assert differences(make_study(), extended) == []


def test_a_changed_source_file_is_a_difference():
    def with_code(code):
        return make_study(perturbations=(make_curve("mine:damage", code=code),))

    assert differences(with_code("e" * 64), with_code("e" * 64)) == []
    (phrase,) = differences(with_code("e" * 64), with_code("f" * 64))
    assert phrase == "source file of mine:damage: eeeeeeeeeeee in the store, ffffffffffff asked"


def test_merge_contains_both():
    asked = make_study(
        make_identity(images=("b" * 64,)),
        targets=("conv10",),
        perturbations=(make_curve("resample"), make_curve(levels=("1", "0.25"))),
        draws=1,
        images=10,
        metric="top5",
    )
    both = merge(make_study(), asked)
    assert both.targets == ("conv10", "conv1", "fc2")  # in the order of the network's program
    assert [curve.text for curve in both.perturbations] == ["synapse_knockout", "resample"]
    assert both.perturbations[0].levels == ("0", "0.5", "1", "0.25")
    assert (both.draws, both.images, both.metric) == (2, 20, "top5")
    assert both.identity == make_identity()


def own(key, params, level, *, layers="*"):
    return params


def test_source_hash_is_that_of_the_file():
    expected = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert source_hash(own) == expected
    assert source_hash(functools.partial(own, layers="conv1")) == expected


def test_a_built_in_function_has_no_source_hash():
    assert source_hash(synapse_knockout) is None


def test_a_function_without_source_is_refused():
    namespace = {"__name__": "nowhere"}
    exec("def damage(key, params, level, *, layers='*'): return params", namespace)
    with pytest.raises(StudyError, match="write the function in a file"):
        source_hash(namespace["damage"])


@pytest.mark.parametrize(("outputs", "expected"), [(10, "top1"), (999, "top1"), (1000, "top5"), (21841, "top5")])
def test_default_metric(outputs, expected):
    assert check_metric(None, outputs) == expected


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(StudyError, match="did you mean 'top5'"):
        check_metric("topp5", 10)


def test_replace_keeps_identity_apart():
    assert differences(make_study(), replace(make_study(), network="renamed", metric="top5")) == []
