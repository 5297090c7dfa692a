"""The event store: the immutable log behind one connection, written in batches, read in log order.

Reads in log order (position) stand here, those in event order in `room_index`: the two orders never share a method.
"""

import os
from collections.abc import Sequence
from typing import IO, Any, Self

from app.event import Event
from app.infra import sqlite
from app.log import quarantine
from app.log.append import ID_PREFIX, insert
from app.log.records import EVENT_COLUMNS, GENESIS, RECORD_COLUMNS, Appended, Arrival, Head, Record, Rejection, read_row


class EventStore:
    """The log behind one connection. Not for use by two threads at a time."""

    def __init__(
        self, conn: sqlite.Connection, writer_lock: IO[str] | None = None, file: tuple[int, int] | None = None
    ) -> None:
        """`writer_lock`: a file that is held open as long as the connection. `file`: the log's device and inode."""
        self.conn = conn
        self.file = file
        self._writer_lock = writer_lock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        try:
            self.conn.close()
        finally:
            if self._writer_lock is not None:
                self._writer_lock.close()

    def append(self, arrivals: Sequence[Arrival], rejections: Sequence[Rejection] = ()) -> list[Appended]:
        """Append a batch in one synced transaction; return the position of each arrival, in order.

        An event_id that is in the log already, or earlier in the batch, is a duplicate: counted, not stored.
        Raises sqlite.Error, with nothing stored, when the disk does not take it.
        """
        with sqlite.transaction(self.conn):
            outcomes = insert(self.conn, self.head(), arrivals)
            if rejections:
                quarantine.add(self.conn, rejections)
        return outcomes

    def release(self, arrival: Arrival, rejected_id: int) -> Appended:
        """Move a quarantined body that is valid after all into the log, in one transaction."""
        with sqlite.transaction(self.conn):
            (outcome,) = insert(self.conn, self.head(), [arrival])
            quarantine.remove(self.conn, rejected_id)
        return outcome

    def probe(self) -> None:
        """Count a probe in `meta`, synced. Raises sqlite.Error if the disk does not take it."""
        with sqlite.transaction(self.conn):
            self.conn.execute(
                "INSERT INTO meta VALUES ('probes', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )

    def claim(self, sdk_app_id: str) -> str:
        """Make an application the owner of the data unless it has one; return the owner."""
        with sqlite.transaction(self.conn):
            self.conn.execute("INSERT INTO meta VALUES ('sdk_app_id', ?) ON CONFLICT DO NOTHING", (sdk_app_id,))
        return self.owner() or sdk_app_id

    @property
    def path(self) -> str:
        """The database's file, empty for one in memory."""
        # As bytes: a name need not be text.
        return os.fsdecode(self.value("SELECT CAST(file AS BLOB) FROM pragma_database_list WHERE name = 'main'"))

    def owner(self) -> str | None:
        """The SDKAppID that the data belongs to, None while it has no owner."""
        value = self.value("SELECT value FROM meta WHERE name = 'sdk_app_id'")
        return None if value is None else str(value)

    def head(self) -> Head:
        """The last row's position, chain and time of receipt; zeros for an empty log."""
        row = self.conn.execute(
            "SELECT position, chain, received_at_ms FROM events ORDER BY position DESC LIMIT 1"
        ).fetchone()
        return Head(*row) if row else Head(0, GENESIS, 0)

    def duplicates(self) -> int:
        """Number of callbacks that were in the log already when they came."""
        return self.value("SELECT value FROM meta WHERE name = 'duplicates'") or 0

    def chain_at(self, position: int) -> str | None:
        """The chain of a row, None if there is no such row."""
        if position == 0:
            return GENESIS
        value: str | None = self.value("SELECT chain FROM events WHERE position = ?", position)
        return value

    def get(self, event_id: str) -> Record | None:
        """An event by its id, or by its first digits: at least eight, and no other id begins with them. Else None."""
        rows = self.conn.execute(
            f"SELECT {RECORD_COLUMNS} FROM events WHERE substr(event_id, 1, {ID_PREFIX}) = ?"
            " AND substr(event_id, 1, ?) = ? LIMIT 2",
            (event_id[:ID_PREFIX], max(len(event_id), ID_PREFIX), event_id),
        ).fetchall()
        return Record(*rows[0]) if len(rows) == 1 else None

    def tail(self, after: int, limit: int) -> list[Record]:
        """Up to `limit` events in log order after a position."""
        rows = self.conn.execute(
            f"SELECT {RECORD_COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT ?", (after, limit)
        )
        return [Record(*row) for row in rows]

    def position_at(self, received_at_ms: int) -> int:
        """The last position received at or before a time, 0 if none: times of receipt never decrease along the log."""
        low, high = 0, self.head().position
        while low < high:
            middle = (low + high + 1) // 2
            if self.value("SELECT received_at_ms FROM events WHERE position = ?", middle) <= received_at_ms:
                low = middle
            else:
                high = middle - 1
        return low

    def unread(self, after: int, upto: int) -> dict[str, list[tuple[int, Event]]]:
        """The events of each room at positions after < p <= upto, with their positions, in log order."""
        rooms: dict[str, list[tuple[int, Event]]] = {}
        for row in self.conn.execute(
            f"SELECT {EVENT_COLUMNS} FROM events"
            " WHERE position > ? AND position <= ? AND room_id IS NOT NULL ORDER BY position",
            (after, upto),
        ):
            rooms.setdefault(row[2], []).append((row[4], read_row(*row[:4])))
        return rooms

    def value(self, sql: str, *args: Any) -> Any:
        """The first column of a query's first row; None if there is none."""
        row = self.conn.execute(sql, args).fetchone()
        return row[0] if row else None
