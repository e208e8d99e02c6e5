"""How strictly the words of a command line are read."""

import pytest
from absl import flags

from jaxperturb.cli.command import Command, help_text, parse
from jaxperturb.errors import UsageError


def define(values: flags.FlagValues) -> None:
    flags.DEFINE_string("layers", "*", "Layers.", flag_values=values)
    flags.DEFINE_string("levels", None, "Levels.", flag_values=values)
    flags.DEFINE_integer("draws", 5, "Draws.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("seed", 0, "Seed.", lower_bound=0, upper_bound=2**32 - 1, flag_values=values)
    flags.DEFINE_float("width", 1.0, "Width.", flag_values=values)
    flags.DEFINE_enum("metric", None, ["top1", "top5"], "Metric.", flag_values=values)
    flags.DEFINE_bool("quiet", False, "Quiet.", flag_values=values)


FLAGS_ONLY = Command("go", "Goes.", "Far.", (("a first step", "go --draws=1"),), define, print)
WITH_OUT = Command("show", "Shows.", "All.", (("one", "show runs/one"),), define, print, arguments=("OUT",))


def test_defaults_hold_where_nothing_is_said():
    values = parse(FLAGS_ONLY, []).values
    assert (values.layers, values.levels, values.draws, values.metric, values.quiet) == ("*", None, 5, None, False)


@pytest.mark.parametrize(
    "words", [["--draws=7", "--quiet"], ["--draws", "7", "--quiet=true"], ["--quiet", "--draws", "7"]]
)
def test_values_stand_behind_an_equals_sign_or_a_space(words):
    values = parse(FLAGS_ONLY, words).values
    assert (values.draws, values.quiet) == (7, True)


def test_one_parse_leaves_nothing_behind_for_the_next():
    parse(FLAGS_ONLY, ["--draws=7"])
    assert parse(FLAGS_ONLY, []).values.draws == 5


def test_a_value_may_hold_equals_signs_and_begin_with_a_number_below_zero():
    values = parse(FLAGS_ONLY, ["--levels=a=0:1:0.1;b=1", "--width", "-1.5"]).values
    assert (values.levels, values.width) == ("a=0:1:0.1;b=1", -1.5)


def test_arguments_may_stand_anywhere():
    assert parse(WITH_OUT, ["--draws=2", "runs/one", "--quiet"]).arguments == ("runs/one",)
    assert parse(WITH_OUT, ["--", "--odd-name"]).arguments == ("--odd-name",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lay=conv1"], "unknown flag '--lay'; did you mean '--layers'?"),
        (["--drwas=1"], "unknown flag '--drwas'; did you mean '--draws'?"),
        (["--flagfile=x"], "unknown flag '--flagfile'; go takes --draws, --layers, --levels"),
        (["--undefok=layers"], "unknown flag '--undefok'"),
        (["-draws=1"], "unknown flag '-draws=1': flags begin with two dashes; did you mean '--draws'?"),
        (["-lo=1"], "unknown flag '-lo=1': flags begin with two dashes"),
        (["---draws=1"], "unknown flag '---draws=1': flags begin with two dashes"),
        (["--draws=1", "--draws=2"], "--draws is given twice"),
        (["--quiet", "--noquiet"], "--quiet is given twice"),
        (["--noquiet=true"], "--noquiet takes no value"),
        (["--nodraws"], "unknown flag '--nodraws'; did you mean '--draws'?"),
        (["--draws"], "--draws needs a value: a positive whole number"),
        (["--draws", "--quiet"], "--draws needs a value"),
        (["--layers="], "--layers needs a value: a text"),
        (["--layers", " "], "--layers needs a value"),
        (["--draws=x"], "--draws takes a positive whole number, not 'x'"),
        (["--draws=1.5"], "--draws takes a positive whole number, not '1.5'"),
        (["--draws=0"], "--draws takes a positive whole number, not '0'"),
        (["--seed=-1"], "--seed takes a whole number in the range [0, 4294967295], not '-1'"),
        (["--seed", "-1"], "--seed takes a whole number in the range [0, 4294967295], not '-1'"),
        (["--seed=4294967296"], "not '4294967296'"),
        (["--width=wide"], "--width takes a number, not 'wide'"),
        (["--metric=top3"], "--metric takes one of top1, top5, not 'top3'; did you mean 'top"),
        (["--quiet=perhaps"], "--quiet takes true or false, not 'perhaps'"),
        (["conv1"], "unexpected argument 'conv1': go takes flags only"),
        (["-"], "unexpected argument '-'"),
    ],
)
def test_each_mistake_is_one_line_that_says_what_to_do(words, message):
    with pytest.raises(UsageError) as error:
        parse(FLAGS_ONLY, words)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_arguments_are_counted():
    with pytest.raises(UsageError, match="show needs OUT, such as: jaxperturb show runs/one"):
        parse(WITH_OUT, ["--quiet"])
    with pytest.raises(UsageError, match="unexpected argument 'two': show takes OUT and flags"):
        parse(WITH_OUT, ["one", "two"])


def test_help_teaches_by_example_and_shows_each_flag_with_its_default():
    text = help_text(WITH_OUT)
    assert text.startswith("usage: jaxperturb show OUT [--flag=value ...]")
    assert "  # one\n  jaxperturb show runs/one" in text
    assert "  --draws=N\n      Draws. (default: 5)" in text
    assert "  --metric=top1|top5\n      Metric.\n" in text
    assert "  --[no]quiet\n      Quiet." in text
