"""JSON values as a person reads them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.server.page.values import text_of
from server.page.answers import raw


@pytest.mark.parametrize(
    ("json_text", "shown"),
    [
        ('"bob"', "bob"),
        ('""', ""),
        ('"\\u00fc\\n\\"q\\""', 'ü\n"q"'),
        ("null", "null"),
        ("true", "true"),
        ("9223372036854775808", "9223372036854775808"),  # 2**63
        ("-9223372036854775809", "-9223372036854775809"),
        (str(10**30), str(10**30)),
        ("9007199254740993", "9007199254740993"),  # 2**53 + 1: a double would make it ...992
        ("1.0", "1.0"),
        ("1.50", "1.50"),
        ("1e2", "1e2"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("-0.0", "-0.0"),
        ('{"a": [1,  2.50]}', '{"a": [1,  2.50]}'),
    ],
)
def test_raw_json_shows_as_it_came_and_a_string_bare(json_text: str, shown: str) -> None:
    assert text_of(raw(json_text)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("bob", "bob"),
        ("", ""),
        (None, "null"),
        (False, "false"),
        (2**63, "9223372036854775808"),
        (10**30, "1" + "0" * 30),
        (1.0, "1.0"),
        ([1, {"b": "é", "a": None}], '[1,{"a":null,"b":"é"}]'),
    ],
)
def test_values_that_are_no_raw_json_show_the_same_way(value: Any, shown: str) -> None:
    assert text_of(value) == shown


def test_a_long_text_is_cut_and_says_so() -> None:
    assert text_of("x" * 400) == "x" * 400
    assert text_of("x" * 401) == "x" * 399 + "…"
    assert text_of(raw('"' + "é" * 500 + '"')) == "é" * 399 + "…"
    assert len(text_of([1] * 10_000)) == 400


@settings(max_examples=200)
@given(
    st.text(max_size=60) | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
)
def test_what_is_shown_reads_back_as_the_value(value: Any) -> None:
    shown = text_of(value)
    if isinstance(value, str):
        assert shown == value
    else:
        assert shown == json.dumps(value)
        assert text_of(raw(json.dumps(value))) == shown
