"""What is said of a study's images: left out, unbalanced, at chance; and accuracy with classes weighed alike."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from sample_study import RECORD, make_cell, make_identity, make_part, make_study
from sklearn.metrics import balanced_accuracy_score

from jaxperturb.show.notices import notices
from jaxperturb.show.plots import level_curves
from jaxperturb.show.results import Results, results_of
from jaxperturb.show.tables import summary_text
from jaxperturb.study.store import create_store

LABELS = np.array([0] * 14 + [1] * 4 + [2] * 2)


def results_from(rights: dict[str, list[bool]], labels: np.ndarray = LABELS, skipped=(), **identity: object) -> Results:
    """A study of one layer: at each level, which images are right in both draws."""
    study = make_study(make_identity(outputs=10, **identity), targets=("conv1",))
    store = create_store(None, study, [(i, f"name/{i}", int(label)) for i, label in enumerate(labels)])
    run = store.begin_run(RECORD)
    for level, right in rights.items():
        for draw in (0,) if level == "0" else (0, 1):
            part = make_part(make_cell(level, draw), shortcut="intact" if level == "0" else "")
            outcomes = part.outcomes.copy()
            outcomes[0] = right
            store.add(run, replace(part, outcomes=outcomes))
    for position in skipped:
        store.skip(run, position, "is empty")
    return results_of(store)


ALL, COMMON = [True] * 20, (LABELS == 0).tolist()


def test_balanced_accuracy_is_scikit_learn_s_in_every_table():
    rng = np.random.default_rng(0)
    answers = np.where(rng.random(20) < 0.6, LABELS, 9)
    results = results_from({"0": ALL, "0.5": (answers == LABELS).tolist(), "1": COMMON})
    with pytest.warns(UserWarning, match="not in y_true"):
        expected = balanced_accuracy_score(LABELS, answers)
    table = results.by_level("balanced")
    assert table["value"].tolist() == pytest.approx([1.0, expected, 1 / 3])
    assert (table["low"] <= table["value"]).all()
    assert (table["value"] <= table["high"]).all()
    row = results.summary("balanced").iloc[0]
    assert row["intact"] == pytest.approx(1.0)
    # Above chance, 1/3 is (1/3 - 0.1) / 0.9 of the intact network; half is crossed on the way there.
    half = (expected - 0.55) / (expected - 1 / 3)
    assert row["half_life"] == pytest.approx(0.5 + 0.5 * half if expected > 0.55 else 0.5 * 0.45 / (1 - expected))
    assert results.intact_accuracy("synapse_knockout", "conv1", "balanced") == pytest.approx(1.0)


def test_of_balanced_classes_both_accuracies_are_one():
    labels = np.arange(20) % 5
    right = (np.random.default_rng(1).random(20) < 0.5).tolist()
    results = results_from({"0": ALL, "0.5": right}, labels)
    for name in ("value", "low", "high"):
        assert results.by_level("balanced")[name].tolist() == pytest.approx(results.by_level("top1")[name].tolist())


def test_unbalanced_classes_are_said_and_drawn():
    results = results_from({"0": ALL, "0.5": COMMON, "1": COMMON})
    assert notices(results) == [
        "the classes are unbalanced: 70.0% of the images are of the commonest; metric balanced weighs classes alike"
    ]
    assert notices(results)[0] in summary_text(results)
    for metric, expected in (("top1", "commonest class (70.0%)"), ("top5", "commonest five classes (100.0%)")):
        axes = level_curves(results, metric=metric, axes=plt.figure().add_subplot())
        assert expected in [text.get_text() for text in axes.texts]
        plt.close(axes.figure)
    axes = level_curves(results, metric="balanced", axes=plt.figure().add_subplot())
    assert not any("commonest" in text.get_text() for text in axes.texts)
    plt.close(axes.figure)
    assert "balanced top-1 accuracy (chance 0.1)" in summary_text(results, "balanced")


def test_classes_that_a_network_takes_for_one_are_one():
    labels = np.array([0] * 5 + [1] * 5 + [2] * 10)
    assert notices(results_from({"0": ALL}, labels, class_map=(0, 1, 2))) != []
    assert notices(results_from({"0": ALL}, labels, class_map=(0, 0, 2))) == []


def test_images_left_out_are_said_and_listed():
    results = results_from({"0": ALL, "0.5": COMMON}, np.arange(20) % 5, skipped=(3, 4, 8, 11))
    assert notices(results)[0] == (
        "4 images that cannot be read are left out of all counts: name/3, name/4, name/8, ..."
    )
    assert results.skipped == dict.fromkeys((3, 4, 8, 11), "is empty")
    assert results.cells["images"].unique().tolist() == [16]


def test_an_intact_network_at_chance_gets_one_warning():
    labels = np.arange(20) % 10
    (line,) = notices(results_from({"0": [i < 3 for i in range(20)]}, labels))
    assert line.startswith("warning: the intact network is hardly better than chance (top-1 0.150): are the labels")
    assert notices(results_from({"0": ALL}, labels)) == []
    assert notices(results_from({"0.5": [False] * 20}, labels)) == []  # the intact network is not known yet
