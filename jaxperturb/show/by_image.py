"""The same outcomes, class by class and image by image."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jaxperturb.show.measures import find_measure
from jaxperturb.stats.components import cross
from jaxperturb.stats.intervals import proportion

if TYPE_CHECKING:
    from jaxperturb.show.results import Results

SURVIVES = 0.5  # share of the draws

_CLASS_COLUMNS = (
    "perturbation target level level_text metric class name images draws value low high interval flags".split()
)


def by_class(results: "Results", metric: str | None = None) -> pd.DataFrame:
    """Returns a share of images by true class; see `Results.by_class`."""
    measure = find_measure(metric, results.study.metric, results.study.identity.outputs)
    labels = results.images["label"].to_numpy()
    rows = []
    for text, target in results.cells[["perturbation", "target"]].drop_duplicates().itertuples(index=False):
        found = results.curve_outcomes(text, target, measure.name)
        if found is None:
            continue
        own = labels[found.positions]
        for label in np.unique(own).tolist():
            crossed = cross(found.right[:-1, :, own == label])
            for column, (level, shown) in enumerate(zip(found.levels.tolist(), found.texts, strict=True)):
                one = proportion(crossed, column, draws_matter=found.draws_matter)
                place = (text, target, level, shown, measure.name, label, _class_name(results, label))
                ends = (one.value, one.low, one.high, one.sampled.value, "; ".join(one.flags))
                rows.append((*place, crossed.images, crossed.draws, *ends))
    return pd.DataFrame(rows, columns=_CLASS_COLUMNS)


def by_image(results: "Results", perturbation: str, metric: str | None = None) -> pd.DataFrame:
    """Returns which images survive; see `Results.by_image`."""
    measure = find_measure(metric, results.study.metric, results.study.identity.outputs)
    tables = []
    for target in results.study.targets:
        found = results.curve_outcomes(perturbation, target, measure.name)
        if found is None:
            continue
        shares = found.right[:-1].mean(axis=1)
        table = results.images.iloc[found.positions].reset_index(drop=True)
        table.insert(0, "target", target)
        table.insert(1, "position", found.positions)
        table["reference"] = found.right[-1, 0]
        table = table.assign(**dict(zip(found.texts, shares, strict=True)))
        table["survives_to"] = survives_to(shares, found.levels)
        tables.append(table)
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def survives_to(shares: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Returns for each image the highest level up to which half of the draws count at each level, NaN at none.

    Args:
        shares: of the draws, levels x images.
        levels: ascending.
    """
    reached = np.cumprod(shares >= SURVIVES, axis=0).sum(axis=0)
    return np.append(np.nan, levels)[reached]


def _class_name(results: "Results", label: int) -> str:
    names = results.study.identity.classes
    return names[label] if label < len(names) else str(label)
