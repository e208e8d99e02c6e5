"""Tables as text for people, papers and programs."""

import io
import json
import math

import pandas as pd
import pytest

from jaxperturb.errors import UsageError
from jaxperturb.show.formats import aligned, compacted, formatted, latex, markdown, with_interval

TABLE = pd.DataFrame(
    {
        "layer": ["conv_1", "fc"],
        "level_text": ["0.5", "1"],
        "area": [0.5, math.nan],
        "area_low": [0.25, math.nan],
        "area_high": [0.75, math.nan],
        "half_life": [math.inf, 0.3],
        "rank": pd.array([1, None], dtype="Int64"),
    }
)


def test_numbers_and_ends_share_a_column():
    shown = compacted(TABLE)
    assert shown.columns.tolist() == ["layer", "area", "half_life", "rank"]
    assert shown["area"].tolist() == ["0.500 (0.250, 0.750)", "-"]


def test_text_is_aligned():
    assert formatted(compacted(TABLE), "text").splitlines() == [
        "  layer                   area    half_life  rank",
        "  conv_1  0.500 (0.250, 0.750)  not reached     1",
        "  fc                         -          0.3     -",
    ]
    assert aligned([["a", "b"], ["ccc", ""]]) == "  a    b\n  ccc"


def test_json_has_no_numbers_that_are_none():
    rows = json.loads(formatted(TABLE, "json"))
    assert rows[0]["half_life"] == "infinity"
    assert rows[1]["area"] is None
    assert rows[1]["rank"] is None


def test_csv_comes_back():
    pd.testing.assert_frame_equal(
        pd.read_csv(io.StringIO(formatted(TABLE, "csv")), dtype={"level_text": str, "rank": "Int64"}),
        TABLE,
        check_dtype=False,
    )


def test_latex_escapes_what_has_a_meaning_there():
    text = latex([["a_b", "50 %"], ["> 1", "x & y"]])
    assert r"a\_b & 50 \% \\" in text
    assert r"$>$ 1 & x \& y \\" in text
    assert text.startswith(r"\begin{tabular}{lr}")


def test_markdown_escapes_the_bar():
    assert markdown([["a|b", "c"], ["d", "e"]]).splitlines() == [r"| a\|b | c |", "| --- | ---: |", "| d | e |"]


@pytest.mark.parametrize(
    ("ends", "text"),
    [
        ((0.5, 0.4, 0.6), "0.500 (0.400, 0.600)"),
        ((0.5, math.nan, math.nan), "0.500"),
        ((math.nan, -math.inf, math.inf), "-"),
        ((0.5, 0.4, math.inf), "0.500 (0.400, open)"),
    ],
)
def test_numbers_with_intervals(ends, text):
    assert with_interval(*ends) == text


def test_an_unknown_form_is_refused():
    with pytest.raises(UsageError, match="expected a format of text, markdown"):
        formatted(TABLE, "html")
