"""What a perturbation touches: which layers, which of their tensors, and how many entries of each.

A choice of entries is made tensor by tensor (``scope="each"``), or from all selected tensors as one long tensor
(``scope="joint"``), in the order of sorted layer names, weight before bias before norm.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxperturb.errors import LevelError, PerturbationError
from jaxperturb.levels import LevelLike, as_level, check_range, count_of, traced_count_of
from jaxperturb.random.keys import layer_words, leaf_words
from jaxperturb.trees import Layer, Leaf, layers_of, select_layers
from jaxperturb.trees import Norms as Norms
from jaxperturb.types import AnyArray, Key, Params, Scalar, Words

Level = LevelLike | Scalar | None
Count = int | Scalar | Mapping[str, int | Scalar] | None
Layers = str | Sequence[str]
Shared = Literal["each", "joint"]

JOINT = "joint"  # the name under which a joint choice is drawn and counted


@dataclass(frozen=True)
class Where:
    """What a perturbation touches.

    Attributes:
        layers: names or patterns.
        include_bias: whether biases are touched.
        include_norm: whether scale and shift of a layer's norm are.
        scope: whether a choice is made in each tensor, or jointly from all.
        norms: names of norms, as for `jaxperturb.trees.layers_of`.
    """

    layers: Layers = "*"
    include_bias: bool = True
    include_norm: bool = False
    scope: str = "each"
    norms: Norms = None

    def __post_init__(self) -> None:
        if self.scope not in ("each", "joint"):
            raise PerturbationError(f"expected scope 'each' or 'joint', got {self.scope!r}")

    def chosen(self, params: Params) -> tuple[Layer, ...]:
        """Returns the selected layers, sorted by name."""
        known = layers_of(params, self.norms)
        return tuple(known[name] for name in sorted(select_layers(tuple(known), self.layers)))

    def tensors(self, layers: Sequence[Layer]) -> tuple["Tensor", ...]:
        """Returns the tensors of some layers, with the population that entries are chosen from."""
        found = [(layer, leaf) for layer in layers for leaf in layer.leaves(self.include_bias, self.include_norm)]
        if self.scope == "each":
            return tuple(Tensor(layer, leaf, f"{layer.name}/{leaf.name}", leaf.size, 0) for layer, leaf in found)
        sizes = [leaf.size for _, leaf in found]
        return tuple(Tensor(layer, leaf, JOINT, sum(sizes), sum(sizes[:i])) for i, (layer, leaf) in enumerate(found))


@dataclass(frozen=True)
class Tensor:
    """A tensor that is touched, and the population of which its entries are part.

    Attributes:
        layer: whose it is.
        leaf: the tensor.
        population: name of the population, by which counts are given: ``conv1/kernel``, or ``joint``.
        n: entries of the population.
        offset: place of the tensor's first entry in it.
    """

    layer: Layer
    leaf: Leaf
    population: str
    n: int
    offset: int

    def words(self, key: Key) -> Words:
        """Returns the key words of the tensor itself."""
        return leaf_words(layer_words(key, self.layer.name), self.leaf.name)

    def population_words(self, key: Key) -> Words:
        """Returns the key words by which entries of the population are chosen."""
        return layer_words(key, JOINT) if self.population == JOINT else self.words(key)


def touched(params: Params, where: Where) -> Iterator[tuple[Tensor, AnyArray]]:
    """Yields the tensors that are touched, with their arrays."""
    leaves = jax.tree.leaves(params)
    for tensor in where.tensors(where.chosen(params)):
        yield tensor, jnp.asarray(leaves[tensor.leaf.index])


def entries_to_select(level: Level, count: Count, name: str, n: int) -> int | Scalar:
    """Returns k, of n entries: from a fraction, or as given.

    Args:
        level: a Python level in [0, 1], or a float32 array of no axes, which is clipped to it.
        count: k itself, for every population or by name; takes the place of the level.
        name: of the population.
        n: number of its entries.

    Raises:
        LevelError: out of range, of a wrong type, both or neither given.
    """
    if count is not None:
        if level is not None:
            raise LevelError("expected either a level or a count, got both")
        return given_count(count, name, n)
    if level is None:
        raise LevelError("expected either a level or a count, got neither")
    if isinstance(level, jax.Array | np.ndarray):
        return traced_count_of(traced_level(level), n)
    return count_of(check_range(as_level(level), Decimal(0), Decimal(1), "a fraction"), n)


def traced_level(level: Scalar) -> Scalar:
    """Returns a level given as an array, which must be float32 without axes."""
    if jnp.ndim(level) or jnp.result_type(level) != jnp.float32:
        came = f"{jnp.result_type(level)}{list(jnp.shape(level))}"
        raise LevelError(f"expected a level as a Python number or a float32 array of no axes, got {came}")
    return jnp.asarray(level)


def scale_of(level: Level) -> Scalar:
    """Returns a level that multiplies something, 0 or more, as float32; an array is clipped to that."""
    if level is None:
        raise LevelError("expected a level, got none")
    if isinstance(level, jax.Array | np.ndarray):
        return jnp.maximum(traced_level(level), 0.0)
    return jnp.float32(float(as_level(level)))


def given_count(count: Count, name: str, n: int) -> int | Scalar:
    """Returns a count given for all populations or by name, or raises `LevelError` where it is not from 0 to n."""
    if isinstance(count, Mapping):
        if name not in count:
            raise LevelError(f"expected a count for {name!r}, got counts for {', '.join(count) or 'nothing'}")
        count = count[name]
    if isinstance(count, jax.Array | np.ndarray):
        return count
    if isinstance(count, bool) or not isinstance(count, Integral) or not 0 <= count <= n:
        raise LevelError(f"expected a count from 0 to the {n} of {name!r}, got {count!r}")
    return int(count)
