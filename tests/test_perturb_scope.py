"""What is touched: explicit selections, joint budgets, inputs, norms, pruned weights, any container, many devices."""

import os
import subprocess
import sys
from decimal import Decimal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxperturb as jp
from jaxperturb.errors import LayerError, LevelError, PerturbationError
from jaxperturb.random import key

RNG = np.random.default_rng(0)
TREE = {
    name: {"kernel": RNG.normal(size=shape).astype(np.float32), "bias": RNG.normal(size=shape[-1]).astype(np.float32)}
    for name, shape in {"a": (3, 3, 4, 8), "b": (40, 7), "c": (300, 250)}.items()
}


def zeros(tree):
    return {name: {leaf: np.asarray(array) == 0 for leaf, array in layer.items()} for name, layer in tree.items()}


def test_a_mask_takes_exactly_its_entries():
    mask = jax.tree.map(lambda array: None, TREE)
    mask["b"]["kernel"] = RNG.random((40, 7)) < 0.4
    after = jp.synapse_knockout(key(0), TREE, mask=mask)
    np.testing.assert_array_equal(after["b"]["kernel"], np.where(mask["b"]["kernel"], 0, TREE["b"]["kernel"]))
    assert after["a"]["kernel"] is TREE["a"]["kernel"]
    assert after["b"]["bias"] is TREE["b"]["bias"]


@pytest.mark.parametrize(
    "mask", [{"a": None}, jax.tree.map(lambda x: x > 0, TREE) | {"b": {"kernel": np.ones(3, bool), "bias": None}}, TREE]
)
def test_a_mask_that_does_not_fit_is_refused(mask):
    with pytest.raises(LayerError, match="mask"):
        jp.synapse_knockout(key(0), TREE, mask=mask)


def test_only_one_way_of_choosing_is_accepted():
    mask = jax.tree.map(lambda array: None, TREE)
    with pytest.raises(LevelError, match="got two"):
        jp.synapse_knockout(key(0), TREE, 0.5, mask=mask)
    with pytest.raises(LevelError, match="got two"):
        jp.node_knockout(key(0), TREE, count=1, units=[0])


def test_units_by_number():
    after = jp.node_knockout(key(0), TREE, layers="a", units=[0, 5])["a"]
    gone = np.isin(np.arange(8), [0, 5])
    np.testing.assert_array_equal((np.asarray(after["kernel"]) == 0).all((0, 1, 2)), gone)
    np.testing.assert_array_equal(np.asarray(after["bias"]) == 0, gone)
    with pytest.raises(LevelError, match="units 0 to 7, and no unit 8"):
        jp.node_knockout(key(0), TREE, layers="a", units=[8])


@pytest.mark.parametrize(("layer", "shape"), [("a", (3, 3, 4, 8)), ("b", (40, 7))])
def test_inputs_are_cut_off(layer, shape):
    after = jp.node_knockout(key(1), TREE, 0.5, layers=layer, axis="in")[layer]
    dead = (np.asarray(after["kernel"]).reshape(-1, *shape[-2:]) == 0).all(axis=(0, 2))
    assert dead.sum() == shape[-2] // 2
    assert after["bias"] is TREE[layer]["bias"]


@pytest.mark.parametrize("level", ["0", "0.001", "0.37", "1"])
def test_a_joint_budget_is_exact_and_spreads(level):
    gone = zeros(jp.synapse_knockout(key(3), TREE, Decimal(level), scope="joint"))
    sizes = {(n, leaf): mask.size for n, layer in gone.items() for leaf, mask in layer.items()}
    total = sum(sizes.values())
    assert sum(mask.sum() for layer in gone.values() for mask in layer.values()) == int(Decimal(level) * total)
    if level == "0.37":
        share = gone["c"]["kernel"].mean()
        assert abs(share - 0.37) < 6 * np.sqrt(0.37 * 0.63 / gone["c"]["kernel"].size)


def test_joint_budgets_nest_and_units_are_shared():
    smaller, larger = (zeros(jp.synapse_knockout(key(3), TREE, level, scope="joint")) for level in (0.2, 0.5))
    for name, layer in smaller.items():
        assert all(not (layer[leaf] & ~larger[name][leaf]).any() for leaf in layer)
    biases = [layer["bias"] for layer in zeros(jp.node_knockout(key(3), TREE, 0.4, scope="joint")).values()]
    assert sum(bias.sum() for bias in biases) == int(0.4 * (8 + 7 + 250))
    assert len({round(bias.mean(), 3) for bias in biases}) > 1


@pytest.mark.parametrize("scope", ["each", "joint"])
def test_only_weights_that_are_left_are_knocked_out(scope):
    pruned = jax.tree.map(lambda array: np.where(RNG.random(array.shape) < 0.7, 0, array).astype(np.float32), TREE)
    alive = sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(pruned))
    before = None
    for level in ("0", "0.1", "0.55", "1"):
        after = jp.synapse_knockout(key(4), pruned, Decimal(level), among="nonzero", scope=scope)
        left = sum(np.count_nonzero(leaf) for leaf in jax.tree.leaves(after))
        if scope == "joint":
            assert alive - left == int(Decimal(level) * alive)
        else:
            gone = [
                (np.count_nonzero(old) - np.count_nonzero(new), int(Decimal(level) * np.count_nonzero(old)))
                for old, new in zip(jax.tree.leaves(pruned), jax.tree.leaves(after), strict=True)
            ]
            assert all(a == b for a, b in gone)
        if before is not None:
            assert all(
                not ((np.asarray(a) == 0) & (np.asarray(b) != 0)).any()
                for a, b in zip(before, jax.tree.leaves(after), strict=True)
            )
        before = jax.tree.leaves(after)
        traced = jax.jit(lambda f: jp.synapse_knockout(key(4), pruned, f, among="nonzero", scope=scope))(float(level))
        assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(traced), before, strict=True))


def test_options_that_are_not_there_are_refused():
    with pytest.raises(PerturbationError, match="scope"):
        jp.synapse_knockout.__wrapped__(key(0), TREE, 0.5, scope="all")
    with pytest.raises(PerturbationError, match="axis"):
        jp.node_knockout.__wrapped__(key(0), TREE, 0.5, axis="up")
    with pytest.raises(PerturbationError, match="among"):
        jp.synapse_knockout.__wrapped__(key(0), TREE, 0.5, among="some")


class Normed(nn.Module):
    """Two convolutions with batch norms, named by the rule and by Flax."""

    names: tuple = ("conv1", "conv1_norm")

    @nn.compact
    def __call__(self, x):
        layer, norm = self.names
        x = nn.relu(nn.BatchNorm(use_running_average=True, name=norm)(nn.Conv(12, (3, 3), name=layer)(x)))
        self.sow("intermediates", "handed", x)
        return nn.Dense(3, name="fc")(x.mean((1, 2)))


def normed(names):
    module = Normed(names)
    variables = module.init(jax.random.key(0), jnp.zeros((1, 6, 6, 2)))
    shift = lambda path, x: x + 0.5 * jax.random.normal(jax.random.key(len(str(path))), x.shape) ** 2  # noqa: E731
    return module, jax.tree_util.tree_map_with_path(shift, {k: variables[k] for k in ("params", "batch_stats")})


@pytest.mark.parametrize(
    ("names", "norms"), [(("conv1", "conv1_norm"), None), (("Conv_0", "BatchNorm_0"), {"Conv_0": "BatchNorm_0"})]
)
def test_a_removed_unit_is_silent_behind_its_norm(names, norms):
    module, variables = normed(names)
    after = jp.node_knockout(key(0), variables, 0.5, layers=names[0], norms=norms)
    dead = np.asarray(after["params"][names[0]]["bias"]) == 0
    assert dead.sum() == 6
    images = jax.random.normal(jax.random.key(2), (4, 6, 6, 2))
    (handed,) = module.apply(after, images, mutable="intermediates")[1]["intermediates"]["handed"]
    np.testing.assert_array_equal(np.asarray(handed)[..., dead], 0)
    assert (np.asarray(handed)[..., ~dead] > 0).any(axis=(0, 1, 2)).all()
    np.testing.assert_array_equal(after["params"][names[1]]["scale"] == 0, dead)
    assert after["batch_stats"] is not None


def test_without_its_norm_a_unit_emits_a_constant():
    module, variables = normed(("Conv_0", "BatchNorm_0"))
    after = jp.node_knockout(key(0), variables, 1, layers="Conv_0")
    images = jax.random.normal(jax.random.key(2), (4, 6, 6, 2))
    (handed,) = module.apply(after, images, mutable="intermediates")[1]["intermediates"]["handed"]
    assert np.asarray(handed).any()
    assert np.ptp(np.asarray(handed), axis=(0, 1, 2)).max() == 0


def test_norms_are_touched_only_when_asked():
    _, variables = normed(("conv1", "conv1_norm"))
    apart = jp.synapse_knockout(key(0), variables, 1, layers="conv1")["params"]["conv1_norm"]
    assert apart["scale"] is variables["params"]["conv1_norm"]["scale"]
    along = jp.synapse_knockout(key(0), variables, 1, layers="conv1", include_norm=True)["params"]["conv1_norm"]
    assert not np.asarray(along["scale"]).any()
    assert not np.asarray(along["bias"]).any()


@pytest.mark.parametrize("norms", [{"nothing": "conv1_norm"}, {"conv1": "nothing"}, {"fc": "conv1_norm"}])
def test_norms_that_do_not_fit_are_refused(norms):
    _, variables = normed(("conv1", "conv1_norm"))
    with pytest.raises(LayerError):
        jp.node_knockout(key(0), variables, 0.5, norms=norms)


def test_one_network_gets_the_same_masks_in_every_container():
    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv1 = nnx.Conv(2, 8, (3, 3), rngs=rngs)
            self.fc = nnx.Linear(8, 300, rngs=rngs)

    state = nnx.split(Model(nnx.Rngs(0)))[1]
    plain = {name: {leaf: state[name][leaf][...] for leaf in ("kernel", "bias")} for name in ("conv1", "fc")}
    for function in (jp.synapse_knockout, jp.node_knockout, jp.gaussian_noise, jp.resample):
        linen = function(key(1), {"params": plain}, 0.5)["params"]
        dicts, nnx_state = function(key(1), plain, 0.5), function(key(1), state, 0.5)
        for name, layer in plain.items():
            for leaf in layer:
                np.testing.assert_array_equal(linen[name][leaf], dicts[name][leaf])
                np.testing.assert_array_equal(linen[name][leaf], nnx_state[name][leaf][...])


SHARDED = """
import jax, numpy as np
import jaxperturb as jp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
devices = np.array(jax.devices())
assert len(devices) == 8
rows = NamedSharding(Mesh(devices, "d"), PartitionSpec("d"))
array = np.random.default_rng(0).normal(size=(800, 250)).astype(np.float32)
for function in (jp.synapse_knockout, jp.node_knockout, jp.resample, jp.gaussian_noise):
    lesion = lambda tree: function(jp.random.key(3), tree, 0.3)
    alone = np.asarray(jax.jit(lesion)({"a": {"kernel": array}})["a"]["kernel"])
    spread = jax.jit(lesion, out_shardings=rows)({"a": {"kernel": jax.device_put(array, rows)}})["a"]["kernel"]
    assert len(spread.sharding.device_set) == 8
    if function is jp.gaussian_noise:
        np.testing.assert_allclose(spread, alone, rtol=0, atol=4 * np.spacing(np.abs(array).max()))
    else:
        assert np.asarray(spread).tobytes() == alone.tobytes(), function
"""


def test_eight_devices_give_the_bits_of_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=os.environ | flags, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
