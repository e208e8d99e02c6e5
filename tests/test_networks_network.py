"""A network is a function: its program, the order of its layers, what it refuses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperturb.errors import NetworkError
from jaxperturb.networks.alexnet import AlexNet
from jaxperturb.networks.network import Network
from jaxperturb.networks.program import trace


class Many(nn.Module):
    """Eleven convolutions whose default names sort otherwise than they are used."""

    @nn.compact
    def __call__(self, x):
        for _ in range(11):
            x = nn.relu(nn.Conv(3, (3, 3))(x))
        return nn.Dense(4)(x.mean((1, 2)))


class Wrapped(nn.Module):
    """What the flat program must open, or leave closed: jit, remat, custom derivatives, scan, cond."""

    @nn.compact
    def __call__(self, x):
        x = nn.remat(nn.Conv)(6, (3, 3), name="early")(x)
        x = jax.jit(nn.silu)(x)
        x = nn.gelu(x) + jax.nn.relu6(x)
        kernel = self.param("looped", nn.initializers.normal(), (2, 6, 6))
        x, _ = jax.lax.scan(lambda carry, weight: (jnp.tanh(carry @ weight), None), x, kernel)
        x = jax.lax.cond(x.sum() > 100, jnp.sin, jnp.cos, x)
        return nn.Dense(5, name="late")(x.mean((1, 2)))


def network(module, shape=(8, 8, 2), seed=0):
    variables = module.init(jax.random.key(seed), jnp.zeros((1, *shape)))
    variables = jax.tree.map(
        lambda a: jax.random.normal(jax.random.key(a.size), a.shape) / np.sqrt(a.shape[0]), variables
    )
    return Network.from_linen(module, variables, image_shape=shape)


@pytest.mark.parametrize("module", [Many(), Wrapped()])
def test_the_flat_program_is_the_network(module):
    net = network(module)
    images = jax.random.normal(jax.random.key(1), (5, 8, 8, 2))
    program = net.program(batch=5)
    flat = jax.extend.core.jaxpr_as_fun(program.closed)
    want = net.apply(net.params, images)
    np.testing.assert_allclose(flat(*jax.tree.leaves(net.params), images)[0], want, rtol=1e-5, atol=1e-6)
    names = {equation.primitive.name for equation in program.equations}
    assert not names & {"jit", "pjit", "custom_jvp_call", "checkpoint", "remat"}


def test_layers_are_in_the_order_of_use():
    assert network(Many()).layer_names() == (*(f"Conv_{i}" for i in range(11)), "Dense_0")


def test_layers_are_described():
    net = network(Many())
    net.params["params"]["Conv_3"]["kernel"] = jnp.zeros((3, 3, 3, 3))
    layer = net.layers()[3]
    assert (layer.name, layer.shape, layer.units, layer.weights, layer.zeros) == ("Conv_3", (3, 3, 3, 3), 3, 84, 81)
    assert net.number_of_classes() == 4


def test_products_are_traced_in_full_float32():
    precisions = {
        str(equation.params["precision"])
        for equation in network(Many()).program().equations
        if equation.primitive.name in ("dot_general", "conv_general_dilated")
    }
    assert all("HIGHEST" in precision for precision in precisions)


def test_a_plain_function_is_a_network():
    net = Network.from_apply(
        lambda p, x: x.reshape(len(x), -1) @ p["w"], {"w": jnp.ones((12, 3))}, image_shape=(2, 2, 3)
    )
    assert net.number_of_classes() == 3
    assert net.layer_names() == ("w",)


def test_what_is_no_network_is_refused():
    net = network(Many())
    with pytest.raises(NetworkError, match=r"expects images of shape \(8, 8, 2\), got \(9, 9, 1\)"):
        net.program((9, 9, 1))
    with pytest.raises(NetworkError, match="not known"):
        Network.from_apply(net.apply, net.params).program()
    with pytest.raises(NetworkError, match="does not take images"):
        trace(net.apply, net.params, (8, 8, 5), 2)
    with pytest.raises(NetworkError, match="expected one array of logits"):
        trace(lambda p, x: x, {"w": jnp.ones((2, 2))}, (2, 2, 1), 2)


class Masked(nn.Module):
    """A module with a field that cannot be hashed."""

    mask: np.ndarray

    @nn.compact
    def __call__(self, x):
        return nn.Dense(4)((x * self.mask).mean((1, 2)))


def test_functions_of_equal_modules_are_equal_so_that_programs_are_compiled_once():
    made = [AlexNet(classes=10), AlexNet(classes=10), AlexNet(classes=11)]
    same, again, other = (Network.from_linen(module, {}).apply for module in made)
    assert same == again
    assert hash(same) == hash(again)
    assert same != other
    assert same != Network.from_linen(made[0], {}, train=True).apply


def test_a_module_that_cannot_be_hashed_is_itself_alone():
    masks = np.ones((8, 8, 2), np.float32), np.zeros((8, 8, 2), np.float32)
    whole, dark = (network(Masked(mask)) for mask in masks)
    assert whole.apply != dark.apply
    images = np.ones((1, 8, 8, 2), np.float32)
    for net, mask in ((whole, masks[0]), (dark, masks[1])):
        dense = net.params["params"]["Dense_0"]
        want = (images * mask).mean((1, 2)) @ np.asarray(dense["kernel"]) + np.asarray(dense["bias"])
        np.testing.assert_allclose(net.apply(net.params, images), want, rtol=1e-5, atol=1e-6)
        assert net.program().logits.aval.shape == (2, 4)
