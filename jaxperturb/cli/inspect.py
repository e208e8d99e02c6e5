"""``jaxperturb inspect FILE``: what is in a weight file, without running anything in it."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug

if TYPE_CHECKING:
    from jaxperturb.checkpoints.overview import Overview


def _run(values: flags.FlagValues, file: str) -> None:
    del values
    from jaxperturb.checkpoints.overview import overview

    print("\n".join(_lines(overview(Path(file)))))


def _lines(found: "Overview") -> list[str]:
    shapes = {name: "x".join(map(str, shape)) or "scalar" for name, (shape, _) in found.tensors.items()}
    names = {name: name if name.isprintable() else repr(name) for name in shapes}
    widths = max(map(len, names.values()), default=0), max(map(len, shapes.values()), default=0)
    head = f"{found.path}: {found.kind}, {found.size / 1e6:.1f} MB, {len(shapes)} tensors"
    rows = (
        f"  {names[name].ljust(widths[0])}  {shape.rjust(widths[1])}  {found.tensors[name][1]}"
        for name, shape in shapes.items()
    )
    return [head, *found.remarks, *rows]


COMMAND = Command(
    name="inspect",
    summary="Shows what is in a weight file: tensors, shapes, types, container; nothing in it runs.",
    details="FILE is a .pth, .pt, .t7, .safetensors or msgpack file, a checkpoint folder or an Orbax checkpoint. The "
    "values are not read.",
    examples=(
        ("a file from the internet", "inspect some.pth"),
        ("a checkpoint of your own", "inspect checkpoints/mine"),
    ),
    define=define_debug,
    run=_run,
    arguments=("FILE",),
)
