"""The read model `change_counts`: contract laws 4, 5 and 6."""

from typing import Any

import pytest
from given import Given, rows_of, sibling, update, update_of

Count = tuple[int, int, int, int | None]


def counts(*given: Given) -> dict[str, Count]:
    """Per field of room r: observations, changes, first seen, last changed."""
    rows = rows_of("change_counts", *given)
    assert {row["room_id"] for row in rows} <= {"r"}
    return {row["field"]: _count(row) for row in rows}


def _count(row: dict[str, Any]) -> Count:
    return (row["observations"], row["changes"], row["first_seen_ms"], row["last_changed_ms"])


def test_one_row_for_each_field_by_name() -> None:
    assert rows_of(
        "change_counts", update(10, "a", RoomName='"x"', Category="[]"), update(20, "b", RoomName='"y"')
    ) == [
        {
            "room_id": "r",
            "field": "Category",
            "observations": 1,
            "changes": 0,
            "first_seen_ms": 10,
            "last_changed_ms": None,
        },
        {
            "room_id": "r",
            "field": "RoomName",
            "observations": 2,
            "changes": 1,
            "first_seen_ms": 10,
            "last_changed_ms": 20,
        },
    ]


def test_no_events_no_rows() -> None:
    assert rows_of("change_counts") == []


def test_the_first_value_is_an_observation_and_no_change() -> None:
    assert counts(update(10, "a", F="1")) == {"F": (1, 0, 10, None)}


@pytest.mark.parametrize("empty", ["null", '""', "[]", "{}", "0", "false"])
def test_an_empty_first_value_is_an_observation_and_what_follows_a_change(empty: str) -> None:
    assert counts(update(10, "a", F=empty), update(20, "b", F='"x"')) == {"F": (2, 1, 10, 20)}
    assert counts(update(10, "a", F='"x"'), update(20, "b", F=empty)) == {"F": (2, 1, 10, 20)}


@pytest.mark.parametrize("text", ["null", '""', "[]", "{}", "0", "false", "1.5", '{"a":[1]}'])
def test_an_equal_value_is_an_observation_and_no_change(text: str) -> None:
    assert counts(update(10, "a", F=text), update(20, "b", F=text), update(30, "c", F=text)) == {"F": (3, 0, 10, None)}


def test_an_absent_field_is_neither() -> None:
    assert counts(update(10, "a", F="1"), update(20, "b", G="1"), update(30, "c"), update(40, "d", F="2")) == {
        "F": (2, 1, 10, 40),
        "G": (1, 0, 20, None),
    }


def test_a_value_that_comes_back_changes_twice() -> None:
    assert counts(update(10, "a", F="1"), update(20, "b", F="2"), update(30, "c", F="1"), update(40, "d", F="1")) == {
        "F": (4, 2, 10, 30)
    }


@pytest.mark.parametrize("text", ["1", "1.0", "true", '"1"'])
@pytest.mark.parametrize("later", ["1", "1.0", "true", '"1"'])
def test_values_that_python_takes_for_equal_differ(text: str, later: str) -> None:
    changed = (2, 0, 10, None) if text == later else (2, 1, 10, 20)
    assert counts(update(10, "a", F=text), update(20, "b", F=later)) == {"F": changed}


@pytest.mark.parametrize(
    ("text", "later"), [("[1,2]", "[2,1]"), ("0", "-0.0"), ("null", '""'), ("[]", "{}"), ("0", "false")]
)
def test_values_that_look_alike_differ(text: str, later: str) -> None:
    assert counts(update(10, "a", F=text), update(20, "b", F=later)) == {"F": (2, 1, 10, 20)}


def test_within_one_millisecond_changes_follow_event_ids() -> None:
    # In event order: 1, 2, 1. Were the middle one first or last, there would be one change.
    assert counts(update(10, "a", F="1"), update(10, "c", F="1"), update(10, "b", F="2")) == {"F": (3, 2, 10, 10)}
    assert counts(update(10, "a", F="2"), update(10, "c", F="1"), update(10, "b", F="1")) == {"F": (3, 1, 10, 10)}


def test_a_late_event_can_turn_an_observation_into_a_change() -> None:
    assert counts(update(20, "b", F="1"), update(10, "a", F="2")) == {"F": (2, 1, 10, 20)}


def test_a_late_event_can_move_the_last_change_back() -> None:
    # 10: 1, 30: 2 alone would have changed at 30; the late 2 at 20 did it.
    assert counts(update(10, "a", F="1"), update(30, "c", F="2"), update(20, "b", F="2")) == {"F": (3, 1, 10, 20)}


def test_unknown_fields_are_counted_and_room_id_is_not() -> None:
    assert counts(update_of(10, "a", {"": "1", "roomid": "2", "房间": "3", "a\0b": "4"})) == {
        "": (1, 0, 10, None),
        "a\0b": (1, 0, 10, None),
        "roomid": (1, 0, 10, None),
        "房间": (1, 0, 10, None),
    }


def test_a_non_boolean_visibility_is_counted_like_any_value() -> None:
    assert counts(
        update(10, "a", IsPublicVisible="true"),
        update(20, "b", IsPublicVisible='"true"'),
        update(30, "c", IsPublicVisible="true"),
    ) == {"IsPublicVisible": (3, 2, 10, 30)}


def test_siblings_count_nothing() -> None:
    inside = ',"RoomInfo":{"RoomId":"r","F":2}'
    assert counts(
        update(10, "a", F="1"),
        sibling(5, "b", "Live.CallbackAfterCreateRoom", inside=inside),
        sibling(20, "c", "Live.CallbackAfterDestroyRoom", inside=inside),
        sibling(25, "d", "Live.CallbackAfterCreateRoomReachingThreshold", room_id=None),
        update(30, "e", F="1"),
    ) == {"F": (2, 0, 10, None)}


def test_rooms_are_counted_apart() -> None:
    rows = rows_of(
        "change_counts",
        update(10, "a", "one", F="1"),
        update(20, "b", "two", F="2"),
        update(30, "c", "one", F="3"),
        update(40, "d", " ?#%.", F="4"),
    )
    assert [(row["room_id"], row["field"], _count(row)) for row in rows] == [
        (" ?#%.", "F", (1, 0, 40, None)),
        ("one", "F", (2, 1, 10, 30)),
        ("two", "F", (1, 0, 20, None)),
    ]


def test_no_field_no_rows() -> None:
    assert rows_of("change_counts", update(10, "a"), update(20, "b")) == []
