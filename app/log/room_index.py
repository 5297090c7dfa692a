"""Reads of one room, or room by room, through the index on room and event time. All in event order."""

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

from app.event import BEFORE_ALL, MAX_TIME_MS, History, Key
from app.log.records import EVENT_COLUMNS, RECORD_COLUMNS, Record, history_of
from app.log.store import EventStore
from app.tencent.body import UPDATE_ROOM_INFO


def history(
    log: EventStore, room_id: str, *, upto: int, after: Key = BEFORE_ALL, as_of_ms: int = MAX_TIME_MS
) -> History:
    """A room's events after a place in event order, at positions <= upto, that happened at or before a time."""
    rows = log.conn.execute(
        f"SELECT {EVENT_COLUMNS} FROM events INDEXED BY events_by_room WHERE room_id = ?"
        " AND event_time_ms >= ? AND (event_time_ms > ? OR event_id > ?)"
        " AND event_time_ms <= ? AND position <= ? ORDER BY event_time_ms",
        (room_id, after[0], *after, as_of_ms, upto),
    )
    return history_of(rows)


def histories(log: EventStore, *, upto: int, after: str = "", last: str | None = None) -> Iterator[tuple[str, History]]:
    """Each room after one room_id, up to another (None: to the end), with its history at positions <= upto."""
    rows = log.conn.execute(
        f"SELECT {EVENT_COLUMNS} FROM events INDEXED BY events_by_room"
        f" WHERE room_id > ?{'' if last is None else ' AND room_id <= ?'} AND position <= ?"
        " ORDER BY room_id, event_time_ms",
        (after, upto) if last is None else (after, last, upto),
    )
    for room_id, of_room in groupby(rows, itemgetter(2)):
        yield room_id, history_of(of_room)


def room_ranges(log: EventStore, events: int) -> Iterator[tuple[str, str | None]]:
    """Cut the rooms into ranges (after a room_id, up to another) of about so many events; the last has no end.

    A room is never cut. Each range is one short look at the index: nothing is held open in between.
    """
    after = ""
    while True:
        last = log.value(
            "SELECT room_id FROM events INDEXED BY events_by_room WHERE room_id > ? ORDER BY room_id LIMIT 1 OFFSET ?",
            after,
            events - 1,
        )
        yield after, last
        if last is None:
            return
        after = last


def records(
    log: EventStore,
    room_id: str,
    *,
    upto: int,
    after: Key = BEFORE_ALL,
    until: Key | None = None,
    as_of_ms: int = MAX_TIME_MS,
) -> Iterator[Record]:
    """A room's events in event order: those at positions <= upto that sort after `after`,
    at or before `until`, and happened at or before `as_of_ms`."""
    # One bound: of two, SQLite would search the index for the first and go on to the end of the room.
    latest_ms = as_of_ms if until is None else min(until[0], as_of_ms)
    rows = log.conn.execute(
        f"SELECT {RECORD_COLUMNS} FROM events INDEXED BY events_by_room WHERE room_id = ?"
        " AND event_time_ms >= ? AND event_time_ms <= ? AND position <= ? ORDER BY event_time_ms, event_id",
        (room_id, after[0], latest_ms, upto),
    )
    for row in rows:
        record = Record(*row)
        if record.key > after and (until is None or record.key <= until):
            yield record


def overtakers(
    log: EventStore, room_id: str, *, after: Key, before: int, until_ms: int = MAX_TIME_MS
) -> Iterator[tuple[int, Key]]:
    """Updates received before the position `before` that sort after `after` in event order, by event_time_ms.

    Gives position and place of each. Lazy: taking one reads one.
    """
    for position, time_ms, event_id in log.conn.execute(
        "SELECT position, event_time_ms, event_id FROM events INDEXED BY events_by_room"
        " WHERE room_id = ? AND event_time_ms >= ? AND event_time_ms <= ? AND position < ? AND command = ?"
        " ORDER BY event_time_ms",
        (room_id, after[0], until_ms, before, UPDATE_ROOM_INFO),
    ):
        if (time_ms, event_id) > after:
            yield position, (time_ms, event_id)


def span(log: EventStore, room_id: str) -> tuple[int, int, int, int] | None:
    """The first and last time of a room's events, and those of their receipt; None if there is no event."""
    row = log.conn.execute(
        """
        SELECT min(event_time_ms), max(event_time_ms), min(position), max(position)
        FROM events INDEXED BY events_by_room WHERE room_id = ?
        """,
        (room_id,),
    ).fetchone()
    if row[0] is None:
        return None
    received = [log.value("SELECT received_at_ms FROM events WHERE position = ?", position) for position in row[2:]]
    return (row[0], row[1], received[0], received[1])


def columns(log: EventStore, room_id: str, *, upto: int, from_ms: int, width_ms: int) -> list[tuple[int, ...]]:
    """A room's events at positions <= upto, counted by columns of time that are `width_ms` wide, in order of time.

    For each column with any: how many, the times of the first and the last, and how many arrived after an event of a
    later millisecond. Reads no body.
    """
    return log.conn.execute(
        """
        SELECT count(*), min(event_time_ms), max(event_time_ms), sum(late) FROM (
            SELECT event_time_ms, coalesce(position > min(position) OVER (
                ORDER BY event_time_ms DESC RANGE BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), 0) AS late FROM events INDEXED BY events_by_room WHERE room_id = ? AND position <= ?
        ) GROUP BY (event_time_ms - ?) / ? ORDER BY 2
        """,
        (room_id, upto, from_ms, width_ms),
    ).fetchall()


def arrivals(log: EventStore, room_id: str, *, before: int, after: int, most: int) -> list[int]:
    """When a room's events arrived: `most` of those at positions <= before, `most` of those at positions > after."""
    found: set[int] = set()
    for where, position, order in (("<=", before, "DESC"), (">", after, "ASC")):
        rows = log.conn.execute(
            "SELECT received_at_ms FROM events WHERE position IN (SELECT position FROM events INDEXED BY events_by_room"
            f" WHERE room_id = ? AND position {where} ? ORDER BY position {order} LIMIT ?)",
            (room_id, position, most),
        )
        found |= {received_at_ms for (received_at_ms,) in rows}
    return sorted(found)


def last_times(log: EventStore, *, upto: int, as_of_ms: int = MAX_TIME_MS) -> list[tuple[int, str]]:
    """When each room had its last event at positions <= upto that happened at or before a time, the latest first.

    Jumps through the index from room to room, without a look at any body: what it costs is rooms, not events.
    """
    return log.conn.execute(
        """
        WITH RECURSIVE rooms (room_id) AS (
            SELECT min(room_id) FROM events INDEXED BY events_by_room WHERE room_id IS NOT NULL
            UNION ALL
            SELECT (SELECT min(room_id) FROM events INDEXED BY events_by_room WHERE room_id > rooms.room_id)
            FROM rooms WHERE room_id IS NOT NULL
        ), last (event_time_ms, room_id) AS (
            SELECT (
                SELECT event_time_ms FROM events INDEXED BY events_by_room
                WHERE room_id = rooms.room_id AND event_time_ms <= ? AND position <= ?
                ORDER BY event_time_ms DESC LIMIT 1
            ), room_id FROM rooms WHERE room_id IS NOT NULL
        )
        SELECT event_time_ms, room_id FROM last WHERE event_time_ms IS NOT NULL
        ORDER BY event_time_ms DESC, room_id DESC
        """,
        (as_of_ms, upto),
    ).fetchall()


def last_update_ms(log: EventStore, room_id: str, *, upto: int, as_of_ms: int = MAX_TIME_MS) -> int | None:
    """When a room had its last update at positions <= upto that happened at or before a time; None without any."""
    found: int | None = log.value(
        "SELECT event_time_ms FROM events INDEXED BY events_by_room WHERE room_id = ? AND event_time_ms <= ?"
        " AND position <= ? AND command = ? ORDER BY event_time_ms DESC LIMIT 1",
        room_id,
        as_of_ms,
        upto,
        UPDATE_ROOM_INFO,
    )
    return found
