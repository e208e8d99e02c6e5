"""Published curves: the numbers, how they are drawn, and how a study of the same network is held against them."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.figure import Figure
from sample_study import make_curve, make_identity, make_study
from test_show_summary import IMAGES, store_of

from jaxperturb.engine.run import PLANES, Part
from jaxperturb.errors import PerturbationError, StudyError
from jaxperturb.show.published import (
    Published,
    beside_published_figure,
    compare_published,
    published,
    published_curves,
)
from jaxperturb.show.results import results_of

DRAWS = 6
TOP5 = PLANES.index("top5")


def test_the_numbers_are_the_replications():
    alexnet, vgg = published("AlexNet"), published("VGG16")
    levels, conv1 = alexnet.accuracies("synapse_knockout", "conv1")
    assert levels.tolist() == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1]
    assert conv1.tolist() == [0.7907, 0.653, 0.465, 0.282, 0.208, 0.122, 0.052, 0.034, 0.021, 0.010, 0.005]
    assert alexnet.accuracies("node_knockout", "fc8")[1].tolist()[1:4] == [0.720, 0.650, 0.575]
    levels, last = vgg.accuracies("synapse_knockout", "conv5_3")
    assert levels.tolist() == [0, 0.1, 0.3, 0.5, 0.7, 0.9, 1]
    assert last.tolist() == [0.9038, 0.903, 0.899, 0.892, 0.871, 0.580, 0.005]
    assert (len(alexnet.layers), len(vgg.layers)) == (8, 16)
    assert vgg.layers[:3] == ("conv1_1", "conv1_2", "conv2_1")
    assert alexnet.perturbations == ("synapse_knockout", "node_knockout")


def test_all_numbers_are_those_of_the_facts(shared):
    rows = {}
    text = (shared / "facts" / "paper.md").read_text(encoding="utf-8")
    for kind, part in zip(
        ("synapse_knockout", "node_knockout"), text.split("AlexNet SYNAPSE")[1].split("AlexNet NODE"), strict=False
    ):
        for line in part.split("VGG16 (intact")[0].splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0].startswith(("conv", "dense")):
                name = cells[0].split()[0].replace("dense1", "fc6").replace("dense2", "fc7").replace("dense3", "fc8")
                rows[kind, name] = [float(cell) for cell in cells[1:10]]
    assert len(rows) == 16
    alexnet = published("AlexNet")
    for key, expected in rows.items():
        assert alexnet.accuracies(*key)[1].tolist() == [0.7907, *expected, 0.005]


def test_what_was_not_measured_is_refused():
    with pytest.raises(StudyError, match="nothing is published of 'ResNet'.*AlexNet, VGG16"):
        published("ResNet")
    with pytest.raises(PerturbationError, match="gaussian_noise of conv1 was not published for AlexNet"):
        published("AlexNet").accuracies("gaussian_noise", "conv1")


def stand_in(**fields) -> Published:
    """Numbers of a network with two layers, as if somebody had published them."""
    table = published("AlexNet").table.loc[[("synapse_knockout", "conv1"), ("synapse_knockout", "fc8")], [0.0, 0.5]]
    return replace(published("AlexNet"), table=table, classes=10, **fields)


def study_of(shares=(0.7907, 0.3), spread=0.0, draws=DRAWS, **fields):
    """A study of the stand-in with this top-5 accuracy at levels 0 and 0.5 in conv1, and 0.67 in fc8."""
    parts = []
    for target, share in (("conv1", shares[1]), ("fc8", 0.67)):
        parts.append(part("0", 0, target, shares[0], shortcut="intact"))
        offsets = np.linspace(-spread, spread, draws)
        parts += [part("0.5", draw, target, share + offset) for draw, offset in enumerate(offsets)]
    curve = make_curve(levels=("0", "0.5"))
    study = make_study(
        targets=("conv1", "fc8"), perturbations=(curve,), images=IMAGES, draws=draws, metric="top5", **fields
    )
    return results_of(store_of(parts, study))


def part(level, draw, target, share, shortcut=""):
    from sample_study import make_cell

    outcomes = np.zeros((len(PLANES), IMAGES), bool)
    outcomes[TOP5] = np.arange(IMAGES) < round(share * IMAGES)
    return Part(make_cell(level, draw, target), 0, IMAGES, outcomes, 7, 6, shortcut)


def test_a_study_of_the_same_network_is_held_against_each_number():
    table = compare_published(study_of(spread=0.05), stand_in()).set_index(["layer", "level"])
    assert table.index.tolist() == [("conv1", 0.0), ("conv1", 0.5), ("fc8", 0.0), ("fc8", 0.5)]
    assert table["agrees"].tolist() == [True, False, True, True]  # published: 0.122 for conv1, 0.670 for fc8
    row = table.loc["conv1", 0.5]
    assert row["difference"] == pytest.approx(row["own"] - 0.122)
    assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_a_published_mean_is_as_uncertain_as_our_draws_and_its_rounding_make_it():
    results = study_of((0.79, 0.2), spread=0.05)
    found = compare_published(results, stand_in()).iloc[1]
    draws = [round((0.2 + offset) * IMAGES) / IMAGES for offset in np.linspace(-0.05, 0.05, DRAWS)]
    width = 2.570582 * np.std(draws, ddof=1) / np.sqrt(3) + 0.0005  # the quantile of Student's t with 5 degrees
    assert (found["published_low"], found["published_high"]) == pytest.approx((0.122 - width, 0.122 + width), abs=1e-5)


def test_where_all_images_are_there_only_draws_are_uncertain():
    results = study_of((0.79, 0.2))
    whole, part_ = (compare_published(results, stand_in(images=number)) for number in (IMAGES, IMAGES + 1))
    assert whole["own_low"][0] == whole["own"][0] == whole["own_high"][0]
    assert part_["own_low"][0] < part_["own"][0]


def test_a_single_draw_agrees_with_nothing_and_contradicts_nothing():
    table = compare_published(study_of(draws=1), stand_in())
    assert table["agrees"].isna().tolist() == [False, True, False, True]


def test_a_study_of_another_network_is_refused():
    results = study_of()
    assert stand_in().fits(results)
    with pytest.raises(StudyError, match="net is not the AlexNet whose numbers are published"):
        compare_published(results, published("AlexNet"))
    with pytest.raises(StudyError, match="is not the AlexNet"):
        compare_published(study_of(identity=make_identity(outputs=12)), stand_in())


@pytest.mark.parametrize(
    ("quantity", "expected"),
    [("value", 0.034), ("relative", 0.034 / 0.7907), ("relative_above_chance", 0.029 / 0.7857)],
)
def test_published_curves_are_drawn(quantity, expected):
    axes = published_curves(published("AlexNet"), "synapse_knockout", quantity=quantity, axes=Figure().add_subplot())
    (conv1,) = [line for line in axes.get_lines() if line.get_label() == "conv1"]
    np.testing.assert_allclose(dict(conv1.get_xydata())[0.7], expected)
    assert "real AlexNet" in axes.get_title(loc="left")


def test_a_figure_has_a_row_for_each_study():
    results = study_of(spread=0.05)
    figure = beside_published_figure(
        [(results, published("AlexNet")), (results, published("VGG16"))], "synapse_knockout"
    )
    left, right, _, last = figure.axes
    np.testing.assert_allclose(left.get_lines()[0].get_ydata()[0], 1.0)
    assert left.get_ylim() == right.get_ylim()
    labels = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in (left, last)]
    assert labels[0] == ["conv1", "fc8"]
    assert len(labels[1]) == 16
