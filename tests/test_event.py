"""Identity and strict JSON: contract law 1, and what §2 calls a valid UTF-8 JSON object."""

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.event import BEFORE_ALL, Event, History, canonical_json, event_id_of
from app.tencent.strict_json import BadJSON, parse_json


def event_id(text: str) -> str:
    return event_id_of(parse_json(text.encode())[1])


# ---- canonical_json ----


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        (0, "0"),
        (1.0, "1.0"),
        (-0.0, "-0.0"),
        (100.0, "100.0"),
        (1e22, "1e+22"),
        (0.1, "0.1"),
        (9007199254740993, "9007199254740993"),
        ("", '""'),
        ("é房\U0001f600", '"é房\U0001f600"'),
        ('"\\/', '"\\"\\\\/"'),
        ("\0\x1f\n\r\t\b\f", '"\\u0000\\u001f\\n\\r\\t\\b\\f"'),
        ("\x7f\u2028", '"\x7f\u2028"'),
        ([], "[]"),
        ({}, "{}"),
        ([1, [2, {"a": None}]], '[1,[2,{"a":null}]]'),
        ({"b": 1, "a": 2, "B": 3, "": 4}, '{"":4,"B":3,"a":2,"b":1}'),
        ({"z": {"y": 1, "x": 2}, "a": [{"d": 1, "c": 2}]}, '{"a":[{"c":2,"d":1}],"z":{"x":2,"y":1}}'),
    ],
)
def test_canonical_json_sorts_keys_and_has_no_white_space(value: Any, text: str) -> None:
    assert canonical_json(value) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_canonical_json_refuses_what_is_no_json(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_json([value])


# ---- event_id_of ----


@pytest.mark.parametrize(
    ("canonical", "digest"),
    [  # printf '%s' ... | sha256sum
        ("{}", "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"),
        ('{"a":1}', "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"),
        ('"é"', "f2886017e9c7abacf804b54d64787dce2b611c9544ba21f3affdd126a6e50086"),
    ],
)
def test_event_id_is_the_sha_256_of_the_utf_8_text(canonical: str, digest: str) -> None:
    assert event_id_of(canonical) == digest


def test_identity_ignores_key_order_white_space_and_escapes() -> None:
    spellings = [
        '{"a":1,"b":{"c":"é/","d":[1,2]}}',
        '{"b":{"d":[1,2],"c":"é/"},"a":1}',
        ' {\n\t"a" : 1 ,\r\n "b" : { "c" : "é/" , "d" : [ 1 , 2 ] } }\n',
        '{"\\u0061":1,"b":{"c":"\\u00e9\\/","d":[1,2]}}',
        '{"a":1,"b":{"c":"\\u00E9\\u002f","d":[1,2]}}',
    ]
    assert len({event_id(text) for text in spellings}) == 1


def test_identity_ignores_how_a_number_is_spelled_but_not_its_kind() -> None:
    assert event_id('{"F":100.0}') == event_id('{"F":1e2}') == event_id('{"F":1.00E+2}') != event_id('{"F":100}')


@pytest.mark.parametrize(
    "texts",
    [
        ["1", "1.0", "true", '"1"'],
        ["0", "0.0", "-0.0", "false", "null", '""', "[]", "{}"],
        ["[1,2]", "[2,1]", "[[1,2]]"],
        ['"caf\u00e9"', '"cafe\u0301"'],
        ["9007199254740992", "9007199254740993", "9007199254740992.0"],
        ['"a"', '"a "', '"A"', '"\\u0000a"'],
    ],
)
def test_values_that_differ_give_different_ids(texts: list[str]) -> None:
    ids = {event_id(f'{{"F":{text}}}') for text in texts}
    assert len(ids) == len(texts)


def test_identity_sees_the_order_of_arrays() -> None:
    assert event_id('{"F":[1,2]}') != event_id('{"F":[2,1]}')


# ---- parse_json: what is taken ----


@pytest.mark.parametrize(
    ("body", "value", "canonical"),
    [
        (b'{"a":1}', {"a": 1}, '{"a":1}'),
        (b' \t\r\n{"a" : [ ] }\n', {"a": []}, '{"a":[]}'),
        (b"null", None, "null"),
        (b"1E2", 100.0, "100.0"),
        (b"-0", 0, "0"),
        (b"1.10", 1.1, "1.1"),
        (b"1e-400", 0.0, "0.0"),
        (b"123456789012345678901234567890", 123456789012345678901234567890, "123456789012345678901234567890"),
        (b'"\\u0000"', "\0", '"\\u0000"'),
        (b'{"\\u0000":1}', {"\0": 1}, '{"\\u0000":1}'),
        (b'"\\ud83d\\ude00"', "\U0001f600", '"\U0001f600"'),
        ('"\U0001f600\u2028\x7f"'.encode(), "\U0001f600\u2028\x7f", '"\U0001f600\u2028\x7f"'),
        (b'"\xef\xbb\xbf"', "\ufeff", '"\ufeff"'),
        (b'{"a":{"k":1},"b":{"k":1}}', {"a": {"k": 1}, "b": {"k": 1}}, '{"a":{"k":1},"b":{"k":1}}'),
        (b'{"k":1,"K":2,"k ":3}', {"k": 1, "K": 2, "k ": 3}, '{"K":2,"k":1,"k ":3}'),
        (b'"// no comment, 1e400, NaN, \\"]]"', '// no comment, 1e400, NaN, "]]', '"// no comment, 1e400, NaN, \\"]]"'),
    ],
)
def test_parse_json_takes(body: bytes, value: Any, canonical: str) -> None:
    assert parse_json(body) == (value, canonical)


@pytest.mark.parametrize("digits", ["1" + "0" * 308, "-1" + "0" * 307])
def test_integers_are_exact_up_to_the_range_of_doubles(digits: str) -> None:
    assert parse_json(digits.encode())[1] == digits


def test_negative_integers_reach_as_far_as_positive_ones() -> None:
    digits = "1" + "0" * 308  # 10**308 is within a double's range on either side of zero
    assert parse_json(f"-{digits}".encode())[1] == f"-{digits}"


# ---- parse_json: what is refused ----


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"a":1,"a":1}', "repeated"),
        (b'{"a":1,"b":2,"a":3}', "repeated"),
        (b'{"x":{"a":1,"a":2}}', "repeated"),
        (b'[[{"x":[{"y":{"a":1,"b":{},"a":2}}]}]]', "repeated"),
        (b'{"a":1,"\\u0061":2}', "repeated"),
        (b'{"":1,"":2}', "repeated"),
        (b'\xef\xbb\xbf{"a":1}', "not JSON"),
        ('{"a":1}'.encode("utf-16"), "not UTF-8"),
        ('{"a":1}'.encode("utf-16-le"), "not JSON"),
        ('{"a":1}'.encode("utf-16-be"), "not JSON"),
        ('{"a":1}'.encode("utf-32"), "not UTF-8"),
        (b'{"a":NaN}', "NaN"),
        (b'{"a":Infinity}', "Infinity"),
        (b'{"a":-Infinity}', "-Infinity"),
        (b"NaN", "NaN"),
        (b'{"a":nan}', "not JSON"),
        (b'{"a":1e400}', "range"),
        (b'{"a":-1e400}', "range"),
        (b'{"a":1.0e309}', "range"),
        (b"1" + b"0" * 400, "range"),
        (b"-1" + b"0" * 400, "range"),
        (b"1" + b"0" * 5000, "range"),
        (b"1" + b"0" * 5000 + b".5", "range"),
        (b'"\\ud800"', "surrogate"),
        (b'"\\udc00"', "surrogate"),
        (b'"\\ude00\\ud83d"', "surrogate"),
        (b'{"\\ud800":1}', "surrogate"),
        (b'{"a":["\\ud83d x"]}', "surrogate"),
        (b'"\xed\xa0\x80"', "not UTF-8"),
        (b'"\x00"', "not JSON"),
        (b'\x00{"a":1}', "not JSON"),
        (b'{"a":1}\x00', "not JSON"),
        (b'"a\nb"', "not JSON"),
        (b'"\x1f"', "not JSON"),
        (b'{"a":1}{"a":2}', "not JSON"),
        (b'{"a":1}\n{"a":2}', "not JSON"),
        (b'{"a":1} x', "not JSON"),
        (b'{"a":1,}', "not JSON"),
        (b"[1,]", "not JSON"),
        (b"[1 2]", "not JSON"),
        (b"", "not JSON"),
        (b" \n", "not JSON"),
        (b'{"a":1 // comment\n}', "not JSON"),
        (b'{"a":/* comment */1}', "not JSON"),
        (b'# comment\n{"a":1}', "not JSON"),
        (b"{'a':1}", "not JSON"),
        (b"{a:1}", "not JSON"),
        (b"{1:1}", "not JSON"),
        (b'{"a"}', "not JSON"),
        (b'{"a":1', "not JSON"),
        (b'"a', "not JSON"),
        (b'"\\x41"', "not JSON"),
        (b'"\\u12"', "not JSON"),
        (b'"\\u 123"', "not JSON"),
        (b"01", "not JSON"),
        (b"+1", "not JSON"),
        (b".5", "not JSON"),
        (b"1.", "not JSON"),
        (b"0x10", "not JSON"),
        (b"1_000", "not JSON"),
        ("１".encode(), "not JSON"),
        (b"True", "not JSON"),
        (b"undefined", "not JSON"),
        ("{\u00a0}".encode(), "not JSON"),
        (b'{"a":"\xff"}', "not UTF-8"),
        (b'"\xc0\x80"', "not UTF-8"),
        (b'"\xe6\x88"', "not UTF-8"),
        (b'"\xf4\x90\x80\x80"', "not UTF-8"),
        (b'"caf\xe9"', "not UTF-8"),
    ],
)
def test_parse_json_refuses(body: bytes, reason: str) -> None:
    with pytest.raises(BadJSON, match=reason):
        parse_json(body)


def test_the_reason_says_which_byte_is_not_utf_8() -> None:
    with pytest.raises(BadJSON, match="byte 4 is 0xff"):
        parse_json(b'"abc\xff"')


def test_the_reason_names_the_repeated_key() -> None:
    with pytest.raises(BadJSON, match="'EventTime' is repeated"):
        parse_json(b'{"EventTime":1,"RoomInfo":{},"EventTime":1}')


# ---- nesting ----


@pytest.mark.parametrize(
    ("opening", "inside", "closing"), [("[", "", "]"), ('{"a":', "1", "}"), (' [ {"a":', "null", "} ] ")]
)
def test_nesting_of_64_is_taken_and_of_65_refused(opening: str, inside: str, closing: str) -> None:
    levels = 2 if "[" in opening and "{" in opening else 1
    times = 64 // levels
    parse_json((opening * times + inside + closing * times).encode())
    with pytest.raises(BadJSON, match="nested deeper than 64"):
        parse_json((f"[{opening * times}{inside}{closing * times}]").encode())


def test_nesting_is_counted_right_among_more_than_64_brackets() -> None:
    deep = "[" * 63 + "]" * 63
    assert parse_json(f"[{{}},{deep},[]]".encode())[1] == f"[{{}},{deep},[]]"
    with pytest.raises(BadJSON, match="nested deeper than 64"):
        parse_json(f"[{{}},[{deep}],[]]".encode())


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 10_000,
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b'[{"a":' * 5_000 + b"1" + b"}]" * 5_000,
        b'{"a":"\\"",' + b'"b":[' * 3_000 + b"]" * 3_000 + b"}",
    ],
)
def test_nesting_of_thousands_is_refused_and_nothing_worse(body: bytes) -> None:
    with pytest.raises(BadJSON, match="nested deeper than 64"):
        parse_json(body)


@pytest.mark.parametrize(
    "body", [b'"' + b"x" * 10 + b'",' + b"[" * 10_000, b"]" * 20_000 + b"[" * 20_000, b'"a\\' + b"[" * 10_000 + b'"x']
)
def test_broken_nesting_is_refused_and_nothing_worse(body: bytes) -> None:
    with pytest.raises(BadJSON):
        parse_json(body)


def test_nesting_is_depth_and_not_the_number_of_brackets() -> None:
    body = b"[" + b",".join([b'[{"a":[]}]'] * 1000) + b"]"
    assert parse_json(body)[1].encode() == body


@pytest.mark.parametrize(
    "inside", ["[" * 1000, "{[" * 500, '\\"' + "[" * 100, "\\\\\\\\" + "[" * 100, "]" * 100 + "[" * 200]
)
def test_brackets_inside_strings_do_not_count(inside: str) -> None:
    body = f'{{"{inside}":["{inside}"]}}'
    assert parse_json(body.encode())[1] == body


def test_brackets_behind_an_escaped_backslash_do_count() -> None:
    with pytest.raises(BadJSON, match="nested deeper than 64"):
        parse_json(b'["\\\\",' + b"[" * 64 + b"]" * 64 + b"]")


def test_a_full_size_body_of_quotes_is_refused_before_the_sender_gives_up() -> None:
    # 64 KiB that a search which starts again at each quote would take a quarter of a minute for (law 11).
    program = (
        "from app.tencent.strict_json import BadJSON, parse_json\n"
        "body = b'[' * 65 + b'\"' + b'\\\\\"' * 32700\n"
        "assert len(body) <= 65536\n"
        "try:\n"
        "    parse_json(body)\n"
        "except BadJSON:\n"
        "    print('refused')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=5, check=True)
    assert done.stdout == "refused\n"


# ---- properties ----

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


@given(json_values, st.booleans(), st.sampled_from([None, 0, 3]), st.sampled_from([(",", ":"), (" ,\r\n", "\t: ")]))
def test_parse_json_gives_the_canonical_text_of_any_spelling(
    value: Any, escaped: bool, indent: int | None, separators: tuple[str, str]
) -> None:
    body = json.dumps(value, ensure_ascii=escaped, indent=indent, separators=separators).encode()
    canonical = parse_json(body)[1]
    assert canonical == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert parse_json(canonical.encode())[1] == canonical


@given(
    st.binary(max_size=60)
    | st.text('{}[]":,\\ntrue1.e-\ud800"', max_size=40).map(lambda s: s.encode("utf-8", "replace"))
)
def test_parse_json_takes_any_bytes_or_raises_bad_json(body: bytes) -> None:
    try:
        _, canonical = parse_json(body)
    except BadJSON:
        return
    assert parse_json(canonical.encode())[1] == canonical


# ---- Event ----


def event(at: int, id_: str) -> Event:
    return Event(id_, at, "r", "c", "null", None, "{}")


def test_event_order_is_time_then_id() -> None:
    events = [event(100, "a"), event(9, "z"), event(10, "b"), event(10, "a"), event(-5, "a")]
    in_order = sorted(events, key=lambda one: one.key)
    assert [(one.event_time_ms, one.event_id) for one in in_order] == [
        (-5, "a"),
        (9, "z"),
        (10, "a"),
        (10, "b"),
        (100, "a"),
    ]
    assert in_order[0].key > BEFORE_ALL


def test_an_event_cannot_be_changed() -> None:
    one = event(1, "a")
    with pytest.raises(AttributeError):
        one.event_time_ms = 2  # type: ignore[misc]


# ---- History ----


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [(10, "a")],
        [(-(2**63), "a")],
        [(10, "b"), (11, "a")],
        [(10, "a"), (10, "b")],
        [(10, "a"), (10, "aa"), (10, "b"), (11, "a")],
        [(-5, "z"), (0, "y"), (2**62, "x")],
    ],
)
def test_a_history_goes_by_time_and_within_a_millisecond_by_id(keys: list[tuple[int, str]]) -> None:
    events = [event(at, id_) for at, id_ in keys]
    positions = list(range(len(keys), 0, -1))  # the order of arrival is another one
    history = History(positions, events)
    assert (history.positions, history.events) == (positions, events)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ([(20, "a"), (10, "b")], "b"),
        ([(10, "b"), (10, "a")], "a"),
        ([(10, "a"), (10, "a")], "a"),
        ([(10, "a"), (20, "b"), (15, "c"), (30, "d")], "c"),
        ([(10, "a"), (20, "c"), (20, "b"), (30, "d")], "b"),
        ([(10, "a"), (20, "b"), (30, "c"), (30, "c")], "c"),
        ([(10, "a"), (20, "b"), (10, "a")], "a"),
    ],
)
def test_a_history_in_any_other_order_trips_the_assert(keys: list[tuple[int, str]], named: str) -> None:
    with pytest.raises(AssertionError, match=f"event {named} is out of event order"):
        History(list(range(1, len(keys) + 1)), [event(at, id_) for at, id_ in keys])
