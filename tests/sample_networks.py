"""Small seeded networks of many makes, which the laws of the engine must hold for: name -> factory of a `Network`.

All take images (8, 8, 3) or (8, 8, 1) and tell 10 classes apart; all weights are random, statistics of norms too.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxperturb.networks.network import Network

CLASSES = 10
COLOUR, GREY = (8, 8, 3), (8, 8, 1)


def seeded(tree, seed=0):
    """Returns a tree of random arrays: weights so that logits neither vanish nor explode, statistics above 0."""
    random = np.random.default_rng(seed)

    def one(path, leaf):
        name = jax.tree_util.keystr(path)
        values = random.normal(size=leaf.shape)
        if leaf.ndim >= 2:
            inputs = leaf.shape[-2] if "stack" in name else leaf.size // max(leaf.shape[-1], leaf.shape[0])
            values *= math.sqrt(2 / max(inputs, 1))
        elif "var" in name or "scale" in name:
            values = 0.5 + np.abs(values)
        else:
            values *= 0.3
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(one, tree)


def linen(module, shape=COLOUR, **options):
    return Network.from_linen(module, variables_of(module, shape), image_shape=shape, **options)


def variables_of(module, shape=COLOUR, **call):
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    shapes = jax.eval_shape(partial(module.init, **call), keys, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return seeded(shapes)


class ResNet(nn.Module):
    """A stem and two residual blocks, the second with a stride; all convolutions without bias, before a batch norm."""

    @nn.compact
    def __call__(self, x, train: bool = True):
        def conv(units, side, stride=1):
            return nn.Conv(units, (side, side), stride, use_bias=False)

        def norm():
            return nn.BatchNorm(use_running_average=not train)

        x = nn.relu(norm()(conv(8, 3)(x)))
        for units, stride in ((8, 1), (12, 2)):
            y = nn.relu(norm()(conv(units, 3, stride)(x)))
            y = norm()(conv(units, 3)(y))
            x = nn.relu((norm()(conv(units, 1, stride)(x)) if stride > 1 else x) + y)
        return nn.Dense(CLASSES)(x.mean((1, 2)))


class Attention(nn.Module):
    """Patches, a block of attention and of a perceptron with layer norms, dropout that must be off."""

    @nn.compact
    def __call__(self, x, *, deterministic: bool):
        x = nn.Conv(12, (4, 4), (4, 4), name="patches")(x).reshape(len(x), -1, 12)
        y = nn.MultiHeadDotProductAttention(2, dropout_rate=0.5, name="attention")(
            nn.LayerNorm()(x), deterministic=deterministic
        )
        x = x + nn.Dropout(0.5)(y, deterministic=deterministic)
        x = x + nn.Dense(12, name="down")(nn.gelu(nn.Dense(16, name="up")(nn.LayerNorm()(x))))
        return nn.Dense(CLASSES, name="head")(x.mean(1))


def attention():
    variables = variables_of(Attention(), deterministic=True)
    return Network.from_linen(Attention(), variables, image_shape=COLOUR)


class LinenNet(nn.Module):
    """A convolution with its batch norm and two dense layers: the twin of `NnxNet` and `plain_apply`."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(6, (3, 3), name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="conv1_norm")(x))
        x = nn.relu(nn.Dense(16, name="fc2")(x.reshape(len(x), -1)))
        return nn.Dense(CLASSES, name="fc10")(x)


class NnxNet(nnx.Module):
    """The same in NNX, with a dropout that must be off."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 6, (3, 3), rngs=rngs)
        self.conv1_norm = nnx.BatchNorm(6, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.fc2 = nnx.Linear(8 * 8 * 6, 16, rngs=rngs)
        self.fc10 = nnx.Linear(16, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv1_norm(self.conv1(x)))
        return self.fc10(self.dropout(nnx.relu(self.fc2(x.reshape(len(x), -1)))))


def nnx_model():
    """Returns the NNX model with the weights of the Linen one."""
    model = NnxNet(nnx.Rngs(0))
    for collection in variables_of(LinenNet()).values():
        for layer, leaves in collection.items():
            for name, array in leaves.items():
                setattr(getattr(model, layer), name, type(getattr(getattr(model, layer), name))(array))
    return model


def plain_apply(params, images):
    """The same without any library of layers; the statistics of its norm are given as the collection."""
    inner, (mean, var) = params["params"], (params["batch_stats"]["conv1_norm"][name] for name in ("mean", "var"))
    x = jax.lax.conv_general_dilated(
        images, inner["conv1"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = (x + inner["conv1"]["bias"] - mean) * (inner["conv1_norm"]["scale"] / jnp.sqrt(var + 1e-5))
    x = jax.nn.relu(x + inner["conv1_norm"]["bias"]).reshape(len(x), -1)
    x = jax.nn.relu(x @ inner["fc2"]["kernel"] + inner["fc2"]["bias"])
    return x @ inner["fc10"]["kernel"] + inner["fc10"]["bias"]


class EquinoxNet(eqx.Module):
    """Convolutions with units first, a batch norm with a state, dropout; takes one image (c, h, w)."""

    conv1: eqx.nn.Conv2d
    conv1_norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    dense: list[eqx.nn.Linear]

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.conv1 = eqx.nn.Conv2d(3, 6, 3, padding=1, key=keys[0])
        self.conv1_norm = eqx.nn.BatchNorm(6, axis_name="batch", mode="batch")
        self.dropout = eqx.nn.Dropout(0.5)
        self.dense = [eqx.nn.Linear(8 * 8 * 6, 16, key=keys[1]), eqx.nn.Linear(16, CLASSES, key=keys[2])]

    def __call__(self, x, state, *, key):
        x, state = self.conv1_norm(self.conv1(x), state)
        x = jax.nn.relu(self.dense[0](jax.nn.relu(x).ravel()))
        return self.dense[1](self.dropout(x, key=key)), state


def equinox_model():
    """Returns an Equinox model and its state."""
    model, state = eqx.nn.make_with_state(EquinoxNet)(jax.random.key(0))
    arrays, rest = eqx.partition(model, eqx.is_inexact_array)
    statistics = (jnp.linspace(-0.4, 0.4, 6), jnp.linspace(0.5, 2.0, 6))
    return eqx.combine(seeded(arrays), rest), state.set(model.conv1_norm.batch_state_index, statistics)


def perceptron(params, images):
    """A plain-dict network with `w` and `b`."""
    x = images.reshape(len(images), -1)
    for name in ("first", "second"):
        x = jnp.tanh(x @ params[name]["w"] + params[name]["b"])
    return x @ params["last"]["w"] + params["last"]["b"]


def dense(inputs, units):
    return {"w": jnp.zeros((inputs, units)), "b": jnp.zeros(units)}


def plain(apply, params, shape=GREY):
    return Network.from_apply(apply, seeded(params), image_shape=shape, name=apply.__name__)


THREE_DENSE = {"first": dense(64, 20), "second": dense(20, 12), "last": dense(12, CLASSES)}


def jitted(params, images):
    """Functions under `jax.jit` inside, one within the other, and one of them called twice."""

    @jax.jit
    def layer(one, x):
        return jax.jit(jax.nn.relu)(x @ one["w"] + one["b"])

    x = layer(params["first"], images.reshape(len(images), -1))
    return layer(params["last"], layer(params["second"], x))


def scanned(params, images):
    """A `lax.scan` over four layers of one stacked kernel, between two plain ones."""
    x = images.reshape(len(images), -1) @ params["first"]["w"] + params["first"]["b"]
    stacked = params["stack"]["w"], params["stack"]["b"]
    x, _ = jax.lax.scan(lambda x, layer: (jnp.tanh(x @ layer[0] + layer[1]), None), x, stacked)
    return x @ params["last"]["w"] + params["last"]["b"]


class Remat(nn.Module):
    """Layers whose activations are computed anew for gradients."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.remat(nn.Conv)(6, (3, 3), name="conv1")(x))
        x = nn.relu(nn.remat(nn.Conv)(6, (3, 3), (2, 2), name="conv2")(x))
        return nn.Dense(CLASSES, name="fc")(x.reshape(len(x), -1))


@jax.custom_jvp
def soft(x):
    return jnp.where(x > 20, x, jnp.log1p(jnp.exp(jnp.minimum(x, 20))))


@soft.defjvp
def _soft_slope(primals, tangents):
    return soft(*primals), jax.nn.sigmoid(primals[0]) * tangents[0]


@jax.custom_jvp
def product(x, kernel):
    return x @ kernel


@product.defjvp
def _product_slope(primals, tangents):
    return product(*primals), tangents[0] @ primals[1] + primals[0] @ tangents[1]


def custom(params, images):
    """An activation, and a product with a perturbed kernel, that bring derivatives of their own."""
    x = soft(product(images.reshape(len(images), -1), params["first"]["w"]) + params["first"]["b"])
    x = soft(x @ params["second"]["w"] + params["second"]["b"])
    return x @ params["last"]["w"] + params["last"]["b"]


def tied(params, images):
    """One kernel used twice, the second time transposed."""
    x = images.reshape(len(images), -1)
    code = jnp.tanh(x @ params["code"]["w"] + params["code"]["b"])
    x = jnp.tanh(code @ params["code"]["w"].T)
    return x @ params["last"]["w"] + params["last"]["b"]


def stack(layers, units):
    return {"w": jnp.zeros((layers, units, units)), "b": jnp.zeros((layers, units))}


SAMPLES: Mapping[str, Callable[[], Network]] = {
    "resnet": lambda: linen(ResNet(), norms={f"Conv_{i}": f"BatchNorm_{i}" for i in range(6)}),
    "attention": attention,
    "linen": lambda: linen(LinenNet()),
    "nnx": lambda: Network.from_nnx(nnx_model(), image_shape=COLOUR),
    "equinox": lambda: Network.from_equinox(*equinox_model(), image_shape=COLOUR),
    "mlp": lambda: plain(perceptron, THREE_DENSE),
    "jit": lambda: plain(jitted, THREE_DENSE),
    "scan": lambda: plain(scanned, {"first": dense(64, 12), "stack": stack(4, 12), "last": dense(12, CLASSES)}),
    "remat": lambda: linen(Remat(), GREY),
    "custom_jvp": lambda: plain(custom, THREE_DENSE),
    "tied": lambda: plain(tied, {"code": dense(64, 12), "last": dense(64, CLASSES)}),
}
