"""What a room's page shows: its timeline, its state at a moment, its history, and two times side by side."""

from bisect import bisect_right
from operator import attrgetter
from typing import Any

from app.event import Cut
from app.infra.errors import NotFound
from app.infra.times import now_ms
from app.queries import history, rooms
from app.queries import visibility as visibilities
from app.queries.answers import Change, Interval, Room, TimeSpan, Visibility
from app.queries.reader import Moment
from app.server.page import views
from app.server.page.asked import RoomAsked
from app.server.page.drawing import MAX_PERIODS, Period, dense_ticks_of, periods_of, place, ticks_of

_CHANGES_A_PAGE = 25
_TICKS = 500
_PERIODS_OF_TABLE = 100
_ARRIVALS = 50  # around known_at: further ones are asked for on the way
_AFTERWARDS_MS = 60_000


def read_room(moment: Moment, room_id: str, asked: RoomAsked, *, brief: bool = False) -> dict[str, Any]:
    """The values of the template; `brief`: without drawings and tables of periods. Raises NotFound."""
    now = now_ms()
    span = history.time_span(moment, room_id)
    end_ms = _end_of_scale(span.first_ms, span.last_ms, now)
    scale = (span.first_ms, end_ms)
    state = _state(moment, room_id, asked.cut)
    steps = _steps(moment, room_id, asked)
    last = steps["last"]
    changed_by = last.event_id if last is not None else None
    return {
        "room_id": room_id,
        "span": span,
        "end_ms": end_ms,
        "known_scale": _known_scale(span, scale, now),
        "arrivals": history.arrivals(moment, room_id, asked.known_at_ms, _ARRIVALS),
        "quiet": end_ms < now - 1000,
        "state": state,
        "room_name": views.name_of(state) if state is not None else None,
        "fields": views.fields_of(state, _platforms(moment, state), changed_by) if state is not None else [],
        **steps,
        **_timeline(moment, room_id, asked, scale, now, brief=brief),
        **_history(moment, room_id, asked),
        "cursor_x": place(end_ms if asked.at_ms is None else asked.at_ms, *scale),
        "compared": _compared(moment, room_id, asked),
        "head": moment.log.head().position,
    }


def _state(moment: Moment, room_id: str, cut: Cut) -> Room | None:
    try:
        return rooms.room(moment, room_id, cut)
    except NotFound:
        return None


def _platforms(moment: Moment, state: Room) -> dict[str, str | None]:
    """Where each of the events that set a field was sent from, by event_id."""
    platforms = {}
    for event_id in {by.event_id for by in views.blame_of(state).values()}:
        record = moment.log.get(event_id)
        platforms[event_id] = record.platform if record is not None else None
    return platforms


def _steps(moment: Moment, room_id: str, asked: RoomAsked) -> dict[str, Any]:
    """The change that led to the state, and the times of the changes before and after it."""
    at_ms = asked.at_ms
    last = _last_change(moment, room_id, asked.known_cut, None if at_ms is None else at_ms + 1)
    before = _last_change(moment, room_id, asked.known_cut, last.event_time_ms) if last is not None else None
    return {
        "last": last,
        "last_steps": views.steps_of(last.changed) if last is not None else [],
        "previous_ms": before.event_time_ms if before is not None else None,
        "next_ms": None if at_ms is None else history.next_change(moment, room_id, at_ms, asked.known_cut),
    }


def _last_change(moment: Moment, room_id: str, cut: Cut, to_ms: int | None) -> Change | None:
    """The last change before a time, None if there is none."""
    try:
        changes = history.history(moment, room_id, cut, to_ms=to_ms, limit=1).changes
    except NotFound:
        return None
    return changes[0] if changes else None


def _timeline(
    moment: Moment, room_id: str, asked: RoomAsked, scale: tuple[int, int], now: int, *, brief: bool
) -> dict[str, Any]:
    known_ms = asked.known_at_ms
    values: dict[str, Any] = {
        "known_x": None if known_ms is None else place(known_ms, *scale),
        "ticks": [],
        "dense": False,
        "periods": [],
        "thinned_periods": 0,
        "newest": [],
        "visibility": None,
        "public": None,
    }
    end_ms = now if known_ms is None else min(now, known_ms)
    try:
        visibility = visibilities.visibility(moment, room_id, asked.known_cut, now_ms=end_ms)
    except NotFound:
        return values
    values |= {"visibility": visibility, "public": _public_at(visibility, asked.at_ms)}
    return values if brief else values | _drawn(moment, room_id, asked, visibility, scale)


def _drawn(
    moment: Moment, room_id: str, asked: RoomAsked, visibility: Visibility, scale: tuple[int, int]
) -> dict[str, Any]:
    def draw(intervals: list[Interval]) -> list[Period]:
        return periods_of(intervals, *scale, visibility.window.to_ms, known_until_ms=asked.known_at_ms)

    changes = history.history(moment, room_id, asked.known_cut, limit=_TICKS)
    if dense := changes.next_cursor is not None:
        ticks = dense_ticks_of(history.columns(moment, room_id, asked.known_cut, scale, MAX_PERIODS), *scale)
    else:
        ticks = ticks_of(changes.changes, *scale)
    periods = draw(visibility.intervals)
    return {
        "ticks": ticks,
        "dense": dense,
        "periods": periods,
        "thinned_periods": sum(it.count for it in periods) if any(it.count > 1 for it in periods) else 0,
        "newest": draw(visibility.intervals[-_PERIODS_OF_TABLE:]),
    }


def _public_at(visibility: Visibility, at_ms: int | None) -> bool | None:
    """Whether the room was public at a time; without one, whether it is."""
    intervals = visibility.intervals
    found = len(intervals) if at_ms is None else bisect_right(intervals, at_ms, key=attrgetter("from_ms"))
    if not found:
        return None
    last = intervals[found - 1]
    ended = last.to_ms is not None and (at_ms is None or last.to_ms <= at_ms)
    return None if ended else last.public


def _history(moment: Moment, room_id: str, asked: RoomAsked) -> dict[str, Any]:
    try:
        page = history.history(
            moment,
            room_id,
            asked.known_cut,
            field=asked.field or None,
            operator=asked.operator or None,
            late={"yes": True, "no": False}.get(asked.late),
            limit=_CHANGES_A_PAGE,
            cursor=asked.cursor,
        )
    except NotFound:
        return {"changes": [], "next_cursor": None}
    return {
        "changes": [(change, views.steps_of(change.changed)) for change in page.changes],
        "next_cursor": page.next_cursor,
    }


def _compared(moment: Moment, room_id: str, asked: RoomAsked) -> list[views.Compared] | None:
    if asked.a_ms is None or asked.b_ms is None:
        return None
    cuts = [Cut(as_of_ms=at_ms, known_at_ms=asked.known_at_ms) for at_ms in (asked.a_ms, asked.b_ms)]
    before, after = (_state(moment, room_id, cut) for cut in cuts)
    return views.compare(before, after)


def _end_of_scale(first_ms: int, last_ms: int, now: int) -> int:
    """Where a room's timeline ends: now, but soon after its last event if that is long ago."""
    return max(last_ms, min(now, last_ms + max(_AFTERWARDS_MS, (last_ms - first_ms) // 6)))


def _known_scale(span: TimeSpan, scale: tuple[int, int], now: int) -> tuple[int, int]:
    """From when to when the events arrived: the timeline's scale if it holds that, so that both sliders agree."""
    if scale[0] <= span.first_received_ms and span.last_received_ms <= scale[1]:
        return scale
    return span.first_received_ms, _end_of_scale(span.first_received_ms, span.last_received_ms, now)
