"""The first four perturbations against a NumPy transcription of what they are said to do.

Counts agree exactly. What is random agrees in distribution: each comparison has a false-alarm rate of 1e-6, and each
transcription with a slip in it (the last test) is told apart by the same comparisons.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import jaxperturb as jp
from jaxperturb.random import draw_key

FALSE_ALARM = 1e-6
DRAWS = 600
KERNEL = np.random.default_rng(1).gamma(2.0, size=(6, 5, 8)).astype(np.float32)  # skewed, none is 0
BIAS = np.random.default_rng(2).normal(3.0, 0.2, size=8).astype(np.float32)


def synapse_knockout(rng, kernel, bias, level):
    out = []
    for array in (kernel, bias):
        flat = array.ravel().copy()
        flat[rng.choice(flat.size, int(np.floor(level * flat.size)), replace=False)] = 0
        out.append(flat.reshape(array.shape))
    return out


def node_knockout(rng, kernel, bias, level):
    units = rng.choice(len(bias), int(np.floor(level * len(bias))), replace=False)
    kernel, bias = kernel.copy(), bias.copy()
    kernel[..., units], bias[units] = 0, 0
    return [kernel, bias]


def gaussian_noise(rng, kernel, bias, level):
    return [array + level * array.std() * rng.standard_normal(array.shape) for array in (kernel, bias)]


def resample(rng, kernel, bias, level):
    out = []
    for array in (kernel, bias):
        flat = array.ravel().copy()
        k = int(np.floor(level * flat.size))
        places = rng.choice(flat.size, k, replace=False)
        flat[places] = rng.choice(array.ravel(), k, replace=False)
        out.append(flat.reshape(array.shape))
    return out


TRANSCRIPTIONS = {f.__name__: f for f in (synapse_knockout, node_knockout, gaussian_noise, resample)}


def ours(name, level):
    """Kernels and biases of many draws, (draws, ...)."""
    tree = {"a": {"kernel": jnp.asarray(KERNEL), "bias": jnp.asarray(BIAS)}}
    one = jax.jit(jax.vmap(lambda draw: getattr(jp, name)(draw_key(7, draw), tree, level)["a"]))
    found = one(jnp.arange(DRAWS, dtype=jnp.uint32))
    return np.asarray(found["kernel"], float), np.asarray(found["bias"], float)


def theirs(function, level, seed=3):
    rng = np.random.default_rng(seed)
    kernels, biases = zip(*(function(rng, KERNEL, BIAS, level) for _ in range(DRAWS)), strict=True)
    return np.stack(kernels).astype(float), np.stack(biases).astype(float)


def agreement(a, b) -> float:
    """Smallest p-value, times their number, over comparisons of two samples of perturbed tensors (draws, ...)."""
    p = []
    for x, y, intact in zip(a, b, (KERNEL, BIAS), strict=True):
        x, y = x.reshape(DRAWS, -1), y.reshape(DRAWS, -1)
        changed = [(sample != intact.ravel()) for sample in (x, y)]
        # Coverage: how often each entry changed. Spread over units and rows: variance of their counts.
        counts = np.stack([c.sum(0) for c in changed])
        if 0 < counts.sum() < counts.size * DRAWS:
            expected = counts.sum(0).clip(1) / 2
            p.append(scipy.stats.chi2.sf(((counts - expected) ** 2 / expected).sum(), counts.shape[1]))
            units = [c.reshape(DRAWS, -1, BIAS.size).sum(1).var(axis=1) for c in changed]
            if max(map(np.ptp, units)) > 0:
                p.append(scipy.stats.ks_2samp(*units).pvalue)
        # Moments of each draw, and the values that changed entries take.
        for moment in (np.mean, np.std):
            samples = [moment(sample, axis=1) for sample in (x, y)]
            if max(map(np.ptp, samples)) > 1e-9:
                p.append(scipy.stats.ks_2samp(*samples).pvalue)
        values = [sample[c] for sample, c in zip((x, y), changed, strict=True)]
        if min(map(len, values)):
            p.append(scipy.stats.ks_2samp(*values).pvalue)
    return len(p) * min(p, default=1.0)


@pytest.mark.parametrize("name", TRANSCRIPTIONS)
@pytest.mark.parametrize("level", [0.3, 0.8])
def test_ours_agree_with_the_transcription(name, level):
    assert agreement(ours(name, level), theirs(TRANSCRIPTIONS[name], level)) > FALSE_ALARM


@pytest.mark.parametrize("name", ["synapse_knockout", "node_knockout"])
@pytest.mark.parametrize("level", [0.0, 0.1, 0.3, 0.7, 1.0])
def test_counts_agree_exactly(name, level):
    for x, y in zip(ours(name, level), theirs(TRANSCRIPTIONS[name], level), strict=True):
        np.testing.assert_array_equal((x == 0).reshape(DRAWS, -1).sum(1), (y == 0).reshape(DRAWS, -1).sum(1))


def with_replacement(rng, kernel, bias, level):
    """A slip found in other tools: places are drawn with replacement, so that fewer go."""
    out = []
    for array in (kernel, bias):
        flat = array.ravel().copy()
        flat[rng.integers(flat.size, size=int(level * flat.size))] = 0
        out.append(flat.reshape(array.shape))
    return out


def one_scale(rng, kernel, bias, level):
    """Noise on the scale of the kernel for both tensors."""
    return [array + level * kernel.std() * rng.standard_normal(array.shape) for array in (kernel, bias)]


def whole_columns(rng, kernel, bias, level):
    """Synapses that go unit by unit."""
    return node_knockout(rng, kernel, bias, level)


def shuffled(rng, kernel, bias, level):
    """All entries are permuted, not only a share."""
    return [rng.permutation(array.ravel()).reshape(array.shape) for array in (kernel, bias)]


SLIPS = [
    ("synapse_knockout", with_replacement),
    ("synapse_knockout", whole_columns),
    ("node_knockout", synapse_knockout),
    ("gaussian_noise", one_scale),
    ("resample", shuffled),
]


@pytest.mark.parametrize(("name", "slip"), SLIPS)
def test_slips_are_told_apart(name, slip):
    assert agreement(ours(name, 0.5), theirs(slip, 0.5)) < FALSE_ALARM
