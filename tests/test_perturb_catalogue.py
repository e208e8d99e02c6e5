"""How perturbations are asked for: names, options, a user's own functions."""

import sys
from decimal import Decimal

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jaxperturb.errors import LayerError, LevelError, PerturbationError
from jaxperturb.perturb import CATALOGUE, Asked, parse_perturbations
from jaxperturb.perturb.catalogue import ask
from jaxperturb.perturb.grammar import format_call, parse_calls
from jaxperturb.perturb.request import Request
from jaxperturb.perturb.targets import Target, parse_targets
from jaxperturb.random import key

TREE = {"a": {"kernel": np.ones((3, 3, 2, 10), np.float32), "bias": np.ones(10, np.float32)}}


def request(asked, level, target="a", tree=None):
    return Request(tree or TREE, Target.of(target), Decimal(level), asked.all_options(), key(0))


def halve(key, params, level, *, layers="*", strength=2.0):
    """Divides everything: a user's own function."""
    return jax.tree.map(lambda x: x / strength, params)


def test_names_options_and_their_one_text():
    asked = parse_perturbations("synapse_knockout, node_knockout(include_bias=False),gaussian_noise(include_bias=true)")
    assert [item.text for item in asked] == ["synapse_knockout", "node_knockout(include_bias=false)", "gaussian_noise"]


@pytest.mark.parametrize(
    ("text", "calls"),
    [
        ("a,b", [("a", {}), ("b", {})]),
        ("a(x=1,y=-2.5,z=int8)", [("a", {"x": 1, "y": -2.5, "z": "int8"})]),
        ("a(axis=in)", [("a", {"axis": "in"})]),
        ("a(word=fixed(8,8),b=[0,7],c='x,y')", [("a", {"word": "fixed(8,8)", "b": (0, 7), "c": "x,y"})]),
        ("m.n:f(x=none,y=TRUE)", [("m.n:f", {"x": None, "y": True})]),
        ("a()", [("a", {})]),
        ("", []),
    ],
)
def test_grammar(text, calls):
    assert parse_calls(text) == calls


@pytest.mark.parametrize(
    "text", ["a(", "a)", "a(x)", "a(x=)", "a(=1)", "a(x=1,x=2)", "a,,b", "1a", "a(x=@)", "a(x='1)", "a(x=1)b"]
)
def test_what_is_not_of_the_grammar_is_refused(text):
    with pytest.raises(PerturbationError):
        parse_calls(text)


values = st.one_of(
    st.booleans(),
    st.none(),
    st.integers(-(10**9), 10**9),
    st.floats(allow_nan=False, allow_infinity=False),
    st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True),
)


@given(st.dictionaries(st.sampled_from("abcdef"), st.one_of(values, st.lists(values, max_size=3).map(tuple))))
def test_the_text_of_a_call_is_read_back(options):
    assert parse_calls(format_call("name", options)) == [("name", options)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("synapse_knockou", "unknown perturbation 'synapse_knockou'; did you mean 'synapse_knockout'"),
        ("node_knockout(include_bia=true)", "no option 'include_bia'; did you mean 'include_bias'"),
        ("node_knockout(include_bias=3)", "expected true or false, got 3"),
        ("node_knockout,node_knockout(include_bias=true)", "asked for twice"),
        ("no_such_module:f", "cannot be imported"),
        ("math:no_such", "has no 'no_such'"),
        ("math:pi", "expected a function"),
        ("math:sin", r"f\(key, params, level"),
        ("", "got none"),
    ],
)
def test_mistakes_get_one_clear_line(text, message):
    with pytest.raises(PerturbationError, match=message) as error:
        parse_perturbations(text)
    assert "\n" not in str(error.value)


def test_a_users_function_is_asked_for_by_its_path_and_by_itself(tmp_path, monkeypatch):
    (tmp_path / "own_lesions.py").write_text(
        "def halve(key, params, level, *, layers='*', strength=2.0):\n    return params\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    (asked,) = parse_perturbations("own_lesions:halve(strength=3)")
    assert asked.text == "own_lesions:halve(strength=3)"
    assert asked.perturbation.function is sys.modules["own_lesions"].halve
    assert ask(halve).text == f"{__name__}:halve"
    assert ask(halve).counts(request(ask(halve), "0.5")) is None


def test_levels_out_of_range_are_refused():
    asked = Asked(CATALOGUE["node_knockout"])
    assert asked.check_levels([Decimal(1)]) == (Decimal(1),)
    with pytest.raises(LevelError, match="level 1.5 of node_knockout"):
        asked.check_levels([Decimal("1.5")])
    assert Asked(CATALOGUE["gaussian_noise"]).check_levels([Decimal(5)])


@pytest.mark.parametrize(
    ("text", "selected"),
    [
        ("synapse_knockout", 54 + 3),
        ("synapse_knockout(include_bias=false)", 54),
        ("node_knockout", 3 * 19),
        ("node_knockout(include_bias=false)", 3 * 18),
        ("gaussian_noise", 190),
        ("resample", 57),
        ("node_knockout(axis=in)", 0),
        ("synapse_knockout(among=nonzero)", 57),
        ("shuffle", 57),
        ("sign_flip(include_bias=false)", 54),
        ("rerandomize", 57),
        ("magnitude_knockout", 57),
        ("saliency_knockout(order=smallest)", 57),
        ("mean_ablation", 3 * 19),
    ],
)
def test_selected_entries_by_hand(text, selected):
    (asked,) = parse_perturbations(text)
    assert asked.selected(request(asked, "0.3")) == selected
    assert asked.selected(request(asked, "0")) == 0


def test_where_draws_coincide():
    for name, levels in {
        "synapse_knockout": "01",
        "node_knockout": "01",
        "gaussian_noise": "0",
        "resample": "0",
    }.items():
        found = [level for level in "01" if Asked(CATALOGUE[name]).coincides(Decimal(level))]
        assert "".join(found) == levels


@pytest.mark.parametrize("name", CATALOGUE)
def test_entries_are_described(name):
    entry = CATALOGUE[name]
    assert entry.name == name
    assert entry.levels()
    assert entry.no_damage is None or entry.no_damage in entry.levels()
    assert entry.summary
    assert entry.unit


NAMES = ("conv1", "conv2", "fc6", "fc7")


@pytest.mark.parametrize(
    ("text", "targets"),
    [
        ("*", NAMES),
        ("fc*,conv1", ("conv1", "fc6", "fc7")),
        ("fc7+fc6", ("fc6+fc7",)),
        ("joint:conv*,fc6", ("fc6", "joint:conv1+conv2")),
        ("joint:fc6+fc7,fc6+fc7", ("joint:fc6+fc7", "fc6+fc7")),
    ],
)
def test_targets(text, targets):
    assert parse_targets(NAMES, text) == targets
    assert parse_targets(NAMES, text.split(",")) == targets
    assert all(Target.of(name).name == name for name in targets)


@pytest.mark.parametrize("text", ["", "conv3", "conv1+", "joint:", "joint:conv9", "conv1,+"])
def test_unknown_targets_are_refused(text):
    with pytest.raises(LayerError):
        parse_targets(NAMES, text)


def test_a_joint_choice_is_counted_over_all_layers():
    tree = {"a": TREE["a"], "b": {"kernel": np.ones((4, 5), np.float32)}}
    for text, counts, selected in (("synapse_knockout", {"joint": 63}, 63), ("node_knockout", {"joint": 4}, None)):
        (asked,) = parse_perturbations(text)
        found = request(asked, "0.3", "joint:a+b", tree)
        assert asked.counts(found) == counts
        after = asked.perturbation.function(key(0), tree, Decimal("0.3"), scope="joint")
        gone = sum(int((np.asarray(leaf) == 0).sum()) for leaf in jax.tree.leaves(after))
        assert asked.selected(found) == gone
        assert selected in (None, gone)
