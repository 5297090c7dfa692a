"""Answers written by hand, for what is drawn of them."""

import json

import msgspec
from conftest import T0

from app.queries.answers import Change, FieldChange, Interval, Room, SetBy, Visibility, Window

MINUTE = 60_000
WINDOW = (T0, T0 + 10 * MINUTE)


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def room_of(fields: dict[str, str], set_by: dict[str, tuple[int, str, str]] | None = None, room_id: str = "r") -> Room:
    """A room whose values are JSON text, each set by (time, event_id, operator as JSON text)."""
    set_by = set_by or dict.fromkeys(fields, (T0, "e1", '"bob"'))
    last = max(set_by.values(), default=(T0, "e1", ""))
    return Room(
        room_id,
        # The read model's rows hold an object of raw JSON, and so do these.
        raw("{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in fields.items()) + "}"),  # type: ignore[arg-type]
        {name: SetBy(at, event_id, raw(operator)) for name, (at, event_id, operator) in set_by.items()},
        last[1],
        last[0],
        len({by[1] for by in set_by.values()}),
        None,
        None,
    )


def change_of(at: int, operator: str = '"bob"', late: bool = False, **changed: FieldChange) -> Change:
    return Change("e1", 1, at, at + 5, raw(operator), "Web", late, changed)


def timeline(room_id: str, *intervals: Interval, to_ms: int = WINDOW[1]) -> Visibility:
    begin = intervals[0].from_ms if intervals else None
    return Visibility(room_id, list(intervals), 0, 0, Window(begin, to_ms))
