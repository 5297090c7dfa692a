"""What goes into the log and what comes out of it: arrivals, rejections, rows, and the chain that links the rows."""

import hashlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from app.event import Event, History, Key
from app.infra.errors import CorruptEvent
from app.tencent.body import Callback, command_of, operator_of, read_event

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
        """Memory that its body takes, in bytes."""
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
        """Length of its body, in bytes."""
        return len(self.body)


class Appended(msgspec.Struct, frozen=True):
    """The position of an arrival in the log; `duplicate` if it was there already."""

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
        return read_row(self.event_id, self.event_time_ms, self.room_id, self.body)


class Rejected(msgspec.Struct, frozen=True):
    """A row of `rejected`."""

    id: int
    received_at_ms: int
    reason: str
    client_ip: str | None
    platform: str | None
    body: bytes


_UNREADABLE_BODY = (msgspec.MsgspecError, ValueError, KeyError)
"""What reading an event raises when its row is not what was stored."""
RECORD_COLUMNS = ", ".join(Record.__struct_fields__)
EVENT_COLUMNS = "event_id, event_time_ms, room_id, body, position"
"""What `read_row` takes, and the event's position."""


def next_chain(chain: str, event_id: str, received_at_ms: int, body: str) -> str:
    """Link a row to the one before it: SHA-256 over the UTF-8 of the four, one after the other (contract, law 2).

    The first two have 64 digits each and a body never begins with a digit, so no two rows give the same bytes.
    """
    return hashlib.sha256(f"{chain}{event_id}{received_at_ms}{body}".encode()).hexdigest()


def read_row(event_id: str, event_time_ms: int, room_id: str, body: str) -> Event:
    """Make the event of a row. Raises CorruptEvent."""
    try:
        return read_event(event_id, event_time_ms, room_id, body)
    except _UNREADABLE_BODY as error:
        raise CorruptEvent(event_id, error) from error


def history_of(rows: Iterable[tuple[Any, ...]]) -> History:
    """Make a history of rows of `EVENT_COLUMNS` that come by event_time_ms."""
    rows = list(rows)
    if len(rows) > len({row[1] for row in rows}):
        # SQLite would carry whole rows, bodies included, through its sorter to order the few that share a millisecond.
        rows.sort(key=lambda row: (row[1], row[0]))
    return History([row[4] for row in rows], [read_row(*row[:4]) for row in rows])


def _read_part(record: Record, read: Callable[[str], str]) -> str:
    """Read something from a row's body. Raises CorruptEvent."""
    try:
        return read(record.body)
    except _UNREADABLE_BODY as error:
        raise CorruptEvent(record.event_id, error) from error
