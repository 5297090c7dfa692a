"""An event: what a callback says, its identity and its place among the events of its room.

Pure, and imports nothing of ours: projections see the world through this file alone.
"""

import hashlib
import json
from typing import Any

import msgspec

Key = tuple[int, str]
"""A place in a room's event order: (event_time_ms, event_id). Total, and the same whatever the order of arrival."""
BEFORE_ALL: Key = (-(2**63), "")
MAX_TIME_MS = 2**63 - 1
MAX_POSITION = 2**63 - 1

_encode_canonical = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False, check_circular=False
).encode


class Event(msgspec.Struct, frozen=True, gc=False):
    """One callback as the projections see it: its content, and nothing of when or how it reached us.

    Arrival (position, time of receipt, address) is left out on purpose: a fold that cannot see it
    cannot depend on it, so every order of arrival gives the same read models. One thing shines through: a callback
    without EventTime (some commands have none, room updates always do) happened when it was received.
    """

    event_id: str
    """Lower-case hex SHA-256 of the body's canonical JSON."""
    event_time_ms: int
    """When it happened, epoch milliseconds (for a callback without EventTime: when it was received)."""
    room_id: str
    command: str
    operator: str
    """Canonical JSON text of who did it, `null` if the callback does not say."""
    room_info: dict[str, str] | None
    """For a room update: field name -> canonical JSON text of its value, RoomId left out. Else None."""
    body: str
    """The callback, exactly as received."""

    @property
    def key(self) -> Key:
        """The event's place in its room's event order."""
        return (self.event_time_ms, self.event_id)


class History(msgspec.Struct, frozen=True):
    """Events of one room in event order, and where in the log each of them stands."""

    positions: list[int]
    events: list[Event]

    def __post_init__(self) -> None:
        """Whatever a fold says rests on this order."""
        last_ms, last_id = BEFORE_ALL
        for event in self.events:
            event_time_ms = event.event_time_ms
            assert event_time_ms > last_ms or (event_time_ms == last_ms and event.event_id > last_id), (
                f"event {event.event_id} is out of event order"
            )
            last_ms, last_id = event_time_ms, event.event_id


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """Which events count for an answer (contract, law 8): what had happened by `as_of_ms`, of what was known by then.

    The edge that takes the question builds it from the times given; None: no bound. The reader sets `upto`: the
    position in the log that `known_at_ms` and the read models' checkpoints come to.
    """

    as_of_ms: int | None = None
    known_at_ms: int | None = None
    upto: int = MAX_POSITION

    @property
    def latest_ms(self) -> int:
        """The last event time that counts."""
        return MAX_TIME_MS if self.as_of_ms is None else self.as_of_ms

    def holds_all_upto(self, position: int) -> bool:
        """Whether every event up to a position counts."""
        return self.as_of_ms is None and self.upto >= position

    def until(self, time_ms: int) -> "Cut":
        """The same cut, at an earlier time if that is earlier."""
        return msgspec.structs.replace(self, as_of_ms=min(time_ms, self.latest_ms))

    def upto_position(self, position: int) -> "Cut":
        """The same cut, of the log up to a position if that is earlier."""
        return msgspec.structs.replace(self, upto=min(position, self.upto))


def canonical_json(value: Any) -> str:
    """Write a JSON value with keys sorted and no white space; equal texts mean equal values (contract, law 6)."""
    return _encode_canonical(value)


def event_id_of(canonical: str) -> str:
    """Hash a body's canonical JSON text into its event_id (contract, law 1)."""
    return hashlib.sha256(canonical.encode()).hexdigest()
