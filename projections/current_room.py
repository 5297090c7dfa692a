"""What each room is like now: its latest value of every field, and which event gave it."""

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from app.event import Event, canonical_json

VERSION = 1


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
    fresh = {
        name: Field(value, event.event_time_ms, event.event_id, event.operator)
        for name, value in event.room_info.items()
        if name not in fields or fields[name].value != value
    }
    return State(state.events + 1, event.event_time_ms, event.event_id, fields | fresh if fresh else fields)


def rows(room_id: str, state: State) -> Iterable[Row]:
    """One row for a room that had an update, none for any other."""
    if state.events == 0:
        return
    fields = sorted(state.fields.items())
    room_info = ",".join(f"{canonical_json(name)}:{field.value}" for name, field in fields)
    blame = ",".join(
        f'{canonical_json(name)}:{{"set_at_ms":{field.set_at_ms},"event_id":"{field.event_id}",'
        f'"operator":{field.operator}}}'
        for name, field in fields
    )
    yield Row(
        room_id,
        msgspec.Raw(f"{{{room_info}}}".encode()),
        msgspec.Raw(f"{{{blame}}}".encode()),
        state.event_id,
        state.event_time_ms,
        state.events,
    )
