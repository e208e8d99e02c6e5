"""The permutation as a map: a cheaper one than its ranks, and the cycle through its chosen entries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxperturb.random import Permutation

# Up to 65536 entries are hashed; above, sizes with no phantom, one, and many; 66049 and 70001 have thousands.
SIZES = (1, 2, 7, 1000, 65536, 65537, 65791, 65792, 66049, 70001, 2**17, 2**17 - 1, 2**17 + 1)


def permutation(n, seed=3):
    return Permutation((jnp.uint32(seed), jnp.uint32(2)), n)


@pytest.mark.parametrize("n", SIZES)
def test_walking_permutes(n):
    walked = np.asarray(jax.jit(permutation(n).walk)())
    np.testing.assert_array_equal(np.sort(walked), np.arange(n))


def test_walking_spreads():
    """Neither the identity nor near it: about one fixed point, and half of all neighbours in order."""
    walked = np.asarray(permutation(70001).walk()).astype(np.int64)
    assert (walked == np.arange(70001)).sum() < 12  # Poisson(1): false alarm below 1e-9
    assert abs((np.diff(walked) > 0).mean() - 0.5) < 6 / np.sqrt(12 * 70001)


@pytest.mark.parametrize("n", SIZES)
def test_the_cycle_goes_through_the_chosen_entries_by_rank(n):
    for seed in range(3):
        made = permutation(n, seed)
        cycle = jax.jit(made.cycle)
        order = np.argsort(np.asarray(jax.jit(lambda made=made: made.ranks((n,)))()))
        values = np.sort(np.asarray(made.values((n,))).astype(np.int64))
        at_phantoms = (np.flatnonzero(np.diff(values) > 1)[:3] + 1).tolist() if n > 2**16 else []
        for k in {1, 2, n // 2, n - 1, n, n + 5, *at_phantoms} - {0}:
            chosen = order[:k]
            np.testing.assert_array_equal(np.asarray(cycle(jnp.uint32(k)))[chosen], np.roll(chosen, -1))
