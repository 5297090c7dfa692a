"""The read model `visibility`: contract laws 4 and 7."""

import pytest
from given import Given, rows_of, sibling, update

Interval = tuple[int, int | None, bool]


def intervals(*given: Given) -> list[Interval]:
    """The intervals of room r: from, to, public."""
    rows = rows_of("visibility", *given)
    assert {row["room_id"] for row in rows} <= {"r"}
    return [(row["from_ms"], row["to_ms"], row["public"]) for row in rows]


def public(at: int, id_: str) -> Given:
    return update(at, id_, IsPublicVisible="true")


def hidden(at: int, id_: str) -> Given:
    return update(at, id_, IsPublicVisible="false")


def test_a_row_is_a_half_open_interval() -> None:
    assert rows_of("visibility", public(10, "a"), hidden(20, "b")) == [
        {"room_id": "r", "from_ms": 10, "to_ms": 20, "public": True},
        {"room_id": "r", "from_ms": 20, "to_ms": None, "public": False},
    ]


def test_booleans_come_back_as_booleans() -> None:
    assert [row["public"] is True for row in rows_of("visibility", public(10, "a"), hidden(20, "b"))] == [True, False]


def test_before_the_first_boolean_there_is_no_interval() -> None:
    assert intervals() == []
    assert intervals(update(10, "a", RoomName='"x"')) == []
    assert intervals(update(10, "a", RoomName='"x"'), hidden(20, "b")) == [(20, None, False)]


def test_the_last_interval_is_open() -> None:
    assert intervals(public(10, "a")) == [(10, None, True)]


def test_intervals_tile_the_time() -> None:
    assert intervals(public(10, "a"), hidden(20, "b"), public(30, "c"), hidden(31, "d"), public(50, "e")) == [
        (10, 20, True),
        (20, 30, False),
        (30, 31, True),
        (31, 50, False),
        (50, None, True),
    ]


def test_equal_neighbours_merge() -> None:
    assert intervals(public(10, "a"), public(20, "b"), hidden(30, "c"), hidden(40, "d"), public(50, "e")) == [
        (10, 30, True),
        (30, 50, False),
        (50, None, True),
    ]


def test_an_update_without_visibility_changes_nothing() -> None:
    assert intervals(public(10, "a"), update(20, "b", RoomName='"x"'), update(30, "c"), public(40, "d")) == [
        (10, None, True)
    ]


@pytest.mark.parametrize("value", ["null", '"true"', '"false"', "0", "1", "1.0", "[]", "[true]", "{}", '""', '"True"'])
def test_a_non_boolean_is_nothing_to_the_timeline(value: str) -> None:
    assert intervals(update(5, "a", IsPublicVisible=value)) == []
    assert intervals(
        update(5, "a", IsPublicVisible=value),
        public(10, "b"),
        update(15, "c", IsPublicVisible=value),
        hidden(20, "d"),
        update(20, "e", IsPublicVisible=value),
    ) == [(10, 20, True), (20, None, False)]


def test_other_fields_and_cases_are_no_visibility() -> None:
    assert intervals(update(10, "a", isPublicVisible="true", IsMessageDisabled="true", IsPublic="true")) == []


def test_of_two_values_in_one_millisecond_the_last_in_event_order_rules() -> None:
    assert intervals(public(10, "b"), hidden(10, "a")) == [(10, None, True)]
    assert intervals(public(10, "a"), hidden(10, "b")) == [(10, None, False)]


def test_a_flip_flop_inside_one_millisecond_leaves_no_trace() -> None:
    assert intervals(public(10, "a"), hidden(20, "b"), public(20, "c")) == [(10, None, True)]
    assert intervals(public(10, "a"), hidden(20, "b"), public(20, "c"), public(30, "d")) == [(10, None, True)]


def test_after_a_flip_flop_the_same_millisecond_can_flip_once_more() -> None:
    assert intervals(public(10, "a"), hidden(20, "b"), public(20, "c"), hidden(20, "d")) == [
        (10, 20, True),
        (20, None, False),
    ]


def test_flips_inside_the_first_millisecond() -> None:
    assert intervals(public(10, "a"), hidden(10, "b"), public(10, "c"), hidden(20, "d")) == [
        (10, 20, True),
        (20, None, False),
    ]


def test_neighbours_merge_across_a_millisecond_overruled_late() -> None:
    # Without "c" there are three intervals; it takes the middle one away, and its neighbours become one.
    assert intervals(public(10, "a"), hidden(20, "b"), public(30, "d"), public(20, "c"), hidden(40, "e")) == [
        (10, 40, True),
        (40, None, False),
    ]


def test_adjacent_milliseconds_stay_apart() -> None:
    assert intervals(public(10, "a"), hidden(11, "b"), public(12, "c")) == [
        (10, 11, True),
        (11, 12, False),
        (12, None, True),
    ]


def test_a_late_value_splits_an_interval() -> None:
    assert intervals(public(10, "a"), public(40, "d"), hidden(20, "b"), public(30, "c")) == [
        (10, 20, True),
        (20, 30, False),
        (30, None, True),
    ]


def test_a_late_value_moves_the_start_back() -> None:
    assert intervals(public(20, "b"), public(10, "a")) == [(10, None, True)]
    assert intervals(public(20, "b"), hidden(10, "a")) == [(10, 20, False), (20, None, True)]


def test_a_long_timeline_keeps_what_is_settled() -> None:
    flips = [(public if at % 20 == 0 else hidden)(at, f"{at:04}") for at in range(0, 120, 10)]
    assert intervals(*flips) == [
        (0, 10, True),
        (10, 20, False),
        (20, 30, True),
        (30, 40, False),
        (40, 50, True),
        (50, 60, False),
        (60, 70, True),
        (70, 80, False),
        (80, 90, True),
        (90, 100, False),
        (100, 110, True),
        (110, None, False),
    ]


def test_siblings_leave_the_timeline_alone() -> None:
    inside = ',"RoomInfo":{"RoomId":"r","IsPublicVisible":false}'
    assert intervals(
        sibling(5, "a", "Live.CallbackAfterCreateRoom", inside=inside),
        public(10, "b"),
        sibling(10, "c", "Live.CallbackAfterMemberStateChanged", inside=inside),
        sibling(20, "d", "Live.CallbackAfterDestroyRoom", inside=inside),
        sibling(30, "e", "Live.CallbackAfterCreateRoomReachingThreshold", room_id=None, inside=inside),
    ) == [(10, None, True)]


def test_rooms_have_timelines_of_their_own() -> None:
    rows = rows_of(
        "visibility",
        update(10, "a", "one", IsPublicVisible="true"),
        update(15, "b", "two", IsPublicVisible="false"),
        update(20, "c", "one", IsPublicVisible="false"),
        update(25, "d", " ?#%.", IsPublicVisible="true"),
    )
    assert [(row["room_id"], row["from_ms"], row["to_ms"], row["public"]) for row in rows] == [
        (" ?#%.", 25, None, True),
        ("one", 10, 20, True),
        ("one", 20, None, False),
        ("two", 15, None, False),
    ]
