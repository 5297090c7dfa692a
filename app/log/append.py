"""Appending a batch: which of its events are new, what their rows are, and how they get into the table fast.

Everything here belongs into a transaction that the caller holds.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from app.infra.sqlite import Connection
from app.log.records import RECORD_COLUMNS, Appended, Arrival, Head, Record, next_chain

ID_PREFIX = 8
"""Digits of an event_id that the index on them holds."""
_MAX_PARAMETERS = 500
_BULK = 5000
_ROW_MARKS = f"({', '.join('?' * len(Record.__struct_fields__))})"
_INSERT = f"INSERT INTO events ({RECORD_COLUMNS}) VALUES {_ROW_MARKS}"
_AT_ONCE = 16
_INSERT_AT_ONCE = f"{_INSERT}{f', {_ROW_MARKS}' * (_AT_ONCE - 1)}"


def insert(conn: Connection, head: Head, arrivals: Sequence[Arrival]) -> list[Appended]:
    """Insert what is new after the head; return the position of each arrival, in order. Counts the duplicates."""
    position, chain, received_at_ms = head.position, head.chain, head.received_at_ms
    positions = _positions_of(conn, [arrival.callback.event_id for arrival in arrivals])
    outcomes = []
    rows = []
    for arrival in arrivals:
        callback = arrival.callback
        known = positions.get(callback.event_id)
        if known is not None:
            outcomes.append(Appended(known, duplicate=True))
            continue
        position += 1
        received_at_ms = max(received_at_ms, arrival.received_at_ms)  # never decreases, whatever the clock does
        event_time_ms = received_at_ms if callback.event_time_ms is None else callback.event_time_ms
        chain = next_chain(chain, callback.event_id, received_at_ms, callback.body)
        rows.append(
            (
                position,
                callback.event_id,
                callback.room_id,
                event_time_ms,
                received_at_ms,
                arrival.client_ip,
                arrival.platform,
                chain,
                callback.body,
            )
        )
        positions[callback.event_id] = position
        outcomes.append(Appended(position, duplicate=False))
    if len(rows) < _BULK:
        _insert_rows(conn, rows)
    else:
        with _unguarded(conn):
            conn.executemany(_INSERT, rows)
    if len(rows) < len(arrivals):
        conn.execute(
            "INSERT INTO meta VALUES ('duplicates', ?) ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
            (len(arrivals) - len(rows),),
        )
    return outcomes


def _insert_rows(conn: Connection, rows: list[tuple[Any, ...]]) -> None:
    """Insert rows, most of them sixteen to a statement.

    Each step of a statement releases Python's lock, and has to wait for the threads that answer callbacks to get it
    back.
    """
    whole = len(rows) - len(rows) % _AT_ONCE
    flat = [[value for row in rows[i : i + _AT_ONCE] for value in row] for i in range(0, whole, _AT_ONCE)]
    conn.executemany(_INSERT_AT_ONCE, flat)
    conn.executemany(_INSERT, rows[whole:])


@contextmanager
def _unguarded(conn: Connection) -> Iterator[None]:
    """Drop the insert trigger inside this transaction, for the block.

    `insert` has checked the whole batch, and the trigger costs a third of storing it. Other connections never see it
    gone: they see what was committed, and wait to write.
    """
    (guard,) = conn.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_no_replace'").fetchone()
    conn.execute("DROP TRIGGER events_no_replace")
    yield
    conn.execute(guard)


def _positions_of(conn: Connection, event_ids: list[str]) -> dict[str, int]:
    """The positions of those events that are in the log already, by event_id."""
    found: dict[str, int] = {}
    for begin in range(0, len(event_ids), _MAX_PARAMETERS):
        some = event_ids[begin : begin + _MAX_PARAMETERS]
        marks = ", ".join("?" * len(some))
        found.update(
            conn.execute(
                f"SELECT event_id, position FROM events WHERE substr(event_id, 1, {ID_PREFIX}) IN ({marks})",
                [event_id[:ID_PREFIX] for event_id in some],
            )
        )
    return found
