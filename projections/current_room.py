"""What each room is like now: its latest value of every field, and which event gave it."""

from collections.abc import Iterable
from functools import lru_cache
from typing import ClassVar

import msgspec

from app.event import Event, canonical_json

VERSION = 1

_quoted = lru_cache(maxsize=1024)(canonical_json)  # field names: few, and always the same


class Field(msgspec.Struct, frozen=True, array_like=True):
    """A field's value and the event that last changed or first set it. Values are canonical JSON text."""

    value: str
    set_at_ms: int
    event_id: str
    operator: str


class State(msgspec.Struct, frozen=True, array_like=True):
    """A room after some of its updates; `events` counts them."""

    events: int = 0
    event_time_ms: int = 0
    event_id: str = ""
    fields: dict[str, Field] = {}


class Row(msgspec.Struct, frozen=True):
    """A line of the read model `rooms`."""

    TABLE: ClassVar = "rooms"
    KEY: ClassVar = ("room_id",)
    GROWS: ClassVar = False

    room_id: str
    room_info: msgspec.Raw
    fields: msgspec.Raw
    event_id: str
    event_time_ms: int
    events: int


initial = State()


def apply(state: State, event: Event) -> State:
    """Lay the update's patch over the room: a present field has that value, an absent one is unchanged."""
    if event.room_info is None:
        return state
    fields = state.fields
    for name, value in event.room_info.items():
        last = fields.get(name)
        if last is None or last.value != value:
            if fields is state.fields:
                fields = fields.copy()
            fields[name] = Field(value, event.event_time_ms, event.event_id, event.operator)
    return State(state.events + 1, event.event_time_ms, event.event_id, fields)


def rows(room_id: str, state: State) -> Iterable[Row]:
    """One row for a room that had an update, none for any other."""
    if state.events == 0:
        return
    values, blame = [], []
    for name, field in sorted(state.fields.items()):
        quoted = _quoted(name)
        values.append(f"{quoted}:{field.value}")
        blame.append(
            f'{quoted}:{{"set_at_ms":{field.set_at_ms},"event_id":"{field.event_id}","operator":{field.operator}}}'
        )
    yield Row(
        room_id,
        msgspec.Raw(f"{{{','.join(values)}}}".encode()),
        msgspec.Raw(f"{{{','.join(blame)}}}".encode()),
        state.event_id,
        state.event_time_ms,
        state.events,
    )
