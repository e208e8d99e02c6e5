"""Lesions that touch few units: the same network as the plain one, whatever the words, layers and places."""

from collections import defaultdict
from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sample_networks import SAMPLES
from test_engine_laws import IMAGES, SPLIT, assert_as_plain, networks, study  # noqa: F401  (a fixture)

from jaxperturb.engine import run as engine
from jaxperturb.engine.lesions import Lesions
from jaxperturb.engine.methods import few_method_of
from jaxperturb.engine.plan import Cell
from jaxperturb.engine.programs import Shape
from jaxperturb.engine.run import run
from jaxperturb.engine.tiling import Tiling
from jaxperturb.levels import parse_levels
from jaxperturb.networks.network import specification
from jaxperturb.perturb import parse_perturbations
from jaxperturb.random import draw_key
from jaxperturb.trees import layers_of

FLIPS, STUCK = "bit_flip(bits=0:30)", "stuck_at(word=int8,value=1)"
LEVELS = parse_levels("0.0001,0.002")
WORDS = (
    *("word=float32", "word=bfloat16", "word=float16", "word='fixed(3,7)'"),
    *("word=int8", "word=int4", "word=int8,granularity=unit"),
)


def parts_of(network, images, perturbations, targets, levels, draws=4, seed=3, **options):
    asked = parse_perturbations(perturbations)
    grids = {item.text: levels for item in asked}
    return list(run(network, images, asked, grids, targets, draws, seed, batch_size=IMAGES, **options))


def ways(monkeypatch):
    """Counts the lesions that each way computes."""
    counted = defaultdict(int)
    original = engine.run_cells

    def counting(loop, cells, *others):
        counted[loop.method.name] += len(cells)
        return original(loop, cells, *others)

    monkeypatch.setattr(engine, "run_cells", counting)
    return counted


@pytest.mark.parametrize(("name", "faults"), [*((name, FLIPS) for name in SAMPLES), ("resnet", STUCK), ("mlp", STUCK)])
def test_few_faults_of_every_layer_are_the_plain_network(name, faults, networks, monkeypatch):  # noqa: F811
    network, images = networks(name)
    counted, events = ways(monkeypatch), []
    found = study(
        network, images, SPLIT, faults, levels=LEVELS, draws=2, on_event=lambda kind, text: events.append((kind, text))
    )
    assert len(found) == len(network.layer_names()) * 2 * 2
    assert [text for kind, text in events if kind == "fallback"] == []
    assert counted["touched"] > 0
    assert_as_plain(network, images, found)


@pytest.mark.parametrize("targets", [("Conv_1",), ("Dense_0",)])
@pytest.mark.parametrize("perturbation", ["bit_flip(bits=0:30)", "bit_flip(bits=0:6,word=int8)"])
def test_blocks_change_no_count(targets, perturbation, networks):  # noqa: F811
    network, images = networks("resnet")
    whole = parts_of(network, images, perturbation, targets, LEVELS, tile=SPLIT)
    want = {part.cell: part.outcomes for part in whole}
    asked = parse_perturbations(perturbation)
    blocks = run(network, images, asked, {asked[0].text: LEVELS}, targets, 4, 3, batch_size=8, tile=SPLIT)
    found = defaultdict(lambda: np.zeros((5, IMAGES), bool))
    for part in blocks:
        found[part.cell][:, part.start : part.stop] = part.outcomes
    assert found.keys() == want.keys()
    for cell, planes in want.items():
        np.testing.assert_array_equal(found[cell], planes)


def test_a_lesion_without_faults_is_the_intact_network_and_computed_no_more(networks, monkeypatch):  # noqa: F811
    network, images = networks("mlp")
    counted = ways(monkeypatch)
    parts = parts_of(network, images, "bit_flip", network.layer_names(), parse_levels("0.000000001"))
    assert len(parts) == 4 * len(network.layer_names())
    assert {(part.selected, part.changed, part.shortcut) for part in parts} == {
        (0, 0, "")
    }  # no shortcut: that would stand for all draws
    assert not counted


def test_where_weights_are_encoded_a_lesion_without_faults_is_the_encoded_network(networks):  # noqa: F811
    network, images = networks("mlp")
    asked, target = "bit_flip(word=int4)", ("second",)
    (encoded,) = parts_of(network, images, asked, target, parse_levels("0"), draws=1)
    (intact,) = parts_of(network, images, "bit_flip", target, parse_levels("0"), draws=1)
    assert (encoded.outcomes[0] != intact.outcomes[0]).any()
    for part in parts_of(network, images, asked, target, parse_levels("0.000000001")):
        assert (part.selected, part.changed) == (0, 0)
        np.testing.assert_array_equal(part.outcomes, encoded.outcomes)


def test_the_layer_takes_its_leaves_in_its_own_order(networks, monkeypatch):  # noqa: F811
    """Here the bias is read first, and has as many entries as the weights."""
    network, images = networks("mlp")

    def apply(params, x):
        bias = jnp.broadcast_to(params["first"]["b"], (len(x), 64))
        first = bias + x.reshape(len(x), -1) @ params["first"]["w"]
        return jnp.maximum(first, 0) @ params["last"]["w"]

    rng = np.random.default_rng(0)
    shapes = {"first": {"w": (64, 64), "b": (64,)}, "last": {"w": (64, 10)}}
    params = {
        layer: {name: jnp.asarray(0.3 * rng.standard_normal(shape), jnp.float32) for name, shape in leaves.items()}
        for layer, leaves in shapes.items()
    }
    other = type(network).from_apply(apply, params, name="bias-first", image_shape=network.image_shape)
    counted, events = ways(monkeypatch), []
    found = study(
        other, images, SPLIT, FLIPS, ("first",), on_event=lambda kind, text: events.append(kind), levels=LEVELS
    )
    assert counted["touched"] > 0
    assert "fallback" not in events
    assert_as_plain(other, images, found)


def test_faults_of_a_norm_touch_more_than_the_layer(networks):  # noqa: F811
    network, images = networks("resnet")
    found = study(
        network, images, SPLIT, "bit_flip(bits=20:30,include_norm=true)", ("Conv_5",), parse_levels("0.001"), draws=24
    )
    assert_as_plain(network, images, found)


def test_bits_that_are_stuck_at_their_own_value_leave_the_reference(networks):  # noqa: F811
    """All weights positive: a sign that is stuck at 0 changes nothing, one that is stuck at 1 does."""
    network, images = networks("mlp")
    positive = jax.tree.map(jnp.abs, network.params)
    network = type(network)(network.apply, positive, name="positive", image_shape=network.image_shape)
    level = parse_levels("0.01")
    (intact,) = parts_of(network, images, "stuck_at(bits=31)", ("second",), parse_levels("0"), draws=1)
    masked = parts_of(network, images, "stuck_at(bits=31)", ("second",), level)
    assert all(part.selected > 0 and part.changed == 0 for part in masked)
    for part in masked:
        np.testing.assert_array_equal(part.outcomes, intact.outcomes)
    assert all(
        part.selected == part.changed
        for part in parts_of(network, images, "stuck_at(bits=31,value=1)", ("second",), level)
    )


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("kind", ["bit_flip", "stuck_at"])
def test_single_words_become_what_the_whole_tensor_does(word, kind, networks):  # noqa: F811
    network, _ = networks("resnet")
    (asked,) = parse_perturbations(f"{kind}({word})")
    layer = layers_of(network.params, network.norms)["Dense_0"]
    leaves = jax.tree.leaves(network.params)
    lesions = Lesions.of(network, asked, "Dense_0", {})
    for draw in range(3):
        cell, key = Cell(asked.text, "Dense_0", Decimal("0.02"), draw), draw_key(5, draw)
        after = dict(zip(lesions.leaves, lesions.lesioned(cell, key, leaves), strict=True))
        before = dict(zip(lesions.leaves, lesions.encoded(key, leaves), strict=True))
        places = asked.places(lesions.request(cell, key))
        assert sum(len(entries) for entries, _ in places.values()) > 1
        for leaf in layer.leaves():
            expected = np.array(before[leaf.index])
            hit, values = asked.struck(leaf, leaves[leaf.index])(*places[leaf.index])
            expected.ravel()[hit] = values
            np.testing.assert_array_equal(expected.view(np.uint32), np.asarray(after[leaf.index]).view(np.uint32))


HAS = [
    *(("resnet", "Conv_1", True), ("mlp", "second", True), ("mlp", "first", True)),
    *(("scan", "stack", False), ("resnet", "Conv_0", False)),  # its units do not stay apart; it reads the images
]


def test_which_layers_have_such_a_way(networks):  # noqa: F811
    (asked,) = parse_perturbations("bit_flip")
    for name, layer, has in HAS:
        network, _ = networks(name)
        shape = Shape(network.apply, specification(network.params), network.image_shape, SPLIT)
        assert (few_method_of(shape, Lesions.of(network, asked, layer, {})) is not None) == has
    network, _ = networks("mlp")
    many = Shape(network.apply, specification(network.params), network.image_shape, Tiling(32, 32, 3))
    assert few_method_of(many, Lesions.of(network, asked, "second", {})) is None
    (other,) = parse_perturbations("synapse_knockout")
    one = Shape(network.apply, specification(network.params), network.image_shape, SPLIT)
    assert few_method_of(one, Lesions.of(network, other, "second", {})) is None


def test_draws_without_faults_are_the_intact_network_also_where_there_is_no_such_way(networks, monkeypatch):  # noqa: F811
    network, images = networks("resnet")
    (layer,) = (layer for layer in network.layers() if layer.name == "Conv_0")
    rate, draws, counted = 1 / (32 * layer.weights), 12, ways(monkeypatch)
    found = parts_of(network, images, "bit_flip", ("Conv_0",), parse_levels(f"{rate:.9f}"), draws=draws)
    (intact,) = parts_of(network, images, "bit_flip", ("Conv_0",), parse_levels("0"), draws=1)
    spared = [part for part in found if part.selected == 0]
    assert 0 < len(spared) < draws
    assert dict(counted) == {"everything": draws - len(spared)}
    for part in spared:
        assert part.changed == 0
        np.testing.assert_array_equal(part.outcomes, intact.outcomes)
