"""Fault lists: what they say, in which layout, and that replaying one gives the cell it was written from."""

from dataclasses import replace
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import jaxperturb as jp
from jaxperturb.engine.cell_faults import unknown_layouts
from jaxperturb.errors import LayerError, LevelError, PerturbationError
from jaxperturb.perturb import parse_perturbations
from jaxperturb.perturb.fault_list import COLUMNS, Fault, format_faults, read_faults
from jaxperturb.random import key

SHAPE = (6, 6, 3)


class Small(nn.Module):
    """A convolution with a norm, a dense layer behind the flattened map, another one."""

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(5, (3, 3), name="conv1")(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, name="conv1_norm")(x))
        x = nn.max_pool(x, (2, 2), (2, 2))
        x = nn.relu(nn.Dense(20, name="fc2")(x.reshape(x.shape[0], -1)))
        return nn.Dense(7, name="fc3")(x)


@pytest.fixture(scope="module")
def net():
    module = Small()
    variables = jax.jit(module.init)(jax.random.key(0), jnp.zeros((1, *SHAPE)))
    variables["params"] = jax.tree.map(
        lambda a: a + 0.1 * jax.random.normal(jax.random.key(a.size), a.shape), variables["params"]
    )
    return jp.Network.from_linen(module, variables, image_shape=SHAPE, name="small")


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    return jp.data.from_arrays(rng.normal(size=(200, *SHAPE)).astype(np.float32), np.arange(200) % 7)


def write(faults):
    Path("list.csv").write_text(format_faults(faults))


COUNTS = ["top1", "top5", "same1", "same5", "nonfinite", "changed"]

LESIONS = {  # what is asked for -> the options with which its list is replayed
    "bit_flip": "",
    "stuck_at(value=1)": "",
    "bit_flip(word=int8)": "word=int8",
    "bit_flip(word=int4,granularity=unit,bits=3)": "word=int4,granularity=unit",
    "bit_flip(word=bfloat16,include_bias=false)": "word=bfloat16,include_bias=false",
    "stuck_at(word=fixed(2,6),include_norm=true)": "word=fixed(2,6),include_norm=true",
    "synapse_knockout": "",
    "node_knockout": "include_norm=true",
}


@pytest.mark.parametrize("text", LESIONS)
def test_a_replayed_list_gives_the_counts_of_its_cell(net, data, text):
    level, target = 0.02 if "stuck" in text or "flip" in text else 0.4, "conv1+fc3"
    original = jp.sweep(net, data, text, target, levels=[0, level], draws=2, seed=4)
    cell = original.cells.query("draw == 1 and level > 0").iloc[0]
    faults = jp.fault_list(net, text, target, level, draw=1, seed=4)
    options = ",".join(["file=list.csv", *filter(None, [LESIONS[text]])])
    write(faults)
    again = jp.sweep(net, data, f"replay({options})", target).cells
    assert again["level"].tolist()[-1] == 1
    assert again.iloc[-1][COUNTS].tolist() == cell[COUNTS].tolist()
    assert cell["changed"] > 0
    assert again.iloc[0][COUNTS].tolist() == original.cells.iloc[0][COUNTS].tolist()
    if "flip" in text or "stuck" in text:
        assert again.iloc[-1]["selected"] == cell["selected"] == len(faults)
    lesioned, replayed = (
        jp.lesion(net, *what, seed=4) for what in ((text, target, level, 1), (f"replay({options})", target, 1))
    )
    for a, b in zip(jax.tree.leaves(lesioned.params), jax.tree.leaves(replayed.params), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_list_says_what_changed(net):
    faults = jp.fault_list(net, "bit_flip", "conv1,fc2", 0.01, draw=3)
    lesioned = jp.lesion(net, "bit_flip", "conv1,fc2", 0.01, draw=3).params["params"]
    flips = {}
    for fault in faults:
        before = np.asarray(net.params["params"][fault.layer][fault.tensor]).ravel()[fault.index]
        after = np.asarray(lesioned[fault.layer][fault.tensor]).ravel()[fault.index]
        np.testing.assert_equal((np.float32(fault.before), np.float32(fault.after)), (before, after))
        flips.setdefault((fault.layer, fault.tensor, fault.index), []).append((before, after, fault.bit))
    for pairs in flips.values():
        ((before, after),) = {(x.view(np.uint32), y.view(np.uint32)) for x, y, _ in pairs}
        assert before ^ after == sum(1 << bit for _, _, bit in pairs)
    assert len(faults) > len(flips) > 100  # some weights have two
    assert {fault.draw for fault in faults} == {3}
    places = [(fault.layer, fault.tensor, fault.index, fault.bit) for fault in faults]
    assert sorted(places, key=lambda p: (p[0], p[1] != "kernel", *p[2:])) == places


def test_masked_faults_are_listed(net):
    faults = jp.fault_list(net, "stuck_at(bits=31)", "conv1", 1)
    assert len(faults) == 3 * 3 * 3 * 5 + 5
    assert {fault.before == fault.after for fault in faults} == {True, False}


def test_knockouts_have_no_bit(net):
    faults = jp.fault_list(net, "node_knockout", "conv1", 0.4)
    assert {fault.bit for fault in faults} == {None}
    assert {fault.after for fault in faults} == {0.0}
    assert {fault.tensor for fault in faults} >= {"kernel", "bias", "norm/scale"}
    assert sum(fault.tensor == "kernel" for fault in faults) == 2 * 27


def test_pytorchs_layout_of_convolutions_and_dense_layers(net):
    kernels = {name: np.asarray(net.params["params"][name]["kernel"]) for name in ("conv1", "fc3")}
    theirs = {"conv1": kernels["conv1"].transpose(3, 2, 0, 1).ravel(), "fc3": kernels["fc3"].T.ravel()}
    faults = jp.fault_list(net, "synapse_knockout", "conv1,fc3", 1)
    for fault in faults:
        if fault.tensor == "kernel":
            assert theirs[fault.layer][fault.pytorch_index] == np.float32(fault.before)
        else:
            assert fault.pytorch_index == fault.index
    assert unknown_layouts(faults) == ()


def test_a_flattened_maps_layout_is_known_of_known_networks_only(net):
    faults = jp.fault_list(net, "synapse_knockout", "fc2", 0.1)
    assert {fault.pytorch_index for fault in faults if fault.tensor == "kernel"} == {None}
    assert unknown_layouts(faults) == ("fc2",)
    known = replace(net, source={"architecture": "alexnet"})
    kernel = np.asarray(net.params["params"]["fc2"]["kernel"])  # 3 by 3 positions of 5 channels
    theirs = kernel.reshape(3, 3, 5, 20).transpose(3, 2, 0, 1).ravel()
    for fault in jp.fault_list(known, "synapse_knockout(include_bias=false)", "fc2", 0.1):
        assert theirs[fault.pytorch_index] == np.float32(fault.before)


@given(
    st.lists(
        st.builds(
            Fault,
            draw=st.just(2),
            layer=st.sampled_from(["conv1", "a/b", 'x,"y']),
            tensor=st.sampled_from(["kernel", "bias"]),
            index=st.integers(0, 2**31),
            pytorch_index=st.none() | st.integers(0, 2**31),
            bit=st.none() | st.integers(0, 31),
            before=st.floats(width=32, allow_nan=False),
            after=st.floats(width=32, allow_nan=False),
        )
    )
)
def test_what_is_written_is_read_back(faults):
    found = read_faults(format_faults(faults))
    assert found == tuple(faults)
    signs = [np.signbit([fault.before, fault.after]).tolist() for fault in faults]
    assert [np.signbit([fault.before, fault.after]).tolist() for fault in found] == signs


def test_not_a_number_is_read_back():
    (fault,) = read_faults(format_faults([Fault(0, "a", "kernel", 1, 1, 30, 1.5, float("nan"))]))
    assert np.isnan(fault.after)
    assert format_faults([]) == ",".join(COLUMNS) + "\n"


FINE = Fault(0, "a", "kernel", 3, 3, 30, 1.0, 2.0)
TREE = {
    "a": {"kernel": np.ones((2, 3), np.float32), "bias": np.ones(3, np.float32)},
    "b": {"kernel": np.ones((2, 2), np.float32)},
}


def test_exactly_the_listed_weights_change():
    write([FINE, replace(FINE, index=5, after=float("inf")), replace(FINE, layer="b", index=1, after=-1.0)])
    after = jp.replay(key(0), TREE, 1, file="list.csv")
    np.testing.assert_array_equal(after["a"]["kernel"], [[1, 1, 1], [2, 1, np.inf]])
    np.testing.assert_array_equal(after["b"]["kernel"], [[1, -1], [1, 1]])
    np.testing.assert_array_equal(after["a"]["bias"], 1)
    only = jp.replay(key(0), TREE, 1, file="list.csv", layers="b")
    assert only["a"]["kernel"] is TREE["a"]["kernel"]
    for level, on in ((0, False), (jnp.float32(0), False), (jnp.float32(1), True), (1, True)):
        found = jp.replay(key(0), TREE, level, file="list.csv")
        jitted = jax.jit(lambda params, level=level: jp.replay(key(0), params, level, file="list.csv"))(TREE)
        assert float(found["b"]["kernel"][0, 1]) == float(jitted["b"]["kernel"][0, 1]) == (-1 if on else 1)


@pytest.mark.parametrize(
    ("faults", "error", "message"),
    [
        ([replace(FINE, layer="c")], LayerError, "unknown layer 'c'"),
        (
            [replace(FINE, tensor="norm/scale")],
            PerturbationError,
            "there is no a/norm/scale; layer 'a' has kernel, bias",
        ),
        ([replace(FINE, index=6)], PerturbationError, "indices 0 to 5, and no 6"),
        ([replace(FINE, index=-1)], PerturbationError, "no -1"),
        ([replace(FINE, before=1.5)], PerturbationError, r"a/kernel\[3\] is 1.0 in this network and 1.5 in the list"),
        ([FINE, replace(FINE, after=3.0)], PerturbationError, "expected one value"),
        ([FINE, replace(FINE, draw=1)], PerturbationError, "of one draw"),
    ],
)
def test_lists_that_do_not_fit_are_refused_in_one_line(faults, error, message):
    write(faults)
    with pytest.raises(error, match=message) as raised:
        jp.replay(key(0), TREE, 1, file="list.csv")
    assert "\n" not in str(raised.value)
    net = jp.Network(lambda params, x: x.reshape(len(x), -1) @ params["a"]["kernel"], TREE, image_shape=(1, 2, 1))
    with pytest.raises(error, match=message):
        jp.lesion(net, "replay(file=list.csv)", "a", 1)
    data = jp.data.from_arrays(np.ones((4, 1, 2, 1), np.float32), np.zeros(4, int))
    with pytest.raises(error, match=message):
        jp.sweep(net, data, "replay(file=list.csv)", "a")


def test_biases_that_are_left_out_are_noticed():
    write([replace(FINE, tensor="bias", index=0)])
    with pytest.raises(PerturbationError, match="include_bias=true"):
        jp.replay(key(0), TREE, 1, file="list.csv", include_bias=False)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "expected the columns draw,layer,tensor"),
        (b"a,b\n1,2\n", "expected the columns .* got a,b"),
        (",".join(COLUMNS).encode() + b"\n0,a,kernel,x,,,1,2\n", "line 2: expected a fault"),
        (",".join(COLUMNS).encode() + b"\n0,a,kernel\n", "line 2"),
        (b"\xff\xfe\x00", "is no text"),
    ],
)
def test_files_that_are_no_lists_are_refused(tmp_path, content, message):
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(PerturbationError, match=message):
        parse_perturbations("replay(file=list.csv)")
    with pytest.raises(PerturbationError, match=message):
        jp.replay(key(0), TREE, 1, file="list.csv")


def test_a_list_is_known_by_its_content():
    write([FINE])
    (asked,) = parse_perturbations("replay(file=list.csv)")
    assert [one.text for one in parse_perturbations(asked.text)] == [asked.text]
    write([replace(FINE, after=3.0)])
    (other,) = parse_perturbations("replay(file=list.csv)")
    assert other.text != asked.text
    with pytest.raises(PerturbationError, match="its content has changed"):
        parse_perturbations(asked.text)
    with pytest.raises(PerturbationError, match="its content has changed"):
        jp.replay(key(0), TREE, 1, **dict(asked.options))


@pytest.mark.parametrize("text", ["replay", "replay(file=none)"])
def test_a_list_is_needed(text):
    with pytest.raises(PerturbationError, match="needs a fault list"):
        parse_perturbations(text)
    with pytest.raises(PerturbationError, match="cannot be read: No such file"):
        parse_perturbations("replay(file=nowhere.csv)")


@pytest.mark.parametrize("level", [0.5, 2, -1, None, "x", jnp.int32(1)])
def test_levels_between_are_refused(level):
    write([FINE])
    with pytest.raises(LevelError):
        jp.replay(key(0), TREE, level, file="list.csv")
