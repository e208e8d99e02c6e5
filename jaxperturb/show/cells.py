"""The cells of a study as a table: a row for each draw, also where one draw stands for all."""

from collections.abc import Iterator, Sequence

import pandas as pd

from jaxperturb.engine.run import PLANES
from jaxperturb.levels import format_level
from jaxperturb.study.store import CellCounts
from jaxperturb.study.study import Study

_COUNTS = ("top1", "top5", "same1", "same5", "nonfinite")


def cell_table(study: Study, stored: Sequence[CellCounts]) -> pd.DataFrame:
    """Returns a row for each perturbation, target, level and draw; see `Results.cells`."""
    draws: dict[tuple[str, str], set[int]] = {}
    for counts in stored:
        if not counts.shortcut:
            draws.setdefault((counts.cell.perturbation, counts.cell.target), set()).add(counts.cell.draw)
    rows = [row for counts in stored for row in _rows_of(study, counts, draws)]
    columns = [
        "perturbation",
        "target",
        "level",
        "level_text",
        "draw",
        "seed",
        "images",
        *_COUNTS,
        "selected",
        "changed",
    ]
    table = pd.DataFrame(rows, columns=[*columns, "shortcut"]).astype(
        {"level": float, "selected": "Int64", "changed": "Int64"}
    )
    places = {
        "perturbation": {curve.text: place for place, curve in enumerate(study.perturbations)},
        "target": {target: place for place, target in enumerate(study.targets)},
    }
    by = ["perturbation", "target", "level", "draw"]
    return table.sort_values(by, key=lambda c: c.map(places[str(c.name)]) if c.name in places else c, ignore_index=True)


def _rows_of(study: Study, counts: CellCounts, draws: dict[tuple[str, str], set[int]]) -> Iterator[tuple]:
    cell = counts.cell
    same_curve = draws.get((cell.perturbation, cell.target), set(range(study.draws)))
    for draw in sorted(same_curve) if counts.shortcut else (cell.draw,):
        yield (
            cell.perturbation,
            cell.target,
            float(cell.level),
            format_level(cell.level),
            draw,
            study.identity.seed,
            counts.images,
            *(counts.counts[plane] for plane in PLANES[:-1]),
            counts.images - counts.counts[PLANES[-1]],
            counts.selected,
            counts.changed,
            counts.shortcut,
        )
