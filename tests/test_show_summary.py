"""Numbers of a study with their intervals, against the outcomes that were stored."""

from dataclasses import replace

import numpy as np
import pytest
from sample_study import RECORD, make_cell, make_curve, make_part, make_study
from scipy import stats
from test_show_results import curve_parts

from jaxperturb.engine.run import PLANES, Part
from jaxperturb.errors import StudyError
from jaxperturb.show.results import results_of
from jaxperturb.stats.campaign import clopper_pearson
from jaxperturb.stats.components import cross
from jaxperturb.stats.intervals import ONE_DRAW_FLAG, proportion
from jaxperturb.study.store import create_store

IMAGES = 240


def store_of(parts, study, images=IMAGES):
    rows = [(position, f"digits/{position}", position % 10) for position in range(images)]
    store = create_store(None, study, rows)
    run = store.begin_run(RECORD)
    for part in parts:
        store.add(run, part)
    return store


def random_part(level, draw=0, target="conv1", text="synapse_knockout", share=0.7, start=0, stop=IMAGES, shortcut=""):
    seed = [int(float(level) * 100), draw, *target.encode(), *text.encode()]
    hard = np.random.default_rng(5).random(IMAGES)
    outcomes = np.random.default_rng(seed).random((len(PLANES), IMAGES)) * 0.5 + hard * 0.5 < share
    return Part(make_cell(level, draw, target, text), start, stop, outcomes[:, start:stop], 7, 6, shortcut)


def random_curve(target="conv1", text="synapse_knockout", draws=6, shares=(0.75, 0.55, 0.3)):
    yield random_part("0", 0, target, text, shares[0], shortcut="intact")
    for level, share in zip(("0.5", "1"), shares[1:], strict=True):
        yield from (random_part(level, draw, target, text, share) for draw in range(draws))


def results(*targets, **fields):
    parts = [
        part
        for place, target in enumerate(targets)
        for part in random_curve(target, shares=(0.75, 0.5 + 0.08 * place, 0.3))
    ]
    study = make_study(targets=targets, images=IMAGES, draws=6, **fields)
    return results_of(store_of(parts, study))


def test_an_accuracy_has_the_interval_of_its_outcomes():
    table = results("conv1").by_level()
    (row,) = table[table["level"] == 0.5].to_dict("records")
    outcomes = np.stack([random_part("0.5", draw, share=0.5).outcomes[0] for draw in range(6)])
    expected = proportion(cross(outcomes[None]))
    assert (row["value"], row["low"], row["high"]) == pytest.approx((expected.value, expected.low, expected.high))
    assert (row["images"], row["draws"], row["interval"]) == (IMAGES, 6, "draws and images")


def test_a_level_without_draws_has_images_alone():
    table = results("conv1").by_level()
    assert table["interval"].tolist() == ["images alone", "draws and images", "draws and images"]


def test_just_these_images_have_draws_alone():
    found = results("conv1").by_level(images_are="all")
    assert found["interval"].tolist() == ["exact", "draws alone", "draws alone"]
    assert found["low"][0] == found["value"][0] == found["high"][0]
    with pytest.raises(StudyError, match="images_are of sample or all"):
        results("conv1").summary(images_are="some")


def test_relative_is_to_the_reference_and_above_chance_is_not_the_same():
    (_, row, _) = results("conv1").by_level().to_dict("records")
    reference = random_part("0", share=0.75).outcomes[0].mean()
    assert row["relative"] == pytest.approx(row["value"] / reference)
    assert row["relative_above_chance"] == pytest.approx((row["value"] - 0.1) / (reference - 0.1))
    assert row["relative_low"] < row["relative"] < row["relative_high"]


@pytest.mark.parametrize(("metric", "plane"), [("sdc1", 2), ("sdc5", 3), ("due", 4)])
def test_effects_of_faults_are_the_opposite_of_what_is_stored(metric, plane):
    found = results("conv1").by_level(metric)
    stored = np.mean([random_part("0.5", draw, share=0.5).outcomes[plane] for draw in range(6)])
    assert found["value"][1] == pytest.approx(1 - stored)
    assert "relative" not in found


def test_critical_is_a_share_of_draws():
    found = results("conv1").by_level("critical", critical_drop=0.2, confidence=0.99)
    accuracy = np.array([random_part("0.5", draw, share=0.5).outcomes[0].mean() for draw in range(6)])
    lost = int((random_part("0", share=0.75).outcomes[0].mean() - accuracy > 0.2).sum())
    assert lost > 0
    assert found["value"][1] == lost / 6
    assert (found["low"][1], found["high"][1]) == pytest.approx(clopper_pearson(lost, 6, 0.99))
    assert found["low"][0] == found["high"][0] == 0


def test_draws_that_do_not_matter_are_one_and_say_so():
    text = "magnitude_knockout"
    parts = [
        random_part(level, 0, text=text, share=share, shortcut="all draws coincide")
        for level, share in (("0", 0.75), ("0.5", 0.5))
    ]
    study = make_study(perturbations=(make_curve(text),), images=IMAGES, draws=6)
    (row,) = results_of(store_of(parts, study)).summary().to_dict("records")
    assert (row["draws"], row["interval"], row["area_flags"]) == (1, "images alone", "")


def test_one_random_draw_is_flagged():
    parts = list(random_curve(draws=1))
    (row,) = results_of(store_of(parts, make_study(images=IMAGES, draws=1))).summary().to_dict("records")
    assert row["interval"] == "images alone"
    assert ONE_DRAW_FLAG in row["area_flags"]


def test_an_unfinished_study_counts_what_makes_most():
    # Of draw 5 only the first 40 images are there: five draws of all images are more than six of 40.
    parts = [
        replace(part, stop=40, outcomes=part.outcomes[:, :40]) if part.cell.draw == 5 else part
        for part in random_curve()
    ]
    found = results_of(store_of(parts, make_study(images=IMAGES, draws=6))).by_level()
    assert (found["draws"].unique().tolist(), found["images"].unique().tolist()) == ([5], [IMAGES])
    # Of all but draw 0 only 200: six of 200 are more than one of 240.
    parts = [
        replace(part, stop=200, outcomes=part.outcomes[:, :200]) if part.cell.draw else part for part in random_curve()
    ]
    found = results_of(store_of(parts, make_study(images=IMAGES, draws=6))).by_level()
    assert (found["draws"].unique().tolist(), found["images"].unique().tolist()) == ([6], [200])


def test_a_level_that_has_begun_waits_for_its_draws():
    parts = [part for part in random_curve() if str(part.cell.level) != "1" or part.cell.draw == 0]
    found = results_of(store_of(parts, make_study(images=IMAGES, draws=6))).by_level()
    assert found["level"].tolist() == [0, 0.5]
    assert found["draws"].unique().tolist() == [6]


def test_ranks_put_the_most_fragile_first():
    found = results("conv1", "conv10", "fc2").ranking()
    assert found["target"].tolist() == ["conv1", "conv10", "fc2"]
    assert found["rank_low"].tolist()[0] == 1
    assert found["rank_high"].tolist()[-1] == 3
    summary = results("conv1", "conv10", "fc2").summary()
    assert summary["rank_low"].tolist() == found["rank_low"].tolist()


def test_the_output_layer_without_units_is_not_ranked_unless_asked_for():
    text = "node_knockout"
    parts = [part for target in ("conv1", "fc2") for part in random_curve(target, text)]
    study = make_study(targets=("conv1", "fc2"), perturbations=(make_curve(text),), images=IMAGES, draws=6)
    found = results_of(store_of(parts, study))
    assert found.ranking()["target"].tolist() == ["conv1"]
    assert set(found.ranking(output_layer=True)["target"]) == {"conv1", "fc2"}
    assert found.summary()["rank_low"].isna().tolist() == [False, True]


def test_layers_are_compared_with_draws_of_their_own():
    found = results("conv1", "fc2").differences()
    (row,) = found.to_dict("records")
    areas = results("conv1", "fc2").summary()["area"]
    assert (row["of"], row["first"], row["second"]) == ("synapse_knockout", "conv1", "fc2")
    assert row["difference"] == pytest.approx(areas[0] - areas[1])
    assert row["difference_low"] < row["difference"] < row["difference_high"]


def test_perturbations_of_a_layer_are_compared_draw_by_draw():
    texts = ("synapse_knockout", "sign_flip")
    parts = [
        part
        for place, text in enumerate(texts)
        for part in random_curve(text=text, shares=(0.75, 0.5 + 0.1 * place, 0.3))
    ]
    study = make_study(perturbations=tuple(make_curve(text) for text in texts), images=IMAGES, draws=6)
    (row,) = results_of(store_of(parts, study)).differences(between="perturbations").to_dict("records")
    assert (row["of"], row["first"], row["second"]) == ("conv1", *texts)
    # By hand, for just the draws: the mean over levels of what is left above chance, draw by draw.
    reference = random_part("0", share=0.75).outcomes[0].mean() - 0.1
    shares = {texts[0]: (0.75, 0.5, 0.3), texts[1]: (0.75, 0.6, 0.3)}

    def area(text, draw):
        levels = [
            random_part(level, draw if level != "0" else 0, text=text, share=share).outcomes[0].mean() - 0.1
            for level, share in zip(("0", "0.5", "1"), shares[text], strict=True)
        ]
        return float(np.array([0.25, 0.5, 0.25]) @ levels)

    each = [(area(texts[0], draw) - area(texts[1], draw)) / reference for draw in range(6)]
    assert row["difference"] == pytest.approx(np.mean(each), abs=0.02)
    assert row["difference_high"] - row["difference"] > stats.sem(each)


def test_classes_have_intervals_of_their_own_images():
    found = results("conv1").by_class()
    (row,) = found[(found["class"] == 3) & (found["level"] == 0.5)].to_dict("records")
    outcomes = np.stack([random_part("0.5", draw, share=0.5).outcomes[0][3::10] for draw in range(6)])
    assert row["value"] == pytest.approx(outcomes.mean())
    assert (row["images"], row["draws"]) == (24, 6)
    assert found.groupby("level")["images"].sum().tolist() == [IMAGES] * 3


def test_images_survive_to_the_level_up_to_which_half_of_the_draws_count():
    parts = list(curve_parts({"0": 20, "0.5": 12, "1": 4}))
    parts[2] = make_part(make_cell("0.5", 1), right=5)  # images 5 to 11 count in one of two draws
    store = store_of(parts, make_study(), 20)
    found = results_of(store).by_image()
    assert found.columns.tolist() == (
        "target position data_index identifier label reference 0 0.5 1 survives_to".split()
    )
    assert found["0.5"].tolist() == [1.0] * 5 + [0.5] * 7 + [0.0] * 8
    assert found["survives_to"].tolist() == [1.0] * 4 + [0.5] * 8 + [0.0] * 8


def test_an_unknown_metric_or_pairing_is_refused():
    with pytest.raises(StudyError, match="unknown metric 'sdc2': expected one of .*did you mean 'sdc"):
        results("conv1").by_level("sdc2")
    with pytest.raises(StudyError, match="expected between of layers or perturbations"):
        results("conv1").differences(between="images")
