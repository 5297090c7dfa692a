"""The answers: what the questions give, and HTTP and the command line print."""

from typing import Any

import msgspec

Json = Any
"""A JSON value; at run time often a msgspec.Raw, so that numbers go out as they came in."""


class SetBy(msgspec.Struct, frozen=True):
    """Which event last changed or first set a field."""

    set_at_ms: int
    event_id: str
    operator: Json


class Room(msgspec.Struct, frozen=True):
    """A room at a moment: `as_of_ms` and `known_at_ms` are those asked for."""

    room_id: str
    room_info: dict[str, Json]
    fields: dict[str, SetBy]
    event_id: str
    event_time_ms: int
    events: int
    as_of_ms: int | None
    known_at_ms: int | None


class Rooms(msgspec.Struct, frozen=True):
    """A page of rooms, by room_id."""

    rooms: list[Room]
    next_cursor: str | None


class FieldChange(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """A field's value before and after; `from` is absent where it had none, `to` where it has none."""

    from_: Json | msgspec.UnsetType = msgspec.UNSET
    to: Json | msgspec.UnsetType = msgspec.UNSET


class Change(msgspec.Struct, frozen=True):
    """An event that changed or first set fields. `late`: it arrived after an event that sorts behind it."""

    event_id: str
    position: int
    event_time_ms: int
    received_at_ms: int
    operator: Json
    platform: str | None
    late: bool
    changed: dict[str, FieldChange]


class RoomChange(Change, frozen=True):
    """A change and the room it happened in, as the event stream sends it."""

    room_id: str = ""


class History(msgspec.Struct, frozen=True):
    """A page of a room's changes, newest first."""

    changes: list[Change]
    next_cursor: str | None


class Diff(msgspec.Struct, frozen=True):
    """What differs between two moments of a room."""

    changed: dict[str, FieldChange]


class Counts(msgspec.Struct, frozen=True):
    """How often a field was seen and changed; `last_changed_ms` is null while `changes` is 0."""

    observations: int
    changes: int
    first_seen_ms: int
    last_changed_ms: int | None


class ChangeCounts(msgspec.Struct, frozen=True):
    """The counts of a room's fields."""

    room_id: str
    counts: dict[str, Counts]


class RoomTotal(msgspec.Struct, frozen=True):
    """A room and its number of changes."""

    room_id: str
    changes: int


class ChangeTotals(msgspec.Struct, frozen=True):
    """The counts per field over all rooms, and a page of the rooms with the most changes."""

    counts: dict[str, Counts]
    rooms: list[RoomTotal]
    next_cursor: str | None


class Interval(msgspec.Struct, frozen=True):
    """A half-open interval; `to_ms` is null while it is open."""

    from_ms: int
    to_ms: int | None
    public: bool


class Window(msgspec.Struct, frozen=True):
    """The half-open window that a timeline was asked for, up to now, or to `as_of`, at the latest.

    `from_ms` is null if it ends before the timeline begins.
    """

    from_ms: int | None
    to_ms: int

    def duration_ms(self, interval: Interval) -> int:
        """How much of an interval lies before the window's end."""
        until_ms = self.to_ms if interval.to_ms is None else min(interval.to_ms, self.to_ms)
        return max(0, until_ms - interval.from_ms)


class Visibility(msgspec.Struct, frozen=True):
    """A room's visibility within a window, and the sums of it."""

    room_id: str
    intervals: list[Interval]
    public_ms: int
    hidden_ms: int
    window: Window


class LogEvent(msgspec.Struct, frozen=True):
    """A row of the log, without its body."""

    position: int
    event_id: str
    room_id: str | None
    command: str
    event_time_ms: int
    received_at_ms: int
    operator: Json
    client_ip: str | None
    platform: str | None
    chain: str


class LogEventWithBody(LogEvent, frozen=True):
    """A row of the log; `body` is exactly what was received."""

    body: str = ""


class Events(msgspec.Struct, frozen=True):
    """A page of the log in log order, and the position where the log ends."""

    events: list[LogEvent]
    head: int


class Quarantined(msgspec.Struct, frozen=True):
    """A refused body. `body` is readable, `body_base64` exact."""

    id: int
    received_at_ms: int
    reason: str
    client_ip: str | None
    platform: str | None
    body: str
    body_base64: str


class Quarantine(msgspec.Struct, frozen=True):
    """A page of the quarantine, newest first."""

    rejected: list[Quarantined]
    next_cursor: str | None


class ProjectionStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a projection has read; `error` if it stopped, `fingerprint` if asked for."""

    version: int
    position: int
    lag: int
    error: str | None = None
    fingerprint: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The log and its projections in short. `chain` is the last row's."""

    head: int
    events: int
    duplicates: int
    rejected: int
    chain: str
    last_received_at_ms: int | None
    """When the last event was received, null while there is none."""
    projections: dict[str, ProjectionStatus]


class TimeSpan(msgspec.Struct, frozen=True):
    """The times of a room's first and last events, and when the first and the last of them were received."""

    first_ms: int
    last_ms: int
    first_received_ms: int
    last_received_ms: int


class Column(msgspec.Struct, frozen=True):
    """A room's events in a column of a drawing: how many, when the first and the last happened, how many were late."""

    events: int
    first_ms: int
    last_ms: int
    late: int


class Health(msgspec.Struct, frozen=True):
    """How a server is. Its texts may quote what is in the rooms: not every reader of it may see them."""

    status: Status | None
    """None: it was not asked for, or the databases cannot be read."""
    unreadable: str | None
    """Why the databases cannot be read."""
    stopped: dict[str, str]
    """The projections that stopped, each with the event and the error."""
    waiting: str | None
    """Why no projection takes a step."""
    failure: str | None
    """Why callbacks are refused."""
    caught_up: bool
    """Whether the projections reached the log's head within the time that was given to them."""
    free_bytes: int
    total_bytes: int
    """Of the disk with the data; 0 if that cannot be told."""
    unsigned: bool
    """Whether callbacks need no signature."""


class Readiness(msgspec.Struct):
    """Whether callbacks are stored and reads see all of them.

    `lag`: events not read yet by each projection. `stopped`: those that stopped, each with the event and the error;
    `waiting`: why none of them reads on; `failure`: why callbacks are refused now; both null if there is no reason.
    Without a token the reasons are withheld.
    """

    ready: bool
    lag: dict[str, int]
    stopped: dict[str, str]
    waiting: str | None
    failure: str | None
