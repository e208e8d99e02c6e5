"""The folder of a study: what is written beside its store."""

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from jaxperturb.api.inputs import DataLike, NetworkLike
from jaxperturb.errors import OutputError
from jaxperturb.networks.network import Network
from jaxperturb.show.results import Results
from jaxperturb.show.tables import write_cells, write_summaries
from jaxperturb.study.study import Study

CSV_NAME, CONFIG_NAME, FIGURES_NAME = "results.csv", "config.json", "figures"


def output_folder(folder: Path) -> Path:
    """Makes the folder and tries it, so that nothing is computed in vain."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"results cannot be written to {folder}: {error.strerror or error}; choose another folder"
        ) from error
    return folder


def given_names(net: NetworkLike, data: DataLike) -> dict[str, object]:
    """Returns the flags that are known only when network and data were given by name."""
    given: dict[str, object] = {}
    if not isinstance(net, Network):
        given["weights"] = str(net)
    if isinstance(data, str):
        given["dataset"] = data
    return given


def write_config(study: Study, given: Mapping[str, object], path: Path) -> None:
    """Writes what repeats the study, in the grammar of the command line's flags."""
    goal = study.goal
    levels = {curve.text.partition("(")[0]: ",".join(curve.levels) for curve in study.perturbations}
    flags: dict[str, object] = {
        "dataset": study.dataset,
        "split": study.split or None,
        "images": study.images if goal is None else goal.images,
        "perturbations": ",".join(curve.text for curve in study.perturbations),
        "layers": ",".join(study.targets),
        "levels": ";".join(f"{name}={grid}" for name, grid in levels.items()),
        "draws": study.draws if goal is None else goal.draws,
        "seed": study.identity.seed,
        "metric": study.metric,
    }
    if goal is not None:
        flags |= {"half_width": goal.half_width, "half_width_of": goal.of, "max_draws": goal.max_draws}
    config = {
        "flags": {name: value for name, value in (flags | dict(given)).items() if value is not None},
        "network": study.network,
        "weights_sha256": study.identity.weights,
        "images_sha256": study.identity.images[-1],
    }
    try:
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}") from error


def write_outputs(results: Results, folder: Path) -> Results:
    """Writes tables and figures of a study into its folder, and returns the study."""
    from jaxperturb.show.figures import save_figures

    write_cells(results, folder / CSV_NAME)
    write_summaries(results, folder)
    save_figures(results, folder / FIGURES_NAME)
    return results
