"""The engine against the plain network: the same lesions, the same counts."""

from collections import defaultdict
from decimal import Decimal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperturb.data import from_arrays
from jaxperturb.data.prepared import prepare
from jaxperturb.engine.cut import cut
from jaxperturb.engine.plan import INTACT, Cell, cells_of, plan
from jaxperturb.engine.programs import PLANES, first_classes, planes
from jaxperturb.engine.run import evaluate_network, run
from jaxperturb.engine.stages import stage
from jaxperturb.engine.steps import steps_of
from jaxperturb.engine.tiling import block_size, tiling
from jaxperturb.errors import PerturbationError
from jaxperturb.levels import parse_levels
from jaxperturb.networks.network import Network
from jaxperturb.perturb import parse_perturbations
from jaxperturb.random import draw_key
from jaxperturb.trees import layers_of

SHAPE = (12, 12, 2)
LEVELS = parse_levels("0,0.3,0.8,1")


class Residual(nn.Module):
    """Convolutions, batch norm, a skip, pooling and two dense layers."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(8, (3, 3), name="conv1")(x))
        y = nn.Conv(8, (3, 3), name="conv2")(x)
        y = nn.BatchNorm(use_running_average=True, name="conv2_norm")(y)
        x = nn.max_pool(nn.relu(x + y), (2, 2), (2, 2))
        x = nn.relu(nn.Dense(20, name="fc3")(x.reshape(x.shape[0], -1)))
        return nn.Dense(7, name="fc4")(x)


@pytest.fixture(scope="module")
def network():
    module = Residual()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables = jax.tree_util.tree_map_with_path(
        lambda path, a: (
            a + 0.3 * jax.random.normal(jax.random.key(len(str(path))), a.shape) if "mean" not in str(path) else a
        ),
        variables,
    )
    return Network.from_linen(module, variables, image_shape=SHAPE)


@pytest.fixture(scope="module")
def images(network):
    pixels = np.asarray(jax.random.normal(jax.random.key(1), (700, *SHAPE)))
    labels = np.array(jax.jit(network.apply)(network.params, pixels).argmax(-1), np.int32)
    labels[::5] = (labels[::5] + 1) % 7
    return prepare(from_arrays(pixels, labels), None, None)


def study(
    network, images, perturbations="synapse_knockout,node_knockout,gaussian_noise,resample", targets=None, **options
):
    asked = parse_perturbations(perturbations)
    levels = {item.text: LEVELS for item in asked}
    options = {"draws": 2, "seed": 5, "batch_size": 700} | options
    draws, seed = options.pop("draws"), options.pop("seed")
    return list(run(network, images, asked, levels, targets or network.layer_names(), draws, seed, **options))


def outcomes(parts):
    """Cell -> planes of all images."""
    found = defaultdict(lambda: np.zeros((5, 700), bool))
    for part in parts:
        found[part.cell][:, part.start : part.stop] = part.outcomes
    return dict(found)


@pytest.fixture(scope="module")
def parts(network, images):
    return study(network, images)


def logits_of(network, images, cell):
    (asked,) = parse_perturbations(cell.perturbation)
    lesioned = asked.perturbation.function(draw_key(5, cell.draw), network.params, cell.level, layers=cell.target)
    return np.asarray(jax.jit(network.apply)(lesioned, images.block(0, 700)))


def test_cells_are_those_asked_for(parts):
    cells = [part.cell for part in parts]
    assert len(set(cells)) == len(cells)
    knockouts = 2 * (2 + 2 * 2)  # levels 0 and 1 once, two levels with two draws
    assert len(cells) == 4 * (knockouts + (1 + 3 * 2) + (1 + 3 * 2))
    assert {part.shortcut for part in parts if part.cell.level == 0} == {"intact"}
    certain = {part.cell.perturbation for part in parts if part.shortcut == "all draws coincide"}
    assert certain == {"synapse_knockout", "node_knockout"}


def test_every_cell_agrees_with_the_plain_network(network, images, parts):
    labels, intact = images.labels, np.asarray(jax.jit(network.apply)(network.params, images.block(0, 700)))
    for cell, found in outcomes(parts).items():
        logits = logits_of(network, images, cell)
        order = np.argsort(-logits, axis=1, kind="stable")
        reference = np.argsort(-intact, axis=1, kind="stable")
        want = np.stack(
            [
                order[:, 0] == labels,
                (order[:, :5] == labels[:, None]).any(1),
                order[:, 0] == reference[:, 0],
                (reference[:, :5] == order[:, :1]).any(1),
                np.isfinite(logits).all(1),
            ]
        )
        gaps = np.diff(np.sort(logits, axis=1), axis=1)  # where two logits nearly tie, another order of sums may decide
        close = ((gaps > 0) & (gaps < 1e-5 * np.abs(logits).max())).any(1)
        assert (found != want)[:, ~close].sum() == 0, cell
        assert close.mean() < 0.05


def test_a_network_that_says_nothing_scores_by_class_numbers(images, parts):
    """fc4 without weights and biases gives equal logits: the first class wins, five classes are among five."""
    silent = outcomes(parts)[Cell("synapse_knockout", "fc4", Decimal(1), 0)]
    np.testing.assert_array_equal(silent[0], images.labels == 0)
    np.testing.assert_array_equal(silent[1], images.labels < 5)


def test_selected_and_changed_are_counted(network, parts):
    layers = layers_of(network.params)
    for part in parts:
        layer, level = layers[part.cell.target], part.cell.level
        n = sum(leaf.size for leaf in layer.leaves())
        if level == 0:
            assert (part.selected, part.changed) == (0, 0)
        elif part.cell.perturbation == "synapse_knockout":
            assert part.selected == sum(int(level * leaf.size) for leaf in layer.leaves())
            assert part.changed == part.selected
        elif part.cell.perturbation == "node_knockout":
            n = sum(leaf.size for leaf in layer.leaves(include_norm=True))
            assert part.selected == int(level * layer.units) * n // layer.units
            assert part.changed == part.selected
        elif part.cell.perturbation == "gaussian_noise":
            assert part.selected == n
            assert 0.99 * n <= part.changed <= n
        else:
            assert part.changed <= part.selected


def test_blocks_layers_and_order_change_no_count(network, images, parts):
    want = outcomes(parts)
    for other in (
        study(network, images, batch_size=100),
        study(network, images, targets=("fc3", "conv2")),
        study(network, images, "resample,gaussian_noise,node_knockout,synapse_knockout", batch_size=512),
    ):
        found = outcomes(other)
        assert found
        for cell, planes_of_cell in found.items():
            np.testing.assert_array_equal(planes_of_cell, want[cell])


def test_other_seeds_give_other_lesions(network, images, parts):
    cell = Cell("synapse_knockout", "conv1", Decimal("0.3"), 0)
    other = outcomes(study(network, images, "synapse_knockout", targets=("conv1",), seed=6))
    assert (other[cell] != outcomes(parts)[cell]).any()


def test_what_is_done_is_left_out(network, images):
    cells = [
        part.cell
        for part in study(network, images, "node_knockout", done=lambda cell, start, stop: cell.target != "fc3")
    ]
    assert {cell.target for cell in cells} == {"fc3"}
    assert study(network, images, done=lambda cell, start, stop: True) == []


def test_plain_evaluation(network, images, parts):
    np.testing.assert_array_equal(
        evaluate_network(network, images, batch_size=64), outcomes(parts)[Cell("resample", "fc3", Decimal(0), 0)]
    )


@pytest.mark.parametrize("others", [True, False])
def test_the_intact_network_is_computed_where_it_is_asked_for(network, images, others):
    options = {"done": None if others else lambda cell, start, stop: cell != INTACT, "batch_size": 512}
    found = study(network, images, "gaussian_noise", targets=["fc4"], intact=True, **options)
    intact = [part for part in found if part.cell == INTACT]
    assert (len(found) > len(intact)) == others
    assert [(part.start, part.stop) for part in intact] == [(0, 512), (512, 700)]  # whole tiles
    planes = np.concatenate([part.outcomes for part in intact], axis=1)
    np.testing.assert_array_equal(planes, evaluate_network(network, images, batch_size=64))


@pytest.mark.parametrize("layer", ["conv1", "conv2", "fc3", "fc4"])
def test_the_cut_is_the_network(network, images, layer):
    steps = steps_of(network.program(batch=16))
    parts_of = cut(steps, [leaf.index for leaf in layers_of(network.params)[layer].leaves()])
    every = parts_of.fixed | parts_of.before | parts_of.shared | parts_of.kernel | parts_of.after
    assert every == frozenset(range(len(steps.equations)))
    leaves, pixels = jax.tree.leaves(network.params), images.block(0, 16)
    weights_only = parts_of.fixed | parts_of.kernel
    whole = stage(parts_of, parts_of.after, (), [steps.program.logits])
    intact = steps.function(
        weights_only | parts_of.before, [*steps.program.weights, steps.program.images], whole.handed
    )
    handed = intact(*leaves, pixels)
    (logits,) = whole.run(whole.fixed_of(leaves), whole.kernel_of(leaves), handed, [], [])
    np.testing.assert_allclose(logits, network.apply(network.params, pixels), rtol=1e-5, atol=1e-5)
    # What comes before the target does not depend on it.
    target = [i for i, v in enumerate(steps.program.weights) if v in parts_of.target]
    damaged = [leaf * 0 if i in target else leaf for i, leaf in enumerate(leaves)]
    for a, b in zip(handed, intact(*damaged, pixels), strict=True):
        np.testing.assert_array_equal(a, b)
    # The layer is linear in its leaves: f(2w) = 2 f(w), and f(0) = 0.
    own = stage(parts_of, parts_of.after & parts_of.layer, (), parts_of.outputs)
    of_layer = steps.function(
        weights_only | parts_of.before, [*steps.program.weights, steps.program.images], own.handed
    )
    twice = [leaf * 2 if i in target else leaf for i, leaf in enumerate(leaves)]
    zero, one, two = (
        own.run(own.fixed_of(leaves), own.kernel_of(some), of_layer(*leaves, pixels), [], [])
        for some in (damaged, leaves, twice)
    )
    assert own.outputs
    for nothing, once, doubled in zip(zero, one, two, strict=True):
        np.testing.assert_array_equal(nothing, 0)
        np.testing.assert_allclose(doubled, 2 * once, rtol=1e-5, atol=1e-5)


def test_ranks_of_equal_logits_and_nan():
    logits = jnp.float32([[1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], [np.nan, 5, 1, 1, 1, 1], [0, np.inf, 0, 0, 0, 0]])
    labels = jnp.int32([1, 5, 1, 1])
    found = dict(zip(PLANES, np.asarray(planes(logits, labels, first_classes(jnp.zeros((4, 6))))), strict=True))
    assert found["top1"].tolist() == [False, False, False, True]
    assert found["top5"].tolist() == [True, False, False, True]
    assert found["same1"].tolist() == [True, True, False, False]
    assert found["finite"].tolist() == [True, True, False, False]


def test_few_classes_have_fewer_than_five():
    logits = jnp.float32([[0.1, 0.9, 0.5]])
    found = np.asarray(planes(logits, jnp.int32([0]), first_classes(logits)))
    assert found[:, 0].tolist() == [False, True, True, True, True]


def greedy(key, params, level, *, layers="*"):
    """Changes everything, whatever it is asked for."""
    return jax.tree.map(lambda x: x * (1 - level), params)


def shrink(key, params, level, *, layers="*"):
    """Scales the kernel of the layers down: a user's own."""
    return {
        collection: {
            name: {**layer, "kernel": layer["kernel"] * (1 - level)} if name in layers else layer
            for name, layer in tree.items()
        }
        for collection, tree in params.items()
    }


def test_a_users_function_works_as_a_name_does(network, images):
    found = list(
        run(
            network,
            images,
            parse_perturbations([shrink]),
            {f"{__name__}:shrink": LEVELS},
            ("fc3",),
            1,
            0,
            batch_size=700,
        )
    )
    assert [(part.cell.level, part.selected) for part in found] == [
        (0, 0),
        (Decimal("0.3"), None),
        (Decimal("0.8"), None),
        (1, None),
    ]
    weak = network.params | {"params": shrink(None, network.params, 0.8, layers=("fc3",))["params"]}
    want = np.asarray(jax.jit(network.apply)(weak, images.block(0, 700))).argmax(1) == images.labels
    assert (found[2].outcomes[0] != want).sum() <= 1


def test_a_function_that_changes_other_layers_is_refused(network, images):
    with pytest.raises(PerturbationError, match="asked for fc3 and changed another"):
        list(
            run(
                network,
                images,
                parse_perturbations([greedy]),
                {f"{__name__}:greedy": LEVELS},
                ("fc3",),
                1,
                0,
                batch_size=700,
            )
        )


def test_tiles_and_blocks(network):
    tile = tiling(network, SHAPE)
    assert tile.small in (16, 32, 64, 128, 256, 512)
    assert tile.large % tile.small == 0
    assert tiling(network, SHAPE, masks_per_call=3).masks == 3
    assert block_size(1, 64) == 64
    assert block_size(65, 64) == 128


def test_a_plan_counts_coinciding_draws_one_by_one():
    asked = parse_perturbations("synapse_knockout,gaussian_noise")
    work = plan(asked, {item.text: LEVELS for item in asked}, ("a", "b"), 5)
    assert cells_of(work, 5) == 2 * 2 * len(LEVELS) * 5
