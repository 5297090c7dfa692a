"""Recompute what the log says of itself: its file, schema, ids, chain and columns. Names the first difference."""

import msgspec

from app.infra import sqlite
from app.infra.data_dir import LOG_FILE
from app.infra.progress import Progress, no_progress
from app.log.records import GENESIS, Head, Record, next_chain
from app.log.schema import corrupt_schema
from app.log.store import EventStore
from app.tencent.body import UPDATE_ROOM_INFO, Invalid, decode
from app.tencent.strict_json import BadJSON

_FAR_FUTURE_MS = 2**62  # whether EventTime was ahead of the clock was settled when the callback came
_PROGRESS_EVERY = 1000


class Difference(msgspec.Struct, frozen=True):
    """The first thing that is not what it should be, and the file that it is in."""

    file: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def verify_log(log: EventStore, progress: Progress = no_progress) -> Difference | None:
    """Check a log alone, without any read models: its file, ids, chain and columns."""
    try:
        return (
            verify_file(log.conn, LOG_FILE)
            or _verify_schema(log)
            or verify_chain(log, progress)
            or _verify_schema(log, missing=True)  # last: an edit that needed a guard removed is named by its row first
        )
    except sqlite.UNREADABLE as error:
        return Difference(LOG_FILE, LOG_FILE, f"cannot be read: {error}")


def verify_file(conn: sqlite.Connection, name: str) -> Difference | None:
    """Let SQLite check a database file."""
    (answer,) = conn.execute("PRAGMA integrity_check(1)").fetchone()
    return None if answer == "ok" else Difference(name, name, f"SQLite's integrity check says: {answer}")


def _verify_schema(log: EventStore, *, missing: bool = False) -> Difference | None:
    name = corrupt_schema(log.conn, missing=missing)
    return None if name is None else Difference(LOG_FILE, LOG_FILE, f"its {name} is not as it was made")


def verify_chain(log: EventStore, progress: Progress = no_progress, *, after: int = 0) -> Difference | None:
    """Check the rows of the log after a position: ids, chain, columns and the order of receipt."""
    last = _head_at(log, after)
    head = log.head().position
    while records := log.tail(last.position, _PROGRESS_EVERY):
        for record in records:
            if (what := _verify_record(record, last)) is not None:
                return Difference(LOG_FILE, f"events, position {record.position}", what)
            last = Head(record.position, record.chain, record.received_at_ms)
        progress(last.position, max(head, last.position))
    return None


def _head_at(log: EventStore, position: int) -> Head:
    if position == 0:
        return Head(0, GENESIS, 0)
    (record,) = log.tail(position - 1, 1)
    return Head(position, record.chain, record.received_at_ms)


def _verify_record(record: Record, last: Head) -> str | None:
    if record.position != last.position + 1:
        return f"position {last.position + 1} is missing"
    try:
        callback = decode(record.body.encode(), _FAR_FUTURE_MS)
    except (Invalid, BadJSON) as error:
        return f"the body is not one that was accepted: {error}"
    if callback.event_id != record.event_id:
        return f"event_id is {record.event_id}, its body gives {callback.event_id}"
    chain = next_chain(last.chain, record.event_id, record.received_at_ms, record.body)
    if chain != record.chain:
        return f"chain is {record.chain}, the row and the one before it give {chain}"
    if record.received_at_ms < last.received_at_ms:
        return f"received_at_ms {record.received_at_ms} is before that of the row before, {last.received_at_ms}"
    if callback.room_id != record.room_id:
        return f"room_id is {record.room_id!r}, the body says {callback.room_id!r}"
    times = {callback.event_time_ms}
    if record.command != UPDATE_ROOM_INFO:
        times.add(record.received_at_ms)  # other callbacks may come without a time of their own
    if record.event_time_ms not in times:
        return f"event_time_ms is {record.event_time_ms}, the body says {callback.event_time_ms}"
    return None
