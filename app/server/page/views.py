"""What the page shows of a room: its fields with their blame, its line in the list, changes, comparisons. Pure."""

from typing import Any

import msgspec

from app.queries.answers import ChangeCounts, FieldChange, Room, Visibility
from app.server.page.drawing import SCALE, Period, periods_of
from app.server.page.values import shortened, text_of, whole_text_of

_NAME = "RoomName"
_PERIODS_OF_STRIP = 100  # strips are a third as wide as a timeline


class FieldView(msgspec.Struct, frozen=True):
    """A field of a room with its blame; `fresh` if the room's last change set it."""

    name: str
    text: str
    link: str | None
    set_at_ms: int
    operator: str
    platform: str | None
    event_id: str
    fresh: bool


class Step(msgspec.Struct, frozen=True):
    """What a change did to one field."""

    name: str
    before: str | None
    after: str | None


class RoomLine(msgspec.Struct, frozen=True):
    """A room in the list."""

    room_id: str
    name: str | None
    public: bool | None
    events: int
    event_time_ms: int
    changed_at_ms: int
    changed_by: str
    changed_what: str
    changes: int
    bar: float
    periods: list[Period]


class Compared(msgspec.Struct, frozen=True):
    """A field at two times; None where the room did not have it."""

    name: str
    before: str | None
    after: str | None
    differs: bool


def name_of(room: Room) -> str | None:
    """A room's name, None if it has none."""
    values = _values_of(room)
    return text_of(values[_NAME]) if _NAME in values else None


def fields_of(room: Room, platforms: dict[str, str | None], changed_by: str | None = None) -> list[FieldView]:
    """The fields of a room by name; `platforms` by event_id; `changed_by`: the event of its last change."""
    blame = blame_of(room)
    views = []
    for name, value in _values_of(room).items():
        whole, by = whole_text_of(value), blame[name]
        views.append(
            FieldView(
                name,
                shortened(whole),
                whole if whole.lower().startswith(("http://", "https://")) else None,
                by.set_at_ms,
                text_of(by.operator),
                platforms.get(by.event_id),
                by.event_id,
                by.event_id == (changed_by or room.event_id),
            )
        )
    return views


def line_of(
    room: Room,
    counts: ChangeCounts,
    most: int,
    visibility: Visibility,
    window: tuple[int, int],
    known_until_ms: int | None = None,
) -> RoomLine:
    """A room in the list. `most` is the highest number of changes among the rooms listed: the full width of a bar."""
    values, blame = _values_of(room), blame_of(room)
    last = max(blame.values(), key=lambda by: (by.set_at_ms, by.event_id), default=None)
    what = [name for name, by in blame.items() if last is not None and by.event_id == last.event_id]
    public = visibility.intervals[-1].public if visibility.intervals else None
    changes = sum(count.changes for count in counts.counts.values())
    return RoomLine(
        room.room_id,
        text_of(values[_NAME]) if _NAME in values else None,
        public,
        room.events,
        room.event_time_ms,
        last.set_at_ms if last else room.event_time_ms,
        text_of(last.operator) if last else "",
        ", ".join(f"{name} {text_of(values[name])[:60]}" for name in what[:2])
        + (f" and {len(what) - 2} more" if len(what) > 2 else ""),
        changes,
        round(SCALE * changes / most, 1) if most else 0.0,
        periods_of(visibility.intervals, *window, known_until_ms=known_until_ms, most=_PERIODS_OF_STRIP),
    )


def steps_of(changed: dict[str, FieldChange]) -> list[Step]:
    """What a change did, field by field; None where the field had no value."""
    return [Step(name, _text_or_none(change.from_), _text_or_none(change.to)) for name, change in changed.items()]


def compare(before: Room | None, after: Room | None) -> list[Compared]:
    """All fields of a room at two times; None for a time when the room was unknown."""
    old = _values_of(before) if before else {}
    new = _values_of(after) if after else {}
    # Values differ by their JSON: the texts of 1 and "1" are the same, and those of long values are cut.
    return [
        Compared(
            name,
            text_of(old[name]) if name in old else None,
            text_of(new[name]) if name in new else None,
            name not in old or name not in new or bytes(old[name]) != bytes(new[name]),
        )
        for name in sorted(old.keys() | new.keys())
    ]


class Blame(msgspec.Struct, frozen=True):
    """Which event last changed or first set a field."""

    set_at_ms: int
    event_id: str
    operator: msgspec.Raw


def blame_of(room: Room) -> dict[str, Blame]:
    """The blame of each field."""
    return msgspec.json.decode(msgspec.json.encode(room.fields), type=dict[str, Blame])


def _values_of(room: Room) -> dict[str, msgspec.Raw]:
    return msgspec.json.decode(msgspec.json.encode(room.room_info), type=dict[str, msgspec.Raw])


def _text_or_none(value: Any) -> str | None:
    return None if value is msgspec.UNSET else text_of(value)
