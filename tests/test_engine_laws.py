"""Laws of the engine, for every network of `sample_networks` and every way of running it."""

import re
from collections import defaultdict
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from sample_networks import SAMPLES

from jaxperturb.data import from_arrays
from jaxperturb.data.prepared import prepare
from jaxperturb.engine.batched import program_of, run_batched
from jaxperturb.engine.intact import intact_pass
from jaxperturb.engine.lesions import Lesions
from jaxperturb.engine.loop import loop_of
from jaxperturb.engine.methods import method_of, wanted
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.programs import Shape, pair_of
from jaxperturb.engine.rewrite import Rewrites
from jaxperturb.engine.run import run
from jaxperturb.engine.tiling import Tiling
from jaxperturb.levels import parse_levels
from jaxperturb.networks.network import specification
from jaxperturb.perturb import parse_perturbations
from jaxperturb.perturb.catalogue import CATALOGUE
from jaxperturb.random import draw_key

IMAGES = 40  # not a whole number of tiles
SPLIT, WHOLE = Tiling(16, 32), Tiling(32, 32)
LEVELS = parse_levels("0.3,0.9")
PERTURBATIONS = "synapse_knockout,node_knockout,gaussian_noise"


@pytest.fixture(scope="module")
def networks():
    """Each network, made once; with images and labels that it mostly gets right."""
    made = {}

    def get(name):
        if name not in made:
            network = SAMPLES[name]()
            pixels = np.asarray(jax.random.normal(jax.random.key(1), (IMAGES, *network.image_shape)))
            labels = np.array(jnp.argmax(jax.jit(network.apply)(network.params, pixels), axis=-1), np.int32)
            labels[::4] = (labels[::4] + 1) % 10
            made[name] = network, prepare(from_arrays(pixels, labels), None, None)
        return made[name]

    return get


def study(network, images, tile, perturbations=PERTURBATIONS, targets=None, levels=LEVELS, draws=2, seed=3, **options):
    asked = parse_perturbations(perturbations)
    parts = run(
        network,
        images,
        asked,
        {item.text: levels for item in asked},
        targets or network.layer_names(),
        draws,
        seed,
        batch_size=options.pop("batch_size", IMAGES),
        tile=tile,
        **options,
    )
    found = defaultdict(lambda: np.zeros((5, IMAGES), bool))
    for part in parts:
        found[part.cell][:, part.start : part.stop] = part.outcomes
    return dict(found)


def plain_logits(network, images, cell, seed=3):
    (asked,) = parse_perturbations(cell.perturbation)
    options = dict(asked.options) | ({"norms": network.norms} if network.norms else {})
    lesioned = asked.perturbation.function(
        draw_key(seed, cell.draw), network.params, cell.level, layers=cell.target.split("+"), **options
    )
    return np.asarray(jax.jit(network.apply)(lesioned, images.block(0, IMAGES)))


def assert_as_plain(network, images, found):
    """The counts of the plain network, but where two logits nearly tie and another order of sums may decide."""
    for cell, planes in found.items():
        logits = plain_logits(network, images, cell)
        gaps = np.diff(np.sort(logits, axis=1), axis=1)
        close = ((gaps > 0) & (gaps < 1e-5 * np.abs(logits).max())).any(1)
        right = np.argsort(-logits, axis=1, kind="stable")[:, 0] == images.labels
        assert close.mean() < 0.2
        np.testing.assert_array_equal(planes[0][~close], right[~close], err_msg=str(cell))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_layer_and_perturbation_is_the_plain_network(name, networks):
    network, images = networks(name)
    events = []
    found = study(network, images, SPLIT, on_event=lambda kind, text: events.append((kind, text)))
    assert len(found) == len(network.layer_names()) * 3 * 2 * 2
    assert [text for kind, text in events if kind == "fallback"] == []
    assert_as_plain(network, images, found)


@pytest.mark.parametrize(
    ("name", "masks"), [("resnet", 3), ("attention", 3), ("equinox", 3), ("scan", 3), ("tied", 1), ("tied", 12)]
)
def test_many_masks_at_once_give_the_same_counts(name, masks, networks):
    network, images = networks(name)
    some = network.layer_names()[1:4]
    assert_as_plain(network, images, study(network, images, replace(WHOLE, masks=masks), targets=some))


@pytest.mark.parametrize("target", ["Conv_0+Conv_1", "joint:Conv_0+Conv_1"])
@pytest.mark.parametrize("masks", [None, 3])
def test_joint_targets(target, masks, networks):
    network, images = networks("resnet")
    found = study(network, images, replace(WHOLE, masks=masks), "synapse_knockout", (target,))
    scope = "joint" if target.startswith("joint") else "each"
    for cell, planes in found.items():
        (asked,) = parse_perturbations("synapse_knockout")
        lesioned = asked.perturbation.function(
            draw_key(3, cell.draw), network.params, cell.level, layers=("Conv_0", "Conv_1"), scope=scope
        )
        logits = np.asarray(jax.jit(network.apply)(lesioned, images.block(0, IMAGES)))
        assert ((logits.argmax(1) == images.labels) != planes[0]).sum() <= 1


@pytest.mark.parametrize("tile", [SPLIT, replace(WHOLE, masks=3), Tiling(16, 32, None, Rewrites("all", slices=True))])
def test_with_one_tile_blocks_and_order_change_no_count(tile, networks):
    network, images = networks("resnet")
    some = ("Conv_1", "Conv_4")
    want = study(network, images, tile, targets=some)
    for options in ({"batch_size": 8}, {"targets": ("Conv_4", "Conv_1")}, {"memory_gb": 1e-9}):
        found = study(network, images, tile, **({"targets": some} | options))
        assert found.keys() == want.keys()
        for cell, planes in want.items():
            np.testing.assert_array_equal(found[cell], planes)


def test_replaced_equations_are_equal(networks):
    network, images = networks("resnet")
    assert_as_plain(network, images, study(network, images, Tiling(16, 32, None, Rewrites("all", slices=True))))


def test_the_ways_are_those_that_the_program_allows(networks):
    """A convolution with its norm is cut at its output; a scanned layer at where its weights are first used."""
    names = {}
    for network_name, layer in (("resnet", "Conv_1"), ("scan", "stack"), ("mlp", "second"), ("tied", "code")):
        network, _ = networks(network_name)
        layer = layer if layer in network.layer_names() else network.layer_names()[1]
        shape = Shape(network.apply, specification(network.params), network.image_shape, SPLIT)
        for asked in parse_perturbations(PERTURBATIONS):
            name = method_of(shape, Lesions.of(network, asked, layer, {})).name
            names[network_name, asked.perturbation.name] = name
    assert names["resnet", "node_knockout"] == names["mlp", "node_knockout"] == "units"
    assert names["resnet", "gaussian_noise"] == names["mlp", "gaussian_noise"] == "linear"
    assert names["resnet", "synapse_knockout"] == names["mlp", "synapse_knockout"] == "product"
    assert names["scan", "synapse_knockout"] == "rest"


def test_a_cut_that_disagrees_falls_back_to_the_plain_network_and_says_so(networks, monkeypatch):
    network, images = networks("mlp")
    monkeypatch.setattr("jaxperturb.engine.precision._TOLERANCE", -1.0)
    events = []
    found = study(network, images, SPLIT, on_event=lambda kind, text: events.append((kind, text)))
    assert len([text for kind, text in events if kind == "fallback"]) == 3 * len(network.layer_names())
    assert_as_plain(network, images, found)


def test_a_second_study_compiles_nothing(networks, compilations):
    network, images = networks("resnet")
    study(network, images, SPLIT)
    assert not compilations(lambda: study(network, images, SPLIT, levels=parse_levels("0.2,0.7"), draws=2, seed=9))


def test_nor_does_that_of_a_network_made_again(networks, compilations):
    network, images = networks("linen")
    study(network, images, SPLIT)
    again = SAMPLES["linen"]()
    assert not compilations(lambda: study(again, images, SPLIT))


def test_out_of_memory_halves_the_masks_and_changes_no_count(networks, monkeypatch):
    network, images = networks("resnet")
    tile = replace(WHOLE, masks=4)
    want = study(network, images, tile, "synapse_knockout", ("Conv_1",))

    def exhausted(loop, cells, keys, tiles, masks, devices):
        if masks > 1:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        yield from run_batched(loop, cells, keys, tiles, masks, devices)

    monkeypatch.setattr("jaxperturb.engine.cells.run_batched", exhausted)
    events = []
    found = study(
        network, images, tile, "synapse_knockout", ("Conv_1",), on_event=lambda kind, text: events.append((kind, text))
    )
    assert [text.split(", ")[1] for kind, text in events if kind == "memory"] == [
        "2 lesions at a time from here on",
        "1 lesions at a time from here on",
    ]
    for cell, planes in want.items():
        assert (found[cell] != planes).sum() <= 1


ALL = [name for name, entry in CATALOGUE.items() if not entry.measured and name != "replay"]


def lowered(network, asked, target, platform):
    """The accelerator's program of a perturbation and target, lowered for a platform that is not here."""
    masks = 2
    shape = Shape(network.apply, specification(network.params), network.image_shape, replace(WHOLE, masks=masks))
    lesions = Lesions.of(network, asked, target, {})
    method = method_of(shape, lesions)
    leaves = [jnp.asarray(leaf) for leaf in jax.tree.leaves(network.params)]
    pixels = np.zeros((32, *network.image_shape), np.float32)
    tile = intact_pass(shape, leaves, pixels, np.zeros(32, np.int32), wanted(method)).tiles[0]
    loop = loop_of(shape, lesions, method, leaves, [leaves[i] for i in lesions.leaves])
    key = draw_key(0, 0)
    cell = Cell(asked.text, target, asked.perturbation.levels()[1], 0)
    program, arguments = program_of(loop, [(cell, lesions.amount(cell, key))] * masks, [key], tile)
    return export.export(program, platforms=[platform])(*arguments).mlir_module()


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("perturbation", ALL)
def test_the_accelerators_programs_lower_without_a_grouped_convolution(perturbation, platform, networks):
    network, _ = networks("resnet")
    (asked,) = parse_perturbations(perturbation)[:1]
    text = lowered(network, asked, "Conv_1", platform)
    assert "stablehlo.convolution" in text
    assert set(re.findall(r"feature_group_count = (\d+)", text)) == {"1"}


def test_a_program_that_was_forgotten_is_traced_anew_for_all_that_hangs_on_it(networks):
    network, images = networks("mlp")
    want = study(network, images, SPLIT, "synapse_knockout")
    pair_of.cache_clear()
    for cell, planes in study(network, images, SPLIT, "synapse_knockout").items():
        np.testing.assert_array_equal(planes, want[cell])
