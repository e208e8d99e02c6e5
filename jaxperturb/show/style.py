"""How all figures look: size of a text column, colours that colour-blind readers tell apart, files fit for print."""

import re
import textwrap
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SIZE = (7.0, 4.2)  # inches: the width of a text column
DPI = 200
TITLE_WIDTH = 86  # letters
FORMATS = ("png", "pdf")
SMALL, TINY = 8, 7  # points
INK = "0.35"
RANDOM, ORDERED = "#0072B2", "#D55E00"  # of Okabe and Ito: told apart with any colour vision

_SHADES = (0.0, 0.84)  # of viridis: its light end cannot be read on white
_MARKERS = "osD^vP*X"


def depth_style(place: int, targets: int) -> tuple[tuple[float, ...], str]:
    """Returns colour and marker of a layer by its depth: dark ones come first."""
    low, high = _SHADES
    shade = low + (high - low) * place / max(targets - 1, 1)
    return matplotlib.colormaps["viridis"](shade), _MARKERS[place % len(_MARKERS)]


def plain_axes(axes: Axes) -> None:
    """Takes away what carries no information, and puts a light grid behind the data."""
    axes.grid(color="0.92", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def set_titles(axes: Axes, title: str, subtitle: str, width: int = TITLE_WIDTH) -> None:
    """Puts a bold title and a small subtitle over the axes, both to the left."""
    lines = textwrap.wrap(subtitle, width)
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold", pad=6 + 11 * len(lines))
    axes.annotate("\n".join(lines), (0, 1), (0, 5), "axes fraction", "offset points", fontsize=SMALL, color="0.3")


def file_stem(perturbation: str) -> str:
    """Returns a file name for a perturbation's text: ``node_knockout(axis=in)`` is ``node_knockout-axis=in``."""
    return re.sub(r"[^\w.=]+", "-", perturbation).strip("-.")


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Writes a figure in each of `FORMATS` and returns the files."""
    files = []
    for kind in FORMATS:
        # No date: the same study gives the same file.
        metadata = {"CreationDate": None} if kind == "pdf" else None
        files.append(folder / f"{stem}.{kind}")
        figure.savefig(files[-1], dpi=DPI, metadata=metadata)
    return files
