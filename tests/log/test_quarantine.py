"""The quarantine: what was rejected is kept as it came, up to a number, and may go into the log after all."""

import pytest

from app.infra import sqlite
from app.log import quarantine
from app.log.quarantine import MAX_REJECTED
from app.log.records import Appended, Rejection
from app.log.store import EventStore
from log.lib import BAD, arrival, ids, rejection, rows


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
