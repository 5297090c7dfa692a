"""What a body says: of a room update, of its siblings, and of an event in the log; contract §2 and protocol.md."""

import json
from typing import Any

import pytest
from conftest import T0, UPDATE
from hypothesis import given
from hypothesis import strategies as st

from app.tencent.body import Callback, Invalid, command_of, decode, operator_of, read_event

NOW = 1_700_000_000_000


def info(text: str, event_time: str = str(T0)) -> bytes:
    """An update with this text as RoomInfo."""
    return f'{{"CallbackCommand":"{UPDATE}","RoomInfo":{text},"EventTime":{event_time}}}'.encode()


def with_room_id(text: str) -> bytes:
    return info(f'{{"RoomId":{text}}}')


def test_the_vendors_sample_repaired_is_taken() -> None:
    body = (
        '{"CallbackCommand":"Live.CallbackAfterUpdateRoomInfo","Operator_Account":"bob",\n "RoomInfo":'
        '{"RoomId":"live-room","RoomName":"rname-123","MaxMemberCount":300,"IsMessageDisabled":false,'
        '"CoverURL":"https://xxxx.png","Category":[1,2,3],"ActivityStatus":1,"IsPublicVisible":false,'
        '"TakeSeatMode":"ApplyToTake","CustomInfo":"custom123"},"EventTime":1670574414123}'
    )
    # The id: jq -jcS . body.json | sha256sum
    assert decode(body.encode(), NOW) == Callback(
        event_id="f00fe77cf440f966bd470852a2720d2a277ecc95c294ad168b40a50b5548323e",
        room_id="live-room",
        event_time_ms=1670574414123,
        body=body,
    )
    assert (command_of(body), operator_of(body)) == ("Live.CallbackAfterUpdateRoomInfo", '"bob"')


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not JSON"),
        (b'{"CallbackCommand":"x"', "not JSON"),
        (b'\xef\xbb\xbf{"CallbackCommand":"x"}', "not JSON"),
        (b'{"CallbackCommand":"\xff"}', "not UTF-8"),
        (b'{"CallbackCommand":"x","a":NaN}', "NaN"),
        (b'{"CallbackCommand":"x","CallbackCommand":"x"}', "repeated"),
        (b"[]", "not a JSON object"),
        (b'["CallbackCommand"]', "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b"1", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "CallbackCommand is not a string"),
        (b'{"CallbackCommand":null}', "CallbackCommand is not a string"),
        (b'{"CallbackCommand":1}', "CallbackCommand is not a string"),
        (b'{"CallbackCommand":["x"]}', "CallbackCommand is not a string"),
        (b'{"callbackcommand":"x"}', "CallbackCommand is not a string"),
    ],
)
def test_a_body_that_is_no_callback_is_invalid(body: bytes, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        decode(body, NOW)


@pytest.mark.parametrize("nested", ["[" * 62 + "]" * 62, '{"a":' * 62 + "1" + "}" * 62])
def test_a_body_is_nested_at_most_64_deep(nested: str) -> None:
    assert decode(info(f'{{"RoomId":"r","F":{nested}}}'), NOW).room_id == "r"
    with pytest.raises(Invalid, match="nested deeper than 64"):
        decode(info(f'{{"RoomId":"r","F":[{nested}]}}'), NOW)


@pytest.mark.parametrize("room_info", ["null", "[]", '"r"', "1", "true", '[{"RoomId":"r"}]'])
def test_room_info_has_to_be_an_object(room_info: str) -> None:
    with pytest.raises(Invalid, match="RoomInfo is not an object"):
        decode(info(room_info), NOW)


def test_room_info_has_to_be_there() -> None:
    with pytest.raises(Invalid, match="RoomInfo is not an object"):
        decode(f'{{"CallbackCommand":"{UPDATE}","RoomId":"r","EventTime":{T0}}}'.encode(), NOW)


@pytest.mark.parametrize("room_id", ["null", "7", "true", "[]", '["r"]', '{"RoomId":"r"}', '""'])
def test_room_id_has_to_be_a_non_empty_string(room_id: str) -> None:
    with pytest.raises(Invalid, match="RoomId is not a non-empty string"):
        decode(with_room_id(room_id), NOW)


@pytest.mark.parametrize("room_info", ["{}", '{"roomid":"r"}', '{"RoomID":"r"}'])
def test_room_id_has_to_be_there(room_info: str) -> None:
    with pytest.raises(Invalid, match="RoomId is not a non-empty string"):
        decode(info(room_info), NOW)


@pytest.mark.parametrize(
    "room_id",
    [
        "r",
        "x" * 128,
        "房" * 42 + "ab",
        "\U0001f600" * 32,
        " ",
        ".",
        "..",
        "a b?c#d%e&f",
        "%2F",
        "\\",
        "\x7f",
        "\u2028",
        "é",
    ],
)
def test_room_ids_up_to_128_bytes_are_taken(room_id: str) -> None:
    assert decode(with_room_id(json.dumps(room_id)), NOW).room_id == room_id


@pytest.mark.parametrize("room_id", ["x" * 129, "房" * 43, "房" * 42 + "abc", "\U0001f600" * 32 + "x", "é" * 65])
def test_room_ids_of_more_than_128_bytes_are_invalid(room_id: str) -> None:
    with pytest.raises(Invalid, match="longer than 128 bytes"):
        decode(with_room_id(json.dumps(room_id)), NOW)


@pytest.mark.parametrize("text", ['"\\u0000"', '"a\\u0000b"', '"/"', '"a/b"', '"\\/"', '"a\\u002fb"', '"../r"'])
def test_room_ids_with_a_nul_or_a_slash_are_invalid(text: str) -> None:
    with pytest.raises(Invalid, match="slash"):
        decode(with_room_id(text), NOW)


@pytest.mark.parametrize("event_time", [100_000_000_000, 100_000_000_001, T0, NOW, NOW + 600_000])
def test_event_times_between_1973_and_ten_minutes_from_now_are_taken(event_time: int) -> None:
    assert decode(info('{"RoomId":"r"}', str(event_time)), NOW).event_time_ms == event_time


@pytest.mark.parametrize("event_time", [100_000_000_000, 999_999_999_999, T0, NOW, NOW + 600_000])
def test_the_digits_of_an_event_time_in_quotes_are_that_time(event_time: int) -> None:
    quoted, plain = (decode(info('{"RoomId":"r"}', text), NOW) for text in (f'"{event_time}"', str(event_time)))
    assert quoted.event_time_ms == plain.event_time_ms == event_time
    assert quoted.event_id != plain.event_id  # the id is that of the body as it came


@pytest.mark.parametrize(
    "text",
    [
        *("01670574414123", "+1670574414123", "-1670574414123", " 1670574414123", "1670574414123 ", "1670574414123.0"),
        *("1.670574414123e12", "1_670_574_414_123", "0x184", "", "null", "1670574414123\\u0000", "1670574414123\\n"),
        *(
            "１６７０５７４４１４１２３",
            "١٦٧٠٥٧٤٤١٤١٢٣",
            "1670574414123Z",
            "2022-12-09T08:26:54Z",
            "9" * 20,
            "9" * 5000,
        ),
    ],
)
def test_any_other_text_is_no_event_time(text: str) -> None:
    with pytest.raises(Invalid, match="EventTime is not an integer"):
        decode(info('{"RoomId":"r"}', f'"{text}"'), NOW)


def test_an_event_time_in_quotes_has_the_same_bounds() -> None:
    for text, reason in (("1670574414", "seconds"), (str(NOW + 600_001), "ahead of our clock"), ("9" * 19, "ahead")):
        with pytest.raises(Invalid, match=reason):
            decode(info('{"RoomId":"r"}', f'"{text}"'), NOW)


@pytest.mark.parametrize("event_time", ["99999999999", "1670574414", "0", "-0", "-1670574414123", "-" + "9" * 30])
def test_an_event_time_in_seconds_is_invalid(event_time: str) -> None:
    with pytest.raises(Invalid, match="seconds"):
        decode(info('{"RoomId":"r"}', event_time), NOW)


@pytest.mark.parametrize("event_time", [str(NOW + 600_001), "1670574414123000", "9" * 300])
def test_an_event_time_more_than_ten_minutes_ahead_is_invalid(event_time: str) -> None:
    with pytest.raises(Invalid, match="ahead of our clock"):
        decode(info('{"RoomId":"r"}', event_time), NOW)


@pytest.mark.parametrize("event_time", ["1670574414123.0", "1.670574414123e12", "null", "true", "[]", "{}", '""'])
def test_an_event_time_has_to_be_an_integer(event_time: str) -> None:
    with pytest.raises(Invalid, match="EventTime is not an integer"):
        decode(info('{"RoomId":"r"}', event_time), NOW)


def test_an_event_time_has_to_be_there() -> None:
    with pytest.raises(Invalid, match="EventTime is not an integer"):
        decode(f'{{"CallbackCommand":"{UPDATE}","RoomInfo":{{"RoomId":"r","EventTime":{T0}}}}}'.encode(), NOW)


def test_of_an_update_the_room_id_in_room_info_counts() -> None:
    body = f'{{"CallbackCommand":"{UPDATE}","RoomId":"outer","RoomInfo":{{"RoomId":"inner"}},"EventTime":{T0}}}'
    assert decode(body.encode(), NOW).room_id == "inner"


def test_the_body_is_kept_as_it_came_and_the_id_is_not_of_its_spelling() -> None:
    plain = info('{"RoomId":"r","F":"é"}')
    spaced = b" " + plain.replace(b":", b" : ").replace("é".encode(), b"\\u00e9") + b"\r\n"
    assert decode(spaced, NOW).body == spaced.decode()
    assert decode(spaced, NOW).event_id == decode(plain, NOW).event_id
    assert len(decode(plain, NOW).event_id) == 64


@pytest.mark.parametrize(
    ("body", "room_id", "event_time_ms"),
    [
        (
            '{"CallbackCommand":"Live.CallbackAfterCreateRoom","RoomInfo":{"RoomId":"r","CreateTime":1670574414}}',
            "r",
            None,
        ),
        (f'{{"CallbackCommand":"Live.CallbackAfterDestroyRoom","RoomId":"r","EventTime":{T0}}}', "r", T0),
        (
            f'{{"CallbackCommand":"Live.CallbackAfterDestroyRoom","RoomId":"r","RoomInfo":{{"RoomId":"in"}},"EventTime":{T0}}}',
            "r",
            T0,
        ),
        (f'{{"CallbackCommand":"Live.CallbackAfterSetMetadata","RoomId":"r","Metadata":[],"EventTime":{T0}}}', "r", T0),
        (f'{{"CallbackCommand":"Live.CallbackAfterChangeOwner","RoomId":"r","EventTime":{T0}}}', "r", T0),
        (f'{{"CallbackCommand":"Live.CallbackAfterMemberStateChanged","RoomId":"r","EventTime":{T0}}}', "r", T0),
        (
            f'{{"CallbackCommand":"Live.CallbackAfterCreateRoomReachingThreshold","CurRoomCount":1,"EventTime":{T0}}}',
            None,
            T0,
        ),
        ('{"CallbackCommand":"Group.CallbackBeforeSendMsg"}', None, None),
        ('{"CallbackCommand":"x","RoomInfo":null,"RoomId":null,"EventTime":null}', None, None),
        ('{"CallbackCommand":"x","RoomInfo":[],"EventTime":"1670574414123"}', None, T0),
        (f'{{"CallbackCommand":"x","EventTime":"{NOW + 600_001}"}}', None, None),
        ('{"CallbackCommand":"x","EventTime":"1670574414"}', None, None),
        ('{"CallbackCommand":"x","EventTime":" 1670574414123"}', None, None),
        ('{"CallbackCommand":"x","EventTime":1670574414}', None, None),
        ('{"CallbackCommand":"x","EventTime":99999999999}', None, None),
        ('{"CallbackCommand":"x","EventTime":100000000000}', None, 100_000_000_000),
        (f'{{"CallbackCommand":"x","EventTime":{NOW + 600_000}}}', None, NOW + 600_000),
        (f'{{"CallbackCommand":"x","EventTime":{NOW + 600_001}}}', None, None),
        ('{"CallbackCommand":"x","EventTime":1670574414123.0}', None, None),
        ('{"CallbackCommand":"x","EventTime":true}', None, None),
        (f'{{"CallbackCommand":"{UPDATE.lower()}","EventTime":{T0}}}', None, T0),
    ],
)
def test_a_sibling_is_taken_with_what_it_has(body: str, room_id: str | None, event_time_ms: int | None) -> None:
    callback = decode(body.encode(), NOW)
    assert (callback.room_id, callback.event_time_ms) == (room_id, event_time_ms)
    assert callback.body == body
    assert command_of(callback.body) == json.loads(body)["CallbackCommand"]


@pytest.mark.parametrize(
    "odd", ['""', "7", "null", "[]", '"a/b"', '"a\\u0000"', json.dumps("x" * 129), json.dumps("é" * 65)]
)
def test_a_sibling_with_an_odd_room_id_belongs_to_no_room(odd: str) -> None:
    assert decode(f'{{"CallbackCommand":"x","RoomId":{odd}}}'.encode(), NOW).room_id is None
    assert decode(f'{{"CallbackCommand":"x","RoomInfo":{{"RoomId":{odd}}}}}'.encode(), NOW).room_id is None
    body = f'{{"CallbackCommand":"x","RoomId":{odd},"RoomInfo":{{"RoomId":"inner"}}}}'
    assert decode(body.encode(), NOW).room_id == "inner"


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ('"plain"', '"plain"'),
        ('""', '""'),
        ('"é房"', '"é房"'),
        ('"\\u00e9\\u623f"', '"é房"'),
        ('"a\\/b"', '"a/b"'),
        ('"\\u0022\\u005c\\u000a"', '"\\"\\\\\\n"'),
        ('"\\u0000"', '"\\u0000"'),
        ('"\\ud83d\\ude00"', '"\U0001f600"'),
        ('"\u2028\x7f"', '"\u2028\x7f"'),
        ("1E2", "100.0"),
        ("1e0", "1.0"),
        ("1.50", "1.5"),
        ("-0", "0"),
        ("-0.0", "-0.0"),
        ("0", "0"),
        ("-7", "-7"),
        ("9007199254740993", "9007199254740993"),
        ("9" * 308, "9" * 308),
        ("-" + "9" * 300, "-" + "9" * 300),
        ("1e-400", "0.0"),
        ("true", "true"),
        ("false", "false"),
        ("null", "null"),
        ("[ ]", "[]"),
        ("[ 1 ,\n2 , [ ] ]", "[1,2,[]]"),
        ('{ "b" : 1 ,\t"a" : { "d" : 1E1 , "c" : "\\u0061" } }', '{"a":{"c":"a","d":10.0},"b":1}'),
        ('"[1, 2]"', '"[1, 2]"'),
        ("[" * 62 + "]" * 62, "[" * 62 + "]" * 62),
    ],
)
def test_read_event_gives_the_canonical_text_of_a_field(text: str, canonical: str) -> None:
    for spaced in (f'{{"RoomId":"r","F":{text}}}', f'{{ "F" : {text}\n,\t"RoomId" : "r" }}'):
        callback = decode(info(spaced), NOW)
        event = read_event(callback.event_id, T0, "r", callback.body)
        assert event.room_info == {"F": canonical}


@pytest.mark.parametrize(
    ("room_info", "fields"),
    [
        ('{"RoomId":"r"}', {}),
        ('{"\\u0052oomId":"r"}', {}),
        ('{"RoomId":"r","\\u0046":1}', {"F": "1"}),
        ('{"RoomId":"r","roomid":1,"RoomId ":2}', {"roomid": "1", "RoomId ": "2"}),
        ('{"RoomId":"r","":1,"a\\u0000b":2,"房":3,"\\"":4}', {"": "1", "a\0b": "2", "房": "3", '"': "4"}),
    ],
)
def test_read_event_gives_every_field_but_the_room_id(room_info: str, fields: dict[str, str]) -> None:
    body = info(room_info).replace(b'"RoomInfo"', b'"\\u0052oomInfo"')
    for spelling in (info(room_info), body):
        callback = decode(spelling, NOW)
        assert callback.room_id == "r"
        assert read_event("id", T0, "r", callback.body).room_info == fields


def test_read_event_passes_on_what_the_log_knows() -> None:
    body = by("9007199254740993")
    event = read_event("the id", 5, "the room", body)
    assert (event.event_id, event.event_time_ms, event.room_id) == ("the id", 5, "the room")
    assert (event.command, event.operator, event.body) == (UPDATE, "9007199254740993", body)


@pytest.mark.parametrize("room_info", ['{"RoomId":"r","F":1}', "null", "[]", '"x"'])
def test_read_event_of_a_sibling_has_no_room_info(room_info: str) -> None:
    body = f'{{"CallbackCommand":"Live.CallbackAfterCreateRoom","RoomInfo":{room_info}}}'
    event = read_event("id", 5, "r", body)
    assert (event.command, event.room_info) == ("Live.CallbackAfterCreateRoom", None)


def by(text: str) -> str:
    """An update with this text as Operator_Account."""
    return f'{{"CallbackCommand":"{UPDATE}","Operator_Account":{text},"RoomInfo":{{"RoomId":"r"}},"EventTime":{T0}}}'


OPERATORS = [
    ('"bob"', '"bob"'),
    ('"\\u0062ob"', '"bob"'),
    ('"b\\/o\\u00e9\\u000a\\ud83d\\ude00"', '"b/oé\\n\U0001f600"'),
    ('"é房"', '"é房"'),
    ('""', '""'),
    ("null", "null"),
    ("0", "0"),
    ("-0", "0"),
    ("-7", "-7"),
    ("9007199254740993", "9007199254740993"),
    ("123456789012345678901234567890", "123456789012345678901234567890"),
    ("-9223372036854775809", "-9223372036854775809"),
    ("9" * 308, "9" * 308),
    ("1E2", "1E2"),
    ("1.50", "1.50"),
    ("-0.0", "-0.0"),
    ("12345678901234567890.25", "12345678901234567890.25"),
    ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
    ("true", "true"),
    ("[ 1.0 ]", "[ 1.0 ]"),
    ('{ "b": 1, "a": [ ] }', '{ "b": 1, "a": [ ] }'),
]


@pytest.mark.parametrize(("text", "kept"), OPERATORS)
def test_the_operator_is_kept_exactly(text: str, kept: str) -> None:
    spaced = by(f" {text}\n")
    for body in (by(text), spaced, spaced.replace('"Operator_', '"\\u004fperator_')):
        stored = decode(body.encode(), NOW).body
        assert operator_of(stored) == kept
        assert read_event("id", T0, "r", stored).operator == kept


@pytest.mark.parametrize(("text", "kept"), OPERATORS)
def test_a_sibling_keeps_its_operator_too(text: str, kept: str) -> None:
    body = decode(f'{{"CallbackCommand":"x","Operator_Account":{text}}}'.encode(), NOW).body
    assert operator_of(body) == kept
    assert read_event("id", T0, "r", body).operator == kept


@pytest.mark.parametrize(
    "body",
    [
        with_room_id('"r"').decode(),
        '{"CallbackCommand":"x"}',
        '{"CallbackCommand":"x","operator_account":"bob","RoomInfo":{"Operator_Account":"bob"}}',
    ],
)
def test_an_event_without_operator_has_null(body: str) -> None:
    assert operator_of(body) == "null"
    assert read_event("id", 5, "r", body).operator == "null"


def test_what_is_remembered_of_an_operator_is_not_taken_for_a_field_or_the_other_way_round() -> None:
    for number in ("1.250", "1.2500"):
        body = f'{{"CallbackCommand":"{UPDATE}","Operator_Account":{number},"RoomInfo":{{"RoomId":"r","F":{number}}}}}'
        for _ in range(2):
            event = read_event("id", 5, "r", body)
            assert (event.operator, event.room_info) == (number, {"F": "1.25"})


@pytest.mark.parametrize(
    ("text", "command"),
    [
        (f'"{UPDATE}"', UPDATE),
        ('"Live.\\u0043allbackAfterUpdateRoomInfo"', UPDATE),
        ('"x"', "x"),
        ('""', ""),
        ('"x\\u0000y"', "x\0y"),
        ('"é\\u623f\\/"', "é房/"),
    ],
)
def test_the_command_is_that_of_the_body(text: str, command: str) -> None:
    body = f'{{ "CallbackCommand" : {text} , "RoomInfo":{{"RoomId":"r","CallbackCommand":"inner"}},"EventTime":{T0}}}'
    for spelling in (body, body.replace('"CallbackCommand"', '"\\u0043allbackCommand"', 1)):
        stored = decode(spelling.encode(), NOW).body
        assert command_of(stored) == command
        event = read_event("id", T0, "r", stored)
        assert event.command == command
        assert event.room_info == ({"CallbackCommand": '"inner"'} if command == UPDATE else None)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**300), 10**300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(max_size=6), json_values, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_read_event_agrees_with_json_on_every_field(fields: dict[str, Any], escaped: bool, indent: int | None) -> None:
    content = {"CallbackCommand": UPDATE, "RoomInfo": {**fields, "RoomId": "r"}, "EventTime": T0, "Operator_Account": 1}
    body = json.dumps(content, ensure_ascii=escaped, indent=indent)
    callback = decode(body.encode(), NOW)
    event = read_event(callback.event_id, T0, "r", callback.body)
    assert (event.command, event.operator) == (UPDATE, "1")
    assert event.room_info == {
        name: json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        for name, value in fields.items()
        if name != "RoomId"
    }
