"""The report in a real browser, at the width of a desktop: hovered, switched, sorted, without a complaint."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from browser import Page, find_browser
from test_show_report import hostile, many_layers

from jaxperturb.show.report.page import report_html

pytest.importorskip("plotly", reason="plotly is not installed (pip install -e '.[report]')")

SHAPES = {f"conv{place}": (3, 3, 2**place, 2 ** (place + 1)) for place in range(8)}


@pytest.fixture(scope="module")
def results():
    found = many_layers(8, images=100, draws=3)
    parameters = {name: 9 * shape[2] * shape[3] for name, shape in SHAPES.items()}
    return replace(found, study=replace(found.study, shapes=SHAPES, parameters=parameters))


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    find_browser()
    folder = tmp_path_factory.mktemp("report")
    file = folder / "report.html"
    file.write_text(report_html(results), encoding="utf-8")
    with Page(folder / "profile") as found:
        found.open(file)
        yield found


@pytest.fixture(autouse=True)
def _quiet(page: Page):
    """Whatever a test does, the page neither complains nor asks the network for anything."""
    yield
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith(("file:", "data:", "blob:"))] == []


def show(page: Page, name: str) -> None:
    """Scrolls to a figure and waits until it is drawn."""
    page.middle(f"document.getElementById('{name}')")
    page.wait_for(f"document.getElementById('{name}').dataset.drawn === 'done'")


def texts(page: Page, selector: str) -> list[str]:
    return page.value(f"Array.from(document.querySelectorAll({selector!r}), (it) => it.textContent)")


def visible_lines(page: Page) -> list[str]:
    drawn = "document.getElementById('curves-0').data.filter((it) => it.mode === 'lines+markers')"
    return page.value(f"{drawn}.filter((it) => it.visible !== 'legendonly').map((it) => it.name)")


def test_all_figures_are_drawn_when_they_come_near(page):
    names = page.value("Array.from(document.querySelectorAll('.plot'), (it) => it.id)")
    assert len(names) == 9  # curves, map and ranking of three perturbations
    for name in names:
        show(page, name)
        assert page.value(f"document.querySelectorAll('#{name} svg').length") > 0


def test_the_page_fits_a_desktop(page):
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    wide = "Array.from(document.querySelectorAll('.plot'), (it) => it.scrollWidth - it.parentElement.clientWidth)"
    assert max(page.value(wide)) <= 0


def test_a_point_says_layer_level_mean_interval_and_draws(page, results):
    show(page, "curves-0")
    table = results.by_level()
    rows = table[(table["perturbation"] == "synapse_knockout") & (table["target"] == "conv0")]
    (row,) = rows[rows["level"] == 0.5].to_dict("records")
    points = "Array.from(document.querySelectorAll('#curves-0 .scatterlayer .points'))"
    page.hover(f"{points}.find((it) => it.children.length).children[5]")
    page.wait_for("document.querySelectorAll('#curves-0 .hovertext').length > 0")
    (text,) = texts(page, "#curves-0 .hovertext")
    for part in (
        "conv0",
        "level 0.5",
        f"{row['value']:.3f} ({row['low']:.3f}, {row['high']:.3f})",
        "3 draws, 100 images",
    ):
        assert part in text


def test_a_layer_is_switched_off_and_on_by_the_legend(page):
    show(page, "curves-0")
    names = [f"conv{place}" for place in range(8)]
    assert texts(page, "#curves-0 .legend .legendtext") == names
    assert visible_lines(page) == names
    points = "document.querySelectorAll('#curves-0 .scatterlayer .points path').length"
    before = page.value(points)
    toggle = "document.querySelectorAll('#curves-0 .legendtoggle')[2]"
    page.click(toggle)
    page.wait_for(f"{points} === {before - 11}")
    assert visible_lines(page) == [name for name in names if name != "conv2"]
    time.sleep(0.6)  # two clicks at once would mean: this one alone
    page.click(toggle)
    page.wait_for(f"{points} === {before}")
    assert visible_lines(page) == names


def test_no_button_sends_the_study_away(page):
    show(page, "curves-0")
    found = page.value("Array.from(document.querySelectorAll('#curves-0 .modebar-btn'), (it) => it.dataset.title)")
    assert "Download plot" in " ".join(found)
    assert not [title for title in found if "share" in title.lower() or "cloud" in title.lower()]


def column(page: Page, number: int) -> list[str]:
    return texts(page, f"#layers tbody td:nth-child({number})")


def test_the_table_is_sorted_by_a_click_and_the_other_way_by_a_second(page, results):
    areas = results.summary()["area"]
    button = "document.querySelectorAll('#layers th button')[5]"
    page.click(button)
    assert [float(text.split()[0]) for text in column(page, 6)] == [round(area, 3) for area in sorted(areas)]
    assert page.value(f"{button}.parentElement.ariaSort") == "ascending"
    page.click(button)
    assert [float(text.split()[0]) for text in column(page, 6)] == [round(area, 3) for area in sorted(areas)][::-1]
    assert page.value("document.querySelectorAll('#layers th[aria-sort]').length") == 1
    page.click("document.querySelectorAll('#layers th button')[1]")
    assert column(page, 2) == sorted(column(page, 2))


def test_the_levels_can_be_searched(page):
    page.value("document.querySelector('details').open = true")
    page.click("document.querySelector('input[type=search]')")
    page.call("Input.insertText", text="resample conv3")
    shown = "Array.from(document.querySelectorAll('#levels tbody tr')).filter((it) => !it.hidden)"
    assert page.value(f"{shown}.length") == 11
    assert page.value(f"new Set({shown}.map((it) => it.cells[0].textContent + it.cells[1].textContent)).size") == 1


def test_nothing_that_a_user_named_runs(page, tmp_path: Path):
    file = tmp_path / "hostile.html"
    file.write_text(report_html(hostile()), encoding="utf-8")
    page.open(file)
    page.wait_for("typeof Plotly === 'object'")
    for name in page.value("Array.from(document.querySelectorAll('.plot'), (it) => it.id)"):
        show(page, name)
    assert page.value("document.querySelectorAll('img').length") == 0
    assert page.value("document.querySelector('h1').textContent").startswith("<img src=x onerror=alert(1)>")
    assert texts(page, "#curves-0 .legend .legendtext")[0].startswith("<img src=x")
