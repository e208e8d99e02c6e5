"""``jaxperturb plot OUT``: the figures of a study."""

from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from jaxperturb.cli.command import Command
from jaxperturb.cli.options import define_debug
from jaxperturb.cli.reading import define_measure
from jaxperturb.errors import LayerError, UsageError, did_you_mean

if TYPE_CHECKING:
    from jaxperturb.show.results import Results

_KINDS = ("curves", "map", "ranking", "ordered", "bits")
_SHARES = {"plain": "value", "relative": "relative", "relative_above_chance": "relative_above_chance"}
_FILTER_LEVELS = (0.0, 0.3, 0.5, 0.7)


def _define(values: flags.FlagValues) -> None:
    define_measure(values)
    flags.DEFINE_list(
        "kinds",
        list(_KINDS),
        "Which figures: curves, with 95 % intervals as bands; map, layers by levels; ranking of the layers; ordered, "
        "random against magnitude-ordered damage; bits, layers by bits of a fault campaign. Those are left out for "
        "which the study has nothing.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "share",
        "plain",
        list(_SHARES),
        "The accuracy itself, relative to the intact network's, or relative above chance.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "filters_of",
        None,
        "Weights of the study's network, for one more figure: the filters of its first convolution, lesioned.",
        flag_values=values,
    )
    flags.DEFINE_string("out", None, "Folder for the figures (default: figures/ in the study's).", flag_values=values)
    define_debug(values)


def _run(values: flags.FlagValues, out: str) -> None:
    if unknown := [kind for kind in values.kinds if kind not in _KINDS]:
        raise UsageError(f"--kinds takes {', '.join(_KINDS)}, not {unknown[0]!r}{did_you_mean(unknown[0], _KINDS)}")
    from jaxperturb.show import figures
    from jaxperturb.show.results import load_results

    source = Path(out)
    folder = Path(values.out) if values.out else (source if source.is_dir() else source.parent) / "figures"
    results = load_results(out)
    files = figures.save_figures(results, folder, values.metric, kinds=values.kinds, quantity=_SHARES[values.share])
    if values.filters_of:
        files += _save_filters(results, values.filters_of, folder)
    for path in files:
        print(path)


def _save_filters(results: "Results", weights: str, folder: Path) -> list[Path]:
    """Draws the first convolution's filters under the first perturbation of the study, draw 0."""
    import jax

    from jaxperturb.api import lesion
    from jaxperturb.checkpoints import load_network
    from jaxperturb.show import figures
    from jaxperturb.trees import layers_of

    network = load_network(weights)
    layer, text = results.study.layers[0], results.study.perturbations[0].text
    found = layers_of(network.params, network.norms).get(layer)
    if found is None or len(found.weight.shape) != 4:
        raise LayerError(f"expected the weights of a network whose first layer, {layer}, is a convolution")
    seed, place = results.study.identity.seed, found.weight.index
    lesioned = [lesion(network, text, layer, level, 0, seed) for level in _FILTER_LEVELS]
    kernels = [jax.tree.leaves(one.params)[place] for one in lesioned]
    titles = ["intact", *(f"level {level:g}" for level in _FILTER_LEVELS[1:])]
    return figures.save_filters(kernels, titles, f"{network.name}, {layer}: {text}", folder)


COMMAND = Command(
    name="plot",
    summary="Draws the figures of a study, without computing anything.",
    details="For each perturbation: accuracy against level, a line for each layer, with 95 % intervals; the same as a "
    "map; a ranking of the layers. Where the study has them: random against magnitude-ordered damage, and a map of "
    "bits. Each as PNG and PDF; their paths are printed. OUT is what sweep wrote.",
    examples=(
        ("the study of 'jaxperturb sweep'", "plot runs/alexnet-digits"),
        ("by the five highest scores, elsewhere", "plot runs/alexnet-digits --metric=top5 --out=figures"),
        (
            "one figure for a paper: what is left above chance",
            "plot runs/alexnet-digits --kinds=curves --share=relative_above_chance",
        ),
        ("how often the first class stays what it was", "plot runs/alexnet-digits --metric=same1"),
        ("with the lesioned filters", "plot runs/alexnet-digits --filters_of=alexnet-digits"),
    ),
    define=_define,
    run=_run,
    arguments=("OUT",),
)
