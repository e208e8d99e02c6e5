"""``jaxperturb convert WEIGHTS``: a weight file of PyTorch as a checkpoint folder, without PyTorch."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.downloading import download_bar
from jaxperturb.cli.options import define_talking
from jaxperturb.errors import UsageError

if TYPE_CHECKING:
    from jaxperturb.checkpoints.known import Known
    from jaxperturb.checkpoints.manifest import Manifest

_PLACE = "checkpoints"


def _define(values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "out",
        None,
        f"Folder of the new checkpoint (default: {_PLACE}/NAME; a known name needs none: its file is kept in the cache "
        "folder, where --weights finds it).",
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
    define_talking(values)


def _run(values: flags.FlagValues, weights: str) -> None:
    from jaxperturb.checkpoints.converted import convert_file, convert_known, save_converted
    from jaxperturb.checkpoints.known import known

    record = known().get(weights)
    if record is None and values.base_url:
        raise UsageError(f"--base_url is for known names ({', '.join(known())}), and {weights!r} is none")
    path = Path(weights).expanduser() if record is None else _fetched(record, values)
    out = Path(values.out) if values.out else None if record else Path(_PLACE) / path.stem
    if record is None:
        manifest, variables = convert_file(path, values.architecture, allow_nonfinite=values.allow_nonfinite)
    else:
        manifest, variables = convert_known(record, path, values.architecture)
    if out is not None:
        manifest = dataclasses.replace(manifest, name=out.name)
        save_converted(out, manifest, variables, values.format)
    print(f"{out or path}: {_told(manifest)}; use it with --weights={out or weights}")


def _fetched(record: "Known", values: flags.FlagValues) -> Path:
    from jaxperturb.checkpoints.known import fetch

    with download_bar(record.file, values.quiet) as told:
        return fetch(record, base_url=values.base_url, progress=told)


def _told(manifest: "Manifest") -> str:
    classes = manifest.options["classes"]
    return f"{manifest.architecture}, {classes} classes, images of {'x'.join(map(str, manifest.image_shape))}"


COMMAND = Command(
    name="convert",
    summary="Turns a weight file of PyTorch into a checkpoint, without PyTorch; nothing in the file runs.",
    details="WEIGHTS is a .pth, .pt, .t7 or .safetensors file of an AlexNet, VGG or SqueezeNet with torchvision's "
    "names (the architecture is recognised), or a known name such as alexnet ('jaxperturb networks' lists them), whose "
    "file is downloaded, held against its SHA-256, and kept in the cache folder.",
    examples=(
        ("torchvision's AlexNet, for --weights=alexnet from then on", "convert alexnet"),
        ("a file of your own", "convert my_alexnet.pth --out=checkpoints/mine"),
        ("torchvision's VGG16 with batch norm", "convert vgg16_bn --out=checkpoints/vgg16_bn"),
        ("into one .safetensors file", "convert my_alexnet.pth --out=checkpoints/mine --format=safetensors"),
    ),
    define=_define,
    run=_run,
    arguments=("WEIGHTS",),
)
