"""Figures: what is drawn, read back from the artists, and the files."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.collections import PolyCollection, QuadMesh
from matplotlib.figure import Figure
from PIL import Image
from sample_study import make_cell, make_curve, make_part, make_study
from test_show_results import curve_parts, results_from

from jaxperturb.errors import OutputError, PerturbationError, StudyError
from jaxperturb.show import figures, maps, plots, style


def two_layers(**fields):
    study = make_study(targets=("conv10", "fc2"), **fields)
    parts = [make_part(make_cell("0", target=target), right=18, shortcut="intact") for target in ("fc2", "conv10")]
    parts += [make_part(make_cell("0.5", draw, "conv10"), right=number) for draw, number in enumerate((2, 10))]
    parts += curve_parts({"0.5": 16, "1": 4}, "fc2")
    return results_from(parts, study)


def new_axes():
    return Figure().add_subplot()


def drawn(results, *args, **options):
    return plots.level_curves(results, *args, axes=new_axes(), **options)


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def subtitle(axes):
    return " ".join(axes.texts[-1].get_text().split())


def test_lines_are_means_over_draws_in_the_order_of_the_layers():
    axes = drawn(two_layers())
    assert [name for name in lines(axes) if not name.startswith(("_", "intact"))] == ["conv10", "fc2"]
    np.testing.assert_allclose(lines(axes)["conv10"].get_xydata(), [[0, 0.9], [0.5, 0.3]])
    np.testing.assert_allclose(lines(axes)["fc2"].get_xydata(), [[0, 0.9], [0.5, 0.8], [1, 0.2]])


def test_bands_are_the_intervals_of_the_table():
    results = two_layers()
    axes = drawn(results)
    (band, _) = [artist for artist in axes.collections if isinstance(artist, PolyCollection)]
    at_half = [y for x, y in band.get_paths()[0].vertices if x == 0.5]
    table = results.by_level()
    (row,) = table[(table["target"] == "conv10") & (table["level"] == 0.5)].to_dict("records")
    assert (min(at_half), max(at_half)) == pytest.approx((row["low"], row["high"]))
    assert "bands: 95 % intervals over draws and images" in subtitle(axes)


def test_what_cannot_be_promised_is_hollow_and_said():
    # 2 draws of 20 images are flagged at every level, except where all draws coincide.
    axes = drawn(two_layers())
    assert "hollow: " in subtitle(axes)
    assert "2 draws: at least about 93 %" in subtitle(axes)
    hollow = [line for line in axes.get_lines() if line.get_markerfacecolor() == "white"]
    assert [line.get_xdata().tolist() for line in hollow] == [[0, 0.5], [0, 0.5, 1]]
    assert lines(axes)["fc2"].get_markevery() == []


def test_shares_of_the_intact_network():
    relative, above = (drawn(two_layers(), quantity=name) for name in ("relative", "relative_above_chance"))
    np.testing.assert_allclose(lines(relative)["fc2"].get_ydata(), [1, 16 / 18, 4 / 18])
    np.testing.assert_allclose(lines(above)["fc2"].get_ydata(), [1, 0.7 / 0.8, 0.1 / 0.8])
    assert "chance (11.1%)" in [text.get_text() for text in relative.texts]


def test_agreement_has_neither_chance_nor_shares():
    axes = drawn(two_layers(), None, "same1")
    assert not any("chance" in text.get_text() for text in axes.texts)
    assert "agreement" in axes.get_ylabel()
    with pytest.raises(StudyError, match="expected a quantity of value for this metric"):
        drawn(two_layers(), None, "same1", quantity="relative")


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


def test_the_cap_of_silenced_classes_is_drawn():
    study = make_study(perturbations=(make_curve("node_knockout"),))
    results = results_from(curve_parts({"0": 18, "0.5": 9, "1": 2}, "fc2", perturbation="node_knockout"), study)
    (cap,) = [line for label, line in lines(drawn(results)).items() if label.startswith("cap")]
    np.testing.assert_allclose(cap.get_xydata(), [[0, 0.9], [1, 0]])
    assert not any(label.startswith("cap") for label in lines(drawn(two_layers())))


def test_title_names_network_data_images_draws_and_metric():
    axes = drawn(two_layers())
    words = axes.get_title(loc="left") + " " + subtitle(axes)
    for word in ("net", "synapse_knockout", "digits test", "20 images", "2 draws", "top-1"):
        assert word in words
    assert axes.get_xlabel() == "level (fraction of weights)"


def test_colours_grow_lighter_with_depth_and_stay_readable_on_white():
    study = make_study(targets=tuple(f"conv{i}" for i in range(8)))
    parts = [part for target in study.targets for part in curve_parts({"0": 18, "0.5": 9}, target)]
    axes = drawn(results_from(parts, study))
    shades = [
        np.dot(line.get_color()[:3], (0.2126, 0.7152, 0.0722)) for name, line in lines(axes).items() if "conv" in name
    ]
    assert shades == sorted(shades)
    assert shades[-1] < 0.8
    assert len(shades) == 8


def test_legend_is_beside_the_axes_in_the_order_of_the_layers():
    figure = figures.curves_figure(two_layers())
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


def test_two_studies_have_one_scale():
    other = results_from(curve_parts({"0": 20, "0.5": 19}, "fc2"), make_study(network="other"))
    figure = Figure()
    left, right = plots.side_by_side(two_layers(), other, axes=list(figure.subplots(1, 2)))
    assert (left.get_xlim(), left.get_ylim()) == (right.get_xlim(), right.get_ylim())
    assert "net: " in left.get_title(loc="left")
    assert "other: " in right.get_title(loc="left")


def two_orders():
    study = make_study(
        targets=("conv1", "fc2"), perturbations=(make_curve("synapse_knockout"), make_curve("magnitude_knockout"))
    )
    parts = []
    for target in study.targets:
        parts += curve_parts({"0": 20, "0.5": 8}, target)
        parts += [
            make_part(make_cell(level, 0, target, "magnitude_knockout"), right=right, shortcut="all draws coincide")
            for level, right in (("0", 20), ("0.5", 17))
        ]
    return results_from(parts, study)


def test_random_stands_against_ordered():
    axes = plots.random_against_ordered(two_orders(), "fc2", axes=new_axes())
    np.testing.assert_allclose(lines(axes)["synapse_knockout"].get_ydata(), [1, 0.4])
    np.testing.assert_allclose(lines(axes)["magnitude_knockout"].get_ydata(), [1, 0.85])


def heat(axes):
    (mesh,) = [artist for artist in axes.collections if isinstance(artist, QuadMesh)]
    return mesh.get_array().filled(np.nan)


def test_a_map_of_levels_has_the_first_layer_on_top():
    axes = maps.level_map(two_layers(), axes=new_axes())
    np.testing.assert_allclose(heat(axes), [[0.9, 0.3, np.nan], [0.9, 0.8, 0.2]])
    assert [label.get_text() for label in axes.get_yticklabels()] == ["conv10", "fc2"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]
    assert {"90", "30", "20"} <= {text.get_text() for text in axes.texts}


def bits_study():
    texts = [f"bit_flip(bits={bit},word=int8)" for bit in (0, 7)]
    study = make_study(perturbations=tuple(make_curve(text, ("0", "0.01")) for text in texts))
    parts = [part for text in texts for part in curve_parts({"0": 20, "0.01": 12}, "fc2", perturbation=text)]
    return results_from(parts, study)


def test_a_map_of_bits_has_the_most_significant_first():
    results = bits_study()
    axes = maps.bit_map(results, axes=new_axes())
    table = results.by_level("sdc1")
    expected = [
        table[(table["perturbation"].str.contains(f"={bit},")) & (table["level"] == 0.01)]["value"] for bit in (7, 0)
    ]
    np.testing.assert_allclose(heat(axes), [[share.item() for share in expected]])
    assert [label.get_text() for label in axes.get_xticklabels()] == ["7", "0"]
    with pytest.raises(StudyError, match="needs perturbations of single bits"):
        maps.bit_map(two_layers(), axes=new_axes())
    with pytest.raises(StudyError, match=r"expected a level that all bits have \(0, 0\.01\)"):
        maps.bit_map(results, level=0.5, axes=new_axes())


def test_a_ranking_has_the_most_fragile_on_top():
    study = make_study(targets=("conv1", "fc2"))
    parts = [*curve_parts({"0": 20, "1": 18}, "conv1"), *curve_parts({"0": 20, "1": 2}, "fc2")]
    axes = maps.ranking(results_from(parts, study), axes=new_axes())
    assert [label.get_text() for label in axes.get_yticklabels()] == ["fc2", "conv1"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]


def test_filters_show_what_is_lost_as_mid_grey():
    kernel = np.zeros((2, 2, 1, 3), np.float32)
    kernel[..., 0], kernel[0, 0, 0, 1] = 1.0, -1.0
    (image,) = maps.filters(kernel, axes=new_axes()).get_images()
    shown = image.get_array()
    assert shown.shape == (5, 5, 3)
    assert shown[0, 0].tolist() == [1, 1, 1]
    assert shown[0, 3].tolist() == [0, 0, 0]
    assert shown[1, 4].tolist() == [0.5, 0.5, 0.5]


def test_filters_of_three_channels_have_colours():
    kernel = np.zeros((1, 1, 3, 1), np.float32)
    kernel[0, 0, 0, 0] = 2.0
    (image,) = maps.filters(kernel, axes=new_axes()).get_images()
    assert image.get_array()[0, 0].tolist() == [1, 0.5, 0.5]


def test_files_are_png_and_pdf_fit_for_print(tmp_path):
    files = figures.save_figures(two_layers(), tmp_path / "figures")
    assert [file.name for file in files] == ["synapse_knockout.png", "synapse_knockout.pdf"]
    with Image.open(files[0]) as image:
        assert image.info["dpi"][0] >= 150
        assert image.width >= 1000
        assert len(np.unique(np.asarray(image.convert("L")))) > 50
    assert files[1].read_bytes().startswith(b"%PDF")


def test_all_kinds_that_fit_are_written(tmp_path):
    names = {file.name for file in figures.save_figures(two_orders(), tmp_path, kinds=figures.KINDS)}
    stems = ["", "-map", "-ranking"]
    expected = {f"{text}{stem}" for text in ("synapse_knockout", "magnitude_knockout") for stem in stems}
    assert names == {f"{stem}.{kind}" for stem in expected | {"random-against-ordered"} for kind in ("png", "pdf")}


def test_rates_have_files_of_their_own(tmp_path):
    names = {
        file.name for file in figures.save_figures(bits_study(), tmp_path, "sdc1", kinds=("map", "ranking", "bits"))
    }
    assert names == {
        f"{stem}.{kind}"
        for stem in ("bit_flip-bits=0-word=int8-sdc1-map", "bit_flip-bits=7-word=int8-sdc1-map", "bits-sdc1")
        for kind in ("png", "pdf")
    }


def test_the_same_study_gives_the_same_files(tmp_path):
    first, second = (figures.save_figures(two_layers(), tmp_path / name) for name in ("a", "b"))
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    assert b"CreationDate" not in first[1].read_bytes()


def test_a_folder_that_cannot_be_made_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="figures cannot be written"):
        figures.save_figures(two_layers(), tmp_path / "file" / "figures")


def test_nothing_is_drawn_of_an_empty_study(tmp_path):
    assert figures.save_figures(results_from([]), tmp_path, kinds=figures.KINDS) == []


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("node_knockout", "node_knockout"),
        ("node_knockout(axis=in)", "node_knockout-axis=in"),
        ("my.module:damage(a=[1,2])", "my.module-damage-a=-1-2"),
    ],
)
def test_file_names(text, stem):
    assert style.file_stem(text) == stem


def test_the_users_backend_is_left_alone():
    code = "import sys, jaxperturb.show.figures; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
