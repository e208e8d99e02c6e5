"""The report of a study, read back from its HTML: numbers, words, and that it is safe and whole."""

import base64
import gzip
import hashlib
import json
import re
import shlex
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser

import jax
import matplotlib
import numpy as np
import pytest
from sample_study import RECORD, image_rows, make_cell, make_curve, make_identity, make_part, make_study
from test_show_results import curve_parts, results_from

import jaxperturb as jp
from jaxperturb.cli import main, sweep
from jaxperturb.cli.command import parse
from jaxperturb.errors import DependencyError, OutputError, StudyError
from jaxperturb.perturb.catalogue import CATALOGUE
from jaxperturb.show.report.drawing import TIMES, network_drawing
from jaxperturb.show.report.markup import data_block
from jaxperturb.show.report.page import report_html
from jaxperturb.show.report.provenance import repeating_command
from jaxperturb.show.report.sources import DEFINITIONS, REFERENCES
from jaxperturb.show.report.words import methods
from jaxperturb.show.results import load_results, results_of
from jaxperturb.study.store import create_store, open_store
from jaxperturb.study.study import Study

plotly = pytest.importorskip("plotly", reason="plotly is not installed (pip install -e '.[report]')")

VERSIONS = {"python": "3.11.9", "jaxperturb": "0.1.0", "jax": "0.10.2"}
HOSTILE = "<img src=x onerror=alert(1)>\"'&</script><script>alert(2)</script>"


class Parsed(HTMLParser):
    """All elements with their attributes and the text right inside them, in the order of the page."""

    def __init__(self, text):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes), []))
        if name not in ("meta", "input"):
            self._open.append(self.elements[-1])

    def handle_endtag(self, name):
        assert self._open.pop()[0] == name

    def handle_data(self, data):
        if self._open:
            self._open[-1][2].append(data)

    def named(self, name):
        return [(attributes, "".join(text)) for tag, attributes, text in self.elements if tag == name]

    def by_id(self, name):
        (found,) = [(a, "".join(text)) for _, a, text in self.elements if a.get("id") == name]
        return found

    def figure(self, name):
        return json.loads(self.by_id(f"{name}-data")[1])


def parsed(results, *args, **options):
    return Parsed(report_html(results, *args, **options))


def two_layers(**fields):
    study = make_study(targets=("conv10", "fc2"), **fields)
    parts = [make_part(make_cell("0", target=target), right=18, shortcut="intact") for target in ("fc2", "conv10")]
    parts += [make_part(make_cell("0.5", draw, "conv10"), right=number) for draw, number in enumerate((2, 10))]
    parts += curve_parts({"0.5": 16, "1": 4}, "fc2")
    return results_from(parts, study)


def many_layers(layers=8, images=20, draws=2, texts=("synapse_knockout", "gaussian_noise", "resample")):
    """A study of the default's shape: three perturbations at eleven levels; later layers lose less."""
    names = tuple(f"conv{place}" for place in range(layers))
    levels = tuple("0 0.1 0.2 0.3 0.4 0.5 0.6 0.7 0.8 0.9 1".split())
    curves = tuple(make_curve(text, levels) for text in texts)
    study = make_study(layers=names, targets=names, perturbations=curves, draws=draws, images=images)
    store = create_store(None, study, image_rows(images))
    run = store.begin_run(RECORD)
    for curve in curves:
        for place, name in enumerate(names):
            for level in levels:
                right = int(images * (1 - float(level) ** (place + 1)))
                for draw in range(draws if level != "0" else 1):
                    part = make_part(make_cell(level, draw, name, curve.text), 0, images, right=max(1, right - draw))
                    store.add(run, replace(part, shortcut="intact" if level == "0" else ""))
    return results_of(store)


def lines(figure):
    return {one["name"]: one for one in figure["data"] if one.get("mode") == "lines+markers"}


def test_lines_are_means_over_draws_in_the_order_of_the_layers():
    found = lines(parsed(two_layers()).figure("curves-0"))
    assert list(found) == ["conv10", "fc2"]
    np.testing.assert_allclose((found["conv10"]["x"], found["conv10"]["y"]), ([0, 0.5], [0.9, 0.3]))
    np.testing.assert_allclose((found["fc2"]["x"], found["fc2"]["y"]), ([0, 0.5, 1], [0.9, 0.8, 0.2]))


def test_what_stands_under_the_pointer():
    results = two_layers()
    text = lines(parsed(results).figure("curves-0"))["conv10"]["hovertext"][1]
    table = results.by_level()
    (row,) = table[(table["target"] == "conv10") & (table["level"] == 0.5)].to_dict("records")
    assert unescape(text).split("<br>")[:5] == [
        "<b>conv10</b>",
        "level 0.5",
        f"top-1 accuracy 0.300 ({row['low']:.3f}, {row['high']:.3f})",
        "95 % interval over draws and images",
        "2 draws, 20 images",
    ]
    assert all(flag in text for flag in row["flags"].split("; "))


def test_a_layer_and_its_band_are_switched_off_together():
    band, line, *others = parsed(two_layers()).figure("curves-0")["data"]
    assert band["fill"] == "toself"
    assert band["legendgroup"] == line["legendgroup"] not in {one["legendgroup"] for one in others}
    assert line["name"] == "conv10"
    assert (band["showlegend"], line.get("showlegend", True)) == (False, True)
    ends = two_layers().by_level().query("target == 'conv10'")
    assert sorted(band["y"]) == sorted([*ends["low"], *ends["high"]])


def test_hollow_markers_are_flagged_ones():
    results = two_layers()
    flags = results.by_level().query("target == 'fc2'")["flags"]
    fills = lines(parsed(results).figure("curves-0"))["fc2"]["marker"]["color"]
    assert [fill == "#ffffff" for fill in fills] == [flag != "" for flag in flags]


def test_a_map_has_the_same_numbers():
    figure = parsed(two_layers()).figure("map-0")
    (heat,), axis = figure["data"], figure["layout"]["yaxis"]
    assert (heat["x"], heat["y"], axis["ticktext"]) == (["0", "0.5", "1"], axis["tickvals"], ["conv10", "fc2"])
    assert heat["z"] == [[0.9, 0.3, None], [0.9, 0.8, 0.2]]


def test_a_ranking_has_the_most_fragile_first():
    results = two_layers()
    figure = parsed(results).figure("ranking-0")
    (points,), axis = figure["data"], figure["layout"]["yaxis"]
    summary = results.summary().sort_values("area")
    np.testing.assert_allclose(points["x"], summary["area"])
    assert list(summary["target"]) == ["conv10", "fc2"]
    assert (points["y"], axis["ticktext"], axis["autorange"]) == ([0, 1], ["conv10 (not ranked)", "fc2"], "reversed")
    np.testing.assert_allclose(points["error_x"]["array"], summary["area_high"] - summary["area"])


def rows_of(page, name):
    """The cells of a table: text and the number that it is sorted by."""
    text = report_tables(page)[name]
    return [
        [(unescape(re.sub("<sup>.*?</sup>", "", cell)), value) for value, cell in re.findall(CELL, row)]
        for row in re.findall("<tr>(.*?)</tr>", text)
        if "<td" in row
    ]


CELL = r'<td(?: class="number" data-value="([^"]*)")?>(.*?)</td>'


def report_tables(text):
    return dict(re.findall(r'<table id="(\w+)">(.*?)</table>', text, re.DOTALL))


def test_the_table_has_the_numbers_of_the_summary():
    results = two_layers()
    found = rows_of(report_html(results), "layers")
    for row, (text, layer, intact, half_life, _, area, *_, draws, images) in zip(
        results.summary().to_dict("records"), found, strict=True
    ):
        assert (text[0], layer[0]) == (row["perturbation"], row["target"])
        assert intact == ("0.900", "0.9")
        assert float(half_life[1]) == row["half_life"]
        assert area == (f"{row['area']:.3f} ({row['area_low']:.3f}, {row['area_high']:.3f})", repr(row["area"]))
        assert (draws[1], images[1]) == (repr(float(row["draws"])), "20.0")


def test_every_level_is_in_a_table():
    results = two_layers()
    found = rows_of(report_html(results), "levels")
    assert [(row[1][0], row[2][0], float(row[3][1])) for row in found] == [
        ("conv10", "0", 0.9),
        ("conv10", "0.5", pytest.approx(0.3)),
        ("fc2", "0", 0.9),
        ("fc2", "0.5", 0.8),
        ("fc2", "1", 0.2),
    ]


def faults():
    curve = replace(make_curve("bit_flip(word=int8)", ("0", "1e-6", "0.001")), axis="log", unit="faults per stored bit")
    study = make_study(targets=("fc2",), perturbations=(curve,))
    return results_from(curve_parts({"0": 18, "1e-6": 17, "0.001": 4}, "fc2", perturbation=curve.text), study)


def test_fault_rates_have_a_logarithmic_axis_and_what_faults_do():
    results = faults()
    page = parsed(results)
    figure = page.figure("curves-0")
    assert figure["layout"]["xaxis"]["type"] == "log"
    assert lines(figure)["fc2"]["x"] == [1e-6, 1e-3]
    rates = results.by_level("sdc1")["value"].tolist()
    assert lines(page.figure("faults-0"))["fc2"]["y"] == rates[1:]
    assert [float(row[6][1]) for row in rows_of(report_html(results), "levels")] == rates


def test_the_cap_of_silenced_classes_is_drawn_and_said():
    study = make_study(perturbations=(make_curve("node_knockout"),))
    results = results_from(curve_parts({"0": 18, "0.5": 9, "1": 2}, "fc2", perturbation="node_knockout"), study)
    page = parsed(results)
    (cap,) = [one for one in page.figure("curves-0")["data"] if one["name"].startswith("cap")]
    assert (cap["x"], cap["y"]) == ([0, 1], [0.9, 0])
    assert any("that layer is not ranked" in text for _, text in page.named("p"))


def boxes(results):
    drawing = Parsed(network_drawing(results, results.summary()))
    order = [(tag, a, "".join(text)) for tag, a, text in drawing.elements]
    found = {}
    for place, (tag, attributes, _) in enumerate(order):
        if tag == "g" and "data-target" in attributes:
            (_, _, title), (_, rect, _), (_, _, number) = order[place + 1 : place + 4]
            found[attributes["data-target"]] = (title, rect, number)
    return found


def test_the_network_is_drawn_in_the_order_of_its_program_the_fragile_dark():
    results = many_layers(texts=("synapse_knockout",))
    found = boxes(results)
    assert list(found) == list(results.study.layers)
    heights = [float(rect["y"]) for _, rect, _ in found.values()]
    assert heights == sorted(heights)
    shades = [np.dot(matplotlib.colors.to_rgb(rect["fill"]), (0.2126, 0.7152, 0.0722)) for _, rect, _ in found.values()]
    assert shades == sorted(shades)
    for row in results.summary().to_dict("records"):
        title, _, number = found[row["target"]]
        assert number.lstrip("*") == f"{row['area']:.2f}"
        assert f"area {row['area']:.3f} ({row['area_low']:.3f}, {row['area_high']:.3f})" in title
        assert number.startswith("*") == bool(row["area_flags"])


def test_the_drawing_tells_shapes_and_parameters_where_they_are_recorded():
    shapes = {"conv10": (3, 3, 1, 8), "conv1": (3, 3, 8, 8), "fc2": (128, 10)}
    results = two_layers(shapes=shapes, parameters={"conv10": 80, "conv1": 584, "fc2": 1290})
    text = network_drawing(results, results.summary())
    for label in ("3x3x1x8, 80 parameters", "128x10, 1,290 parameters", "images 8x8x1", "10 classes"):
        assert f">{label}<" in text.replace(TIMES, "x")
    assert "conv1: not lesioned" in text
    widths = {name: float(rect["width"]) for name, (_, rect, _) in boxes(results).items()}
    assert widths["conv10"] < widths["fc2"]
    assert "parameters" not in network_drawing(two_layers(), two_layers().summary())


def test_a_sweep_records_shapes_and_parameters():
    sizes = {"fc2": (12, 7), "fc10": (7, 5)}
    rng = np.random.default_rng(0)
    params = {name: {"kernel": rng.normal(size=size), "bias": np.zeros(size[1])} for name, size in sizes.items()}

    def apply(params, images):
        hidden = images.reshape(len(images), -1)
        for layer in (params[name] for name in sizes):
            hidden = hidden @ layer["kernel"] + layer["bias"]
        return hidden

    net = jp.Network.from_apply(apply, jax.tree.map(np.float32, params), name="mine")
    data = jp.data.from_arrays(rng.normal(size=(6, 2, 2, 3)).astype(np.float32), np.arange(6) % 5)
    results = jp.sweep(net, data, "synapse_knockout", levels=[0, 1], draws=1)
    study = Study.from_json(results.study.to_json())
    assert study.shapes == results.study.shapes == sizes
    assert study.parameters == results.study.parameters == {"fc2": 12 * 7 + 7, "fc10": 7 * 5 + 5}
    assert "131 parameters" in methods(results, results.summary(), "top1", [])[0]


def test_layers_lesioned_together_stand_below():
    study = make_study(targets=("conv10", "conv1+fc2", "joint:conv1+fc2"))
    results = results_from([p for t in study.targets for p in curve_parts({"0": 18, "0.5": 9}, t)], study)
    found = boxes(results)
    assert list(found) == list(study.targets)
    heights = [float(rect["y"]) for _, rect, _ in found.values()]
    assert heights == sorted(heights)
    words, _ = methods(results, results.summary(), "top1", [])
    assert "conv1 and fc2 were lesioned together, at one level each." in words
    assert "with one budget over all their weights" in words


def with_run(results, **fields):
    """The runs of a store, the last one with other fields."""
    (run,) = results.source.runs()
    return [replace(run, record=replace(run.record, **fields))]


def test_the_methods_have_all_numbers():
    results = two_layers(identity=make_identity(seed=31, weights="0123456789abcdef" * 4, semantics=1))
    device = json.dumps({"platform": "gpu", "device": "H200", "devices": 1})
    runs = with_run(results, versions=json.dumps(VERSIONS), device=device)
    words, references = methods(results, results.summary(), "top1", runs)
    for part in (
        "network net (3 layers",
        "0123456789ab)",
        "conv10 and fc2",
        "synapse_knockout, at level f (fraction of weights)",
        "0, 0.5 and 1",
        "drawn 2 times (seed 31)",
        f"20 images of digits test (8{TIMES}8{TIMES}1",
        "mean 0.5, resize 8",
        "Chance is 0.1; the intact network reaches 0.900",
        "95 % intervals over draws and images",
        "float32 on gpu (H200, 1 device) by jaxperturb 0.1.0, python 3.11.9, jax 0.10.2",
    ):
        assert part in words
    cited = [int(number) for number in re.findall(r"\[(\d+)\]", words)]
    assert list(dict.fromkeys(cited)) == list(range(1, len(references) + 1))
    assert references[0].startswith("Cheney N., Schrimpf M., Kreiman G. (2017)")


def test_even_grids_are_told_by_their_step():
    results = many_layers(2)
    words, _ = methods(results, results.summary(), "top1", [])
    assert "f was 0 to 1 in steps of 0.1" in words


def test_options_and_functions_of_ones_own_are_told():
    texts = ("node_knockout(axis=in,include_bias=false)", "compose(synapse_knockout,gaussian_noise)", "my.code:hurt")
    curves = [make_curve(text) for text in texts]
    curves[2] = replace(curves[2], summary="hurts it", code="feed" * 16)
    results = results_from([], make_study(perturbations=tuple(curves)))
    words, _ = methods(results, results.summary(), "top1", [])
    assert "of which the weights that read them are set to zero, biases left alone" in words
    assert re.search(r"one after another, ⌊f·n⌋ .* are set to zero.*; then to every entry", words)
    assert "hurts it; source file with SHA-256 feedfeedfeed" in words


def test_each_perturbation_of_the_catalogue_is_defined_and_each_source_known():
    assert set(DEFINITIONS) == set(CATALOGUE)
    assert {key for _, keys in DEFINITIONS.values() for key in keys} <= set(REFERENCES)


def test_nothing_random_is_called_drawn():
    parts = [make_part(make_cell(level, 0), right=9, shortcut="all draws coincide") for level in ("0", "0.5")]
    results = results_from(parts, make_study(targets=("conv1",)))
    words, _ = methods(results, results.summary(), "top1", [])
    assert "Nothing in these lesions is random." in words
    assert "seed" not in words


def hostile():
    identity = make_identity(classes=(HOSTILE, "b"), preprocessing={"note": HOSTILE})
    curve = replace(make_curve(f"my:hurt(file='{HOSTILE}')"), summary=HOSTILE, unit=HOSTILE)
    study = make_study(identity, network=HOSTILE, dataset=HOSTILE, split=HOSTILE, layers=(HOSTILE,))
    study = replace(study, targets=(HOSTILE,), perturbations=(curve,), shapes={HOSTILE: (1,)}, parameters={HOSTILE: 1})
    images = [(place, HOSTILE, place % 10) for place in range(20)]
    store = create_store(None, study, images)
    run = store.begin_run(replace(RECORD, command=HOSTILE, host=HOSTILE, versions=json.dumps({HOSTILE: HOSTILE})))
    for level, right in (("0", 18), ("0.5", 9), ("1", 2)):
        store.add(run, make_part(make_cell(level, 0, HOSTILE, curve.text), right=right))
    store.skip(run, 3, HOSTILE)
    return results_of(store)


def test_whatever_a_user_names_is_escaped():
    page, plain = parsed(hostile()), parsed(two_layers())
    assert not page.named("img")
    executed = [attributes for attributes, _ in page.named("script") if "type" not in attributes]
    assert len(executed) == 1
    assert {name for name, _, _ in page.elements} == {name for name, _, _ in plain.elements} | {"details", "summary"}
    assert HOSTILE in page.named("h1")[0][1]
    assert any(HOSTILE in text for _, text in page.named("td"))
    figure = page.figure("curves-0")
    shown = [line["name"] for line in figure["data"]] + [figure["layout"]["xaxis"]["title"]["text"]]
    shown += [text for line in figure["data"] for text in line.get("hovertext", [])]
    # Plotly reads elements of HTML in its texts, too.
    assert all(re.sub(r"</?b>|<br>", "", text).count("<") == 0 for text in shown)
    assert unescape(shown[0]).startswith("<img src")
    assert HOSTILE in unescape(shown[-1])


def test_values_for_scripts_do_not_end_their_block():
    ((_, text),) = Parsed(data_block("x", {"a": [HOSTILE, 0.5]})).named("script")
    assert json.loads(text) == {"a": [HOSTILE, 0.5]}


def test_nothing_is_loaded_from_anywhere():
    page = parsed(many_layers(2))
    loading = {"src", "href", "xlink:href", "action", "formaction", "data", "srcset", "poster", "background", "ping"}
    assert not [(tag, name) for tag, attributes, _ in page.elements for name in loading & set(attributes)]
    (style,) = page.named("style")
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    urls = [value for _, attributes, _ in page.elements for value in attributes.values() if "//" in (value or "")]
    assert urls == []


def test_the_page_may_run_its_own_two_scripts_and_nothing_else():
    from plotly.offline import get_plotlyjs

    page = parsed(two_layers())
    (policy,) = [a["content"] for a, _ in page.named("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == rules["form-action"] == "'none'"
    library = gzip.decompress(base64.b64decode(page.by_id("plotly")[1])).decode()
    assert library == get_plotlyjs()
    ((_, own),) = [(a, text) for a, text in page.named("script") if "type" not in a]
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (own, library)]
    assert rules["script-src"] == " ".join(f"'sha256-{digest}'" for digest in digests)


def test_a_default_study_takes_less_than_five_megabytes():
    text = report_html(many_layers())
    assert len(rows_of(text, "levels")) == 3 * 8 * 11
    assert len(text.encode()) < 5_000_000


def one_draw_one_image():
    study = make_study(targets=("fc2",), draws=1, images=1)
    store = create_store(None, study, image_rows(1))
    run = store.begin_run(RECORD)
    for level, right in (("0", 1), ("0.5", 1), ("1", 0)):
        store.add(run, make_part(make_cell(level, 0, "fc2"), 0, 1, right=right))
    return results_of(store)


STUDIES = {
    "two layers": two_layers,
    "faults": faults,
    "one draw, one image": one_draw_one_image,
    "16 layers": lambda: many_layers(16, texts=("resample",)),
    "hostile": hostile,
    "at chance": lambda: results_from(curve_parts({"0": 2, "0.5": 2}, "fc2")),
    "no reference yet": lambda: results_from([make_part(make_cell("0.5"))]),
    "nothing yet": lambda: results_from([]),
}


@pytest.mark.parametrize("name", STUDIES)
def test_plotly_knows_every_field_of_every_figure(name):
    from plotly.graph_objects import Figure

    page = parsed(STUDIES[name]())
    blocks = [json.loads(text) for a, text in page.named("script") if a.get("type") == "application/json"]
    for block in blocks:
        assert Figure(block).to_dict()["data"] is not None  # raises for a field or value that Plotly does not know
    assert len(blocks) == len([a for a, _ in page.named("div") if a.get("class") == "plot"])
    assert bool(blocks) == (name != "nothing yet")


def notices_of(results):
    return [text for a, text in parsed(results).named("p") if a.get("class") == "notice"]


def test_what_a_reader_must_know_comes_first():
    # Of 2 x (1 + 2 x 2) lesions that are asked, these are there: 2 intact ones, 2 of conv10, 4 of fc2.
    assert notices_of(two_layers())[0].startswith("Unfinished: 8 of 10 lesions are done")
    assert notices_of(results_from([])) == ["No cell has been computed yet."]
    assert any("hardly better than chance" in line for line in notices_of(STUDIES["at chance"]()))
    assert any("1 image that cannot be read is left out" in line for line in notices_of(hostile()))


def test_just_these_images_can_be_meant():
    words = parsed(two_layers(), images_are="all").by_id("paragraph")[1]
    assert "95 % intervals over draws alone, for just these images" in words
    assert "crossed" not in words
    with pytest.raises(StudyError, match="images_are"):
        report_html(two_layers(), images_are="some")


def stored(folder, results_study=None):
    """Writes a small store into a folder."""
    study = results_study or make_study(targets=("fc2",))
    folder.mkdir()
    with create_store(folder / "results.sqlite", study, image_rows()) as store:
        run = store.begin_run(RECORD)
        for part in curve_parts({"0": 18, "0.5": 9, "1": 2}, "fc2"):
            store.add(run, part)
    return folder


def test_the_file_lies_beside_the_store_and_is_the_same_each_time(tmp_path):
    folder = stored(tmp_path / "study")
    path = jp.report(folder)
    assert path == folder / "report.html"
    first = path.read_bytes()
    assert jp.report(load_results(folder), tmp_path / "new" / "other.html").read_bytes() == first
    assert sorted(file.name for file in folder.iterdir()) == ["report.html", "results.sqlite"]


def test_the_command_prints_the_path(tmp_path, capsys):
    folder = stored(tmp_path / "study")
    assert main.run(["report", str(folder), "--metric=top5"]) == 0
    assert capsys.readouterr().out == f"{folder / 'report.html'}\n"
    assert "top-5 accuracy (chance 0.5)" in (folder / "report.html").read_text(encoding="utf-8")


def test_a_place_that_cannot_be_written_is_said(tmp_path):
    folder = stored(tmp_path / "study")
    with pytest.raises(OutputError, match="is a folder"):
        jp.report(folder, tmp_path)
    with pytest.raises(OutputError, match="cannot be written"):
        jp.report(folder, folder / "results.sqlite" / "report.html")
    with pytest.raises(OutputError, match="name a file with out="):
        jp.report(two_layers())


def test_without_plotly_one_line_says_what_to_install(tmp_path, capsys, monkeypatch):
    folder = stored(tmp_path / "study")
    for name in [name for name in sys.modules if name.partition(".")[0] == "plotly"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "plotly", None)
    with pytest.raises(DependencyError, match=r"pip install 'jaxperturb\[report\]'"):
        jp.report(folder)
    assert main.run(["report", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (folder / "report.html").exists()


def test_the_command_that_repeats_the_study_is_that_of_its_record(tmp_path):
    folder = stored(tmp_path / "study")
    results = load_results(folder)
    assert repeating_command(results, results_runs(results)) == RECORD.command
    flags = {"weights": "my nets/it's", "levels": "a=0,1;b=0.5", "draws": 3, "restrict_classes": True}
    (folder / "config.json").write_text(json.dumps({"flags": flags}), encoding="utf-8")
    program, command, *words = shlex.split(repeating_command(results, []))
    assert (program, command) == ("jaxperturb", "sweep")
    values = parse(sweep.COMMAND, words).values
    assert {name: values[name].value for name in flags} == flags


def results_runs(results):
    with open_store(results.source) as store:
        return store.runs()


def test_provenance_has_fingerprints_and_runs():
    text = report_html(two_layers())
    assert ("a" * 64, "") in [row[1] for row in rows_of(text, "fingerprints")]
    ((number, *_, command),) = rows_of(text, "runs")
    assert (number[0], command[0]) == ("1", RECORD.command)
