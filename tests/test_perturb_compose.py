"""Several perturbations as one."""

from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxperturb as jp
from jaxperturb.data import from_arrays
from jaxperturb.errors import LevelError, PerturbationError
from jaxperturb.perturb import CATALOGUE, parse_perturbations
from jaxperturb.perturb.catalogue import ask
from jaxperturb.perturb.request import Request
from jaxperturb.perturb.targets import Target
from jaxperturb.random import draw_key, key
from jaxperturb.study.study import source_hash


def tree():
    rng = np.random.default_rng(0)
    return {
        name: {"kernel": rng.normal(size=shape).astype(np.float32), "bias": np.ones(shape[-1], np.float32)}
        for name, shape in {"a": (300, 260), "b": (30, 20)}.items()
    }


def halve(key, params, level, *, layers="*"):
    """Halves all of a tree's layers a: a user's own function, without further options."""
    return params | {"a": jax.tree.map(lambda x: x * (1 - level / 2), params["a"])}


def equal(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return all(np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs)


def test_one_after_another_with_keys_of_their_own():
    found = jp.compose("synapse_knockout", jp.sign_flip, "node_knockout(include_bias=false)")(key(3), tree(), 0.3)
    want = jp.synapse_knockout(key(3), tree(), 0.3)
    want = jp.sign_flip(jax.random.fold_in(key(3), 1), want, 0.3)
    want = jp.node_knockout(jax.random.fold_in(key(3), 2), want, 0.3, include_bias=False)
    assert equal(found, want)


def test_equal_parts_strike_differently():
    once = jp.synapse_knockout(key(0), tree(), 0.5)["a"]["kernel"]
    twice = jp.compose("synapse_knockout", "synapse_knockout")(key(0), tree(), 0.5)["a"]["kernel"]
    left, n = int((np.asarray(twice) != 0).sum()), once.size
    assert abs(left - n / 4) < 6 * np.sqrt(n / 16)  # hypergeometric


def test_options_reach_the_parts_that_have_them():
    both = jp.compose("node_knockout", "gaussian_noise")
    found = both(key(0), tree(), 0.5, layers="b", include_bias=False, norms={})
    want = jp.node_knockout(key(0), tree(), 0.5, layers="b", include_bias=False)
    want = jp.gaussian_noise(jax.random.fold_in(key(0), 1), want, 0.5, layers="b", include_bias=False)
    assert equal(found, want)
    assert found["a"]["kernel"].tobytes() == tree()["a"]["kernel"].tobytes()
    two = jp.compose("shuffle", "synapse_knockout")
    want = jp.shuffle(key(0), tree(), 0.5, scope="joint")
    want = jp.synapse_knockout(jax.random.fold_in(key(0), 1), want, 0.5, scope="joint")
    assert equal(two(key(0), tree(), 0.5, scope="joint"), want)
    means = {"a": np.full(260, 7, np.float32), "b": np.full(20, 7, np.float32)}
    ablated = jp.compose("synapse_knockout", "mean_ablation")(key(0), tree(), 1, means=means)
    assert (np.asarray(ablated["a"]["bias"]) == 7).all()


def test_jitted_and_traced_levels_agree():
    both, params = jp.compose("synapse_knockout", "node_knockout"), tree()
    traces = []

    @jax.jit
    def lesion(k, level):
        traces.append(level)
        return both(k, params, level)

    for seed, level in ((0, 0.3), (1, 0.7), (2, 1.0)):
        assert equal(lesion(key(seed), jnp.float32(level)), both(key(seed), params, level))
    assert len(traces) == 1


def test_its_text_is_read_back():
    text = "compose(synapse_knockout(include_bias=false),gaussian_noise),resample"
    first, second = parse_perturbations(text)
    assert (first.text, second.text) == ("compose(synapse_knockout(include_bias=false),gaussian_noise)", "resample")
    assert first == ask(jp.compose("synapse_knockout(include_bias=False)", jp.gaussian_noise))
    inside = ask("compose( compose(resample, sign_flip), node_knockout )")
    assert inside.text == "compose(compose(resample,sign_flip),node_knockout)"
    assert inside == ask(inside.text)
    assert hash(inside) == hash(ask(inside.text))
    assert ask(jp.compose("sign_flip", halve)).text == f"compose(sign_flip,{__name__}:halve)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("compose(resample)", "two perturbations or more"),
        ("compose()", "two perturbations or more"),
        ("compose(resample,no_such)", "unknown perturbation 'no_such'"),
        ("compose(resample,sign_flip", "brackets"),
        ("compose(resample,sign_flip),compose(resample,sign_flip)", "asked for twice"),
        ("compose(bit_flip(bits=each),resample)", "stands for 32"),
    ],
)
def test_mistakes_get_one_clear_line(text, message):
    with pytest.raises(PerturbationError, match=message):
        parse_perturbations(text)


def test_what_a_part_cannot_take_is_refused():
    both = jp.compose("node_knockout", "gaussian_noise")
    with pytest.raises(PerturbationError, match="gaussian_noise takes no scope"):
        both(key(0), tree(), 0.5, scope="joint")
    with pytest.raises(PerturbationError, match="gaussian_noise takes no count"):
        both(key(0), tree(), count=3)
    with pytest.raises(LevelError, match="0:conv1/kernel"):
        both(key(0), tree(), count={"a/kernel": 3})
    counted = jp.compose("synapse_knockout", "sign_flip")(key(0), tree(), count=3, include_bias=False)
    assert (np.asarray(counted["b"]["kernel"]) == 0).sum() == 3


def test_levels_and_draws_of_a_composition():
    one = ask("compose(gaussian_noise,synapse_knockout)").perturbation
    assert (one.low, one.high, one.grid, one.no_damage) == (0, 1, "0:1:0.1", 0)
    assert not ask("compose(gaussian_noise,synapse_knockout)").coincides(Decimal(1))
    assert ask("compose(node_knockout,synapse_knockout)").coincides(Decimal(1))
    assert not ask("compose(node_knockout,resample)").coincides(Decimal(1))
    assert ask("compose(magnitude_knockout,magnitude_knockout(order=largest))").coincides(Decimal("0.3"))
    assert ask("compose(gaussian_noise,quantize)").perturbation.grid == CATALOGUE["quantize"].grid
    assert ask("compose(quantize,resample)").perturbation.levels() == (1,)
    assert ask("compose(quantize,gaussian_noise)").perturbation.no_damage is None
    assert ask("compose(mean_ablation,saliency_knockout)").perturbation.measured == ("means", "scores")
    assert not any(
        entry.measured for name, entry in CATALOGUE.items() if name not in ("mean_ablation", "saliency_knockout")
    )


def test_counts_of_a_cell_are_exact_for_each_part():
    params = tree()
    level = Decimal("0.0000007")  # of 78000 weights 0; no multiple of a millionth
    for text in ("compose(node_knockout,gaussian_noise)", "compose(synapse_knockout,synapse_knockout(among=nonzero))"):
        asked = ask(text)
        request = Request(params, Target.of("a"), level, asked.all_options(), key(1))
        counts = asked.counts(request)
        assert counts["1:level"] == level
    assert counts["0:a/kernel"] == 0
    counts = ask("compose(sign_flip,bit_flip)").counts(Request(params, Target.of("a"), Decimal("0.0001"), {}, key(1)))
    alone = ask("bit_flip")
    own = Request(params, Target.of("a"), Decimal("0.0001"), alone.all_options(), jax.random.fold_in(key(1), 1))
    assert counts["1:a/kernel"] == alone.counts(own)["a/kernel"]
    assert counts["0:a/kernel"] == 7


def test_the_code_of_users_parts_counts():
    assert source_hash(jp.compose("resample", "sign_flip")) is None
    assert source_hash(jp.compose("resample", halve)) is not None


def test_in_a_study_and_as_a_lesion():
    params = {"a": tree()["b"]}
    network = jp.Network.from_apply(
        lambda p, x: x.reshape(len(x), -1) @ p["a"]["kernel"] + p["a"]["bias"], params, image_shape=(5, 6, 1)
    )
    rng = np.random.default_rng(1)
    data = from_arrays(rng.normal(size=(90, 5, 6, 1)).astype(np.float32), rng.integers(0, 20, 90).astype(np.int32))
    texts = [
        "compose(synapse_knockout,gaussian_noise)",
        "compose(saliency_knockout,mean_ablation)",
        "compose(bit_flip(word=int8),resample)",
    ]
    found = jp.sweep(network, data, [*texts, jp.compose("sign_flip", halve)], levels="0,0.3", draws=2).cells
    assert set(found.perturbation) == {*texts, f"compose(sign_flip,{__name__}:halve)"}
    for text in (texts[0], texts[2]):
        for row in found[(found.perturbation == text) & (found.level == 0.3)].itertuples():
            assert jp.evaluate(jp.lesion(network, text, "a", 0.3, row.draw), data).top1 == row.top1
    want = jp.compose("synapse_knockout", "gaussian_noise")(draw_key(0, 1), params, 0.3)
    made = jp.lesion(network, texts[0], "a", 0.3, draw=1).params
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(made), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
