"""How often each field of a room was seen, and how often its value changed."""

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from app.event import Event

VERSION = 1


class Field(msgspec.Struct, frozen=True, array_like=True):
    """A field's counts so far, and its latest value (canonical JSON text) to compare the next one with."""

    value: str
    observations: int
    changes: int
    first_seen_ms: int
    last_changed_ms: int | None


class State(msgspec.Struct, frozen=True, array_like=True):
    """The fields of a room after some of its updates."""

    fields: dict[str, Field] = {}


class Row(msgspec.Struct, frozen=True):
    """A line of the read model `change_counts`; `last_changed_ms` is null while `changes` is 0."""

    TABLE: ClassVar = "change_counts"
    KEY: ClassVar = ("room_id", "field")
    GROWS: ClassVar = False

    room_id: str
    field: str
    observations: int
    changes: int
    first_seen_ms: int
    last_changed_ms: int | None


initial = State()


def apply(state: State, event: Event) -> State:
    """Count each field of the patch; the first value seen is an observation, not a change."""
    if not event.room_info:
        return state
    now = event.event_time_ms
    fields = state.fields.copy()
    for name, value in event.room_info.items():
        last = fields.get(name)
        if last is None:
            fields[name] = Field(value, 1, 0, now, None)
        elif last.value == value:
            fields[name] = Field(value, last.observations + 1, last.changes, last.first_seen_ms, last.last_changed_ms)
        else:
            fields[name] = Field(value, last.observations + 1, last.changes + 1, last.first_seen_ms, now)
    return State(fields)


def rows(room_id: str, state: State) -> Iterable[Row]:
    """One row for each field that the room ever had, by name."""
    for name, field in sorted(state.fields.items()):
        yield Row(room_id, name, field.observations, field.changes, field.first_seen_ms, field.last_changed_ms)
