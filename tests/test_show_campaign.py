"""A fault campaign through the library, against every fault there is, injected by NumPy."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxperturb as jp

INPUTS, CLASSES, IMAGES, DRAWS, LEVEL = 3, 2, 60, 200, 0.0012
BITS = INPUTS * CLASSES * 32
DROP = 0.05


@pytest.fixture(scope="module")
def task():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(INPUTS, CLASSES)).astype(np.float32)
    images = rng.normal(size=(IMAGES, 1, 1, INPUTS)).astype(np.float32)
    labels = (images.reshape(IMAGES, INPUTS) @ weights + 0.3 * rng.normal(size=(IMAGES, CLASSES))).argmax(1)
    return weights, images, labels


@pytest.fixture(scope="module")
def campaign(task):
    weights, images, labels = task

    def apply(params, x):
        return x.reshape(len(x), -1) @ params["fc"]["kernel"]

    network = jp.Network.from_apply(apply, {"fc": {"kernel": jnp.asarray(weights)}}, name="small")
    return jp.sweep(network, (images, labels), "bit_flip", "*", [0, LEVEL], draws=DRAWS)


def injected(task, faults):
    """First classes (images), -1 where a logit is not a number, under faults at these bits of the row-major weights."""
    weights, images, _ = task
    words = weights.ravel().view(np.uint32).copy()
    for fault in faults:
        words[fault // 32] ^= np.uint32(1 << (fault % 32))
    with np.errstate(all="ignore"):
        logits = images.reshape(IMAGES, INPUTS) @ words.view(np.float32).reshape(INPUTS, CLASSES)
    return np.where(np.isnan(logits).any(1), -1, logits.argmax(1))


@pytest.fixture(scope="module")
def exhaustive(task):
    """Mean share of images that change, and share of critical faults, for no, one and two faults."""
    _, _, labels = task
    reference = injected(task, ())
    found = []
    for number in range(3):
        effects = [injected(task, faults) for faults in itertools.combinations(range(BITS), number)]
        changed = np.mean([(effect != reference).mean() for effect in effects])
        losses = [(reference == labels).mean() - (effect == labels).mean() for effect in effects]
        found.append((changed, np.mean(np.array(losses) > DROP + 1e-9)))
    return np.array(found)


@pytest.mark.parametrize(("metric", "place"), [("sdc1", 0), ("critical", 1)])
def test_intervals_hold_what_every_fault_does(campaign, exhaustive, metric, place):
    table = campaign.by_level(metric, critical_drop=DROP)
    (row,) = table[table["level"] > 0].to_dict("records")
    chances = stats.binom.pmf(range(3), BITS, LEVEL)
    # Three faults or more are rare, and do something between nothing and everything.
    least = chances @ exhaustive[:, place]
    most = least + 1 - chances.sum()
    assert most - least < 0.003
    assert least > 0.005
    assert row["low"] <= most
    assert least <= row["high"]
    assert row["high"] - row["low"] < 0.1


def test_single_faults_do_to_each_image_what_numpy_says(campaign, task):
    """Draw by draw, by the fault list."""
    weights, reference = task[0], injected(task, ())
    network = jp.Network.from_apply(
        lambda params, x: x.reshape(len(x), -1) @ params["fc"]["kernel"], {"fc": {"kernel": jnp.asarray(weights)}}
    )
    hit = 0
    for draw in range(40):
        faults = jp.fault_list(network, "bit_flip", "*", LEVEL, draw)
        places = [int(fault.index) * 32 + fault.bit for fault in faults]
        outcomes = campaign.outcomes("bit_flip", "fc", LEVEL, draw)
        expected = injected(task, places)[campaign.images["data_index"]] == reference[campaign.images["data_index"]]
        np.testing.assert_array_equal(outcomes.same1, expected)
        hit += bool(places)
    assert hit > 3
