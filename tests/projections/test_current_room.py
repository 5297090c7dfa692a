"""The read model `rooms`: contract laws 4, 5 and 6, and which event each field is owed to."""

import json
from typing import Any

import pytest
from given import Given, rows_of, sibling, update, update_of


def room(*given: Given) -> dict[str, Any]:
    """The only row."""
    (row,) = rows_of("current_room", *given)
    return row


def blame(*given: Given) -> dict[str, Any]:
    """The only row's `fields`."""
    fields: dict[str, Any] = json.loads(room(*given)["fields"])
    return fields


def test_a_row_holds_the_fields_who_set_them_and_the_last_event() -> None:
    assert rows_of("current_room", update(10, "a", RoomName='"x"', Category="[1,2]"), update(20, "b", Odd="1")) == [
        {
            "room_id": "r",
            "room_info": '{"Category":[1,2],"Odd":1,"RoomName":"x"}',
            "fields": (
                '{"Category":{"set_at_ms":10,"event_id":"a","operator":"bob"},'
                '"Odd":{"set_at_ms":20,"event_id":"b","operator":"bob"},'
                '"RoomName":{"set_at_ms":10,"event_id":"a","operator":"bob"}}'
            ),
            "event_id": "b",
            "event_time_ms": 20,
            "events": 2,
        }
    ]


def test_no_events_no_rows() -> None:
    assert rows_of("current_room") == []


def test_an_absent_field_is_unchanged() -> None:
    row = room(update(10, "a", RoomName='"x"', Notice='"n"'), update(20, "b", RoomName='"y"'), update(30, "c"))
    assert row["room_info"] == '{"Notice":"n","RoomName":"y"}'
    assert (row["events"], row["event_id"], row["event_time_ms"]) == (3, "c", 30)


@pytest.mark.parametrize("text", ["null", '""', "[]", "{}", "0", "false", '" "', "-0.0"])
def test_a_present_field_has_its_value_however_empty(text: str) -> None:
    assert room(update(10, "a", F='"full"'), update(20, "b", F=text))["room_info"] == f'{{"F":{text}}}'
    assert room(update(10, "a", F=text), update(20, "b", G="1"))["room_info"] == f'{{"F":{text},"G":1}}'


def test_an_update_without_fields_makes_a_room() -> None:
    assert rows_of("current_room", update(10, "a")) == [
        {"room_id": "r", "room_info": "{}", "fields": "{}", "event_id": "a", "event_time_ms": 10, "events": 1}
    ]


def test_room_id_is_the_key_and_not_a_field() -> None:
    row = room(update(10, "a", RoomName='"x"'))
    assert row["room_id"] == "r"
    assert row["room_info"] == '{"RoomName":"x"}'
    assert json.loads(row["fields"]).keys() == {"RoomName"}


def test_unknown_fields_are_fields_like_any_other() -> None:
    odd = {
        "": "1",
        "roomid": "2",
        "RoomId ": "3",
        'quote"': "4",
        "new\nline": "5",
        "房间": "6",
        "nul\0": "7",
        "room_id": "8",
        "events": "9",
    }
    text = room(update_of(10, "a", odd), update(20, "b", Later='{"k":[1,{"z":null}]}'))["room_info"]
    assert json.loads(text) == {
        "": 1,
        "roomid": 2,
        "RoomId ": 3,
        'quote"': 4,
        "new\nline": 5,
        "房间": 6,
        "nul\0": 7,
        "room_id": 8,
        "events": 9,
        "Later": {"k": [1, {"z": None}]},
    }


@pytest.mark.parametrize("text", ["1", "1.0", "true", '"1"'])
@pytest.mark.parametrize("later", ["1", "1.0", "true", '"1"'])
def test_values_that_python_takes_for_equal_are_kept_apart(text: str, later: str) -> None:
    given = (update(10, "a", F=text), update(20, "b", F=later))
    assert room(*given)["room_info"] == f'{{"F":{later}}}'
    assert blame(*given)["F"]["event_id"] == ("a" if text == later else "b")


def test_of_two_values_in_one_millisecond_the_higher_event_id_rules() -> None:
    row = room(update(10, "b", RoomName='"of b"'), update(10, "a", RoomName='"of a"'))
    assert row["room_info"] == '{"RoomName":"of b"}'
    assert row["event_id"] == "b"
    assert json.loads(row["fields"])["RoomName"]["event_id"] == "b"


def test_event_time_is_compared_as_a_number_before_the_event_id() -> None:
    row = room(update(9, "z", F='"nine"'), update(10, "b", F='"ten"'), update(100, "a", F='"hundred"'))
    assert (row["room_info"], row["event_id"]) == ('{"F":"hundred"}', "a")


def test_blame_stays_with_the_first_of_equal_values() -> None:
    assert blame(
        update(10, "a", operator='"ann"', F="1"),
        update(20, "b", operator='"ben"', F="1"),
        update(30, "c", operator='"cat"', F="1"),
    ) == {"F": {"set_at_ms": 10, "event_id": "a", "operator": "ann"}}


def test_blame_goes_to_the_event_that_changed_the_field_last() -> None:
    assert blame(
        update(10, "a", operator='"ann"', F="1", G="1"),
        update(20, "b", operator='"ben"', F="2"),
        update(30, "c", operator='"cat"', F="2", G="1"),
    ) == {
        "F": {"set_at_ms": 20, "event_id": "b", "operator": "ben"},
        "G": {"set_at_ms": 10, "event_id": "a", "operator": "ann"},
    }


def test_blame_of_a_value_that_came_back_goes_to_the_event_that_brought_it_back() -> None:
    assert blame(update(10, "a", F="1"), update(20, "b", F="2"), update(30, "c", F="1")) == {
        "F": {"set_at_ms": 30, "event_id": "c", "operator": "bob"}
    }


def test_blame_inside_one_millisecond_follows_event_ids() -> None:
    assert blame(update(10, "b", F="2"), update(10, "a", F="1"), update(10, "c", F="2")) == {
        "F": {"set_at_ms": 10, "event_id": "b", "operator": "bob"}
    }


@pytest.mark.parametrize(
    "operator",
    ['"bob"', '""', "9007199254740993", "-123456789012345678901234567890", "1.5", "null", '["a",{"b":1}]', '"\\"\\n"'],
)
def test_operator_is_the_value_that_came_never_rounded(operator: str) -> None:
    row = room(update(10, "a", operator=operator, F="1"))
    assert row["fields"] == f'{{"F":{{"set_at_ms":10,"event_id":"a","operator":{operator}}}}}'


def test_a_missing_operator_is_null() -> None:
    assert blame(update(10, "a", operator=None, F="1"))["F"]["operator"] is None


def test_values_are_kept_exactly() -> None:
    texts = {"Big": "9007199254740993", "Deep": '{"a":[{"b":"\\u0000é"}]}', "Float": "0.1", "Long": "9" * 300}
    assert room(update_of(10, "a", texts))["room_info"] == (
        '{"Big":9007199254740993,"Deep":{"a":[{"b":"\\u0000é"}]},"Float":0.1,"Long":' + "9" * 300 + "}"
    )


def test_siblings_leave_the_room_alone() -> None:
    inside = ',"RoomInfo":{"RoomId":"r","RoomName":"other"}'
    row = room(
        update(10, "a", RoomName='"x"'),
        sibling(20, "b", "Live.CallbackAfterDestroyRoom", inside=inside),
        sibling(5, "c", "Live.CallbackAfterCreateRoom", inside=inside),
        sibling(10, "d", "Live.CallbackAfterUpdateRoomInfo2", inside=inside),
    )
    assert row["room_info"] == '{"RoomName":"x"}'
    assert (row["events"], row["event_id"], row["event_time_ms"]) == (1, "a", 10)


def test_siblings_alone_make_no_room() -> None:
    assert (
        rows_of(
            "current_room",
            sibling(10, "a", "Live.CallbackAfterCreateRoom"),
            sibling(20, "b", "Live.CallbackAfterCreateRoomReachingThreshold", room_id=None),
        )
        == []
    )


def test_an_event_without_a_room_among_others_changes_nothing() -> None:
    row = room(
        update(10, "a", F="1"),
        sibling(20, "b", "Live.CallbackAfterCreateRoomReachingThreshold", room_id=None),
        update(30, "c", F="2"),
    )
    assert (row["room_info"], row["events"]) == ('{"F":2}', 2)


@pytest.mark.parametrize(
    "room_id", [" ", "a b", "?q#h%20&x=1", "..", "'; DROP TABLE rooms --", "房间", "\U0001f600", "R\n"]
)
def test_odd_room_ids_are_rooms_of_their_own(room_id: str) -> None:
    rows = rows_of("current_room", update(10, "a", room_id, F="1"), update(20, "b", "r", F="2"))
    assert {row["room_id"]: row["room_info"] for row in rows} == {room_id: '{"F":1}', "r": '{"F":2}'}


def test_room_ids_differ_by_case_by_space_and_by_unicode_form() -> None:
    ids = ["Room", "room", "room ", "caf\u00e9", "cafe\u0301", "7", "07"]
    rows = rows_of("current_room", *(update(10, f"{n}", room_id, F=str(n)) for n, room_id in enumerate(ids)))
    assert {row["room_id"]: row["room_info"] for row in rows} == {
        "Room": '{"F":0}',
        "room": '{"F":1}',
        "room ": '{"F":2}',
        "caf\u00e9": '{"F":3}',
        "cafe\u0301": '{"F":4}',
        "7": '{"F":5}',
        "07": '{"F":6}',
    }


def test_rooms_do_not_touch_each_other() -> None:
    rows = rows_of(
        "current_room",
        update(30, "a", "one", F="1"),
        update(20, "b", "two", F="2"),
        update(10, "c", "one", F="3", G="4"),
    )
    assert [(row["room_id"], row["room_info"], row["events"]) for row in rows] == [
        ("one", '{"F":1,"G":4}', 2),
        ("two", '{"F":2}', 1),
    ]


def test_a_late_event_fills_in_what_later_ones_do_not_say() -> None:
    row = room(update(30, "c", F="3"), update(10, "a", F="1", G="1"), update(20, "b", G="2"))
    assert row["room_info"] == '{"F":3,"G":2}'
    assert json.loads(row["fields"]) == {
        "F": {"set_at_ms": 30, "event_id": "c", "operator": "bob"},
        "G": {"set_at_ms": 20, "event_id": "b", "operator": "bob"},
    }


def test_a_late_equal_value_takes_the_blame() -> None:
    assert blame(update(20, "b", operator='"ben"', F="1"), update(10, "a", operator='"ann"', F="1")) == {
        "F": {"set_at_ms": 10, "event_id": "a", "operator": "ann"}
    }


@pytest.mark.parametrize("value", ["null", '"false"', "0", "1", "[]"])
def test_a_non_boolean_visibility_is_kept_as_it_came(value: str) -> None:
    row = room(update(10, "a", IsPublicVisible="true"), update(20, "b", IsPublicVisible=value))
    assert row["room_info"] == f'{{"IsPublicVisible":{value}}}'
