"""``jaxperturb faults``: what one lesion did, weight by weight."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli import backend, options
from jaxperturb.cli.command import Command
from jaxperturb.cli.inputs import read_network
from jaxperturb.errors import OutputError, UsageError

if TYPE_CHECKING:
    from jaxperturb.perturb.fault_list import Fault


def _define(values: flags.FlagValues) -> None:
    options.define_network(values)
    flags.DEFINE_string(
        "perturbation",
        "bit_flip",
        "One kind of damage, options in brackets; 'jaxperturb perturbations' lists them.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "layers", "*", "Layers that are damaged together: names or patterns, separated by commas.", flag_values=values
    )
    flags.DEFINE_string("level", None, "How much damage, such as 1e-5.", flag_values=values)
    flags.DEFINE_integer("draw", 0, "Number of the draw, from 0.", lower_bound=0, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Of the study.", lower_bound=0, upper_bound=2**32 - 1, flag_values=values)
    flags.DEFINE_string("out", None, "File to write (default: standard output).", flag_values=values)
    options.define_device(values)
    options.define_talking(values)


def _run(values: flags.FlagValues) -> None:
    if values.level is None:
        raise UsageError("--level is needed, such as --level=1e-5")
    backend.start(values.device)
    from jaxperturb import api
    from jaxperturb.engine.cell_faults import unknown_layouts
    from jaxperturb.perturb.fault_list import format_faults

    network = read_network(values)
    found = api.fault_list(network, values.perturbation, values.layers, values.level, values.draw, values.seed)
    if values.out is None:
        print(format_faults(found), end="")
    else:
        _write(Path(values.out), format_faults(found))
    if not values.quiet:
        _remark(found, unknown_layouts(found), values.out)


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"the fault list cannot be written to {file}: {error.strerror or error}") from error


def _remark(found: tuple["Fault", ...], unknown: tuple[str, ...], out: str | None) -> None:
    masked = sum(fault.before == fault.after for fault in found)
    print(f"{len(found)} faults, {masked} without effect" + (f": {out}" if out else ""), file=sys.stderr)
    if unknown:
        print(
            f"pytorch_index is empty for {', '.join(unknown)}: in which order this network flattens its maps is not "
            "known",
            file=sys.stderr,
        )


COMMAND = Command(
    name="faults",
    summary="Writes what one lesion does to which weight, as a list that can be replayed.",
    details="A line for each fault: draw, layer, tensor, index (row-major, in this network's layout), the same in "
    "PyTorch's layout, bit of the stored word (empty where a whole weight is replaced), value before and after. It is "
    "the lesion of the cell that 'sweep' runs with the same seed. The perturbation replay(file='LIST') injects it "
    "again; for words other than float32 it needs the same word and granularity.",
    examples=(
        ("bit flips in the first layer", "faults --layers=conv1 --level=1e-4 --out=faults.csv"),
        (
            "the most significant bits of 8-bit weights, another draw",
            "faults --perturbation='bit_flip(word=int8,bits=7)' --layers='conv*' --level=0.001 --draw=3",
        ),
        (
            "the same faults again, as a study",
            "sweep --perturbations='replay(file=faults.csv)' --layers=conv1 --out=runs/replayed",
        ),
    ),
    define=_define,
    run=_run,
)
