"""The printed summary and the table of cells."""

import csv
import re

import pytest
from sample_study import make_curve, make_study
from test_show_results import curve_parts, results_from

from jaxperturb.errors import OutputError
from jaxperturb.show.tables import summary_text, write_cells


def rows_of(text, *names):
    """Returns the cells of the table's lines that begin with these names, and checks that columns are aligned."""
    lines = [line for line in text.splitlines() if line.startswith(tuple(f"  {name} " for name in names))]
    assert len({len(line) for line in lines}) == 1
    return [re.split(r"  +", line.strip()) for line in lines]


def test_summary_is_aligned_and_in_the_networks_order():
    study = make_study(targets=("conv10", "fc2"), draws=5)
    parts = [
        *curve_parts({"0": 20, "0.5": 16, "1": 4}, "fc2", draws=5),
        *curve_parts({"0": 20, "0.5": 20, "1": 19}, "conv10", draws=5),
    ]
    text = summary_text(results_from(parts, study))
    first, _, second, *_ = text.splitlines()
    assert first == "net: digits test, 20 images, 5 draws, seed 0, top-1 accuracy (chance 0.1)"
    assert second == "synapse_knockout (level: fraction of weights)"
    head, conv10, fc2 = rows_of(text, "layer", "conv10", "fc2")
    assert head == ["layer", "intact", "half-life level", "accuracy at 0.7", "area", "rank"]
    assert (conv10[:3], fc2[:2]) == (["conv10", "1.000", "> 1"], ["fc2", "1.000"])
    assert fc2[2].startswith("0.708 (")
    # Few images decide at 0.7, and the letter before the number says so; there is no spread of draws to speak of.
    assert conv10[3].startswith("a 0.980 (")
    assert fc2[3].startswith("a 0.560 (")
    assert fc2[4].startswith("0.667 (")
    assert (conv10[5], fc2[5]) == ("2", "1")
    assert "  a: fewer than 10 deciding images" in text.splitlines()
    assert "  95 % intervals over draws and images" in text.splitlines()


def test_numbers_and_intervals_are_those_of_the_summary():
    results = results_from(curve_parts({"0": 20, "0.5": 16, "1": 4}, draws=5))
    ((*_, area, _rank),) = rows_of(summary_text(results), "conv1")
    (row,) = results.summary().to_dict("records")
    assert area == f"{row['area']:.3f} ({row['area_low']:.3f}, {row['area_high']:.3f})"


def test_what_is_not_known_is_a_dash_and_says_why():
    study = make_study(perturbations=(make_curve(levels=("0.1",)),))
    text = summary_text(results_from(curve_parts({"0.1": 20}), study))
    assert rows_of(text, "conv1") == [["conv1", "-", "a -", "a -", "a -", "-"]]
    assert "a: reference not computed yet" in text


def test_just_these_images_are_said():
    text = summary_text(results_from(curve_parts({"0": 20, "0.5": 16}, draws=5)), images_are="all")
    assert "95 % intervals over draws alone: just these images" in text


@pytest.mark.parametrize(("form", "line"), [("markdown", "| conv1 | 1.000 |"), ("latex", "conv1 & 1.000 &")])
def test_papers_take_the_same_table(form, line):
    text = summary_text(results_from(curve_parts({"0": 20, "0.5": 16}, draws=5)), form=form)
    assert any(row.startswith(line) for row in text.splitlines())


def test_unequal_draws_are_shown():
    parts = [*curve_parts({"0": 20, "1": 2}, "conv1", draws=2), *curve_parts({"0": 20, "1": 2}, "fc2", draws=5)]
    text = summary_text(results_from(parts))
    assert "2-5 draws" in text
    rows = [line.split() for line in text.splitlines() if line.startswith(("  layer", "  conv1", "  fc2"))]
    assert [row[-1] for row in rows] == ["draws", "2", "5"]


def test_one_draw_is_not_plural():
    assert ", 1 draw," in summary_text(results_from(curve_parts({"0": 20, "1": 2}, draws=1)))


def test_an_empty_study_says_so():
    assert "no cell has been computed yet" in summary_text(results_from([]))


def test_cells_are_written_as_csv(tmp_path):
    results = results_from(curve_parts({"0": 20, "0.5": 16}))
    write_cells(results, tmp_path / "results.csv")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["level_text"], row["draw"], row["top1"]) for row in rows] == [
        ("0", "0", "20"),
        ("0", "1", "20"),
        ("0.5", "0", "16"),
        ("0.5", "1", "16"),
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["results.csv"]


def test_a_table_that_cannot_be_written_is_said(tmp_path):
    with pytest.raises(OutputError, match="cannot be written"):
        write_cells(results_from([]), tmp_path / "nowhere" / "results.csv")


def test_the_network_without_encoding_stands_beside_the_encoded_one():
    import jaxperturb as jp

    options = {"layers": "fc8", "levels": [0, 1e-3], "draws": 1, "images": 40}
    results = jp.sweep("alexnet-digits", "digits", "bit_flip(word=int4)", **options)
    evaluation = jp.evaluate("alexnet-digits", "digits", images=40)
    assert f"({evaluation.top1 / 40:.3f} without encoding)" in summary_text(results)
