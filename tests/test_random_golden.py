"""Golden values: what `SEMANTICS` stands for. A change of any of them changes every study that was ever stored.

They were written down once from the code itself, and pin it; that the numbers are good is shown elsewhere
(test_random_quality.py), and the hash is written out independently in test_random.py.
"""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxperturb as jp
from jaxperturb.perturb import CATALOGUE
from jaxperturb.random import SEMANTICS, Permutation, bits, draw_key, key, normal, words_of
from jaxperturb.random.keys import Stream, layer_words, leaf_words, name_word, stream_words

TREE = {
    name: {
        "kernel": ((np.arange(np.prod(shape)) * 37 % 101 - 50) / 64).astype(np.float32).reshape(shape),
        "bias": ((np.arange(shape[-1]) * 5 % 11 - 4) / 8).astype(np.float32),
    }
    for name, shape in {"conv1": (3, 3, 4, 8), "fc6": (300, 260)}.items()
}

LEVELS = {"quantize": 4, "bit_flip": 0.01, "stuck_at": 0.01}

# Perturbations that choose or order: bit for bit, on any device and version.
EXACT = {
    "synapse_knockout": "d646647b66828267",
    "node_knockout": "ea9c0b84ea4066ce",
    "resample": "257aaec9beb69be9",
    "shuffle": "db70c2e06b8a60ed",
    "sign_flip": "926d5deafd79b90f",
    "magnitude_knockout": "8d2a205539502658",
    "quantize": "9f299d2f0b2a5b8c",
    "bit_flip": "69c2802cf25defb9",
    "stuck_at": "21c5e834ab6e2b36",
}
# Those that compute real numbers: to the last places.
CLOSE = {"gaussian_noise", "rerandomize"}
GOLDEN_NOISE = [-0.5314776, 0.1558066, 0.6735982, -0.1591784, 0.8174566, 0.0351574, 0.3544652, -0.0912011]
GOLDEN_INITIAL = [0.2216276, -0.0017029, -0.0400682, 0.0888477]
# Those that take their choice from data, or from a list.
GIVEN = {"saliency_knockout", "mean_ablation", "replay"}


def digest(tree) -> str:
    joined = b"".join(np.ascontiguousarray(leaf).tobytes() for leaf in jax.tree.leaves(tree))
    return hashlib.sha256(joined).hexdigest()[:16]


def integers(values) -> list[int]:
    return [int(value) for value in jnp.ravel(jnp.stack(values) if isinstance(values, tuple) else values)]


def test_version():
    assert SEMANTICS == 1


def test_keys():
    assert integers(jax.random.key_data(key(0))) == [3882864527, 4257485383]
    assert integers(jax.random.key_data(key(2**32 - 1))) == [1391019341, 38854811]
    assert integers(jax.random.key_data(draw_key(5, 3))) == [1861208246, 2325862287]
    children = jax.random.split(key(1), 2)
    assert integers(jax.random.key_data(children)) == [2774069607, 1194006754, 3276972810, 3174475058]


def test_keys_of_other_implementations():
    assert integers(words_of(jax.random.key(7, impl="threefry2x32"))) == [1919780358, 862313398]


def test_folds():
    assert name_word("conv1") == 729539658
    layer = layer_words(draw_key(5, 3), "conv1")
    assert integers(layer) == [3430946082, 3264237310]
    assert integers(leaf_words(layer, "kernel")) == [532278351, 3008450344]
    assert {stream: integers(stream_words(layer, stream)) for stream in Stream} == {
        Stream.SELECT: [4185030029, 1369127807],
        Stream.VALUES: [2573607516, 1383573320],
        Stream.NOISE: [1829746652, 1464171270],
        Stream.COUNT: [2966042602, 392313789],
    }


def test_numbers():
    assert integers(bits(words_of(key(0)), (4,))) == [1367825693, 2914653798, 2904439984, 952970874]
    want = [-0.47197672724723816, 0.46384549140930176, 0.45721757411956787, -0.7658564448356628]
    np.testing.assert_allclose(normal(words_of(key(0)), (4,)), want, rtol=1e-6)


@pytest.mark.parametrize(
    ("n", "ranks", "entries", "mask"),
    [
        (1000, [334, 718, 717, 229, 19, 42], [169, 182, 652], "63167371193a8eca"),
        (100_000, [40784, 50761, 35667, 98901, 23007, 76386], [96218, 59420, 58592], "b30c871487db5ab4"),
    ],
)
def test_permutations(n, ranks, entries, mask):
    permutation = Permutation(words_of(key(0)), n)
    assert integers(permutation.ranks((n,))[:6]) == ranks
    assert integers(permutation.entries(jnp.arange(3, dtype=jnp.uint32))) == entries
    assert digest(permutation.mask(n // 3, (n,))) == mask


@pytest.mark.parametrize("name", EXACT)
def test_what_is_chosen(name):
    after = CATALOGUE[name].function(draw_key(5, 3), TREE, LEVELS.get(name, 0.3))
    assert digest(after) == EXACT[name]


def test_what_is_chosen_jointly():
    assert digest(jp.synapse_knockout(draw_key(5, 3), TREE, 0.3, scope="joint")) == "f48fd566c10c278d"
    assert digest(jp.node_knockout(draw_key(5, 3), TREE, 0.3, scope="joint")) == "73074fe5c4a51d31"


def test_noise():
    after = jp.gaussian_noise(draw_key(5, 3), TREE, 0.3)["conv1"]["bias"]
    np.testing.assert_allclose(after, GOLDEN_NOISE, rtol=1e-5, atol=1e-6)


def test_initialisers():
    after = jp.rerandomize(draw_key(5, 3), TREE, 1, layers="conv1")["conv1"]["kernel"]
    np.testing.assert_allclose(np.ravel(after)[:4], GOLDEN_INITIAL, rtol=1e-5, atol=1e-6)


def test_every_perturbation_is_pinned():
    assert set(CATALOGUE) == set(EXACT) | CLOSE | GIVEN
