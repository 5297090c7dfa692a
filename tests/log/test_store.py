"""The log behind one connection: what it knows of itself, reads in log order, and looking up."""

import pytest

from app.event import Event, History
from app.log import quarantine, room_index
from app.log.records import Head
from app.log.store import EventStore
from log.lib import UPDATE, ZEROS, arrival, body_of, digest, ids


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


def test_the_first_claim_owns_the_data(store: EventStore) -> None:
    assert store.owner() is None
    assert store.claim("1400000001") == "1400000001"
    assert store.claim("1400000002") == "1400000001"
    assert store.claim("1400000001") == "1400000001"
    assert store.owner() == "1400000001"


def test_an_owner_with_leading_zeros_keeps_them(store: EventStore) -> None:
    assert store.claim("0014") == "0014"
    assert store.owner() == "0014"


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
    list(room_index.histories(history, after="q", last="r", upto=9))
    list(room_index.records(history, "r", upto=9))
    list(room_index.overtakers(history, "r", after=(10, "a"), before=7))
    history.unread(3, 9)
    history.position_at(100)
    history.conn.set_trace_callback(None)
    lookups = [statement for statement in statements if statement.startswith("SELECT") and " WHERE " in statement]
    assert len(lookups) > 8
    for lookup in lookups:
        plan = " ".join(row[3] for row in history.conn.execute(f"EXPLAIN QUERY PLAN {lookup}"))
        assert "SEARCH events" in plan
        assert "SCAN" not in plan
