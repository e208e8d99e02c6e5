"""What is read from a store: cells, summary and outcomes, against counts made up by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from sample_study import RECORD, image_rows, make_cell, make_curve, make_part, make_study

from jaxperturb.engine.plan import INTACT
from jaxperturb.errors import PerturbationError, StoreError, StudyError
from jaxperturb.show.results import load_results, results_of
from jaxperturb.study.store import create_store

COLUMNS = (
    "perturbation target level level_text draw seed images top1 top5 same1 same5 nonfinite selected changed shortcut"
)


def results_from(parts, study=None, path=None):
    store = create_store(path, study or make_study(), image_rows())
    run = store.begin_run(RECORD)
    for part in parts:
        store.add(run, part)
    return results_of(store)


def curve_parts(right, target="conv1", draws=2, perturbation="synapse_knockout"):
    """Parts in which so many of 20 images are right at each level; level 0 stands for all draws."""
    for level, number in right.items():
        cell = make_cell(level, 0, target, perturbation)
        if level == "0":
            yield make_part(cell, right=number, shortcut="intact")
        else:
            yield from (make_part(replace(cell, draw=draw), right=number) for draw in range(draws))


def test_cells_have_the_columns_that_are_promised():
    assert list(results_from([make_part(make_cell())]).cells.columns) == COLUMNS.split()


def test_a_cell_counts_its_images():
    part = make_part(make_cell("0.5", 1))
    (row,) = results_from([part]).cells.to_dict("records")
    ones = [sum(plane) for plane in part.outcomes.tolist()]
    assert [row[name] for name in ("top1", "top5", "same1", "same5")] == ones[:4]
    assert row["nonfinite"] == 20 - ones[4]
    assert (row["level"], row["level_text"], row["draw"], row["seed"], row["images"]) == (0.5, "0.5", 1, 0, 20)
    assert (row["selected"], row["changed"], row["shortcut"]) == (7, 6, "")


def test_parts_of_a_cell_are_one_row():
    (row,) = results_from([make_part(make_cell(), 0, 7), make_part(make_cell(), 7, 20)]).cells.to_dict("records")
    assert row["top1"] == make_part(make_cell()).outcomes[0].sum()
    assert row["images"] == 20


def test_a_shared_cell_has_a_row_for_every_draw():
    cells = results_from(curve_parts({"0": 20, "0.5": 10}, draws=3)).cells
    assert cells[["level_text", "draw"]].to_numpy().tolist() == [
        [level, draw] for level in ("0", "0.5") for draw in range(3)
    ]
    assert (cells.loc[cells["level"] == 0, "top1"] == 20).all()


def test_a_shared_cell_without_others_has_the_draws_that_were_asked():
    assert results_from(curve_parts({"0": 20}), make_study(draws=4)).cells["draw"].tolist() == [0, 1, 2, 3]


def test_cells_are_in_the_order_of_study_network_level_and_draw():
    study = make_study(
        targets=("conv10", "conv1"), perturbations=(make_curve("synapse_knockout"), make_curve("node_knockout"))
    )
    cells = [
        make_cell(level, draw, target, name)
        for name in ("node_knockout", "synapse_knockout")
        for target in ("conv1", "conv10")
        for draw in (1, 0)
        for level in ("1", "0.5")
    ]
    table = results_from([make_part(cell) for cell in cells], study).cells
    expected = sorted(cells, key=lambda c: (c.perturbation == "node_knockout", c.target == "conv1", c.level, c.draw))
    found = table[["perturbation", "target", "level_text", "draw"]].to_numpy().tolist()
    assert found == [[c.perturbation, c.target, str(c.level), c.draw] for c in expected]


def test_unknown_counts_of_entries_are_missing_not_zero():
    parts = [replace(make_part(make_cell()), selected=None), make_part(make_cell(draw=1))]
    cells = results_from(parts).cells
    assert cells["selected"].isna().tolist() == [True, False]
    assert cells["changed"].tolist() == [6, 6]


def test_summary_is_that_of_the_mean_curve():
    # Accuracy 1, 0.8, 0.2 at 0, 0.5, 1; chance 0.1. Half of what is above chance is 0.55: 5/12 of the way from 0.5 to 1.
    right = {"0": 20, "0.5": 16, "1": 4}
    (row,) = results_from(curve_parts(right)).summary().to_dict("records")
    assert row["half_life"] == pytest.approx(0.5 + 0.5 * 5 / 12)
    assert row["at_0.7"] == pytest.approx(0.8 - 0.6 * 0.4)
    assert (row["intact"], row["draws"], row["images"], row["metric"], row["highest_level"]) == (
        1.0,
        2,
        20,
        "top1",
        1.0,
    )


def test_summary_takes_the_mean_over_draws():
    parts = [make_part(make_cell("0"), right=20, shortcut="intact")]
    parts += [make_part(make_cell("1", draw), right=number) for draw, number in enumerate((2, 10, 0))]
    (row,) = results_from(parts).summary().to_dict("records")
    assert row["at_0.7"] == pytest.approx(1 - 0.7 * (1 - 0.2))


def test_summary_of_the_other_metric():
    part = make_part(make_cell("0"), shortcut="intact")
    (row,) = results_from([part]).summary("top5").to_dict("records")
    assert row["intact"] == pytest.approx(part.outcomes[1].mean())


def test_half_life_that_is_not_reached_is_infinite():
    (row,) = results_from(curve_parts({"0": 20, "1": 19})).summary().to_dict("records")
    assert row["half_life"] == math.inf


def test_intact_network_stands_in_where_no_level_is_undamaged():
    study = make_study(perturbations=(make_curve(levels=("0.5",)),))
    results = results_from([make_part(INTACT, right=18, shortcut="intact"), make_part(make_cell(), right=10)], study)
    assert results.summary()["intact"].tolist() == [0.9]
    assert results.cells["level_text"].tolist() == ["0.5"]


def test_an_unknown_intact_accuracy_is_nan():
    assert math.isnan(results_from([make_part(make_cell())]).summary()["intact"][0])


def test_outcomes_of_a_cell(tmp_path):
    part = make_part(make_cell("0.5", 1))
    parts = [part, *curve_parts({"0": 13})]
    results_from(parts, path=tmp_path / "results.sqlite").source.close()
    for results in (results_from(parts), load_results(tmp_path), load_results(tmp_path / "results.sqlite")):
        found = results.outcomes("synapse_knockout", "conv1", 0.5, 1)
        np.testing.assert_array_equal([found.top1, found.top5, found.same1, found.same5, found.finite], part.outcomes)
        assert found.positions.tolist() == list(range(20))
        assert results.outcomes("synapse_knockout", "conv1", "0", 1).top1.sum() == 13  # of draw 0, for all
        with pytest.raises(StoreError, match=r"no cell synapse_knockout of conv1 at level 0\.5, draw 7"):
            results.outcomes("synapse_knockout", "conv1", 0.5, 7)


def test_images_are_those_of_the_study():
    images = results_from([]).images
    assert images.loc[13].tolist() == [113, "digits/13", 3]


def test_a_folder_without_a_study_is_refused(tmp_path):
    with pytest.raises(StoreError, match="there is no store"):
        load_results(tmp_path)


def test_an_empty_study_has_an_empty_summary():
    results = results_from([])
    assert len(results.cells) == len(results.summary()) == 0


def test_curve_is_found_by_text_or_by_a_name_that_is_enough():
    study = make_study(perturbations=(make_curve("resample(include_bias=false)"), make_curve("gaussian_noise")))
    results = results_from([], study)
    assert results.curve("gaussian_noise").text == "gaussian_noise"
    assert results.curve("resample").text == "resample(include_bias=false)"
    with pytest.raises(PerturbationError, match="did you mean 'gaussian_noise'"):
        results.curve("gausian_noise")
    with pytest.raises(PerturbationError, match="which perturbation"):
        results.curve()


def test_an_unknown_metric_is_refused():
    with pytest.raises(StudyError, match="unknown metric"):
        results_from([]).summary("top3")
