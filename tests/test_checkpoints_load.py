"""Networks of one's own, and weights as people who train in JAX keep them."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization, traverse_util
from flax.training import train_state
from safetensors.numpy import save_file
from torchvision_copies import small

import jaxperturb as jp
from jaxperturb.checkpoints import bundled, known, load_network, load_weights
from jaxperturb.errors import CheckpointError, NetworkError
from jaxperturb.trees import fingerprint


class Net(nn.Module):
    """Fits its weights at one size of images only."""

    classes: int = 4

    @nn.compact
    def __call__(self, images, train: bool = False):
        x = nn.Conv(6, (3, 3), name="conv1")(images)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="conv1_norm")(x))
        x = nn.avg_pool(x, (4, 4), (4, 4))
        return nn.Dense(self.classes, name="head")(x.reshape(len(x), -1))


class State(train_state.TrainState):
    """A state of training as Flax's examples have it."""

    batch_stats: dict


SHAPE = (28, 28, 1)


def variables_of(module, shape=SHAPE):
    made = module.init(jax.random.key(0), jnp.ones((1, *shape)))
    random = np.random.default_rng(0)
    return jax.tree.map(lambda a: jnp.asarray(random.normal(size=a.shape), jnp.float32) ** 2, made)


@pytest.fixture(scope="module")
def variables():
    return variables_of(Net())


@pytest.fixture(scope="module")
def state(variables):
    adam = optax.adam(1e-3)
    return State.create(apply_fn=Net().apply, params=variables["params"], batch_stats=variables["batch_stats"], tx=adam)


def save_orbax(path, tree):
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
    return path


def save_managed(folder, tree, step=7):
    with ocp.CheckpointManager(folder) as manager:
        manager.save(step, args=ocp.args.StandardSave(tree))
        manager.wait_until_finished()
    return folder / str(step)


def save_msgpack(path, tree):
    path.write_bytes(serialization.to_bytes(tree))
    return path


def save_flat(path, tree, sep):
    save_file({k: np.asarray(a) for k, a in traverse_util.flatten_dict(tree, sep=sep).items()}, path)
    return path


WAYS = {
    "orbax": lambda p, v, s: save_orbax(p / "c", v),
    "orbax of a state": lambda p, v, s: save_orbax(p / "c", s),
    "a manager's step": lambda p, v, s: save_managed(p / "c", s),
    "orbax, wrapped": lambda p, v, s: save_orbax(p / "c", {"model": v, "config": {"width": 3}}),
    "orbax, whole tree as params": lambda p, v, s: save_orbax(p / "c", {"params": v, "step": 3}),
    "msgpack": lambda p, v, s: save_msgpack(p / "c.msgpack", v),
    "msgpack of a state": lambda p, v, s: save_msgpack(p / "checkpoint_7", s),
    "safetensors, slashes": lambda p, v, s: save_flat(p / "c.safetensors", v, "/"),
    "safetensors, dots": lambda p, v, s: save_flat(p / "c.safetensors", v, "."),
}


@pytest.mark.parametrize("way", WAYS)
def test_weights_as_people_have_them(tmp_path, variables, state, way):
    path = WAYS[way](tmp_path, variables, state)
    network = load_network(path, Net)
    jax.tree.map(np.testing.assert_array_equal, network.params, variables)
    images = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    np.testing.assert_array_equal(network.apply(network.params, images), Net().apply(variables, images))
    assert network.layer_names(SHAPE) == ("conv1", "head")
    plain = load_weights(path)
    jax.tree.map(np.testing.assert_array_equal, plain, jax.tree.map(np.asarray, variables))
    jax.tree.map(np.testing.assert_array_equal, load_weights(path, Net), variables)


def test_a_factory_may_return_a_network_with_or_without_weights(tmp_path, variables):
    intact = jp.Network.from_linen(Net(), jax.tree.map(jnp.zeros_like, variables), classes=("a", "b", "c", "d"))
    assert load_network(network=lambda: intact) is intact
    filled = load_network(save_msgpack(tmp_path / "c", variables), lambda: intact)
    assert filled.classes == intact.classes
    jax.tree.map(np.testing.assert_array_equal, filled.params, variables)


def test_a_network_of_a_plain_function(tmp_path, variables):
    params = jax.tree.map(jnp.zeros_like, variables["params"])
    network = jp.Network.from_apply(lambda p, x: x.mean((1, 2)) @ p["head"]["kernel"][:1], params)
    for tree in (variables, {"params": variables["params"]}, variables["params"]):
        filled = load_network(save_msgpack(tmp_path / "c", tree), lambda: network)
        jax.tree.map(np.testing.assert_array_equal, filled.params, variables["params"])


def test_half_precision_and_device_placed_weights_become_the_networks_type(tmp_path, variables):
    halves = jax.tree.map(lambda a: a.astype(jnp.bfloat16), variables)
    network = load_network(save_orbax(tmp_path / "c", halves), Net)
    jax.tree.map(np.testing.assert_array_equal, network.params, jax.tree.map(lambda a: a.astype(jnp.float32), halves))


def test_all_that_does_not_fit_is_listed_with_both_shapes(tmp_path, variables):
    params = {name: dict(layer) for name, layer in variables["params"].items()}
    del params["conv1"]["bias"]
    params["extra"] = {"kernel": np.ones((2, 3), np.float32)}
    params["head"]["bias"] = np.ones(5, np.float32)
    params["conv1_norm"]["scale"] = np.ones(6, np.int32)
    tree = {"params": params, "batch_stats": variables["batch_stats"]}
    with pytest.raises(CheckpointError) as caught:
        load_network(save_msgpack(tmp_path / "c", tree), Net)
    message = str(caught.value)
    assert "missing 1: conv1/bias (6,)" in message
    assert "unexpected 1: extra/kernel (2, 3)" in message
    assert "of another shape 1: head/bias (5,), expected (4,)" in message
    assert "of another type 1: conv1_norm/scale is int32, expected float32" in message
    assert "\n" not in message


def test_running_statistics_are_needed_where_the_network_has_them(tmp_path, variables):
    with pytest.raises(
        CheckpointError, match=r"missing 2: batch_stats/conv1_norm/mean \(6,\), batch_stats/conv1_norm/var"
    ):
        load_network(save_msgpack(tmp_path / "c", variables["params"]), Net)


def test_an_unusual_size_of_images_must_be_said(tmp_path):
    odd = variables_of(Net(), (20, 36, 2))
    path = save_msgpack(tmp_path / "c", odd)
    with pytest.raises(CheckpointError, match=r"conv1/kernel \(3, 3, 2, 6\), expected \(3, 3, \d, 6\)"):
        load_network(path, Net)
    network = load_network(path, Net, image_shape=(20, 36, 2))
    assert network.image_shape == (20, 36, 2)
    jax.tree.map(np.testing.assert_array_equal, network.params, odd)


def test_a_factory_by_its_path(tmp_path, monkeypatch, variables):
    (tmp_path / "my_nets.py").write_text("import test_checkpoints_load as t\n\ndef make():\n    return t.Net()\n")
    monkeypatch.syspath_prepend(tmp_path)
    network = load_network(save_msgpack(tmp_path / "c", variables), "my_nets:make")
    jax.tree.map(np.testing.assert_array_equal, network.params, variables)


def test_weights_of_a_checkpoint_folder_in_a_network_of_ones_own(tmp_path):
    digits = load_network("alexnet-digits")
    module = jp.Network.from_apply(digits.apply, jax.tree.map(jnp.zeros_like, digits.params), name="mine")
    network = load_network("alexnet-digits", lambda: module)
    assert network.name == "mine"
    jax.tree.map(np.testing.assert_array_equal, network.params, digits.params)


class NnxNet(nnx.Module):
    """`Net` in NNX, with the state of random streams."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(1, 6, (3, 3), rngs=rngs)
        self.conv1_norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(7 * 7 * 6, 4, rngs=rngs)

    def __call__(self, images):
        x = nnx.avg_pool(nnx.relu(self.conv1_norm(self.conv1(images))), (4, 4), (4, 4))
        return self.head(self.dropout(x.reshape(len(x), -1)))


def make_nnx():
    return NnxNet(nnx.Rngs(3))


def nnx_of(variables):
    """Returns the NNX model with these weights."""
    model = make_nnx()
    for collection in variables.values():
        for layer, leaves in collection.items():
            for name, array in leaves.items():
                owner = getattr(model, layer)
                setattr(owner, name, type(getattr(owner, name))(array))
    return model


NNX_WAYS = {
    "orbax of the whole state": lambda p, m: save_orbax(p / "c", nnx.state(m)),
    "orbax of pure dicts": lambda p, m: save_orbax(p / "c", nnx.to_pure_dict(nnx.state(m))),
    "orbax, params and statistics": lambda p, m: save_orbax(p / "c", nnx.state(m, nnx.Any(nnx.Param, nnx.BatchStat))),
    "msgpack": lambda p, m: save_msgpack(p / "c", nnx.to_pure_dict(nnx.state(m, nnx.Any(nnx.Param, nnx.BatchStat)))),
    "an optimiser beside it": lambda p, m: save_orbax(p / "c", {"model": nnx.state(m), "step": np.int32(3)}),
}


@pytest.mark.parametrize("way", NNX_WAYS)
def test_weights_of_nnx_as_people_have_them(tmp_path, variables, way):
    path = NNX_WAYS[way](tmp_path, nnx_of(variables))
    for factory in (make_nnx, Net):  # the same names in both libraries
        network = load_network(path, factory)
        jax.tree.map(np.testing.assert_array_equal, network.params, variables)
        images = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
        want = Net().apply(variables, images)
        np.testing.assert_allclose(network.apply(network.params, images), want, rtol=1e-4, atol=1e-4)


def test_weights_of_linen_fit_the_same_network_in_nnx(tmp_path, variables, state):
    for save in (save_orbax, save_msgpack):
        network = load_network(save(tmp_path / save.__name__, state), make_nnx)
        jax.tree.map(np.testing.assert_array_equal, network.params, variables)


def test_what_does_not_fit_a_model_of_nnx_is_listed(tmp_path, variables):
    path = save_orbax(tmp_path / "c", nnx.state(nnx_of(variables), nnx.Param))
    with pytest.raises(
        CheckpointError, match=r"missing 2: batch_stats/conv1_norm/mean \(6,\), batch_stats/conv1_norm/"
    ):
        load_network(path, make_nnx)


class EquinoxNet(eqx.Module):
    """Names and layouts as in PyTorch: units first."""

    features: list
    head: eqx.nn.Linear

    def __call__(self, image):
        return self.head(jax.nn.relu(self.features[0](image.ravel())))


def make_equinox(seed=0):
    keys = jax.random.split(jax.random.key(seed))
    return EquinoxNet([eqx.nn.Linear(48, 5, key=keys[0])], eqx.nn.Linear(5, 4, key=keys[1]))


def arrays_of_equinox(seed, sep):
    model = make_equinox(seed)
    layers = {"features/0": model.features[0], "head": model.head}
    named = {f"{name}/{leaf}": getattr(layer, leaf) for name, layer in layers.items() for leaf in ("weight", "bias")}
    return {name.replace("/", sep): np.asarray(array) for name, array in named.items()}


@pytest.mark.parametrize("kept", ["safetensors, dots", "safetensors, slashes", "msgpack", "orbax", "PyTorch"])
def test_weights_for_a_model_of_equinox(tmp_path, kept, request):
    if kept == "PyTorch":
        torch = request.getfixturevalue("torch")
        state = {name: torch.from_numpy(np.array(array)) for name, array in arrays_of_equinox(7, ".").items()}
        torch.save({"state_dict": state, "epoch": 3}, path := tmp_path / "w.pth")
    elif kept.startswith("safetensors"):
        save_file(arrays_of_equinox(7, "." if "dots" in kept else "/"), path := tmp_path / "w.safetensors")
    else:
        tree = traverse_util.unflatten_dict(arrays_of_equinox(7, "/"), sep="/")
        path = (save_msgpack if kept == "msgpack" else save_orbax)(tmp_path / "c", tree)
    network = load_network(path, make_equinox, image_shape=(4, 4, 3))
    images = np.random.default_rng(1).normal(size=(2, 4, 4, 3)).astype(np.float32)
    want = jax.vmap(make_equinox(7))(images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(network.apply(network.params, images), want, rtol=1e-5, atol=1e-6)
    assert network.layer_names() == ("features/0", "head")


def test_what_does_not_fit_a_model_of_equinox_is_listed(tmp_path):
    arrays = arrays_of_equinox(7, ".") | {"head.bias": np.zeros(9, np.float32), "more": np.ones((2, 3), np.float32)}
    del arrays["head.weight"]
    save_file(arrays, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError) as caught:
        load_network(tmp_path / "w.safetensors", make_equinox)
    message = str(caught.value)
    for part in (
        r"missing 1: head/weight (4, 5)",
        r"unexpected 1: more (2, 3)",
        r"head/bias (9,), expected (4,)",
    ):
        assert part in message


def test_weights_of_an_architecture_that_is_recognised_are_converted_for_ones_own_network(tmp_path):
    save_file({name: np.ascontiguousarray(a) for name, a in small("alexnet").items()}, tmp_path / "w.safetensors")
    plain = load_network(tmp_path / "w.safetensors")
    mine = jp.Network.from_apply(plain.apply, jax.tree.map(jnp.zeros_like, plain.params), name="mine")
    again = load_network(tmp_path / "w.safetensors", lambda: mine)
    assert fingerprint(again.params) == fingerprint(plain.params)


@pytest.mark.parametrize(
    ("weights", "network", "message"),
    [
        (None, None, "expected a network"),
        (None, Net, "returned a module without weights"),
        (None, "alexnet", "network 'alexnet' needs trained weights"),
        (None, "alexnt", "unknown network 'alexnt'; did you mean 'alexnet'"),
        (None, "alexnet-digits", "names trained weights: write --weights=alexnet-digits"),
        ("alexnet-digits", "vgg11", "these weights are of network 'alexnet', not 'vgg11'"),
        (None, "os:getcwd", "returned a str, not a jaxperturb.Network"),
        (None, ":f", "is written package.module:function"),
        (None, dict, "returned a dict, not a jaxperturb.Network"),
    ],
)
def test_what_is_no_network(weights, network, message):
    with pytest.raises(NetworkError, match=message) as caught:
        load_network(weights, network)
    assert "\n" not in str(caught.value)


class Unhappy(nn.Module):
    """Takes no images."""

    @nn.compact
    def __call__(self, images):
        raise ValueError("I take only text")


def test_a_module_that_cannot_be_set_up(tmp_path, variables):
    with pytest.raises(NetworkError, match=r"Unhappy cannot be set up .*I take only text.*give image_shape"):
        load_network(save_msgpack(tmp_path / "c", variables), Unhappy)


def test_weights_that_do_not_say_their_network(tmp_path, variables, state):
    with pytest.raises(CheckpointError, match="msgpack file of Flax, which does not say its network; give that"):
        load_network(save_msgpack(tmp_path / "c", variables))
    with pytest.raises(CheckpointError, match="plain Orbax checkpoint, which does not say its network; give that"):
        load_network(save_orbax(tmp_path / "o", variables))


def test_a_folder_of_steps_names_the_newest(tmp_path, variables):
    for step in (7, 10):
        save_managed(tmp_path / "run", variables, step)
    with pytest.raises(CheckpointError, match=r"holds 2 steps of a training; give one, such as .*run/10"):
        load_network(tmp_path / "run", Net)


def test_damaged_msgpack_files_are_refused(tmp_path, variables):
    content = serialization.to_bytes(variables)
    path = tmp_path / "c.msgpack"
    random = np.random.default_rng(0)
    cases = [content[:n] for n in (1, 2, 9, len(content) // 2, len(content) - 1)]
    for place in random.integers(0, 200, 60):
        cases.append(content[:place] + bytes([random.integers(256)]) + content[place + 1 :])
    for case in cases:
        path.write_bytes(case)
        try:
            network = load_network(path, Net)
        except CheckpointError as error:
            assert str(path) in str(error)
            assert "\n" not in str(error)
        else:
            assert jax.tree.structure(network.params) == jax.tree.structure(variables)


def test_a_known_name_that_is_not_here_says_how_to_have_it(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXPERTURB_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"'jaxperturb convert vgg16' downloads it, or put vgg16-397923af.pth at"):
        load_network("vgg16")


def test_a_known_name_that_is_here_is_read(monkeypatch, tmp_path, torch):
    from torchvision_copies import SMALL, randomise, torch_network

    path = tmp_path / "vgg16-397923af.pth"
    torch.save(randomise(torch, torch_network(torch, "vgg16", **SMALL, pooled=2)).state_dict(), path)
    monkeypatch.setattr(known, "cached", lambda record: path)
    network = load_network("vgg16")
    assert (network.name, network.source["licence"]) == ("vgg16", "BSD-3-Clause")
    assert network.source["source"]["file"] == path.name


def test_weights_by_name_and_folder():
    tree = load_weights("alexnet-digits")
    assert list(tree) == ["params"]
    jax.tree.map(np.testing.assert_array_equal, tree, load_weights(bundled()["alexnet-digits"]))
    with pytest.raises(CheckpointError, match="did you mean 'alexnet-digits'"):
        load_weights("alexnet-digit")
