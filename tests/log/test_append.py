"""Appending: each event once, in the next place of the chain, a whole batch or nothing of it."""

import hashlib
from typing import Any

import pytest

import app.log.append
from app.event import Event
from app.infra import sqlite
from app.log import quarantine
from app.log.records import Appended, Arrival, Head, Rejection
from app.log.store import EventStore
from app.tencent.body import Callback
from log.lib import BAD, FORBIDDEN, TWINS, ZEROS, arrival, callback, digest, ids, rejection, rows


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
