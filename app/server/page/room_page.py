"""What a room's page shows: its timeline, its state at a moment, its history, and two times side by side."""

from typing import Any

from app.event import Cut
from app.infra.errors import NotFound
from app.infra.times import now_ms
from app.queries import history, rooms
from app.queries import visibility as visibilities
from app.queries.answers import Change, Room
from app.queries.reader import Moment
from app.server.page import views
from app.server.page.asked import RoomAsked
from app.server.page.drawing import periods_of, place, ticks_of

_CHANGES_A_PAGE = 25
_TICKS = 500
_PERIODS = 500
_AFTERWARDS_MS = 60_000


def read_room(moment: Moment, room_id: str, asked: RoomAsked) -> dict[str, Any]:
    """The values of the template. Raises NotFound."""
    now = now_ms()
    span = history.time_span(moment, room_id)
    end_ms = _end_of_scale(span.first_ms, span.last_ms, now)
    state = _state(moment, room_id, asked.cut)
    return {
        "room_id": room_id,
        "span": span,
        "end_ms": end_ms,
        "known_end_ms": _end_of_scale(span.first_received_ms, span.last_received_ms, now),
        "quiet": end_ms < now - 1000,
        "state": state,
        "room_name": views.name_of(state) if state is not None else None,
        "fields": views.fields_of(state, _platforms(moment, state)) if state is not None else [],
        **_steps(moment, room_id, asked),
        **_timeline(moment, room_id, asked.known_cut, (span.first_ms, end_ms), now),
        **_history(moment, room_id, asked),
        "cursor_x": place(end_ms if asked.at_ms is None else asked.at_ms, span.first_ms, end_ms),
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


def _timeline(moment: Moment, room_id: str, cut: Cut, scale: tuple[int, int], now: int) -> dict[str, Any]:
    try:
        changes = history.history(moment, room_id, cut, limit=_TICKS)
        visibility = visibilities.visibility(moment, room_id, cut, now_ms=now)
    except NotFound:
        return {"ticks": [], "more_ticks": False, "periods": [], "visibility": None}
    return {
        "ticks": ticks_of(changes.changes, *scale),
        "more_ticks": changes.next_cursor is not None,
        "periods": periods_of(visibility.intervals[-_PERIODS:], *scale, visibility.window.to_ms),
        "visibility": visibility,
    }


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
