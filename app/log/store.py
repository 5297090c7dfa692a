"""The event store: the immutable log and the quarantine beside it. The only SQL on `events` and `rejected`.

Two orders that never mix: `tail` and `unread` read in log order (position); `records`, `history` and `histories` in
event order (event_time_ms, event_id).
"""

import hashlib
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import IO, Any

import msgspec

from app.event import BEFORE_ALL, Event, History, Key
from app.infra import sqlite
from app.tencent.body import UPDATE_ROOM_INFO, Callback, command_of, operator_of, read_event

MAX_REJECTED = 10_000
GENESIS = "0" * 64
"""The chain before the first event."""


class Arrival(msgspec.Struct, frozen=True):
    """A callback that passed the checks, and how it reached us."""

    callback: Callback
    received_at_ms: int
    client_ip: str | None = None
    platform: str | None = None

    @property
    def size(self) -> int:
        """How much memory its body takes, in bytes."""
        return sys.getsizeof(self.callback.body)


class Rejection(msgspec.Struct, frozen=True):
    """A body that broke a rule, kept in the quarantine with the reason."""

    body: bytes
    reason: str
    received_at_ms: int
    client_ip: str | None = None
    platform: str | None = None

    @property
    def size(self) -> int:
        """How long its body is, in bytes."""
        return len(self.body)


class Appended(msgspec.Struct, frozen=True):
    """Where an arrival stands in the log; `duplicate` if it stood there already."""

    position: int
    duplicate: bool


class Head(msgspec.Struct, frozen=True):
    """The end of the log."""

    position: int
    chain: str
    received_at_ms: int


class Record(msgspec.Struct, frozen=True):
    """A row of `events`."""

    position: int
    event_id: str
    room_id: str | None
    event_time_ms: int
    received_at_ms: int
    client_ip: str | None
    platform: str | None
    chain: str
    body: str

    @property
    def key(self) -> Key:
        """The place in the room's event order."""
        return (self.event_time_ms, self.event_id)

    @property
    def command(self) -> str:
        """What the callback is about, as its body says."""
        return _read_part(self, command_of)

    @property
    def operator(self) -> str:
        """Who did it, as JSON text; `null` if the callback does not say."""
        return _read_part(self, operator_of)

    @property
    def event(self) -> Event:
        """The event as projections see it; for an event of a room."""
        assert self.room_id is not None, f"position {self.position} belongs to no room"
        return _read(self.event_id, self.event_time_ms, self.room_id, self.body)


class Rejected(msgspec.Struct, frozen=True):
    """A row of `rejected`."""

    id: int
    received_at_ms: int
    reason: str
    client_ip: str | None
    platform: str | None
    body: bytes


class SpoiltEvent(sqlite.Error):
    """An event in the log is not what was stored: somebody, or the disk, has changed it."""

    def __init__(self, event_id: str, reason: Exception) -> None:
        super().__init__(f"event {event_id} in the log cannot be read ({reason}): run `roomlapse verify`")


_SPOILT = (msgspec.MsgspecError, ValueError, KeyError)
"""What reading an event raises then."""
_MAX_PARAMETERS = 500
_BULK = 5000
_MAX_TIME_MS = 2**63 - 1
_PREFIX = 8  # digits of an event_id that the index holds
_COLUMNS = ", ".join(Record.__struct_fields__)
_ROW_MARKS = f"({', '.join('?' * len(Record.__struct_fields__))})"
_INSERT = f"INSERT INTO events ({_COLUMNS}) VALUES {_ROW_MARKS}"
_AT_ONCE = 16
_INSERT_AT_ONCE = f"{_INSERT}{f', {_ROW_MARKS}' * (_AT_ONCE - 1)}"


def next_chain(chain: str, event_id: str, received_at_ms: int, body: str) -> str:
    """Link a row to the one before it: SHA-256 over the UTF-8 of the four, one after the other (contract, law 2).

    The first two have 64 digits each and a body never begins with a digit, so no two rows give the same bytes.
    """
    return hashlib.sha256(f"{chain}{event_id}{received_at_ms}{body}".encode()).hexdigest()


_EVENT_COLUMNS = "event_id, event_time_ms, room_id, body, position"
"""What `_read` takes, and where the event stands."""
_room_id_of = itemgetter(2)


def _read(event_id: str, event_time_ms: int, room_id: str, body: str) -> Event:
    """Make the event of a row. Raises SpoiltEvent."""
    try:
        return read_event(event_id, event_time_ms, room_id, body)
    except _SPOILT as error:
        raise SpoiltEvent(event_id, error) from error


def _history_of(rows: Iterable[tuple[Any, ...]]) -> History:
    """Make a history of rows of `_EVENT_COLUMNS` that come by event_time_ms."""
    rows = list(rows)
    if len(rows) > len({row[1] for row in rows}):
        # SQLite would carry whole rows, bodies included, through its sorter to order the few that share a millisecond.
        rows.sort(key=lambda row: (row[1], row[0]))
    return History([row[4] for row in rows], [_read(*row[:4]) for row in rows])


def _read_part(record: Record, read: Callable[[str], str]) -> str:
    """Read something from a row's body. Raises SpoiltEvent."""
    try:
        return read(record.body)
    except _SPOILT as error:
        raise SpoiltEvent(record.event_id, error) from error


class EventStore:
    """The log behind one connection. Not for use by two threads at a time."""

    def __init__(
        self, conn: sqlite.Connection, right: IO[str] | None = None, file: tuple[int, int] | None = None
    ) -> None:
        """`right`: a file that is held open as long as the connection. `file`: which one this is, device and number."""
        self.conn = conn
        self.file = file
        self._right = right

    def close(self) -> None:
        """Close the connection."""
        try:
            self.conn.close()
        finally:
            if self._right is not None:
                self._right.close()

    # ---- writing ----

    def append(self, arrivals: Sequence[Arrival], rejections: Sequence[Rejection] = ()) -> list[Appended]:
        """Add a batch in one synced transaction; say for each arrival, in order, where it stands.

        An event_id that is in the log already, or earlier in the batch, is a duplicate: counted, not stored.
        Raises sqlite.Error, with nothing stored, when the disk does not take it.
        """
        with sqlite.transaction(self.conn):
            outcomes = self._insert(arrivals)
            if rejections:
                self._quarantine(rejections)
        return outcomes

    def _insert(self, arrivals: Sequence[Arrival]) -> list[Appended]:
        head = self.head()
        position, chain, received_at_ms = head.position, head.chain, head.received_at_ms
        positions = self._positions_of([arrival.callback.event_id for arrival in arrivals])
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
            self._insert_rows(rows)
        else:
            with self._unguarded():
                self.conn.executemany(_INSERT, rows)
        if len(rows) < len(arrivals):
            self.conn.execute(
                "INSERT INTO meta VALUES ('duplicates', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (len(arrivals) - len(rows),),
            )
        return outcomes

    def _insert_rows(self, rows: list[tuple[Any, ...]]) -> None:
        """Insert rows, most of them many to a statement.

        Each step of a statement gives Python's lock away and has to wait to get it back from who answers callbacks.
        """
        whole = len(rows) - len(rows) % _AT_ONCE
        flat = [[value for row in rows[i : i + _AT_ONCE] for value in row] for i in range(0, whole, _AT_ONCE)]
        self.conn.executemany(_INSERT_AT_ONCE, flat)
        self.conn.executemany(_INSERT, rows[whole:])

    @contextmanager
    def _unguarded(self) -> Iterator[None]:
        """Take the guard of inserts off for the block, within the transaction that is open.

        It looks at each row anew for what `_insert` has seen to for all of them, and costs a third of storing it.
        Nobody else sees the table without: they see what was committed, and wait to write.
        """
        (guard,) = self.conn.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_no_replace'").fetchone()
        self.conn.execute("DROP TRIGGER events_no_replace")
        yield
        self.conn.execute(guard)

    def _quarantine(self, rejections: Sequence[Rejection]) -> None:
        self.conn.executemany(
            "INSERT INTO rejected (received_at_ms, reason, client_ip, platform, body) VALUES (?, ?, ?, ?, ?)",
            [(r.received_at_ms, r.reason, r.client_ip, r.platform, r.body) for r in rejections],
        )
        self.conn.execute(
            "DELETE FROM rejected WHERE id <="
            " (SELECT id FROM rejected INDEXED BY rejected_by_id ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (MAX_REJECTED,),
        )

    def release(self, arrival: Arrival, rejected_id: int) -> Appended:
        """Move a quarantined body that is valid after all into the log, in one transaction."""
        with sqlite.transaction(self.conn):
            (outcome,) = self._insert([arrival])
            self.conn.execute("DELETE FROM rejected WHERE id = ?", (rejected_id,))
        return outcome

    def probe(self) -> None:
        """Write something of no meaning and sync it. Raises sqlite.Error if the disk does not take it."""
        with sqlite.transaction(self.conn):
            self.conn.execute(
                "INSERT INTO meta VALUES ('probes', 1) ON CONFLICT (name) DO UPDATE SET value = value + 1"
            )

    def keep_wal(self) -> None:
        """Leave what is committed in the WAL until `move_wal`: SQLite would move it at the end of some commit.

        Not with an SQLite that cannot be trusted with it (or cannot say how long the WAL is); that one goes on.
        """
        if sqlite.LIBRARY_IS_SOUND:
            self.conn.execute("PRAGMA wal_autocheckpoint = 0")

    def wal_pages(self) -> int:
        """How long the WAL is, in pages, if any of them is not in the database yet; 0 where `keep_wal` does nothing."""
        if not sqlite.LIBRARY_IS_SOUND:
            return 0
        _, pages, moved = self.conn.execute("PRAGMA wal_checkpoint(NOOP)").fetchone()
        return max(0, pages) if moved < pages else 0

    def wal_bytes(self) -> int:
        """The same in bytes."""
        page_bytes: int = self._value("PRAGMA page_size")
        return self.wal_pages() * page_bytes

    def move_wal(self) -> None:
        """Move what no reader needs in the WAL into the database, synced; the next commit begins the WAL anew."""
        self.conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def claim(self, sdk_app_id: str) -> str:
        """Say whose data this is: the given application's if it was nobody's. Returns the owner."""
        with sqlite.transaction(self.conn):
            self.conn.execute("INSERT INTO meta VALUES ('sdk_app_id', ?) ON CONFLICT DO NOTHING", (sdk_app_id,))
        return self.owner() or sdk_app_id

    # ---- reading ----

    @property
    def path(self) -> str:
        """The database's file, empty for one in memory."""
        file: str = self._value("SELECT file FROM pragma_database_list WHERE name = 'main'")
        return file

    def owner(self) -> str | None:
        """The SDKAppID that the data belongs to, None while it is nobody's."""
        value = self._value("SELECT value FROM meta WHERE name = 'sdk_app_id'")
        return None if value is None else str(value)

    def head(self) -> Head:
        """The last row's position, chain and time of receipt; zeros for an empty log."""
        row = self.conn.execute(
            "SELECT position, chain, received_at_ms FROM events ORDER BY position DESC LIMIT 1"
        ).fetchone()
        return Head(*row) if row else Head(0, GENESIS, 0)

    def duplicates(self) -> int:
        """How many callbacks came again."""
        return self._value("SELECT value FROM meta WHERE name = 'duplicates'") or 0

    def chain_at(self, position: int) -> str | None:
        """The chain of a row, None if there is no such row."""
        if position == 0:
            return GENESIS
        value: str | None = self._value("SELECT chain FROM events WHERE position = ?", position)
        return value

    def get(self, event_id: str) -> Record | None:
        """One event by its id, or by the first digits of it if they are at least eight and no other's begins so."""
        rows = self.conn.execute(
            f"SELECT {_COLUMNS} FROM events WHERE substr(event_id, 1, {_PREFIX}) = ?"
            " AND substr(event_id, 1, ?) = ? LIMIT 2",
            (event_id[:_PREFIX], max(len(event_id), _PREFIX), event_id),
        ).fetchall()
        return Record(*rows[0]) if len(rows) == 1 else None

    def tail(self, after: int, limit: int) -> list[Record]:
        """Up to `limit` events in log order behind a position."""
        rows = self.conn.execute(
            f"SELECT {_COLUMNS} FROM events WHERE position > ? ORDER BY position LIMIT ?", (after, limit)
        )
        return [Record(*row) for row in rows]

    def position_at(self, received_at_ms: int) -> int:
        """The last position received at or before a time, 0 if none: times of receipt never decrease along the log."""
        low, high = 0, self.head().position
        while low < high:
            middle = (low + high + 1) // 2
            if self._value("SELECT received_at_ms FROM events WHERE position = ?", middle) <= received_at_ms:
                low = middle
            else:
                high = middle - 1
        return low

    def unread(self, after: int, upto: int) -> dict[str, list[tuple[int, Event]]]:
        """The events of each room at positions after < p <= upto, with their positions, in log order."""
        rooms: dict[str, list[tuple[int, Event]]] = {}
        for row in self.conn.execute(
            f"SELECT {_EVENT_COLUMNS} FROM events"
            " WHERE position > ? AND position <= ? AND room_id IS NOT NULL ORDER BY position",
            (after, upto),
        ):
            rooms.setdefault(row[2], []).append((row[4], _read(*row[:4])))
        return rooms

    def history(self, room_id: str, *, upto: int, after: Key = BEFORE_ALL, as_of_ms: int = _MAX_TIME_MS) -> History:
        """A room's events that sort behind `after`, stand at positions <= upto, and happened at or before a time."""
        rows = self.conn.execute(
            f"SELECT {_EVENT_COLUMNS} FROM events INDEXED BY events_by_room WHERE room_id = ?"
            " AND event_time_ms >= ? AND (event_time_ms > ? OR event_id > ?)"
            " AND event_time_ms <= ? AND position <= ? ORDER BY event_time_ms",
            (room_id, after[0], *after, as_of_ms, upto),
        )
        return _history_of(rows)

    def histories(self, *, upto: int, behind: str = "", last: str | None = None) -> Iterator[tuple[str, History]]:
        """Each room behind one room_id, up to another (None: to the end), with its history at positions <= upto."""
        rows = self.conn.execute(
            f"SELECT {_EVENT_COLUMNS} FROM events INDEXED BY events_by_room"
            f" WHERE room_id > ?{'' if last is None else ' AND room_id <= ?'} AND position <= ?"
            " ORDER BY room_id, event_time_ms",
            (behind, upto) if last is None else (behind, last, upto),
        )
        for room_id, of_room in groupby(rows, _room_id_of):
            yield room_id, _history_of(of_room)

    def room_ranges(self, events: int) -> Iterator[tuple[str, str | None]]:
        """Cut the rooms into ranges (behind a room_id, up to another) of about so many events; the last has no end.

        A room is never cut. Each range is one short look at the index: nothing is held open in between.
        """
        behind = ""
        while True:
            last = self._value(
                "SELECT room_id FROM events INDEXED BY events_by_room WHERE room_id > ?"
                " ORDER BY room_id LIMIT 1 OFFSET ?",
                behind,
                events - 1,
            )
            yield behind, last
            if last is None:
                return
            behind = last

    def records(
        self,
        room_id: str,
        *,
        upto: int,
        after: Key = BEFORE_ALL,
        until: Key | None = None,
        as_of_ms: int | None = None,
    ) -> Iterator[Record]:
        """A room's events in event order: those at positions <= upto that sort behind `after`,
        at or before `until`, and happened at or before `as_of_ms`."""
        latest_ms = min(
            _MAX_TIME_MS if until is None else until[0],
            _MAX_TIME_MS if as_of_ms is None else as_of_ms,
        )  # one bound: of two, SQLite would search the index for the first and go on to the end of the room
        rows = self.conn.execute(
            f"SELECT {_COLUMNS} FROM events INDEXED BY events_by_room WHERE room_id = ?"
            " AND event_time_ms >= ? AND event_time_ms <= ? AND position <= ? ORDER BY event_time_ms, event_id",
            (room_id, after[0], latest_ms, upto),
        )
        for row in rows:
            record = Record(*row)
            if record.key > after and (until is None or record.key <= until):
                yield record

    def overtakers(
        self, room_id: str, *, behind: Key, before: int, until_ms: int = _MAX_TIME_MS
    ) -> Iterator[tuple[int, Key]]:
        """Where a room's updates stand that sort behind `behind` but came before a position, by event_time_ms.

        Who needs but one reads no more than that.
        """
        for position, time_ms, event_id in self.conn.execute(
            "SELECT position, event_time_ms, event_id FROM events INDEXED BY events_by_room"
            " WHERE room_id = ? AND event_time_ms >= ? AND event_time_ms <= ? AND position < ? AND command = ?"
            " ORDER BY event_time_ms",
            (room_id, behind[0], until_ms, before, UPDATE_ROOM_INFO),
        ):
            if (time_ms, event_id) > behind:
                yield position, (time_ms, event_id)

    def span(self, room_id: str) -> tuple[int, int, int, int] | None:
        """The first and last time of a room's events, and those of their receipt; None if there is no event."""
        row = self.conn.execute(
            """
            SELECT min(event_time_ms), max(event_time_ms), min(position), max(position)
            FROM events INDEXED BY events_by_room WHERE room_id = ?
            """,
            (room_id,),
        ).fetchone()
        if row[0] is None:
            return None
        received = [
            self._value("SELECT received_at_ms FROM events WHERE position = ?", position) for position in row[2:]
        ]
        return (row[0], row[1], received[0], received[1])

    def last_times(self, *, upto: int, as_of_ms: int = _MAX_TIME_MS) -> list[tuple[int, str]]:
        """When each room had its last event at positions <= upto that happened at or before a time, the latest first.

        Jumps through the index from room to room, without a look at any body: what it costs is rooms, not events.
        """
        return self.conn.execute(
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

    def last_update_ms(self, room_id: str, *, upto: int, as_of_ms: int = _MAX_TIME_MS) -> int | None:
        """When a room had its last update at positions <= upto that happened at or before a time; None without any."""
        found: int | None = self._value(
            "SELECT event_time_ms FROM events INDEXED BY events_by_room WHERE room_id = ? AND event_time_ms <= ?"
            " AND position <= ? AND command = ? ORDER BY event_time_ms DESC LIMIT 1",
            room_id,
            as_of_ms,
            upto,
            UPDATE_ROOM_INFO,
        )
        return found

    def rejected_count(self) -> int:
        """How many bodies are in quarantine."""
        count: int = self._value("SELECT count(*) FROM rejected")
        return count

    def rejected(self, before: int | None, limit: int) -> list[Rejected]:
        """Quarantined bodies, newest first, older than an id."""
        rows = self.conn.execute(
            "SELECT id, received_at_ms, reason, client_ip, platform, body FROM rejected"
            " WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?",
            (before, before, limit),
        )
        return [Rejected(*row) for row in rows]

    def _positions_of(self, event_ids: list[str]) -> dict[str, int]:
        """Where those of the events stand that are in the log."""
        found: dict[str, int] = {}
        for begin in range(0, len(event_ids), _MAX_PARAMETERS):
            some = event_ids[begin : begin + _MAX_PARAMETERS]
            marks = ", ".join("?" * len(some))
            found.update(
                self.conn.execute(
                    f"SELECT event_id, position FROM events WHERE substr(event_id, 1, {_PREFIX}) IN ({marks})",
                    [event_id[:_PREFIX] for event_id in some],
                )
            )
        return found

    def _value(self, sql: str, *args: Any) -> Any:
        row = self.conn.execute(sql, args).fetchone()
        return row[0] if row else None
