"""What the page draws: answers made into shapes with places and widths. Pure; knows nothing of HTTP or HTML."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from app.event import canonical_json
from app.infra.times import format_duration, format_time
from app.queries.answers import Change, ChangeCounts, FieldChange, Interval, Room, Visibility

SCALE = 1000
"""The width of everything that is drawn: places are parts of it."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_DELAY_BOUNDS_MS = (0, 100, 250, 500, 1000, 2500, 5000, 15_000, 60_000, 600_000)
_MAX_TEXT = 400
_NAME = "RoomName"


class Period(msgspec.Struct, frozen=True):
    """An interval of visibility to draw: from `x`, `width` wide."""

    x: float
    width: float
    public: bool
    from_ms: int
    to_ms: int | None
    duration_ms: int
    label: str


class Tick(msgspec.Struct, frozen=True):
    """A change to draw on a room's timeline."""

    x: float
    at_ms: int
    late: bool
    label: str


class FieldView(msgspec.Struct, frozen=True):
    """A field of a room with its blame; `fresh` if the state's last event set it."""

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


class Bar(msgspec.Struct, frozen=True):
    """A column of a histogram: `height` is a part of SCALE."""

    label: str
    count: int
    height: float


class Compared(msgspec.Struct, frozen=True):
    """A field at two times; None where the room did not have it."""

    name: str
    before: str | None
    after: str | None
    differs: bool


def place(at_ms: int, from_ms: int, to_ms: int) -> float:
    """Where a time stands between two others, from 0 to SCALE."""
    if to_ms <= from_ms:
        return 0.0
    return round(min(1.0, max(0.0, (at_ms - from_ms) / (to_ms - from_ms))) * SCALE, 2)


def periods_of(
    intervals: Iterable[Interval], from_ms: int, to_ms: int, open_until_ms: int | None = None
) -> list[Period]:
    """Intervals drawn to scale in a window; the open one ends with it, but lasts until a time if one is given."""
    periods = []
    for interval in intervals:
        end_ms = to_ms if interval.to_ms is None else min(interval.to_ms, to_ms)
        begin_ms = max(interval.from_ms, from_ms)
        if end_ms < begin_ms:
            continue
        x, end = place(begin_ms, from_ms, to_ms), place(end_ms, from_ms, to_ms)
        last_ms = open_until_ms if open_until_ms is not None and interval.to_ms is None else end_ms
        duration_ms = max(0, last_ms - begin_ms)
        word = "public" if interval.public else "hidden"
        until = "ongoing" if interval.to_ms is None else f"to {format_time(interval.to_ms)}"
        label = f"{word} from {format_time(interval.from_ms)} {until}, {format_duration(duration_ms)}"
        periods.append(
            Period(x, round(end - x, 2), interval.public, interval.from_ms, interval.to_ms, duration_ms, label)
        )
    return periods


def ticks_of(changes: Iterable[Change], from_ms: int, to_ms: int) -> list[Tick]:
    """Changes drawn to scale in a window, the oldest first."""
    ticks = [
        Tick(
            place(change.event_time_ms, from_ms, to_ms),
            change.event_time_ms,
            change.late,
            f"{format_time(change.event_time_ms)}: {', '.join(change.changed)} by {text_of(change.operator)}"
            + (f", late: received {format_time(change.received_at_ms)}" if change.late else ""),
        )
        for change in changes
    ]
    return ticks[::-1]


def name_of(room: Room) -> str | None:
    """A room's name, None if it has none."""
    values = _values_of(room)
    return text_of(values[_NAME]) if _NAME in values else None


def fields_of(room: Room, platforms: dict[str, str | None]) -> list[FieldView]:
    """The fields of a room by name; `platforms` by event_id."""
    blame = blame_of(room)
    views = []
    for name, value in _values_of(room).items():
        whole, by = _whole_text_of(value), blame[name]
        views.append(
            FieldView(
                name,
                _shortened(whole),
                whole if whole.lower().startswith(("http://", "https://")) else None,
                by.set_at_ms,
                text_of(by.operator),
                platforms.get(by.event_id),
                by.event_id,
                by.event_id == room.event_id,
            )
        )
    return views


def line_of(room: Room, counts: ChangeCounts, most: int, visibility: Visibility, window: tuple[int, int]) -> RoomLine:
    """A room in the list; `most`: the changes of the room that has the most of them there."""
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
        periods_of(visibility.intervals, *window),
    )


def steps_of(changed: dict[str, FieldChange]) -> list[Step]:
    """What a change did, field by field; None: it had no value."""
    return [Step(name, _text_or_none(change.from_), _text_or_none(change.to)) for name, change in changed.items()]


def compare(before: Room | None, after: Room | None) -> list[Compared]:
    """All fields of a room at two times; None: there was no such room then."""
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


def delays_of(delays_ms: Sequence[int]) -> list[Bar]:
    """A histogram of how long deliveries took. Below nothing: somebody's clock is wrong."""
    bounds = _DELAY_BOUNDS_MS
    names = ["< 0", *(f"< {format_duration(bound)}" for bound in bounds[1:]), f">= {format_duration(bounds[-1])}"]
    counts = [0] * len(names)
    for delay_ms in delays_ms:
        counts[next((i for i, bound in enumerate(bounds) if delay_ms < bound), len(bounds))] += 1
    most = max(counts, default=0)
    return [
        Bar(name, count, round(SCALE * count / most, 1) if most else 0.0)
        for name, count in zip(names, counts, strict=True)
    ]


def visibility_csv(visibility: Visibility) -> str:
    """A timeline as CSV. No cell begins as a formula would: spreadsheets run those."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["room_id", "visibility", "from", "to", "from_ms", "to_ms", "duration_ms"])
    for period in visibility.intervals:
        end_ms = visibility.window.to_ms if period.to_ms is None else period.to_ms
        writer.writerow(
            [
                safe_cell(visibility.room_id),
                "public" if period.public else "hidden",
                format_time(period.from_ms),
                "" if period.to_ms is None else format_time(period.to_ms),
                period.from_ms,
                "" if period.to_ms is None else period.to_ms,
                max(0, end_ms - period.from_ms),
            ]
        )
    return out.getvalue()


def safe_cell(text: str) -> str:
    """A text that no spreadsheet takes for a formula."""
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text


def text_of(value: Any) -> str:
    """A JSON value as a person reads it: a string as it is, anything else as its JSON, digit by digit; cut if long."""
    return _shortened(_whole_text_of(value))


def _whole_text_of(value: Any) -> str:
    if isinstance(value, msgspec.Raw):
        text = bytes(value).decode()
        if text.startswith('"'):
            text = msgspec.json.decode(text, type=str)
    else:
        text = value if isinstance(value, str) else canonical_json(value)
    return text


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"


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
