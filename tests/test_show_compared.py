"""Two studies beside each other, and plans by a pilot."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sample_study import make_curve, make_identity, make_study
from test_show_summary import IMAGES, random_curve, store_of

from jaxperturb.errors import PerturbationError, StudyError
from jaxperturb.show.compared import MEAN, common_images, compare
from jaxperturb.show.planned import plan_study
from jaxperturb.show.results import results_of
from jaxperturb.show.summary import area_term
from jaxperturb.stats.compare import combine
from jaxperturb.stats.components import components
from jaxperturb.stats.planning import images_needed


def study_of(shares, targets=("conv1", "fc2"), draws=6, **fields):
    parts = [part for target in targets for part in random_curve(target, draws=draws, shares=shares)]
    return results_of(store_of(parts, make_study(targets=targets, images=IMAGES, draws=draws, **fields)))


def test_layers_of_one_name_stand_beside_each_other_and_the_mean_after_them():
    one, other = study_of((0.75, 0.6, 0.3)), study_of((0.75, 0.4, 0.3))
    table = compare(one, other)
    assert table["layer"].tolist() == ["conv1", "fc2", f"{MEAN} (2, 2)"]
    areas = one.summary()["area"].to_numpy(), other.summary()["area"].to_numpy()
    np.testing.assert_allclose(table["area_difference"][:2], areas[0] - areas[1])
    assert table["area_difference"][2] == pytest.approx(np.mean(areas[0] - areas[1]))
    assert (table["p_holm"] < 0.05).all()
    curves = [study.level_curve("synapse_knockout", "conv1") for study in (one, other)]
    expected = combine([area_term(curve) for curve in curves], [1.0, -1.0]).interval()
    assert (table["area_difference_low"][0], table["area_difference_high"][0]) == pytest.approx(
        (expected.low, expected.high)
    )


def test_only_common_levels_count():
    one = study_of((0.75, 0.6, 0.3))
    short = [part for part in random_curve("conv1", shares=(0.75, 0.6, 0.3)) if str(part.cell.level) != "1"]
    other = results_of(store_of(short, make_study(targets=("conv1",), images=IMAGES, draws=6)))
    table = compare(one, other, layers="conv*")
    assert table["layer"].tolist() == ["conv1"]
    assert table["area_difference"][0] == pytest.approx(0, abs=1e-12)


def test_networks_without_a_layer_in_common_have_their_means():
    table = compare(study_of((0.75, 0.6, 0.3), ("conv1",)), study_of((0.75, 0.4, 0.3), ("fc2", "conv10")))
    assert table["layer"].tolist() == [f"{MEAN} (1, 2)"]


def test_images_are_common_when_the_shorter_study_begins_the_longer():
    one = study_of((0.75, 0.6, 0.3))
    assert common_images(one, one) == IMAGES
    other = study_of((0.75, 0.6, 0.3), identity=make_identity(images=("x" * 64,)))
    assert common_images(one, other) is None
    assert common_images(one, study_of((0.75, 0.6, 0.3), dataset="other")) is None
    paired, apart = compare(one, one), compare(one, other)
    assert paired["area_difference_high"][0] < apart["area_difference_high"][0]


def test_studies_without_anything_in_common_are_refused():
    one = study_of((0.75, 0.6, 0.3))
    other = study_of((0.75, 0.6, 0.3))
    with pytest.raises(StudyError, match="no two levels in common at which to compare layers pool"):
        compare(one, other, layers="pool*")
    foreign = replace(other, study=replace(other.study, perturbations=(make_curve("shuffle"),)))
    with pytest.raises(StudyError, match="no perturbation in common: synapse_knockout and shuffle"):
        compare(one, foreign)
    with pytest.raises(PerturbationError, match="not in the study"):
        compare(one, foreign, perturbation="synapse_knockout")


def test_a_plan_reaches_the_half_width_at_every_level():
    results = study_of((0.75, 0.6, 0.3), ("conv1",))
    (row,) = plan_study(results, 0.05).to_dict("records")
    crossed = results.level_curve("synapse_knockout", "conv1").crossed
    needed = [images_needed(components(crossed, unit), 0.05, row["draws"]) for unit in np.eye(4)[:3]]
    assert row["images"] == max(needed)
    assert row["evaluations"] == row["images"] * (2 * row["draws"] + 1)
    assert row["of_pilot"] == pytest.approx(row["evaluations"] / (IMAGES * 13))


def test_a_plan_for_relative_performance_is_another():
    results = study_of((0.75, 0.6, 0.3), ("conv1",))
    plain, relative = (plan_study(results, 0.05, of=of)["images"][0] for of in ("accuracy", "relative"))
    assert plain != relative


def test_a_plan_beyond_its_limits_is_missing():
    (row,) = plan_study(study_of((0.75, 0.6, 0.3), ("conv1",)), 0.001, max_images=1000).to_dict("records")
    assert pd.isna(row["draws"])
    assert pd.isna(row["images"])


def test_a_pilot_that_is_too_small_is_refused():
    with pytest.raises(StudyError, match="needs 2 draws or more, and this study has 1; extend it with --draws=5"):
        plan_study(study_of((0.75, 0.6, 0.3), draws=1), 0.05)
    with pytest.raises(StudyError, match="expected a half-width between 0 and 1"):
        plan_study(study_of((0.75, 0.6, 0.3)), 2.0)
    with pytest.raises(StudyError, match="holds no outcomes yet"):
        plan_study(results_of(store_of([], make_study())), 0.05)
