"""``jaxperturb compare OUT1 OUT2``: two studies beside each other."""

from pathlib import Path

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug, define_metric
from jaxperturb.cli.reading import define_format, define_perturbation


def _define(values: flags.FlagValues) -> None:
    define_metric(values)
    define_perturbation(values, "Compare this one only (default: all that both studies have).")
    flags.DEFINE_string(
        "layers",
        "*",
        "Layers to compare and to take the mean of: names or patterns, such as conv*.",
        flag_values=values,
    )
    define_format(values)
    flags.DEFINE_string(
        "figure", None, "Folder for a figure of each perturbation, both studies side by side.", flag_values=values
    )
    define_debug(values)


def _run(values: flags.FlagValues, one: str, other: str) -> None:
    from jaxperturb.show.compared import common_images, compare
    from jaxperturb.show.formats import compacted, formatted
    from jaxperturb.show.results import load_results

    studies = load_results(one), load_results(other)
    table = compare(*studies, values.metric, perturbation=values.perturbation, layers=values.layers)
    if values.format in ("json", "csv"):
        print(formatted(table, values.format))
    else:
        images = common_images(*studies)
        pairs = f"paired on {images} images, draws" if images else "images and draws"
        pairs += " taken as independent"
        print(f"1: {studies[0].study.network} ({one}); 2: {studies[1].study.network} ({other}); {pairs}\n")
        print(formatted(compacted(table), values.format))
        print(
            "\narea: relative accuracy above chance, mean over the tested levels; differences: 1 minus 2, with 95 % "
            "intervals; p_holm: adjusted for all rows of a perturbation"
        )
    if values.figure:
        from jaxperturb.show.figures import save_side_by_side

        texts = list(table["perturbation"].unique())
        for path in save_side_by_side(studies[0], studies[1], Path(values.figure), texts, values.metric):
            print(path)


COMMAND = Command(
    name="compare",
    summary="Compares two studies: AlexNet beside VGG, before and after.",
    details="For each perturbation that both have, and each layer of one name: area under the curve and half-life "
    "level of both, and their difference with its 95 % interval; at the end the mean over layers, also where no layer "
    "has its like. Studies of the same images are compared image by image; their draws are taken as independent, "
    "also where they are the same.",
    examples=(
        ("two networks", "compare runs/alexnet-digits runs/vgg11-digits"),
        ("convolutions only, with a figure", "compare runs/before runs/after --layers='conv*' --figure=figures"),
    ),
    define=_define,
    run=_run,
    arguments=("OUT1", "OUT2"),
)
