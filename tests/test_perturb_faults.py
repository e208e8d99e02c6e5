"""Faults of memories against NumPy: how many, which bits, what becomes of the words, and what a study makes of it."""

from decimal import Decimal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxperturb as jp
from jaxperturb.errors import LevelError, PerturbationError
from jaxperturb.levels import binomial_count
from jaxperturb.perturb import parse_perturbations
from jaxperturb.perturb.catalogue import ask
from jaxperturb.perturb.inject import format_bits, parse_bits
from jaxperturb.perturb.request import Request
from jaxperturb.perturb.targets import Target
from jaxperturb.random import draw_key, key

FALSE_ALARM = 1e-6
RATES = ("1e-8", "1e-7", "1e-6", "1e-5")
CONV1 = (11, 11, 3, 64)  # AlexNet's: 743,424 bits
FC6 = (25088, 4096)  # VGG16's: 3,288,334,336 bits
SMALL, LARGE = (3, 3, 5, 8), (130, 60)  # bits sorted, and permuted


def tree(shape=LARGE, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a": {
            "kernel": rng.normal(size=shape).astype(np.float32),
            "bias": rng.normal(size=shape[-1:]).astype(np.float32),
        }
    }


def nothing(shape):
    """A tree of any size that takes no memory."""
    return {"a": {"kernel": np.broadcast_to(np.float32(0), shape)}}


def words(array):
    return np.asarray(array).view(np.uint32)


def flipped(before, after):
    """The bits that differ, counted by entry and bit: (entries, 32)."""
    differ = (words(before) ^ words(after)).ravel()
    return (differ[:, None] >> np.arange(32, dtype=np.uint32)) & 1 == 1


def request(text, params, rate, draw=0, target="a"):
    (asked,) = parse_perturbations(text)
    return asked, Request(params, Target.of(target), Decimal(rate), asked.all_options(), draw_key(3, draw))


# How many


@pytest.mark.parametrize("n", [1, 7, 3000, 743_424, 3_288_334_336])
@pytest.mark.parametrize("rate", ["1e-12", "1e-8", "1e-5", "0.001", "0.3", "0.5", "0.9", "0.999999"])
def test_counts_are_scipys_quantiles(n, rate):
    places = np.random.default_rng(0).random(8)
    want = scipy.stats.binom.ppf(1 - places, n, float(rate))
    np.testing.assert_array_equal([binomial_count(Decimal(rate), n, place) for place in places], want)


@given(
    n=st.integers(1, 2**32 - 1),
    rates=st.lists(st.decimals(0, 1, places=9), min_size=2, max_size=4),
    place=st.floats(2**-53, 1 - 2**-53),
)
def test_counts_never_fall_as_the_rate_grows(n, rates, place):
    counts = [binomial_count(rate, n, place) for rate in sorted(rates)]
    assert counts == sorted(counts)
    assert 0 <= counts[0] <= counts[-1] <= n


def test_rates_near_1_are_exact():
    n, place = 10**9, 0.5
    left = n - binomial_count(1 - Decimal("1e-12"), n, place / 1e4)
    assert left == n - scipy.stats.binom.isf(place / 1e4, n, 1 - 1e-12) == 0
    survivors = [n - binomial_count(1 - Decimal("3e-9"), n, place) for place in np.linspace(0.001, 0.999, 999)]
    assert abs(np.mean(survivors) - 3) < 0.05
    assert binomial_count(Decimal(1), n, place) == n
    assert binomial_count(Decimal(0), n, place) == 0


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("shape", [CONV1, FC6], ids=["conv1", "fc6"])
def test_the_mean_number_of_faults_is_rate_times_bits(shape, rate):
    """Over 1,000 draws the sum is Binomial(1000 n, rate); one test of eight fails falsely once in a million."""
    params, draws, n = nothing(shape), 1000, 32 * int(np.prod(shape))
    found = []
    for draw in range(draws):
        asked, one = request("bit_flip", params, rate, draw)
        found.append(asked.counts(one)["a/kernel"])
    pvalue = _two_sided(sum(found), draws * n, float(rate))
    assert pvalue > FALSE_ALARM
    assert scipy.stats.binom.cdf(max(found), n, float(rate)) ** draws < 1 - FALSE_ALARM or max(found) == 0
    if n * float(rate) > 30:  # and they spread as they should
        statistic = (draws - 1) * np.var(found, ddof=1) / (n * float(rate))
        assert FALSE_ALARM < scipy.stats.chi2.cdf(statistic, draws - 1) < 1 - FALSE_ALARM


def _two_sided(total, n, rate):
    below, above = scipy.stats.binom.cdf(total, n, rate), scipy.stats.binom.sf(total - 1, n, rate)
    return min(1.0, 2 * min(below, above))


def test_the_test_of_means_notices_one_forced_fault():
    n, rate = 32 * int(np.prod(CONV1)), 1e-8
    forced = [max(1, binomial_count(Decimal("1e-8"), n, place)) for place in np.random.default_rng(1).random(1000)]
    assert _two_sided(sum(forced), 1000 * n, rate) < FALSE_ALARM


def test_faults_of_draws_and_layers_are_apart():
    params = {name: {"kernel": np.zeros(CONV1, np.float32)} for name in "ab"}
    counts = []
    for draw in range(200):
        asked, one = request("bit_flip", params, "1e-4", draw, "a+b")
        counts.append(list(asked.counts(one).values()))
    assert abs(np.corrcoef(np.transpose(counts))[0, 1]) < 5 / np.sqrt(200)


# Which


@pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("rate", ["0", "1e-4", "0.003", "0.06", "0.07", "0.4", "1"])
def test_as_many_bits_flip_as_are_counted(shape, rate):
    params = tree(shape)
    asked, one = request("bit_flip", params, rate)
    after = jp.bit_flip(one.key, params, Decimal(rate))
    for leaf in ("kernel", "bias"):
        assert flipped(params["a"][leaf], after["a"][leaf]).sum() == asked.counts(one)[f"a/{leaf}"]
    assert asked.selected(one) == sum(asked.counts(one).values())
    if rate == "1":
        np.testing.assert_array_equal(words(after["a"]["kernel"]), ~words(params["a"]["kernel"]))


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.lists(st.integers(0, 130 * 60 * 32), min_size=2, max_size=4),
    shape=st.sampled_from([SMALL, LARGE]),
)
def test_faults_nest(seed, counts, shape):
    params, n = tree(shape), 32 * int(np.prod(shape))
    chosen = []
    for count in sorted(min(count, n) for count in counts):
        after = jp.bit_flip(key(seed), params, layers="a", count={"a/kernel": count, "a/bias": 0})
        chosen.append(flipped(params["a"]["kernel"], after["a"]["kernel"]))
        assert chosen[-1].sum() == count
    assert all((fewer <= more).all() for fewer, more in zip(chosen, chosen[1:], strict=False))


def test_faults_nest_in_the_rate():
    params = tree()
    grid = [Decimal(10) ** power for power in (-7, -6, -5, -4, -3, -2, -1)]
    for seed in range(3):
        chosen = [flipped(params["a"]["kernel"], jp.bit_flip(key(seed), params, rate)["a"]["kernel"]) for rate in grid]
        assert all((fewer <= more).all() for fewer, more in zip(chosen, chosen[1:], strict=False))
        assert chosen[-1].sum() > chosen[-2].sum() > chosen[-3].sum()


def test_few_and_many_are_placed_alike():
    """The two ways of placing meet at a sixteenth of the bits: one fault more is one bit more."""
    params, border = tree(), 130 * 60 * 32 // 16
    below, above = (
        jp.bit_flip(key(1), params, layers="a", count={"a/kernel": k, "a/bias": 0}) for k in (border, border + 1)
    )
    assert flipped(below["a"]["kernel"], above["a"]["kernel"]).sum() == 1


@pytest.mark.parametrize("bits", ["all", 31, "23:31", (0, 7, 30)])
def test_every_selected_bit_is_hit_alike_and_no_other(bits):
    params, selected = tree(), parse_bits(bits, 32)
    n = 130 * 60 * len(selected)
    hits = np.zeros(32)
    for draw in range(30):
        after = jp.bit_flip(draw_key(0, draw), params, layers="a", bits=bits, count={"a/kernel": n // 10, "a/bias": 0})
        hits += flipped(params["a"]["kernel"], after["a"]["kernel"]).sum(0)
    assert hits.sum() == 30 * (n // 10)
    assert not hits[[bit for bit in range(32) if bit not in selected]].any()
    if len(selected) > 1:
        assert scipy.stats.chisquare(hits[list(selected)]).pvalue > FALSE_ALARM


@pytest.mark.parametrize("count", [2000, 40_000])
def test_every_word_is_hit_alike(count):
    params, draws = tree(), 60
    hits = np.zeros(130 * 60)
    flip = jax.jit(lambda k: jp.bit_flip(k, params, count={"a/kernel": jnp.uint32(count), "a/bias": jnp.uint32(0)}))
    for draw in range(draws):
        hits += flipped(params["a"]["kernel"], flip(draw_key(1, draw))["a"]["kernel"]).sum(1)
    share = count / (130 * 60 * 32)
    variance = draws * 32 * share * (1 - share)
    statistic = ((hits - draws * 32 * share) ** 2).sum() / variance
    assert FALSE_ALARM < scipy.stats.chi2.cdf(statistic, hits.size - 1) < 1 - FALSE_ALARM


def test_a_joint_population_is_drawn_from_as_one():
    params = {name: tree(seed=i)["a"] for i, name in enumerate("ab")}
    for count in (0, 50, 1000, 200_000):
        after = jp.bit_flip(key(5), params, scope="joint", count=count)
        found = [flipped(x, y).sum() for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(after), strict=True)]
        assert sum(found) == count
    assert all(found)
    asked, one = request("bit_flip", params, "0.01", target="joint:a+b")
    after = jp.bit_flip(one.key, params, 0.01, scope="joint")
    found = [flipped(x, y).sum() for x, y in zip(jax.tree.leaves(params), jax.tree.leaves(after), strict=True)]
    assert asked.counts(one) == {"joint": sum(found)}


def test_stuck_bits_are_those_that_flip():
    params = tree()
    before = words(params["a"]["kernel"])
    mask = words(jp.bit_flip(key(2), params, 0.01)["a"]["kernel"]) ^ before
    np.testing.assert_array_equal(words(jp.stuck_at(key(2), params, 0.01)["a"]["kernel"]), before & ~mask)
    np.testing.assert_array_equal(words(jp.stuck_at(key(2), params, 0.01, value=1)["a"]["kernel"]), before | mask)


def test_traced_rates_are_the_same_rates():
    params = tree()
    flip = jax.jit(lambda rate: jp.bit_flip(key(2), params, rate)["a"]["kernel"])
    for rate in ("1e-8", "1e-6", "0.0001", "0.003", "0.1", "0.7"):
        want = jp.bit_flip(key(2), params, Decimal(rate))["a"]["kernel"]
        np.testing.assert_array_equal(words(flip(jnp.float32(rate))), words(want))
    np.testing.assert_array_equal(words(flip(jnp.float32(-3))), words(params["a"]["kernel"]))
    np.testing.assert_array_equal(words(flip(jnp.float32(3))), ~words(params["a"]["kernel"]))


# What becomes of the words


@pytest.mark.parametrize("word", ["float32", "bfloat16", "float16", "int8", "int4", "fixed(2,6)"])
@pytest.mark.parametrize("granularity", ["tensor", "unit"])
def test_the_word_is_hit_and_then_read(word, granularity):
    """Every word with its most significant bit flipped is what NumPy makes of it."""
    from test_perturb_words import numpy_decode, numpy_encode

    from jaxperturb.perturb.words import Word

    if granularity == "unit" and not word.startswith("int"):
        with pytest.raises(PerturbationError, match="no scale"):
            jp.bit_flip(key(0), tree(), 0, word=word, granularity=granularity)
        return
    params, top = tree(), Word.of(word).bits - 1
    after = jp.bit_flip(key(0), params, 1, word=word, granularity=granularity, bits=top)["a"]
    intact = jp.bit_flip(key(0), params, 0, word=word, granularity=granularity)["a"]
    for leaf in ("kernel", "bias"):
        stored, scale = numpy_encode(
            params["a"][leaf], word, -1 if granularity == "unit" and leaf == "kernel" else None
        )
        np.testing.assert_array_equal(intact[leaf], numpy_decode(stored, scale, word))
        np.testing.assert_array_equal(after[leaf], numpy_decode(stored ^ stored.dtype.type(1 << top), scale, word))


def test_nan_and_infinity_are_results():
    params = {"a": {"kernel": np.full((4, 4), 1.5, np.float32)}}
    after = jp.stuck_at(key(0), params, 1, bits="23:31", value=1)["a"]["kernel"]
    assert np.isnan(after).all()
    after = jp.stuck_at(key(0), {"a": {"kernel": np.ones((4, 4), np.float32)}}, 1, bits="23:31", value=1)["a"]["kernel"]
    assert np.isinf(after).all()


# How they are asked for


@pytest.mark.parametrize(
    ("asked", "found", "text"),
    [
        ("all", tuple(range(8)), "all"),
        (3, (3,), 3),
        ([7, 0, 7], (0, 7), (0, 7)),
        ("2:5", (2, 3, 4), "2:5"),
        ([2, 3, 4], (2, 3, 4), "2:5"),
        ("0:8", tuple(range(8)), "all"),
        ("4:5", (4,), 4),
    ],
)
def test_bits(asked, found, text):
    assert parse_bits(asked, 8) == found
    assert format_bits(found, 8) == text


@pytest.mark.parametrize("asked", [8, -1, "8:9", "5:2", "x", "1:2:3", [], True, 1.5, [0, 9], "each"])
def test_bits_that_a_word_does_not_have_are_refused(asked):
    with pytest.raises(PerturbationError, match="bit"):
        parse_bits(asked, 8)


def test_options_have_one_form():
    texts = {
        "bit_flip(bits=0:32)": ["bit_flip"],
        "bit_flip(word=int8,bits=[7])": ["bit_flip(bits=7,word=int8)"],
        "stuck_at(word='fixed(4, 4)',value=1,bits=[1,2,3])": ["stuck_at(bits=1:4,value=1,word=fixed(4,4))"],
        "bit_flip(word=int4,bits=each)": [f"bit_flip(bits={bit},word=int4)" for bit in range(4)],
    }
    for given_text, found in texts.items():
        asked = parse_perturbations(given_text)
        assert [one.text for one in asked] == found
        assert [one.text for one in parse_perturbations([given_text])] == found
        assert [one.text for one in parse_perturbations(",".join(found))] == found
    assert len(parse_perturbations("bit_flip(bits=each)")) == 32


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bit_flip(word=int9)", "unknown word 'int9'"),
        ("bit_flip(bits=32)", "bits from 0 to 31, got 32"),
        ("bit_flip(word=int4,bits=0:8)", "bits from 0 to 3, got 4"),
        ("stuck_at(value=2)", "value of 0 or 1"),
        ("stuck_at(value=true)", "value of 0 or 1"),
        ("bit_flip(granularity=unit)", "no scale"),
        ("bit_flip(granularity=row,word=int8)", "'tensor' or 'unit'"),
        ("quantize(granularity=row)", "'tensor' or 'unit'"),
    ],
)
def test_mistakes_get_one_clear_line(text, message):
    with pytest.raises(PerturbationError, match=message) as error:
        parse_perturbations(text)
    assert "\n" not in str(error.value)


def test_a_lesion_is_of_one_bit():
    with pytest.raises(PerturbationError, match="stands for 32"):
        ask("bit_flip(bits=each)")
    with pytest.raises(PerturbationError, match="'each'"):
        jp.bit_flip(key(0), tree(), 0.1, bits="each")


def test_more_bits_than_can_be_counted_are_refused():
    with pytest.raises(LevelError, match=r"'a/kernel' has 5368709120 bits, .* select fewer"):
        jax.eval_shape(
            lambda params: jp.bit_flip(key(0), params, 0.1),
            {"a": {"kernel": jnp.zeros((1, 1))} | {"kernel": jax.ShapeDtypeStruct((40960, 4096), jnp.float32)}},
        )


def test_where_draws_coincide_and_what_is_the_reference():
    (plain, encoded, quantized) = parse_perturbations("bit_flip,bit_flip(word=int8),quantize")
    assert [plain.coincides(Decimal(level)) for level in ("0", "1e-8", "1")] == [True, False, True]
    assert (plain.is_intact(Decimal(0)), encoded.is_intact(Decimal(0))) == (True, False)
    assert encoded.coincides(Decimal(0))
    assert quantized.coincides(Decimal(3))
    assert not any(quantized.is_intact(level) for level in quantized.perturbation.levels())
    for broken in ("0", "2.5", "17"):
        with pytest.raises(LevelError):
            quantized.check_levels([Decimal(broken)])


# In a study


@pytest.fixture(scope="module")
def net():
    rng = np.random.default_rng(0)

    def apply(params, images):
        hidden = jnp.maximum(images.reshape(len(images), -1) @ params["fc1"]["kernel"] + params["fc1"]["bias"], 0)
        return hidden @ params["fc2"]["kernel"]

    def dense(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return jp.Network(
        apply,
        {"fc1": {"kernel": dense(12, 40), "bias": dense(40)}, "fc2": {"kernel": dense(40, 6)}},
        name="tiny",
        image_shape=(2, 2, 3),
    )


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return jp.data.from_arrays(rng.normal(size=(120, 2, 2, 3)).astype(np.float32), np.arange(120) % 6)


def test_the_encoded_network_is_the_reference(net, data):
    results = jp.sweep(net, data, "bit_flip(word=int4)", levels="0,0.01", draws=2)
    for target in ("fc1", "fc2"):
        cells = results.cells[results.cells["target"] == target].set_index(["level_text", "draw"])
        level_0 = cells.loc[("0", 0)]
        assert (level_0["same1"], level_0["same5"], level_0["changed"], level_0["selected"]) == (120, 120, 0, 0)
        assert level_0["shortcut"] == "all draws coincide"
        encoded = jp.lesion(net, "bit_flip(word=int4)", target, 0)
        lesioned = jp.lesion(net, "bit_flip(word=int4)", target, 0.01, 1)
        pixels = np.stack([data.read(i) for i in range(120)])
        first, intact, then = (np.asarray(n.apply(n.params, pixels)).argmax(-1) for n in (encoded, net, lesioned))
        assert (first != intact).any()  # so the reference matters
        assert cells.loc[("0.01", 1)]["same1"] == (first == then).sum()
        differ = sum(
            (words(a) != words(b)).sum()
            for a, b in zip(jax.tree.leaves(encoded.params), jax.tree.leaves(lesioned.params), strict=True)
        )
        assert cells.loc[("0.01", 1)]["changed"] == differ


def test_what_is_not_finite_is_counted(net, data):
    results = jp.sweep(net, data, "stuck_at(bits=23:31,value=1)", layers="fc2", levels="0,1", draws=1)
    assert results.cells["nonfinite"].tolist() == [0, 120]
    assert results.cells["top1"].tolist()[1] == 0


def test_masked_faults_are_selected_and_not_changed(net, data):
    results = jp.sweep(net, data, "stuck_at(bits=31,include_bias=false)", layers="fc1", levels="0,1", draws=1)
    negative = (net.params["fc1"]["kernel"] < 0).sum()
    assert results.cells["selected"].tolist() == [0, 480]
    assert results.cells["changed"].tolist() == [0, negative]


def test_each_bit_is_a_curve(net, data):
    results = jp.sweep(net, data, "bit_flip(word=int4,bits=each)", layers="fc2", levels="0,0.5", draws=1)
    assert results.cells["perturbation"].unique().tolist() == [f"bit_flip(bits={bit},word=int4)" for bit in range(4)]


def test_a_target_in_which_nothing_changed_is_named(net, data):
    results = jp.sweep(
        net, data, "bit_flip,synapse_knockout", levels={"bit_flip": "0,1e-9", "synapse_knockout": "0,0.5"}, draws=2
    )
    assert results.unchanged("bit_flip") == ("fc1", "fc2")
    assert results.unchanged("synapse_knockout") == ()
    from jaxperturb.show.tables import summary_text

    warnings = [line.strip() for line in summary_text(results).splitlines() if "warning" in line]
    assert (
        warnings[-1] == "warning: nothing was changed in fc1, fc2 at any level above 0; flat curves there say nothing"
    )
    labels = [
        [text.get_text() for text in results.plot(name).axes[0].get_legend().get_texts()]
        for name in ("bit_flip", "synapse_knockout")
    ]
    assert labels[0][:2] == ["fc1 (nothing changed)", "fc2 (nothing changed)"]
    assert labels[1][:2] == ["fc1", "fc2"]


def test_cells_are_the_pure_function(net, data):
    for text in ("bit_flip", "stuck_at(value=1,word=int8,granularity=unit)", "quantize"):
        level = 4 if text == "quantize" else 0.003
        (asked,) = parse_perturbations(text)
        pure = asked.perturbation.function(draw_key(7, 2), net.params, level, layers="fc1", **dict(asked.options))
        lesioned = jp.lesion(net, text, "fc1", level, draw=2, seed=7).params
        for a, b in zip(jax.tree.leaves(pure), jax.tree.leaves(lesioned), strict=True):
            np.testing.assert_array_equal(words(a), words(b))
