"""The printed summary and the table of cells."""

import csv

import pytest
from sample_study import make_curve, make_study
from test_show_results import curve_parts, results_from

from jaxperturb.errors import OutputError
from jaxperturb.show.tables import summary_text, write_cells


def test_summary_is_aligned_and_in_the_networks_order():
    study = make_study(targets=("conv10", "fc2"))
    parts = [*curve_parts({"0": 20, "0.5": 16, "1": 4}, "fc2"), *curve_parts({"0": 20, "1": 19}, "conv10")]
    text = summary_text(results_from(parts, study))
    assert text == (
        "net: digits test, 20 images, 2 draws, seed 0, top-1 accuracy (chance 0.1)\n"
        "\n"
        "synapse_knockout (level: fraction of weights)\n"
        "  layer   intact  half-life level  accuracy at 0.7\n"
        "  conv10   1.000              > 1            0.965\n"
        "  fc2      1.000            0.708            0.560\n"
        "\n"
        "half-life level: where half of the above-chance top-1 accuracy is gone; mean over draws, linear between levels"
    )


def test_what_is_not_known_is_a_dash():
    study = make_study(perturbations=(make_curve(levels=("0.1",)),))
    text = summary_text(results_from(curve_parts({"0.1": 20}), study))
    assert [line.split() for line in text.splitlines() if line.startswith("  conv1")] == [["conv1", "-", "-", "-"]]


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
