"""A study as one HTML file that needs nothing else."""

import base64
import functools
import gzip
import hashlib
import os
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import pandas as pd

from jaxperturb.errors import DependencyError, OutputError
from jaxperturb.show.notices import notices
from jaxperturb.show.report.drawing import network_drawing
from jaxperturb.show.report.interactive import Plot, curves_plot, map_plot, ranking_plot
from jaxperturb.show.report.markup import Markup, data_block, joined, tag
from jaxperturb.show.report.provenance import Origin, fingerprints, read_origin, repeating_command
from jaxperturb.show.report.sortable import FAULTS, layers_table, levels_table, plain_table
from jaxperturb.show.report.words import findings, methods, versions_text
from jaxperturb.show.results import Results, load_results
from jaxperturb.show.style import file_stem
from jaxperturb.show.summary import means_all, silences_classes
from jaxperturb.show.tables import describe, reference_text, remarks_below, unchanged_warning
from jaxperturb.study.provenance import device_text
from jaxperturb.study.study import Curve

REPORT_NAME = "report.html"


def report(
    study: Results | str | Path,
    out: str | Path | None = None,
    *,
    metric: str | None = None,
    images_are: str = "sample",
) -> Path:
    """Writes a study as one HTML file, which is read in a browser without any network.

    It has the study in words, as for a paper's section on methods; its figures, which answer to the mouse; the tables,
    which can be sorted; the network with its layers coloured by fragility; and how to repeat it all.

    Args:
        study: results, the folder of a study, or its file ``results.sqlite``.
        out: the file to write; by default ``report.html`` beside the store.
        metric: "top1", "top5" or "balanced"; by default the study's.
        images_are: "sample" or "all", as in `Results.summary`.

    Returns:
        The file written. The same store gives the same file.

    Raises:
        StoreError: a store that is missing, empty, foreign or damaged.
        StudyError: an unknown metric.
        DependencyError: Plotly is not installed.
        OutputError: the file cannot be written, or results in memory were given and no file.
    """
    results = study if isinstance(study, Results) else load_results(study)
    if out is None and not isinstance(results.source, Path):
        raise OutputError("these results are of a study in memory, which has no folder; name a file with out=")
    path = Path(out) if out is not None else Path(str(results.source)).parent / REPORT_NAME
    if path.is_dir():
        raise OutputError(
            f"expected a file for the report, and {path} is a folder; name one such as {path}/{REPORT_NAME}"
        )
    _write(path, report_html(results, metric, images_are=images_are))
    return path


def report_html(results: Results, metric: str | None = None, *, images_are: str = "sample") -> str:
    """Returns the text of the file that `report` writes."""
    metric = results.metric(metric)
    library, script = _library(), _asset("page.js")
    summary, origin = results.summary(metric, images_are=images_are), read_origin(results)
    title = f"{results.study.network}: lesions"
    body = tag(
        "main",
        tag("h1", title),
        tag("p", describe(results, metric), class_="sample"),
        *(tag("p", line, class_="notice") for line in _notices(results, origin)),
        *(tag("p", line) for line in findings(summary)),
        _section(
            "The network", tag("div", network_drawing(results, summary), class_="wide"), _drawing_note(results, summary)
        ),
        _section("Figures", *_figures(results, summary, metric, means_all(images_are))),
        _section("Table", *_tables(results, summary, metric, images_are)),
        _section("Methods", *_methods(results, summary, metric, origin)),
        _section("Provenance", *_provenance(results, origin)),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_policy(script, library)),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="generator", content="jaxperturb"),
        tag("title", title),
        tag("style", Markup(_asset("page.css"))),
    )
    scripts = (tag("script", _packed(library), type="text/plain", id="plotly"), tag("script", Markup(script)))
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', body, *scripts), lang='en')}\n"


def _library() -> str:
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise DependencyError(
            "the report needs Plotly for its figures, and it is not installed; run: pip install 'jaxperturb[report]'"
        ) from error
    return get_plotlyjs()


@functools.lru_cache(maxsize=1)
def _packed(library: str) -> Markup:
    """Returns the library as the page unpacks it: as it is, it would take 5 MB."""
    return Markup(base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode())


def _asset(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _policy(*scripts: str) -> str:
    """Returns what the browser may do: run these very scripts, and load nothing from anywhere."""
    digests = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; form-action 'none'"
    )


def _section(title: str, *inside: Markup) -> Markup:
    return tag("section", tag("h2", title), *inside, id=title.lower().replace(" ", "-"))


def _notices(results: Results, origin: Origin) -> Iterator[str]:
    if results.cells.empty:
        yield "No cell has been computed yet."
    elif not origin.complete:
        yield f"Unfinished: {origin.done:,} of {origin.planned:,} lesions are done; the numbers are of these."
    yield from notices(results)


def _drawing_note(results: Results, summary: pd.DataFrame) -> Markup:
    parts = [
        "Layers in the order of the program. Colour and number: area under the curve of relative accuracy above chance."
    ]
    if results.study.parameters:
        parts.append("Width: parameters, logarithmic.")
    if not set(results.study.layers) <= set(summary["target"]):
        parts.append("Dashed: not lesioned.")
    if (summary["area_flags"] != "").any():
        parts.append("*: flagged, see the table.")
    return tag("p", " ".join(parts), class_="note")


def _figures(results: Results, summary: pd.DataFrame, metric: str, all_images: bool) -> Iterator[Markup]:
    done = set(summary["perturbation"])
    for place, curve in enumerate(one for one in results.study.perturbations if one.text in done):
        rows = summary[summary["perturbation"] == curve.text]
        reference = f"; {reference_text(results, metric)}" if curve.encodes else ""
        yield tag("h3", curve.text)
        yield tag("p", f"{curve.summary} (level: {curve.unit}{reference})", class_="note")
        for kind, plot in _plots(results, rows, curve, metric, all_images):
            yield _figure(f"{kind}-{place}", f"{file_stem(curve.text)}-{kind}", plot)
        if unchanged := results.unchanged(curve.text):
            yield tag("p", unchanged_warning(unchanged, curve.no_damage), class_="notice")
        if any(silences_classes(results, curve.text, target) for target in rows["target"]):
            yield tag("p", "A unit of the output layer is a class: that layer is not ranked.", class_="note")


def _plots(
    results: Results, rows: pd.DataFrame, curve: Curve, metric: str, all_images: bool
) -> Iterator[tuple[str, Plot]]:
    yield "curves", curves_plot(results, curve.text, metric, all_images)
    if curve.text.startswith(FAULTS):
        yield "faults", curves_plot(results, curve.text, "sdc1", all_images)
    yield "map", map_plot(results, curve.text, metric, all_images)
    if rows["area"].notna().sum() > 1:
        yield "ranking", ranking_plot(rows)


def _figure(name: str, file: str, plot: Plot) -> Markup:
    return tag(
        "figure",
        tag("figcaption", plot.title),
        tag("div", class_="plot", id=name, data_file=file, style=f"height:{plot.height}px"),
        data_block(f"{name}-data", plot.figure),
        class_="half" if plot.narrow else None,
    )


def _tables(results: Results, summary: pd.DataFrame, metric: str, images_are: str) -> Iterator[Markup]:
    if summary.empty:
        return
    yield tag("p", "A click on the name of a column sorts by it; a second one the other way round.", class_="note")
    yield layers_table(summary)
    yield joined(tag("p", line, class_="note") for line in remarks_below(summary, (), None))
    levels = levels_table(results, metric, images_are)
    yield tag("details", tag("summary", "Every level"), levels)


def _methods(results: Results, summary: pd.DataFrame, metric: str, origin: Origin) -> Iterator[Markup]:
    paragraph, references = methods(results, summary, metric, origin.runs)
    yield tag("p", paragraph, id="paragraph")
    yield tag("ol", *(tag("li", text) for text in references), class_="references")


def _provenance(results: Results, origin: Origin) -> Iterator[Markup]:
    yield tag("p", "To repeat the study:")
    yield tag("pre", repeating_command(results, origin.runs), id="command")
    yield plain_table("fingerprints", ["what", "which"], fingerprints(results))
    yield tag("h3", "Runs")
    yield plain_table(
        "runs", ["run", "began", "ended", "outcome", "host", "device", "versions", "command"], _runs(origin)
    )
    if origin.events:
        yield tag("details", tag("summary", "Events"), plain_table("events", ["time", "kind", "text"], origin.events))


def _runs(origin: Origin) -> Iterator[Sequence[str]]:
    for run in origin.runs:
        record = run.record
        outcome = run.outcome if run.ended else "running, or killed"
        place = (record.host, device_text(record), versions_text(run), record.command)
        yield (str(run.number), run.started, run.ended or "", outcome, *place)


def _write(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error
