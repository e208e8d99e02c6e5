"""Lists of faults: what a lesion did to which weight, as comma-separated values.

Columns: draw; layer; tensor (``kernel``, ``bias``, ``norm/scale``); index (row-major, in the tree's own layout);
pytorch_index (in PyTorch's layout, empty where that is not known); bit (empty where a whole weight was replaced); the
weight's value before and after, with all of its faults. Numbers are the shortest that mean the very float32.
"""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np

from jaxperturb.errors import PerturbationError


@dataclass(frozen=True)
class Fault:
    """One fault of a list.

    Attributes:
        draw: of the lesion.
        layer: name of the layer.
        tensor: name of its tensor: ``kernel``, ``bias``, ``norm/scale``, ``norm/bias``.
        index: of the weight, row-major in the tree's own layout.
        pytorch_index: of the same weight in PyTorch's layout, or None where that is not known.
        bit: of the stored word, 0 the least significant, or None where the weight was replaced as a whole.
        before: value in the reference network.
        after: value in the lesioned network, with all faults of the weight.
    """

    draw: int
    layer: str
    tensor: str
    index: int
    pytorch_index: int | None
    bit: int | None
    before: float
    after: float


COLUMNS = tuple(column.name for column in fields(Fault))


def format_faults(faults: Iterable[Fault]) -> str:
    """Returns a list as comma-separated values."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for fault in faults:
        *place, before, after = astuple(fault)
        row = ("" if value is None else value for value in place)
        writer.writerow((*row, np.float32(before), np.float32(after)))
    return text.getvalue()


def read_faults(text: str, name: str = "the fault list") -> tuple[Fault, ...]:
    """Reads what `format_faults` wrote.

    Args:
        text: content of the file.
        name: of the file, for errors.

    Raises:
        PerturbationError: other columns, or a line that cannot be read.
    """
    rows = csv.reader(io.StringIO(text))
    head = next(rows, [])
    if tuple(head) != COLUMNS:
        raise PerturbationError(f"{name}: expected the columns {','.join(COLUMNS)}, got {','.join(head) or 'nothing'}")
    return tuple(_fault(row, name, line) for line, row in enumerate(rows, 2))


def _fault(row: Sequence[str], name: str, line: int) -> Fault:
    try:
        draw, layer, tensor, index, pytorch_index, bit, before, after = row
        theirs, place = (int(text) if text else None for text in (pytorch_index, bit))
        old, new = (float(np.float32(text)) for text in (before, after))
        return Fault(int(draw), layer, tensor, int(index), theirs, place, old, new)
    except ValueError:
        raise PerturbationError(f"{name}, line {line}: expected a fault ({','.join(COLUMNS)}), got {row!r}") from None
