"""The event store: one set of contract tests for the log in memory and in a file, and what only a file can show."""

import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import app.log.append
from app.event import BEFORE_ALL, Event, History
from app.infra import sqlite
from app.infra.errors import CorruptFile, NewerSchema, NoData
from app.log import quarantine, room_index, schema
from app.log.quarantine import MAX_REJECTED
from app.log.records import Appended, Arrival, Head, Rejection
from app.log.store import EventStore
from app.tencent.body import Callback

UPDATE = "Live.CallbackAfterUpdateRoomInfo"
ZEROS = "0000000000000000000000000000000000000000000000000000000000000000"


def body_of(id_: str, command: str = UPDATE, operator: str | None = '"bob"') -> str:
    who = "" if operator is None else f'"Operator_Account":{operator},'
    return f'{{"CallbackCommand":"{command}",{who}"RoomInfo":{{"RoomId":"r","F":1}},"Id":"{id_}","é":1}}'


def callback(id_: str, at: int | None = 10, room_id: str | None = "r", command: str = UPDATE) -> Callback:
    return Callback(id_, room_id, at, body_of(id_, command))


def arrival(
    id_: str, at: int | None = 10, room_id: str | None = "r", *, received: int = 100, command: str = UPDATE
) -> Arrival:
    return Arrival(callback(id_, at, room_id, command), received)


def rejection(number: int) -> Rejection:
    return Rejection(b"\xff%d" % number, f"reason {number}", 1000 + number, "1.2.3.4", "iOS")


def ids(records: Iterator[Any] | Sequence[Any]) -> list[str]:
    return [record.event_id for record in records]


def digest(prefix: str) -> str:
    """An event_id as they are, which begins so."""
    return prefix.ljust(64, "0")


def rows(store: EventStore) -> list[tuple[Any, ...]]:
    return store.conn.execute("SELECT * FROM events ORDER BY position").fetchall()


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EventStore]:
    """An empty log, open for writing."""
    log = EventStore(schema.open_log(sqlite.MEMORY if request.param == "memory" else tmp_path / "events.db"))
    yield log
    log.close()


@pytest.fixture
def events_db(tmp_path: Path) -> Path:
    """Where a log in a file is."""
    return tmp_path / "events.db"


@pytest.fixture
def open_store(events_db: Path) -> Iterator[Callable[[], EventStore]]:
    """Opens the log in the file, again and again; all are closed at the end."""
    stores: list[EventStore] = []

    def open_() -> EventStore:
        stores.append(EventStore(schema.open_log(events_db)))
        return stores[-1]

    yield open_
    for store in stores:
        store.close()


# ---- appending ----


def test_an_empty_log(store: EventStore) -> None:
    assert store.head() == Head(0, ZEROS, 0)
    assert store.tail(0, 10) == []
    assert store.duplicates() == 0
    assert quarantine.count(store.conn) == 0
    assert store.owner() is None
    assert store.get("a") is None
    assert store.unread(0, 2**62) == {}
    assert room_index.history(store, "r", upto=2**62) == History([], [])
    assert list(room_index.histories(store, upto=2**62)) == []
    assert list(room_index.room_ranges(store, 1)) == [("", None)]
    assert store.chain_at(0) == ZEROS
    assert store.chain_at(1) is None
    assert store.position_at(2**62) == 0


def test_an_empty_batch_changes_nothing(store: EventStore) -> None:
    assert store.append([]) == []
    assert store.head() == Head(0, ZEROS, 0)


def test_append_assigns_positions_1_2_3(store: EventStore) -> None:
    assert store.append([arrival("a"), arrival("b")]) == [Appended(1, duplicate=False), Appended(2, duplicate=False)]
    assert store.append([arrival("c")]) == [Appended(3, duplicate=False)]
    assert [(record.position, record.event_id) for record in store.tail(0, 10)] == [(1, "a"), (2, "b"), (3, "c")]


def test_a_row_holds_everything_as_it_came(store: EventStore) -> None:
    body = ' {"CallbackCommand" : "cmd",\r\n"Operator_Account":9007199254740993,"a":"é房\U0001f600\\u0000"} '
    store.append([Arrival(Callback("id", "room ?", 123, body), 456, "::1", "iOS")])
    (record,) = store.tail(0, 10)
    assert (record.position, record.event_id, record.room_id, record.command) == (1, "id", "room ?", "cmd")
    assert (record.event_time_ms, record.received_at_ms, record.operator) == (123, 456, "9007199254740993")
    assert (record.client_ip, record.platform, record.body) == ("::1", "iOS", body)
    assert record.event == Event("id", 123, "room ?", "cmd", "9007199254740993", None, body)
    assert store.get("id") == record


def test_what_is_missing_stays_missing(store: EventStore) -> None:
    store.append([Arrival(Callback("id", None, 123, '{"CallbackCommand":"cmd"}'), 456)])
    record = store.get("id")
    assert record is not None
    assert (record.room_id, record.operator, record.client_ip, record.platform) == (None, "null", None, None)
    with pytest.raises(AssertionError, match="position 1 belongs to no room"):
        _ = record.event


def test_an_event_without_a_time_has_that_of_its_receipt(store: EventStore) -> None:
    store.append([arrival("a", None, received=500), arrival("b", None, received=400)])
    assert [(record.event_time_ms, record.received_at_ms) for record in store.tail(0, 10)] == [(500, 500), (500, 500)]


def test_a_duplicate_of_an_event_in_the_log_is_counted_and_not_stored(store: EventStore) -> None:
    store.append([arrival("a"), arrival("b")])
    before = rows(store)
    assert store.append([arrival("a", received=900)]) == [Appended(1, duplicate=True)]
    assert store.append([arrival("b"), arrival("c"), arrival("a")]) == [
        Appended(2, duplicate=True),
        Appended(3, duplicate=False),
        Appended(1, duplicate=True),
    ]
    assert rows(store)[:2] == before
    assert ids(store.tail(0, 10)) == ["a", "b", "c"]
    assert store.duplicates() == 3


def test_a_duplicate_within_a_batch_is_counted_and_not_stored(store: EventStore) -> None:
    assert store.append([arrival("a"), arrival("a"), arrival("b"), arrival("a")]) == [
        Appended(1, duplicate=False),
        Appended(1, duplicate=True),
        Appended(2, duplicate=False),
        Appended(1, duplicate=True),
    ]
    assert ids(store.tail(0, 10)) == ["a", "b"]
    assert store.duplicates() == 2


def test_a_duplicate_leaves_the_first_arrival_as_it_was(store: EventStore) -> None:
    store.append([Arrival(callback("a"), 100, "1.1.1.1", "iOS")])
    store.append([Arrival(callback("a"), 900, "2.2.2.2", "Web")])
    record = store.get("a")
    assert record is not None
    assert (record.received_at_ms, record.client_ip, record.platform) == (100, "1.1.1.1", "iOS")
    assert store.head().received_at_ms == 100


def test_received_at_never_decreases_within_a_batch_or_from_one_to_the_next(store: EventStore) -> None:
    store.append([arrival("a", received=100), arrival("b", received=50), arrival("c", received=101)])
    store.append([arrival("d", received=-7), arrival("e", received=101), arrival("f", received=102)])
    assert [record.received_at_ms for record in store.tail(0, 10)] == [100, 100, 101, 101, 101, 102]


def test_the_chain_is_sha_256_of_the_previous_chain_the_id_the_time_and_the_body(store: EventStore) -> None:
    first = Callback("a" * 64, "r", 10, '{"é":"房"}')
    second = Callback("b" * 64, None, None, " {}\n")
    store.append([Arrival(first, 100)])
    store.append([Arrival(second, 90)])  # stored as received at 100
    one = hashlib.sha256()
    one.update(ZEROS.encode())
    one.update(b"a" * 64)
    one.update(b"100")
    one.update('{"é":"房"}'.encode())
    two = hashlib.sha256()
    two.update(one.hexdigest().encode())
    two.update(b"b" * 64)
    two.update(b"100")
    two.update(b" {}\n")
    assert [record.chain for record in store.tail(0, 10)] == [one.hexdigest(), two.hexdigest()]
    assert store.head() == Head(2, two.hexdigest(), 100)
    assert [store.chain_at(0), store.chain_at(1), store.chain_at(2)] == [ZEROS, one.hexdigest(), two.hexdigest()]


def test_the_chain_of_one_row_as_printf_and_sha256sum_give_it(store: EventStore) -> None:
    store.append([Arrival(Callback("1" * 64, "r", 10, "{}"), 1670574414123)])
    assert store.head().chain == "cc7ac6ac245051fe76e7faae107c1601f1ddf3af7336e2d3ee05228cf752b983"


def test_duplicates_do_not_move_the_chain(store: EventStore) -> None:
    store.append([arrival("a")])
    before = store.head()
    store.append([arrival("a", received=999)])
    assert store.head() == before


BAD = Arrival(Callback("bad", "r", 10, None), 100)  # type: ignore[arg-type]  # a body that NOT NULL refuses


@pytest.mark.parametrize(
    "batch", [[BAD], [arrival("c"), BAD], [BAD, arrival("c")], [arrival("a"), arrival("c"), BAD, arrival("d")]]
)
def test_a_failing_batch_stores_nothing_at_all(store: EventStore, batch: list[Arrival]) -> None:
    store.append([arrival("a"), arrival("b"), arrival("a")], [rejection(1)])
    before, head = rows(store), store.head()
    with pytest.raises(sqlite.Error):
        store.append(batch, [rejection(2)])
    assert rows(store) == before
    assert (store.head(), store.duplicates(), quarantine.count(store.conn)) == (head, 1, 1)
    assert store.append([arrival("c"), arrival("d")]) == [Appended(3, duplicate=False), Appended(4, duplicate=False)]


def test_a_failing_rejection_takes_the_whole_batch_with_it(store: EventStore) -> None:
    bad = Rejection(None, "no body", 1)  # type: ignore[arg-type]
    with pytest.raises(sqlite.Error):
        store.append([arrival("a"), arrival("a")], [rejection(1), bad])
    assert (rows(store), store.duplicates(), quarantine.count(store.conn)) == ([], 0, 0)


TWINS = [digest("ab" * 4 + end) for end in ("", "0" * 55 + "1", "cd" * 28, "cd" * 27 + "ce", "f" * 56)]


def test_ids_that_begin_with_the_same_eight_digits_are_of_different_events(store: EventStore) -> None:
    assert store.append([arrival(id_) for id_ in TWINS[:3]]) == [
        Appended(position, duplicate=False) for position in (1, 2, 3)
    ]
    assert store.append([arrival(TWINS[3]), arrival(TWINS[1]), arrival(TWINS[4]), arrival(TWINS[3])]) == [
        Appended(4, duplicate=False),
        Appended(2, duplicate=True),
        Appended(5, duplicate=False),
        Appended(4, duplicate=True),
    ]
    for position, id_ in enumerate(TWINS, start=1):
        assert store.append([arrival(id_, received=900)]) == [Appended(position, duplicate=True)]
    assert ids(store.tail(0, 10)) == TWINS
    assert store.duplicates() == 7


def test_duplicates_are_found_in_a_batch_of_any_size(store: EventStore) -> None:
    numbered = [digest(f"{number % 7:08x}{number:04x}") for number in range(1201)]
    store.append([arrival(id_) for id_ in numbered[::2]])
    outcomes = store.append([arrival(id_) for id_ in numbered])
    assert [outcome.duplicate for outcome in outcomes] == [number % 2 == 0 for number in range(1201)]
    assert [outcome.position for outcome in outcomes[::2]] == list(range(1, 602))
    assert [outcome.position for outcome in outcomes[1::2]] == list(range(602, 1202))


# ---- log order ----


def test_tail_reads_in_log_order_behind_a_position(store: EventStore) -> None:
    store.append([arrival("d", 40), arrival("a", 10), arrival("c", 30, "s"), arrival("b", 20, None)])
    assert ids(store.tail(0, 10)) == ["d", "a", "c", "b"]
    assert ids(store.tail(0, 2)) == ["d", "a"]
    assert ids(store.tail(2, 10)) == ["c", "b"]
    assert ids(store.tail(3, 1)) == ["b"]
    assert ids(store.tail(4, 10)) == []
    assert ids(store.tail(99, 10)) == []
    assert ids(store.tail(0, 0)) == []


def test_unread_events_come_room_by_room_in_log_order(store: EventStore) -> None:
    other = "Live.CallbackAfterCreateRoom"
    store.append([arrival("d", 40), arrival("a", 10), arrival("c", 30, "s"), arrival("b", 20, None)])
    store.append([arrival("e", 40), arrival("a0", 10, command=other), arrival("f", 5, "q"), arrival("g", 5, None)])

    def found(after: int, upto: int) -> list[tuple[str, list[tuple[int, str]]]]:
        rooms = store.unread(after, upto)
        assert all(event.room_id == room_id for room_id, pairs in rooms.items() for _, event in pairs)
        return [(room_id, [(position, event.event_id) for position, event in rooms[room_id]]) for room_id in rooms]

    assert found(0, 8) == [("r", [(1, "d"), (2, "a"), (5, "e"), (6, "a0")]), ("s", [(3, "c")]), ("q", [(7, "f")])]
    assert found(0, 99) == found(0, 8)
    assert found(1, 5) == [("r", [(2, "a"), (5, "e")]), ("s", [(3, "c")])]
    assert found(2, 3) == [("s", [(3, "c")])]
    assert found(3, 4) == found(7, 8) == found(8, 99) == found(5, 5) == found(6, 5) == []
    ((_, update), (_, sibling)) = store.unread(4, 6)["r"]
    assert update == Event("e", 40, "r", UPDATE, '"bob"', {"F": "1"}, body_of("e"))
    assert sibling == Event("a0", 10, "r", other, '"bob"', None, body_of("a0", other))


@pytest.mark.parametrize(
    ("received_at_ms", "position"),
    [(-1, 0), (0, 0), (99, 0), (100, 3), (101, 3), (199, 3), (200, 4), (299, 4), (300, 6), (2**62, 6)],
)
def test_position_at_is_the_last_one_received_by_then(store: EventStore, received_at_ms: int, position: int) -> None:
    times = [100, 100, 100, 200, 300, 300]
    store.append([arrival(str(number), received=time) for number, time in enumerate(times)])
    assert store.position_at(received_at_ms) == position


# ---- event order ----


@pytest.fixture
def history(store: EventStore) -> EventStore:
    """Room r: in log order 30d 10b 20z 20a 10a 30c, with other rooms between them."""
    store.append(
        [
            arrival("d", 30),
            arrival("b", 10),
            arrival("x1", 15, "q"),
            arrival("z", 20),
            arrival("a", 20),
            arrival("x2", 15, None),
            arrival("a0", 10),
            arrival("x3", 15, "s"),
            arrival("c", 30),
        ]
    )
    return store


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
    def found(behind: str, last: str | None, upto: int = 9) -> list[tuple[str, list[str]]]:
        rooms = room_index.histories(history, behind=behind, last=last, upto=upto)
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
    behind: str | None = ""
    for begin, last in room_index.room_ranges(store, events):
        assert begin == behind
        behind = last
        rooms = list(room_index.histories(store, behind=begin, last=last, upto=head))
        found += rooms
        taken = [len(one.events) for _, one in rooms]
        assert sum(taken[:-1]) < events, "a range goes no further than it has to"
        assert last is None or sum(taken) >= events
    assert behind is None
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
    assert sorted(room_index.overtakers(history, "r", behind=(10, "a0"), before=7)) == [
        (1, (30, "d")),
        (2, (10, "b")),
        (4, (20, "z")),
        (5, (20, "a")),
    ]
    assert sorted(room_index.overtakers(history, "r", behind=(20, "a"), before=5)) == [(1, (30, "d")), (4, (20, "z"))]
    assert list(room_index.overtakers(history, "r", behind=(30, "d"), before=99)) == []
    assert list(room_index.overtakers(history, "r", behind=(10, "b"), before=2)) == [(1, (30, "d"))]
    assert list(room_index.overtakers(history, "r", behind=(10, "b"), before=1)) == []
    assert list(room_index.overtakers(history, "q", behind=(10, "a0"), before=9)) == [(3, (15, "x1"))]
    assert list(room_index.overtakers(history, "r", behind=(10, "a0"), before=5, until_ms=20)) == [
        (2, (10, "b")),
        (4, (20, "z")),
    ]


def test_only_updates_overtake(store: EventStore) -> None:
    store.append([arrival("a", 30, command="Live.CallbackAfterDestroyRoom"), arrival("b", 20), arrival("c", 10)])
    assert list(room_index.overtakers(store, "r", behind=(10, "c"), before=3)) == [(2, (20, "b"))]


# ---- what the columns say ----


@pytest.mark.parametrize(
    ("operator", "text"),
    [
        ('"bob"', '"bob"'),
        ("null", "null"),
        (None, None),
        ("9007199254740993", "9007199254740993"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("1E2", "1E2"),
        ("12345678901234567890.250", "12345678901234567890.250"),
        ("true", "true"),
    ],
)
def test_plain_sql_finds_the_command_and_the_operator(
    store: EventStore, operator: str | None, text: str | None
) -> None:
    command = "Live.CallbackAfterDestroyRoom"
    store.append([arrival("other"), Arrival(Callback("id", "r", 10, body_of("id", command, operator)), 100)])
    rows_of = "SELECT command, operator, typeof(command) FROM events WHERE"
    assert store.conn.execute(f"{rows_of} position = 2").fetchall() == [(command, text, "text")]
    assert store.conn.execute(f"{rows_of} command = ?", (command,)).fetchall() == [(command, text, "text")]
    assert store.conn.execute(f"{rows_of} operator IS ? AND position = 2", (text,)).fetchone() is not None
    record = store.get("id")
    assert record is not None
    assert (record.command, record.operator) == (command, "null" if text is None else text)


@pytest.mark.parametrize("column", ["command", "operator"])
def test_what_the_body_says_cannot_be_written_beside_it(store: EventStore, column: str) -> None:
    store.append([arrival("a")])
    store.conn.execute("DROP TRIGGER events_no_update")
    store.conn.execute("DROP TRIGGER events_no_replace")
    columns = f"position, event_id, event_time_ms, received_at_ms, chain, body, {column}"
    for statement in (
        f"UPDATE events SET {column} = 'x'",
        f"INSERT INTO events ({columns}) VALUES (2, 'b', 1, 1, 'x', '{{}}', 'x')",
    ):
        with pytest.raises(sqlite.Error, match="generated column"):
            store.conn.execute(statement)
    assert store.conn.execute("SELECT command, operator FROM events").fetchall() == [(UPDATE, '"bob"')]


# ---- quarantine ----


def test_a_rejection_is_kept_with_its_raw_bytes(store: EventStore) -> None:
    store.append(
        [], [Rejection(b"\x00\xff not UTF-8", "not UTF-8: byte 1", 123, "::1", "Web"), Rejection(b"", "empty", 124)]
    )
    newest, oldest = quarantine.page(store.conn, None, 10)
    assert (oldest.body, oldest.reason, oldest.received_at_ms) == (b"\x00\xff not UTF-8", "not UTF-8: byte 1", 123)
    assert (oldest.client_ip, oldest.platform) == ("::1", "Web")
    assert (newest.body, newest.reason, newest.client_ip, newest.platform) == (b"", "empty", None, None)
    assert quarantine.count(store.conn) == 2
    assert store.head().position == 0


def test_the_quarantine_pages_from_the_newest_on(store: EventStore) -> None:
    store.append([], [rejection(number) for number in range(5)])
    first = quarantine.page(store.conn, None, 2)
    second = quarantine.page(store.conn, first[-1].id, 2)
    third = quarantine.page(store.conn, second[-1].id, 2)
    assert [[one.reason for one in page] for page in (first, second, third)] == [
        ["reason 4", "reason 3"],
        ["reason 2", "reason 1"],
        ["reason 0"],
    ]
    assert quarantine.page(store.conn, third[-1].id, 2) == []


def test_the_quarantine_keeps_the_newest_10_000(store: EventStore) -> None:
    assert MAX_REJECTED == 10_000
    store.append([], [rejection(number) for number in range(10_000)])
    assert quarantine.count(store.conn) == 10_000
    assert quarantine.page(store.conn, None, 20_000)[-1].reason == "reason 0"
    store.append([arrival("a")], [rejection(10_000), rejection(10_001), rejection(10_002)])
    assert quarantine.count(store.conn) == 10_000
    kept = quarantine.page(store.conn, None, 20_000)
    assert (kept[0].reason, kept[-1].reason) == ("reason 10002", "reason 3")


def test_the_quarantine_keeps_10_000_also_after_some_were_released(store: EventStore) -> None:
    store.append([], [rejection(number) for number in range(10_000)])
    for number, one in enumerate(quarantine.page(store.conn, None, 5)):
        store.release(arrival(f"released {number}"), one.id)
    store.append([], [rejection(10_000)])
    assert quarantine.count(store.conn) == 9_996
    assert quarantine.page(store.conn, None, 20_000)[-1].reason == "reason 0"


def test_release_moves_a_body_into_the_log(store: EventStore) -> None:
    store.append([arrival("a")], [rejection(1), rejection(2)])
    oldest = quarantine.page(store.conn, None, 10)[-1]
    assert store.release(arrival("b"), oldest.id) == Appended(2, duplicate=False)
    assert ids(store.tail(0, 10)) == ["a", "b"]
    assert [one.reason for one in quarantine.page(store.conn, None, 10)] == ["reason 2"]


def test_release_of_what_is_in_the_log_already_only_empties_the_quarantine(store: EventStore) -> None:
    store.append([arrival("a")], [rejection(1)])
    (one,) = quarantine.page(store.conn, None, 10)
    assert store.release(arrival("a"), one.id) == Appended(1, duplicate=True)
    assert ids(store.tail(0, 10)) == ["a"]
    assert quarantine.count(store.conn) == 0


def test_a_release_that_fails_leaves_the_quarantine_as_it_was(store: EventStore) -> None:
    store.append([], [rejection(1)])
    (one,) = quarantine.page(store.conn, None, 10)
    with pytest.raises(sqlite.Error):
        store.release(BAD, one.id)
    assert quarantine.page(store.conn, None, 10) == [one]
    assert rows(store) == []


# ---- whose data ----


def test_the_first_claim_owns_the_data(store: EventStore) -> None:
    assert store.owner() is None
    assert store.claim("1400000001") == "1400000001"
    assert store.claim("1400000002") == "1400000001"
    assert store.claim("1400000001") == "1400000001"
    assert store.owner() == "1400000001"


def test_an_owner_with_leading_zeros_keeps_them(store: EventStore) -> None:
    assert store.claim("0014") == "0014"
    assert store.owner() == "0014"


# ---- immutability ----

_VALUES = "'r', 1, 1, NULL, NULL, 'x', '{}'"
FORBIDDEN = {
    "update a body": "UPDATE events SET body = '{}' WHERE position = 2",
    "update to the same": "UPDATE events SET body = body",
    "update the chain": "UPDATE events SET chain = 'x' WHERE position = 3",
    "move rows": "UPDATE events SET position = position + 10",
    "update or ignore": "UPDATE OR IGNORE events SET body = '{}'",
    "update or replace": "UPDATE OR REPLACE events SET event_id = 'a' WHERE position = 3",
    "delete all": "DELETE FROM events",
    "delete the last": "DELETE FROM events WHERE position = 3",
    "delete the first": "DELETE FROM events WHERE event_id = 'a'",
    "insert at a taken position": f"INSERT INTO events VALUES (2, 'new', {_VALUES})",
    "insert a taken id": f"INSERT INTO events VALUES (4, 'b', {_VALUES})",
    "insert with a hole": f"INSERT INTO events VALUES (5, 'new', {_VALUES})",
    "insert far away": f"INSERT INTO events VALUES (9223372036854775807, 'new', {_VALUES})",
    "insert at zero": f"INSERT INTO events VALUES (0, 'new', {_VALUES})",
    "insert below zero": f"INSERT INTO events VALUES (-1, 'new', {_VALUES})",
    "insert or replace the position": f"INSERT OR REPLACE INTO events VALUES (2, 'new', {_VALUES})",
    "insert or replace the last": f"INSERT OR REPLACE INTO events VALUES (3, 'c', {_VALUES})",
    "insert or replace the id": f"INSERT OR REPLACE INTO events VALUES (4, 'b', {_VALUES})",
    "insert or ignore": f"INSERT OR IGNORE INTO events VALUES (2, 'new', {_VALUES})",
    "insert or ignore with a hole": f"INSERT OR IGNORE INTO events VALUES (7, 'new', {_VALUES})",
    "replace the position": f"REPLACE INTO events VALUES (1, 'new', {_VALUES})",
    "replace the id": f"REPLACE INTO events VALUES (4, 'a', {_VALUES})",
    "replace all": "REPLACE INTO events SELECT position, event_id, 'x', 0, 0, '', '', '', '{}' FROM events",
    "upsert": f"INSERT INTO events VALUES (2, 'b', {_VALUES}) ON CONFLICT (position) DO UPDATE SET body = 'x'",
    "upsert of a taken id": f"INSERT INTO events VALUES (4, 'b', {_VALUES}) ON CONFLICT DO UPDATE SET body = 'x'",
    "insert or ignore a taken id": f"INSERT OR IGNORE INTO events VALUES (4, 'b', {_VALUES})",
    "insert a new and a taken id": f"INSERT INTO events VALUES (4, 'd', {_VALUES}), (5, 'b', {_VALUES})",
    "insert a new id twice": f"INSERT INTO events VALUES (4, 'd', {_VALUES}), (5, 'd', {_VALUES})",
    "insert two with a hole": f"INSERT INTO events VALUES (4, 'd', {_VALUES}), (6, 'f', {_VALUES})",
}


@pytest.mark.parametrize("statement", FORBIDDEN.values(), ids=FORBIDDEN.keys())
def test_rows_are_never_changed_removed_replaced_or_skipped(store: EventStore, statement: str) -> None:
    store.append([arrival("a"), arrival("b"), arrival("c")])
    before = rows(store)
    assert len(before) == 3
    with pytest.raises(sqlite.Error, match="events only grows"):
        store.conn.execute(statement)
    assert rows(store) == before
    assert store.append([arrival("d")]) == [Appended(4, duplicate=False)]


@pytest.mark.parametrize("body", ["x", "", "{", "[1", '{"CallbackCommand":'])
def test_a_row_whose_body_is_no_json_can_still_be_read(store: EventStore, body: str) -> None:
    store.append([arrival("a")])
    store.conn.execute("INSERT INTO events VALUES (2, 'b', 'r', 1, 1, NULL, NULL, 'x', ?)", (body,))
    assert store.conn.execute("SELECT command, operator, body FROM events WHERE position = 2").fetchone() == (
        None,
        None,
        body,
    )


def test_a_large_batch_is_stored_like_a_small_one(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app.log.append, "_BULK", 3)
    store.append([arrival("a"), arrival("b")])
    assert [appended.position for appended in store.append([arrival(id_) for id_ in "cbdeaf"])] == [3, 2, 4, 5, 1, 6]
    assert ids(store.tail(0, 10)) == ["a", "b", "c", "d", "e", "f"]
    assert store.duplicates() == 2


def test_after_a_large_batch_the_log_is_guarded_as_before(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    guards = "SELECT name, sql FROM sqlite_schema WHERE type = 'trigger' ORDER BY name"
    before = store.conn.execute(guards).fetchall()
    monkeypatch.setattr(app.log.append, "_BULK", 3)
    store.append([arrival(id_) for id_ in "abc"])
    assert store.conn.execute(guards).fetchall() == before
    bad: Any = "no time"
    with pytest.raises(sqlite.Error):
        store.append([*(arrival(id_) for id_ in "def"), Arrival(callback("g"), 200, client_ip=bad), arrival("h", bad)])
    assert store.conn.execute(guards).fetchall() == before
    assert ids(store.tail(0, 10)) == ["a", "b", "c"]
    for statement in FORBIDDEN.values():
        with pytest.raises(sqlite.Error, match="events only grows"):
            store.conn.execute(statement)


@pytest.mark.parametrize("verb", ["INSERT", "INSERT OR REPLACE", "INSERT OR IGNORE", "REPLACE"])
def test_a_second_row_with_an_id_is_refused_among_many_that_begin_like_it(store: EventStore, verb: str) -> None:
    store.append([arrival(id_) for id_ in TWINS[:-1]])
    before = rows(store)
    for id_ in TWINS[:-1]:
        with pytest.raises(sqlite.Error, match="a new event_id"):
            store.conn.execute(f"{verb} INTO events VALUES (5, '{id_}', {_VALUES})")
    assert rows(store) == before
    store.conn.execute(f"{verb} INTO events VALUES (5, '{TWINS[-1]}', {_VALUES})")
    assert ids(store.tail(0, 10)) == TWINS


# Two SQLite libraries on one file in one process would break its locks, so the other one gets a process of its own.
_PLAIN_SQLITE = """
import json, sqlite3, sys
outcomes = []
for statement in json.load(sys.stdin):
    conn = sqlite3.connect(sys.argv[1], isolation_level=None)
    try:
        found = conn.execute(statement).fetchall()
        outcomes.append(["done", found])
    except sqlite3.Error as error:
        outcomes.append(["failed", str(error)])
    conn.close()
json.dump(outcomes, sys.stdout)
"""


def plain_sqlite(path: Path, statements: list[str]) -> list[list[Any]]:
    """Run statements with the standard library's SQLite, each on a connection of its own, in another process."""
    done = subprocess.run(
        [sys.executable, "-c", _PLAIN_SQLITE, str(path)],
        input=json.dumps(statements),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    outcomes: list[list[Any]] = json.loads(done.stdout)
    return outcomes


@pytest.mark.parametrize("still_open", [True, False], ids=["while we have it open", "after we closed it"])
def test_a_plain_sqlite_shell_cannot_change_rows_either(
    events_db: Path, open_store: Callable[[], EventStore], still_open: bool
) -> None:
    store = open_store()
    store.append([arrival("a"), arrival("b"), arrival("c")])
    before = rows(store)
    if not still_open:
        store.close()
    count = "SELECT count(*) FROM events"
    outcomes = plain_sqlite(events_db, [step for statement in FORBIDDEN.values() for step in (statement, count)])
    for name, outcome, counted in zip(FORBIDDEN, outcomes[::2], outcomes[1::2], strict=True):
        assert outcome[0] == "failed", name
        assert "events only grows" in outcome[1], name
        assert counted == ["done", [[3]]], name
    assert rows(open_store()) == before


def test_a_plain_sqlite_shell_reads_the_columns_of_the_contract(
    events_db: Path, open_store: Callable[[], EventStore]
) -> None:
    whole = Arrival(Callback("b", "r", 20, body_of("b", operator="1.50")), 30, "::1", "iOS")
    without = Arrival(Callback("c", None, 20, body_of("c", "x", None)), 30)
    open_store().append([arrival("a"), whole, without])
    columns, read = plain_sqlite(
        events_db,
        [
            "SELECT name FROM pragma_table_xinfo('events') ORDER BY cid",
            "SELECT command, operator, client_ip, platform FROM events ORDER BY position",
        ],
    )
    assert read[1] == [[UPDATE, '"bob"', None, None], [UPDATE, "1.50", "::1", "iOS"], ["x", None, None, None]]
    names = {name for (name,) in columns[1]}
    assert names == {
        "position",
        "event_id",
        "room_id",
        "command",
        "event_time_ms",
        "received_at_ms",
        "operator",
        "client_ip",
        "platform",
        "chain",
        "body",
    }


# ---- files ----


def test_every_commit_is_synced_and_readers_do_not_wait(open_store: Callable[[], EventStore]) -> None:
    conn = open_store().conn
    assert conn.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    assert conn.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_path_is_the_file_and_empty_in_memory(events_db: Path, open_store: Callable[[], EventStore]) -> None:
    assert Path(open_store().path).samefile(events_db)
    memory = EventStore(schema.open_log(sqlite.MEMORY))
    assert memory.path == ""
    memory.close()


def test_reopening_twice_keeps_everything(open_store: Callable[[], EventStore]) -> None:
    store = open_store()
    store.append([arrival("a"), arrival("b"), arrival("a")], [rejection(1), rejection(2)])
    store.claim("0014")
    before = (rows(store), store.head(), store.duplicates(), quarantine.page(store.conn, None, 10), store.owner())
    assert before[2:] == (1, quarantine.page(store.conn, None, 10), "0014")
    store.close()
    for _ in range(2):
        store = open_store()
        assert (
            rows(store),
            store.head(),
            store.duplicates(),
            quarantine.page(store.conn, None, 10),
            store.owner(),
        ) == before
        store.close()
    store = open_store()
    assert store.append([arrival("b"), arrival("c")]) == [Appended(2, duplicate=True), Appended(3, duplicate=False)]
    assert store.duplicates() == 2


def test_the_count_of_duplicates_survives_reopening(open_store: Callable[[], EventStore]) -> None:
    for _ in range(3):
        store = open_store()
        store.append([arrival("a")])
        store.close()
    assert open_store().duplicates() == 2


def test_a_reader_sees_what_is_committed_while_the_writer_goes_on(
    events_db: Path, open_store: Callable[[], EventStore]
) -> None:
    writer = open_store()
    writer.append([arrival("a")])
    reader = EventStore(sqlite.open_reader(events_db))
    assert ids(reader.tail(0, 10)) == ["a"]
    with sqlite.snapshot(reader.conn):
        assert reader.head().position == 1
        writer.append([arrival("b")])
        assert ids(reader.tail(0, 10)) == ["a"]
    assert ids(reader.tail(0, 10)) == ["a", "b"]
    reader.close()


@pytest.mark.parametrize(
    "statement",
    [
        f"INSERT INTO events VALUES (2, 'b', {_VALUES})",
        "INSERT INTO meta VALUES ('x', 1)",
        "DELETE FROM rejected",
        "CREATE TABLE t (x)",
        "DROP TRIGGER events_no_update",
        "PRAGMA user_version = 5",
    ],
)
@pytest.mark.parametrize("query_only", ["ON", "OFF"])
def test_a_reader_cannot_write(
    events_db: Path, open_store: Callable[[], EventStore], statement: str, query_only: str
) -> None:
    writer = open_store()
    writer.append([arrival("a")], [rejection(1)])
    reader = sqlite.open_reader(events_db)
    reader.execute(f"PRAGMA query_only = {query_only}")  # even without it the file is open for reading only
    with pytest.raises(sqlite.Error, match="readonly"):
        reader.execute(statement)
    reader.close()
    assert (writer.head().position, quarantine.count(writer.conn)) == (1, 1)


def test_a_reader_of_nothing_says_so_and_makes_nothing(events_db: Path) -> None:
    with pytest.raises(NoData, match=r"events\.db"):
        sqlite.open_reader(events_db)
    with pytest.raises(NoData):
        sqlite.open_reader(events_db.parent)
    assert list(events_db.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "q?mode=rw", "h#x", "100%41", "é房", "'quote\"", "a&b=c"])
def test_odd_paths_lead_to_the_same_file_for_writers_and_readers(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "events.db"
    path.parent.mkdir()
    writer = EventStore(schema.open_log(path))
    writer.append([arrival("a")])
    reader = EventStore(sqlite.open_reader(path))
    assert ids(reader.tail(0, 10)) == ["a"]
    reader.close()
    writer.close()
    assert path.is_file()
    assert [one.name for one in tmp_path.iterdir()] == [name]


def test_a_database_of_a_newer_version_is_refused_and_left_alone(
    events_db: Path, open_store: Callable[[], EventStore]
) -> None:
    store = open_store()
    store.append([arrival("a")])
    store.conn.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
        " VALUES ('roomlapse.events', 'split_body', '2030-01-01 00:00:00+00:00')"
    )
    tables = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
    before = (rows(store), store.conn.execute(tables).fetchall())
    with pytest.raises(NewerSchema, match="newer"):
        schema.open_log(events_db)
    assert (rows(store), store.conn.execute(tables).fetchall()) == before


def test_migrations_of_others_in_the_same_file_are_none_of_ours(open_store: Callable[[], EventStore]) -> None:
    store = open_store()
    store.conn.execute(
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES ('other', 'x', '2030-01-01 00:00:00')"
    )
    store.close()
    assert open_store().head().position == 0


def test_a_file_that_is_no_database_is_an_error(events_db: Path) -> None:
    content = b"this is not a database, " * 100
    events_db.write_bytes(content)
    with pytest.raises(CorruptFile):
        schema.open_log(events_db)
    assert events_db.read_bytes() == content


# ---- looking up ----


def test_the_first_digits_of_an_id_are_enough_if_they_are_eight_and_only_its(store: EventStore) -> None:
    one, two, three = "ab" * 32, "abababab" + "cd" * 28, "1" * 64
    store.append([arrival(one), arrival(two), arrival(three)])

    def found(digits: str) -> str | None:
        record = store.get(digits)
        return None if record is None else record.event_id

    assert [found(id_) for id_ in (one, two, three)] == [one, two, three]
    assert found("abababab") is None
    assert (found("ababababa"), found("abababab" + "cd"), found("ababababc")) == (one, two, two)
    assert (found(one[:63]), found(two[:63])) == (one, two)
    assert [found("1" * length) for length in (0, 1, 7, 8, 9, 63, 64, 65)] == [None] * 3 + [three] * 4 + [None]
    assert found("abababa") is None
    assert found("ababababd") is None
    assert found("1" * 8 + "2") is None
    assert found("ABABABABC") is None
    for digits in ("1111111%", "1111111_", "1111111*", "1111111?", "11111111%", "1111111\0"):
        assert found(digits) is None


def test_nothing_that_is_looked_up_takes_reading_the_whole_log(history: EventStore) -> None:
    statements: list[str] = []
    history.conn.set_trace_callback(statements.append)
    history.get("a")
    history.get(digest("abababab"))
    history.append([arrival(str(number)) for number in range(3)])
    room_index.history(history, "r", upto=9)
    list(room_index.histories(history, behind="q", last="r", upto=9))
    list(room_index.records(history, "r", upto=9))
    list(room_index.overtakers(history, "r", behind=(10, "a"), before=7))
    history.unread(3, 9)
    history.position_at(100)
    history.conn.set_trace_callback(None)
    lookups = [statement for statement in statements if statement.startswith("SELECT") and " WHERE " in statement]
    assert len(lookups) > 8
    for lookup in lookups:
        plan = " ".join(row[3] for row in history.conn.execute(f"EXPLAIN QUERY PLAN {lookup}"))
        assert "SEARCH events" in plan
        assert "SCAN" not in plan


_LOCK_IT_ALL = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)  # what SQLite's readers share
"""


def test_opening_a_log_again_leaves_the_locks_that_this_process_has_on_it(tmp_path: Path) -> None:
    def is_locked() -> bool:
        done = subprocess.run(
            [sys.executable, "-c", _LOCK_IT_ALL, str(path)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
        return done.returncode != 0

    path = tmp_path / "events.db"
    first = schema.open_log(path)
    first.execute("SELECT count(*) FROM events").fetchone()
    assert is_locked()
    for open_ in (schema.open_log, sqlite.open_reader):
        open_(path).close()
        assert is_locked(), open_.__name__
    first.close()
    assert not is_locked()
