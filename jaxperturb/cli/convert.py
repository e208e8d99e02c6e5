"""``jaxperturb convert WEIGHTS``: a weight file of PyTorch as a checkpoint folder, without PyTorch."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug

if TYPE_CHECKING:
    from jaxperturb.checkpoints.manifest import Manifest

_PLACE = "checkpoints"


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "out",
        None,
        f"Folder of the new checkpoint (default: {_PLACE}/NAME; a known name without it is only downloaded and tried).",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "format",
        "orbax",
        ["orbax", "safetensors"],
        "How the arrays are kept: as an Orbax checkpoint, or in one .safetensors file.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "architecture", None, "What the weights must be of, such as vgg16 (default: recognised).", flag_values=values
    )
    flags.DEFINE_bool("allow_nonfinite", False, "Take weights that are NaN or infinite, too.", flag_values=values)
    flags.DEFINE_string(
        "base_url", None, "Folder on the web that has a known file, instead of torchvision's.", flag_values=values
    )
    define_debug(values)


def _run(values: flags.FlagValues, weights: str) -> None:
    from jaxperturb.checkpoints.converted import UNKNOWN, convert_file, save_converted
    from jaxperturb.checkpoints.known import fetch, known

    record = known().get(weights)
    path = Path(weights).expanduser() if record is None else fetch(record, base_url=values.base_url)
    out = Path(values.out) if values.out else None if record else Path(_PLACE) / path.stem
    manifest, variables = convert_file(
        path,
        values.architecture,
        name=out.name if out else weights,
        licence=record.licence if record else UNKNOWN,
        allow_nonfinite=values.allow_nonfinite,
    )
    if out is not None:
        save_converted(out, manifest, variables, values.format)
    print(f"{out or path}: {_told(manifest)}; use it with --weights={out or weights}")


def _told(manifest: "Manifest") -> str:
    classes = manifest.options["classes"]
    return f"{manifest.architecture}, {classes} classes, images of {'x'.join(map(str, manifest.image_shape))}"


COMMAND = Command(
    name="convert",
    summary="Turns a weight file of PyTorch into a checkpoint, without PyTorch; nothing in the file runs.",
    details="WEIGHTS is a .pth, .pt, .t7 or .safetensors file of an AlexNet, VGG or SqueezeNet with torchvision's "
    "names (the architecture is recognised), or a known name such as alexnet, which is downloaded.",
    examples=(
        ("a file of your own", "convert my_alexnet.pth --out=checkpoints/mine"),
        ("torchvision's VGG16 with batch norm", "convert vgg16_bn --out=checkpoints/vgg16_bn"),
        ("into one .safetensors file", "convert my_alexnet.pth --out=checkpoints/mine --format=safetensors"),
    ),
    define=_define,
    run=_run,
    arguments=("WEIGHTS",),
)
