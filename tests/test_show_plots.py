"""Figures: what is drawn, read back from the artists, and the files."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from PIL import Image
from sample_study import make_cell, make_curve, make_part, make_study
from test_show_results import curve_parts, results_from

from jaxperturb.errors import OutputError, PerturbationError
from jaxperturb.show import plots


def two_layers(**fields):
    study = make_study(targets=("conv10", "fc2"), **fields)
    parts = [make_part(make_cell("0", target=target), right=18, shortcut="intact") for target in ("fc2", "conv10")]
    parts += [make_part(make_cell("0.5", draw, "conv10"), right=number) for draw, number in enumerate((2, 10))]
    parts += curve_parts({"0.5": 16, "1": 4}, "fc2")
    return results_from(parts, study)


def drawn(results, *args):
    return plots.accuracy_curves(results, *args, axes=Figure().add_subplot())


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_lines_are_means_over_draws_in_the_order_of_the_layers():
    axes = drawn(two_layers())
    assert [name for name in lines(axes) if not name.startswith(("_", "intact"))] == ["conv10", "fc2"]
    np.testing.assert_allclose(lines(axes)["conv10"].get_xydata(), [[0, 0.9], [0.5, 0.3]])
    np.testing.assert_allclose(lines(axes)["fc2"].get_xydata(), [[0, 0.9], [0.5, 0.8], [1, 0.2]])


def test_bands_reach_from_the_lowest_to_the_highest_draw():
    axes = drawn(two_layers())
    (band, _) = [artist for artist in axes.collections if isinstance(artist, PolyCollection)]
    at_half = [y for x, y in band.get_paths()[0].vertices if x == 0.5]
    assert (min(at_half), max(at_half)) == (0.1, 0.5)
    assert "bands: lowest to highest draw" in " ".join(axes.texts[-1].get_text().split())


def test_chance_and_intact_accuracy_are_marked():
    axes = drawn(two_layers())
    levels = [line.get_ydata()[0] for line in axes.get_lines() if len(set(line.get_ydata())) == 1]
    assert levels == [0.9, 0.1]
    assert "intact (90.0%)" in lines(axes)
    assert "chance (10.0%)" in [text.get_text() for text in axes.texts]


def test_chance_of_top5_is_half_of_ten_classes():
    axes = drawn(two_layers(), None, "top5")
    assert "chance (50.0%)" in [text.get_text() for text in axes.texts]
    assert axes.get_ylabel() == "top-5 accuracy"


def test_title_names_network_data_images_draws_and_metric():
    axes = drawn(two_layers())
    words = axes.get_title(loc="left") + " " + " ".join(axes.texts[-1].get_text().split())
    for word in ("net", "synapse_knockout", "digits test", "20 images", "2 draws", "top-1"):
        assert word in words
    assert axes.get_xlabel() == "level (fraction of weights)"


def test_colours_grow_lighter_with_depth_and_stay_readable_on_white():
    study = make_study(targets=tuple(f"conv{i}" for i in range(8)))
    axes = drawn(results_from([make_part(make_cell(target=target)) for target in study.targets], study))
    shades = [
        np.dot(line.get_color()[:3], (0.2126, 0.7152, 0.0722)) for name, line in lines(axes).items() if "conv" in name
    ]
    assert shades == sorted(shades)
    assert shades[-1] < 0.8


def test_legend_is_beside_the_axes_in_the_order_of_the_layers():
    figure = plots.make_figure(two_layers())
    figure.draw_without_rendering()
    (axes,) = figure.axes
    legend = axes.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["conv10", "fc2", "intact (90.0%)"]
    assert legend.get_window_extent().x0 > axes.get_window_extent().x1
    assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_logarithmic_levels_leave_out_zero():
    curve = make_curve("bit_flip", ("0", "0.001", "1"))
    study = make_study(perturbations=(type(curve)(**{**vars(curve), "axis": "log"}),))
    axes = drawn(results_from(curve_parts({"0": 20, "0.001": 16, "1": 2}, perturbation="bit_flip"), study))
    assert axes.get_xscale() == "log"
    np.testing.assert_allclose(lines(axes)["conv1"].get_xdata(), [0.001, 1])


def test_plot_of_results_is_the_figure_of_one_perturbation():
    figure = two_layers().plot("synapse_knockout")
    assert isinstance(figure, Figure)
    with pytest.raises(PerturbationError, match="not in the study"):
        two_layers().plot("resample")


def test_files_are_png_and_pdf_fit_for_print(tmp_path):
    files = plots.save_figures(two_layers(), tmp_path / "figures")
    assert [file.name for file in files] == ["synapse_knockout.png", "synapse_knockout.pdf"]
    with Image.open(files[0]) as image:
        assert image.info["dpi"][0] >= 150
        assert image.width >= 1000
        assert len(np.unique(np.asarray(image.convert("L")))) > 50
    assert files[1].read_bytes().startswith(b"%PDF")


def test_the_same_study_gives_the_same_files(tmp_path):
    first, second = (plots.save_figures(two_layers(), tmp_path / name) for name in ("a", "b"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert b"CreationDate" not in first[1].read_bytes()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="figures cannot be written"):
        plots.save_figures(two_layers(), tmp_path / "file" / "figures")


def test_nothing_is_drawn_of_an_empty_study(tmp_path):
    assert plots.save_figures(results_from([]), tmp_path) == []


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("node_knockout", "node_knockout"),
        ("node_knockout(axis=in)", "node_knockout-axis=in"),
        ("my.module:damage(a=[1,2])", "my.module-damage-a=-1-2"),
    ],
)
def test_file_names(text, stem):
    assert plots.file_stem(text) == stem


def test_the_users_backend_is_left_alone():
    code = "import sys, jaxperturb.show.plots; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
