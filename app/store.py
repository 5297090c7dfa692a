"""The event store: the immutable log and the quarantine beside it. The only SQL on `events` and `rejected`.

Two orders, two methods that never mix: `tail` reads in log order (position), `history` and `histories` read in event
order (event_time_ms, event_id).
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from app import db
from app.event import BEFORE_ALL, Event, Key
from app.tencent import Callback, read_event

MAX_REJECTED = 10_000
GENESIS = "0" * 64
"""The chain before the first event."""


class Arrival(msgspec.Struct, frozen=True):
    """A callback that passed the checks, and how it reached us."""

    callback: Callback
    received_at_ms: int
    client_ip: str | None = None
    platform: str | None = None


class Rejection(msgspec.Struct, frozen=True):
    """A body that broke a rule, kept in the quarantine with the reason."""

    body: bytes
    reason: str
    received_at_ms: int
    client_ip: str | None = None
    platform: str | None = None


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
    """A row of `events`. `operator` is JSON text, or None where the callback does not name one."""

    position: int
    event_id: str
    room_id: str | None
    command: str
    event_time_ms: int
    received_at_ms: int
    operator: str | None
    client_ip: str | None
    platform: str | None
    chain: str
    body: str

    @property
    def key(self) -> Key:
        """The place in the room's event order."""
        return (self.event_time_ms, self.event_id)


class Rejected(msgspec.Struct, frozen=True):
    """A row of `rejected`."""

    id: int
    received_at_ms: int
    reason: str
    client_ip: str | None
    platform: str | None
    body: bytes


_MAX_PARAMETERS = 500
_MIN_PREFIX = 8
_COLUMNS = ", ".join(Record.__struct_fields__)
_INSERT = f"INSERT INTO events ({_COLUMNS}) VALUES ({', '.join('?' * len(Record.__struct_fields__))})"


def next_chain(chain: str, event_id: str, received_at_ms: int, body: str) -> str:
    """Link a row to the one before it: SHA-256 over the UTF-8 of the four, one after the other (contract, law 2).

    The first two have 64 digits each and a body never begins with a digit, so no two rows give the same bytes.
    """
    return hashlib.sha256(f"{chain}{event_id}{received_at_ms}{body}".encode()).hexdigest()


def _break_ties(history: list[tuple[int, Event]]) -> list[tuple[int, Event]]:
    # SQLite would carry whole rows, bodies included, through its sorter to order the few that share a millisecond.
    return sorted(history, key=lambda pair: pair[1].key)


class EventStore:
    """The log behind one connection. Not for use by two threads at a time."""

    def __init__(self, conn: db.Connection) -> None:
        self.conn = conn

    def close(self) -> None:
        """Close the connection."""
        self.conn.close()

    # ---- writing ----

    def append(self, arrivals: Sequence[Arrival], rejections: Sequence[Rejection] = ()) -> list[Appended]:
        """Add a batch in one synced transaction; say for each arrival, in order, where it stands.

        An event_id that is in the log already, or earlier in the batch, is a duplicate: counted, not stored.
        Raises db.Error, with nothing stored, when the disk does not take it.
        """
        with db.transaction(self.conn):
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
                    callback.command,
                    event_time_ms,
                    received_at_ms,
                    callback.operator,
                    arrival.client_ip,
                    arrival.platform,
                    chain,
                    callback.body,
                )
            )
            positions[callback.event_id] = position
            outcomes.append(Appended(position, duplicate=False))
        self.conn.executemany(_INSERT, rows)
        if len(rows) < len(arrivals):
            self.conn.execute(
                "INSERT INTO meta VALUES ('duplicates', ?)"
                " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
                (len(arrivals) - len(rows),),
            )
        return outcomes

    def _quarantine(self, rejections: Sequence[Rejection]) -> None:
        self.conn.executemany(
            "INSERT INTO rejected (received_at_ms, reason, client_ip, platform, body) VALUES (?, ?, ?, ?, ?)",
            [(r.received_at_ms, r.reason, r.client_ip, r.platform, r.body) for r in rejections],
        )
        self.conn.execute(
            "DELETE FROM rejected WHERE id <= (SELECT id FROM rejected ORDER BY id DESC LIMIT 1 OFFSET ?)",
            (MAX_REJECTED,),
        )

    def release(self, arrival: Arrival, rejected_id: int) -> Appended:
        """Move a quarantined body that is valid after all into the log, in one transaction."""
        with db.transaction(self.conn):
            (outcome,) = self._insert([arrival])
            self.conn.execute("DELETE FROM rejected WHERE id = ?", (rejected_id,))
        return outcome

    def claim(self, sdk_app_id: str) -> str:
        """Say whose data this is: the given application's if it was nobody's. Returns the owner."""
        with db.transaction(self.conn):
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
        last = event_id + "g" if len(event_id) >= _MIN_PREFIX else event_id
        rows = self.conn.execute(
            f"SELECT {_COLUMNS} FROM events WHERE event_id >= ? AND event_id <= ? LIMIT 2", (event_id, last)
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

    def history(
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
        where = "room_id = ? AND event_time_ms >= ? AND position <= ?"
        args: list[Any] = [room_id, after[0], upto]
        if until is not None:
            where += " AND event_time_ms <= ?"
            args.append(until[0])
        if as_of_ms is not None:
            where += " AND event_time_ms <= ?"
            args.append(as_of_ms)
        rows = self.conn.execute(
            f"SELECT {_COLUMNS} FROM events INDEXED BY events_by_room WHERE {where} ORDER BY event_time_ms, event_id",
            args,
        )
        for row in rows:
            record = Record(*row)
            if record.key > after and (until is None or record.key <= until):
                yield record

    def histories(self, *, first: str, last: str, upto: int) -> Iterator[tuple[str, list[tuple[int, Event]]]]:
        """Each room from `first` to `last` with its whole history at positions <= upto: positions and events, in
        event order."""
        rows = self.conn.execute(
            "SELECT position, event_id, event_time_ms, room_id, command, operator, body"
            " FROM events INDEXED BY events_by_room"
            " WHERE room_id >= ? AND room_id <= ? AND position <= ? ORDER BY room_id, event_time_ms",
            (first, last, upto),
        )
        room_id, last_ms, tied = first, None, False
        history: list[tuple[int, Event]] = []
        for row in rows:
            if row[3] != room_id:
                if history:
                    yield room_id, _break_ties(history) if tied else history
                room_id, last_ms, tied, history = row[3], None, False, []
            tied = tied or row[2] == last_ms
            last_ms = row[2]
            history.append((row[0], read_event(*row[1:])))
        if history:
            yield room_id, _break_ties(history) if tied else history

    def overtakers(self, room_id: str, command: str, *, behind: Key, before: int) -> list[tuple[int, Key]]:
        """Where a room's events of one command stand that sort behind `behind` but came before a position."""
        rows = self.conn.execute(
            "SELECT position, event_time_ms, event_id FROM events INDEXED BY events_by_room"
            " WHERE room_id = ? AND event_time_ms >= ? AND position < ? AND command = ?",
            (room_id, behind[0], before, command),
        )
        return [(position, (time_ms, event_id)) for position, time_ms, event_id in rows if (time_ms, event_id) > behind]

    def room_sizes(self, upto: int) -> Iterator[tuple[str, int]]:
        """Each room's id and how many events it has at positions <= upto, by room_id."""
        yield from self.conn.execute(
            "SELECT room_id, count(*) FROM events INDEXED BY events_by_room"
            " WHERE room_id IS NOT NULL AND position <= ? GROUP BY room_id ORDER BY room_id",
            (upto,),
        )

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
            found.update(self.conn.execute(f"SELECT event_id, position FROM events WHERE event_id IN ({marks})", some))
        return found

    def _value(self, sql: str, *args: Any) -> Any:
        row = self.conn.execute(sql, args).fetchone()
        return row[0] if row else None
