"""Reads of one room, or room by room: in event order, whatever the order of arrival."""

import random

import pytest

from app.event import BEFORE_ALL, History
from app.log import room_index
from app.log.store import EventStore
from log.lib import arrival, digest, ids


def ids_in(history: History) -> list[str]:
    assert len(history.positions) == len(history.events)
    return ids(history.events)


def test_history_is_in_event_order_with_ties_by_event_id(history: EventStore) -> None:
    found = room_index.history(history, "r", upto=9)
    assert ids_in(found) == ids(room_index.records(history, "r", upto=9)) == ["a0", "b", "a", "z", "c", "d"]
    assert (
        found.positions
        == [record.position for record in room_index.records(history, "r", upto=9)]
        == [7, 2, 5, 4, 9, 1]
    )
    assert found.events == [record.event for record in room_index.records(history, "r", upto=9)]
    assert ids_in(room_index.history(history, "q", upto=9)) == ids(room_index.records(history, "q", upto=9)) == ["x1"]
    for unknown in ("unknown", "", "R", "r "):
        assert (
            ids_in(room_index.history(history, unknown, upto=9))
            == ids(room_index.records(history, unknown, upto=9))
            == []
        )


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        (BEFORE_ALL, ["a0", "b", "a", "z", "c", "d"]),
        ((10, ""), ["a0", "b", "a", "z", "c", "d"]),
        ((10, "a0"), ["b", "a", "z", "c", "d"]),
        ((10, "a1"), ["b", "a", "z", "c", "d"]),
        ((10, "b"), ["a", "z", "c", "d"]),
        ((19, "zz"), ["a", "z", "c", "d"]),
        ((20, "a"), ["z", "c", "d"]),
        ((30, "c"), ["d"]),
        ((30, "d"), []),
        ((31, ""), []),
    ],
)
def test_history_after_a_key(history: EventStore, after: tuple[int, str], expected: list[str]) -> None:
    assert ids_in(room_index.history(history, "r", after=after, upto=9)) == expected
    assert ids(room_index.records(history, "r", after=after, upto=9)) == expected


@pytest.mark.parametrize(
    ("until", "expected"),
    [
        ((9, "z"), []),
        ((10, ""), []),
        ((10, "a0"), ["a0"]),
        ((10, "az"), ["a0"]),
        ((10, "b"), ["a0", "b"]),
        ((20, "a"), ["a0", "b", "a"]),
        ((30, "c"), ["a0", "b", "a", "z", "c"]),
        ((31, ""), ["a0", "b", "a", "z", "c", "d"]),
    ],
)
def test_records_until_a_key(history: EventStore, until: tuple[int, str], expected: list[str]) -> None:
    assert ids(room_index.records(history, "r", until=until, upto=9)) == expected


@pytest.mark.parametrize(
    ("as_of_ms", "expected"),
    [(9, []), (10, ["a0", "b"]), (19, ["a0", "b"]), (20, ["a0", "b", "a", "z"]), (30, ["a0", "b", "a", "z", "c", "d"])],
)
def test_history_as_of_counts_the_whole_millisecond(history: EventStore, as_of_ms: int, expected: list[str]) -> None:
    assert ids_in(room_index.history(history, "r", as_of_ms=as_of_ms, upto=9)) == expected
    assert ids(room_index.records(history, "r", as_of_ms=as_of_ms, upto=9)) == expected


@pytest.mark.parametrize(
    ("upto", "expected"),
    [(0, []), (1, ["d"]), (2, ["b", "d"]), (3, ["b", "d"]), (5, ["b", "a", "z", "d"]), (8, ["a0", "b", "a", "z", "d"])],
)
def test_history_up_to_a_position(history: EventStore, upto: int, expected: list[str]) -> None:
    assert ids_in(room_index.history(history, "r", upto=upto)) == expected
    assert ids(room_index.records(history, "r", upto=upto)) == expected


def test_history_with_all_its_bounds(history: EventStore) -> None:
    assert ids_in(room_index.history(history, "r", after=(10, "a0"), as_of_ms=20, upto=4)) == ["b", "z"]
    found = room_index.records(history, "r", after=(10, "a0"), until=(30, "c"), as_of_ms=20, upto=4)
    assert ids(found) == ["b", "z"]


def test_histories_are_room_by_room_in_event_order(history: EventStore) -> None:
    def found(after: str, last: str | None, upto: int = 9) -> list[tuple[str, list[str]]]:
        rooms = room_index.histories(history, after=after, last=last, upto=upto)
        return [(room_id, ids_in(one)) for room_id, one in rooms]

    room_r = ("r", ["a0", "b", "a", "z", "c", "d"])
    assert found("", None) == found("", "z") == [("q", ["x1"]), room_r, ("s", ["x3"])]
    assert [(room_id, ids_in(one)) for room_id, one in room_index.histories(history, upto=9)] == found("", None)
    assert found("", "r") == [("q", ["x1"]), room_r]
    assert found("q", "r") == [room_r]
    assert found("q", None) == [room_r, ("s", ["x3"])]
    assert found("r", "s") == [("s", ["x3"])]
    assert found("r", "r") == found("s", None) == found("t", "z") == []
    assert found("", None, upto=3) == [("q", ["x1"]), ("r", ["b", "d"])]
    assert found("", None, upto=0) == []
    for room_id, one in room_index.histories(history, upto=9):
        assert one == room_index.history(history, room_id, upto=9)


@pytest.fixture
def crowd(store: EventStore) -> tuple[EventStore, dict[str, int]]:
    """Rooms of all sizes, and how many events each has; several to a millisecond, and between them events of none."""
    sizes = {"a": 1, "b": 5, "b ": 2, "c": 1, "é": 12, "房": 3, "\U0001f600": 1, "z" * 128: 2}
    events = [room_id for room_id, size in sizes.items() for _ in range(size)]
    dice = random.Random(11)
    dice.shuffle(events)
    for number, room_id in enumerate(events):
        store.append([arrival(digest(f"{dice.getrandbits(64):x}"), number // 4, room_id)])
        if number % 3 == 0:
            store.append([arrival(f"none {number}", number, None)])
    return store, sizes


@pytest.mark.parametrize("events", [1, 2, 3, 4, 5, 6, 7, 12, 13, 26, 27, 28, 10**9])
def test_ranges_of_any_size_have_every_room_once_and_whole(
    crowd: tuple[EventStore, dict[str, int]], events: int
) -> None:
    store, sizes = crowd
    head = store.head().position
    found = []
    after: str | None = ""
    for begin, last in room_index.room_ranges(store, events):
        assert begin == after
        after = last
        rooms = list(room_index.histories(store, after=begin, last=last, upto=head))
        found += rooms
        taken = [len(one.events) for _, one in rooms]
        assert sum(taken[:-1]) < events, "a range goes no further than it has to"
        assert last is None or sum(taken) >= events
    assert after is None
    by_bytes = sorted(sizes, key=lambda room_id: room_id.encode())
    assert [(room_id, len(one.events)) for room_id, one in found] == [(room_id, sizes[room_id]) for room_id in by_bytes]
    for room_id, one in found:
        assert one == room_index.history(store, room_id, upto=head)
        assert ids(one.events) == ids(room_index.records(store, room_id, upto=head))


def test_ranges_count_no_events_of_no_room(store: EventStore) -> None:
    store.append([arrival(str(number), room_id=None) for number in range(9)])
    assert list(room_index.room_ranges(store, 1)) == [("", None)]
    store.append([arrival("a"), arrival("b")])
    assert list(room_index.room_ranges(store, 3)) == [("", None)]
    assert list(room_index.room_ranges(store, 2)) == [("", "r"), ("r", None)]


def test_rooms_that_come_between_two_ranges_are_in_one_of_those_to_come(store: EventStore) -> None:
    store.append([arrival("a", room_id="a"), arrival("c", room_id="c")])
    ranges = room_index.room_ranges(store, 1)
    assert next(ranges) == ("", "a")
    store.append([arrival("b", room_id="b"), arrival("d", room_id="d")])
    assert list(ranges) == [("a", "b"), ("b", "c"), ("c", "d"), ("d", None)]


def test_overtakers_came_before_and_sort_behind(history: EventStore) -> None:
    assert sorted(room_index.overtakers(history, "r", after=(10, "a0"), before=7)) == [
        (1, (30, "d")),
        (2, (10, "b")),
        (4, (20, "z")),
        (5, (20, "a")),
    ]
    assert sorted(room_index.overtakers(history, "r", after=(20, "a"), before=5)) == [(1, (30, "d")), (4, (20, "z"))]
    assert list(room_index.overtakers(history, "r", after=(30, "d"), before=99)) == []
    assert list(room_index.overtakers(history, "r", after=(10, "b"), before=2)) == [(1, (30, "d"))]
    assert list(room_index.overtakers(history, "r", after=(10, "b"), before=1)) == []
    assert list(room_index.overtakers(history, "q", after=(10, "a0"), before=9)) == [(3, (15, "x1"))]
    assert list(room_index.overtakers(history, "r", after=(10, "a0"), before=5, until_ms=20)) == [
        (2, (10, "b")),
        (4, (20, "z")),
    ]


def test_only_updates_overtake(store: EventStore) -> None:
    store.append([arrival("a", 30, command="Live.CallbackAfterDestroyRoom"), arrival("b", 20), arrival("c", 10)])
    assert list(room_index.overtakers(store, "r", after=(10, "c"), before=3)) == [(2, (20, "b"))]
