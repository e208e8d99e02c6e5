"""Rows for other programs: each says by itself what it is of, so that those of several studies can be put together."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from jaxperturb.errors import OutputError
from jaxperturb.show.formats import formatted
from jaxperturb.show.outcomes import reading

if TYPE_CHECKING:
    from jaxperturb.show.results import Results

KINDS = ("cells", "layers", "images")
FORMATS = ("csv", "json", "parquet")
_OUTCOMES = ("top1", "top5", "same1", "same5", "finite")


def records(results: "Results", kind: str, metric: str | None = None) -> pd.DataFrame:
    """Returns rows of a study with columns in front that tell it from others.

    Args:
        results: of the study.
        kind: "cells", a row for each lesion with its counts, as `Results.cells`; "layers", one for each perturbation
            and layer, as `Results.summary`; "images", one for each image under each lesion, with its outcomes.
        metric: of "layers".

    Returns:
        Columns network, weights_sha256, dataset, split, images_sha256 (of pixels, labels and names), seed, semantics
        (version of the drawn numbers) and precision, then those of the kind. Of "images": perturbation, target, level,
        level_text, draw, position (in the study's order), data_index, identifier, label, top1, top5, same1, same5,
        finite.
    """
    match kind:
        case "cells":
            table = results.cells
        case "layers":
            table = results.summary(metric)
        case _:
            with reading(results.source) as store:  # opened once for all cells
                table = _images(replace(results, source=store))
    study = results.study
    same = {
        "network": study.network,
        "weights_sha256": study.identity.weights,
        "dataset": study.dataset,
        "split": study.split,
        "images_sha256": study.identity.images[-1],
        "seed": study.identity.seed,
        "semantics": study.identity.semantics,
        "precision": study.identity.precision,
    }
    own = table.drop(columns=[name for name in same if name in table])
    return pd.concat([pd.DataFrame(same, index=own.index), own], axis=1)


def write_records(table: pd.DataFrame, form: str, path: Path) -> None:
    """Writes rows as one of `FORMATS`.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        if form == "parquet":
            table.to_parquet(path, index=False)
        else:
            path.write_text(formatted(table, form) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}; choose another file") from error


def _images(results: "Results") -> pd.DataFrame:
    tables = []
    for cell in results.cells[["perturbation", "target", "level", "level_text", "draw"]].to_dict("records"):
        found = results.outcomes(cell["perturbation"], cell["target"], cell["level_text"], cell["draw"])
        table = results.images.iloc[found.positions].reset_index(drop=True)
        table.insert(0, "position", found.positions)
        for place, (name, value) in enumerate(cell.items()):
            table.insert(place, str(name), value)
        tables.append(table.assign(**{name: getattr(found, name) for name in _OUTCOMES}))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
