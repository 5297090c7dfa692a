"""When each room was public and when hidden: half-open intervals [from, to) that tile its life."""

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from app.event import Event

VERSION = 1

_FIELD = "IsPublicVisible"
_PUBLIC = {"true": True, "false": False}  # anything else is nothing to the timeline


class Start(msgspec.Struct, frozen=True, array_like=True):
    """Where an interval begins and which value it has; it ends where the next one begins."""

    from_ms: int
    public: bool


class State(msgspec.Struct, frozen=True, array_like=True):
    """The last two intervals of a room: one more event can touch no others, however long the timeline is."""

    last: tuple[Start, ...] = ()


class Row(msgspec.Struct, frozen=True):
    """A line of the read model `visibility`: one interval; `to_ms` is null while it is open."""

    TABLE: ClassVar = "visibility"
    KEY: ClassVar = ("room_id", "from_ms")
    GROWS: ClassVar = True

    room_id: str
    from_ms: int
    to_ms: int | None
    public: bool


initial = State()


def apply(state: State, event: Event) -> State:
    """Start a new interval where the visibility flips; within one millisecond the last event rules."""
    public = _PUBLIC.get(event.room_info.get(_FIELD, "")) if event.room_info else None
    if public is None:
        return state
    starts = state.last
    if starts and starts[-1].public == public:
        return state
    if starts and starts[-1].from_ms == event.event_time_ms:
        starts = starts[:-1]  # overruled within its own millisecond: no interval is empty
    if starts and starts[-1].public == public:
        return State(starts)  # and so its neighbours merge
    return State((*starts[-1:], Start(event.event_time_ms, public)))


def rows(room_id: str, state: State) -> Iterable[Row]:
    """The last intervals, the open one at the end; those before them stay as they were written."""
    ends = [start.from_ms for start in state.last[1:]]
    for start, to_ms in zip(state.last, [*ends, None], strict=False):
        yield Row(room_id, start.from_ms, to_ms, start.public)
