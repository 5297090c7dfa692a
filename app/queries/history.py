"""What changed: the history of a room, the updates after a position, the next change after a time."""

from collections.abc import Iterator
from itertools import islice, takewhile

import msgspec

from app.event import BEFORE_ALL, MAX_TIME_MS, Cut, Event, Key, canonical_json
from app.log import room_index
from app.log.records import Record
from app.projector import states
from app.projector.time_travel import fold_at
from app.queries.answers import Change, Column, FieldChange, History, RoomChange, TimeSpan
from app.queries.late import late_positions
from app.queries.paging import DEFAULT_LIMIT, Integer, check_limit, check_window, read_cursor, write_cursor
from app.queries.reader import Moment
from app.queries.rooms import check_known, difference, no_room
from app.tencent.body import UPDATE_ROOM_INFO
from projections import current_room

_LAST_ID = "g"  # sorts behind every event_id

_Pair = tuple[Record, dict[str, FieldChange]]


def history(
    moment: Moment,
    room_id: str,
    cut: Cut,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    field: str | None = None,
    operator: str | None = None,
    late: bool | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> History:
    """A room's changes within [from_ms, to_ms), newest first, without events that changed nothing. Raises NotFound.

    Only those that touch a field, were made by an operator (as text, or as JSON text), arrived late or did not.
    """
    check_limit(limit)
    check_window(from_ms, to_ms)
    end: Key = read_cursor(cursor, tuple[Integer, str]) if cursor else (MAX_TIME_MS, "")
    if to_ms is not None:
        end = min(end, (to_ms, ""))

    def matches(record: Record, changed: dict[str, FieldChange]) -> bool:
        by = operator is None or record.operator in (operator, canonical_json(operator))
        return by and bool(changed) and (field is None or field in changed)

    cut = moment.cut(cut, "current_room")
    check_known(moment, room_id, cut)
    window = takewhile(
        lambda pair: from_ms is None or pair[0].event_time_ms >= from_ms,
        _changes_before(moment, room_id, cut, end),
    )
    pairs = (pair for pair in window if matches(*pair))
    found = list(islice(_with_late(moment, room_id, pairs, late, limit + 1), limit + 1))
    page = found[:limit]
    changes = [_change(record, is_late, changed) for record, changed, is_late in page]
    return History(changes, write_cursor(page[-1][0].key) if len(found) > limit else None)


def next_change(moment: Moment, room_id: str, after_ms: int, cut: Cut) -> int | None:
    """When a room changed next after a time; None if it did not."""
    cut = moment.cut(cut, "current_room")
    saved, run = fold_at(moment.log, moment.models, "current_room", room_id, cut.until(after_ms))
    state = run.last.state
    after = max(run.last.key, saved.key, (after_ms, _LAST_ID))
    for record in room_index.records(moment.log, room_id, after=after, upto=cut.upto, as_of_ms=cut.latest_ms):
        event = record.event
        if event.room_info is not None:
            if _changed_by(state, event):
                return record.event_time_ms
            state = current_room.apply(state, event)
    return None


def time_span(moment: Moment, room_id: str) -> TimeSpan:
    """From when to when a room had events, of any command. Raises NotFound."""
    found = room_index.span(moment.log, room_id)
    if found is None:
        raise no_room(room_id, Cut())
    return TimeSpan(*found)


def columns(moment: Moment, room_id: str, cut: Cut, window: tuple[int, int], most: int) -> list[Column]:
    """A room's events by columns of time, at most `most` over a window: for drawing more than can be told apart."""
    cut = moment.cut(cut, "current_room")
    width_ms = max(1, -(-(window[1] - window[0] + 1) // most))
    found = room_index.columns(moment.log, room_id, upto=cut.upto, from_ms=window[0], width_ms=width_ms)
    return [Column(*row) for row in found]


def arrivals(moment: Moment, room_id: str, around_ms: int | None, most: int) -> list[int]:
    """When a room's events arrived: the last `most` before a time and the first `most` after it; without one, the last.

    Of those that arrived within one millisecond it gives one time.
    """
    log = moment.log
    before = log.head().position if around_ms is None else log.position_at(around_ms - 1)
    after = before if around_ms is None else log.position_at(around_ms)
    return room_index.arrivals(log, room_id, before=before, after=after, most=most)


def changes_after(moment: Moment, position: int, limit: int) -> tuple[list[RoomChange], int]:
    """The room updates after a position, in log order, and the position read up to.

    Each says what it changed in its room's history as that stands now, like `history`.
    """
    upto = moment.position("current_room")
    records = [record for record in moment.log.tail(position, limit) if record.position <= upto]
    rooms: dict[str, list[Record]] = {}
    for record in records:
        if record.command == UPDATE_ROOM_INFO and record.room_id is not None:
            rooms.setdefault(record.room_id, []).append(record)
    changes = [change for room_id, updates in rooms.items() for change in _changes(moment, room_id, updates, upto)]
    changes.sort(key=lambda change: change.position)
    return changes, records[-1].position if records else position


def _changes(moment: Moment, room_id: str, updates: list[Record], upto: int) -> Iterator[RoomChange]:
    """What some updates of one room changed."""
    updates.sort(key=lambda record: record.key, reverse=True)
    late = late_positions(moment, room_id, updates)
    state, reached = None, BEFORE_ALL
    for record in reversed(updates):
        saved = states.saved_before(moment.models, "current_room", room_id, record.key, upto=upto)
        if state is None or saved.key > reached:
            state, reached = saved.state, saved.key
        for earlier in room_index.records(moment.log, room_id, after=reached, upto=upto, until=record.key):
            event, reached = earlier.event, earlier.key
            if reached == record.key:
                change = _change(record, record.position in late, _changed_by(state, event))
                yield RoomChange(**msgspec.structs.asdict(change), room_id=room_id)
            state = current_room.apply(state, event)


def _changes_before(moment: Moment, room_id: str, cut: Cut, end: Key) -> Iterator[_Pair]:
    """A room's updates that sort before `end`, newest first: from saved state to saved state backwards."""
    until = end
    while True:
        saved = states.saved_before(moment.models, "current_room", room_id, until, cut.latest_ms, cut.upto)
        state, changes = saved.state, []
        for record in room_index.records(
            moment.log, room_id, after=saved.key, upto=cut.upto, until=until, as_of_ms=cut.latest_ms
        ):
            event = record.event
            if event.room_info is not None:
                if record.key < end:
                    changes.append((record, _changed_by(state, event)))
                state = current_room.apply(state, event)
        yield from reversed(changes)
        if not saved.events:
            return
        until = saved.key


def _with_late(
    moment: Moment, room_id: str, pairs: Iterator[_Pair], wanted: bool | None, at_once: int
) -> Iterator[tuple[Record, dict[str, FieldChange], bool]]:
    """Updates, newest first, each with whether it was late; `wanted`: only those that were, or were not."""
    while some := list(islice(pairs, at_once)):
        late = late_positions(moment, room_id, [record for record, _ in some])
        for record, changed in some:
            is_late = record.position in late
            if wanted is None or is_late is wanted:
                yield record, changed, is_late


def _changed_by(state: current_room.State, event: Event) -> dict[str, FieldChange]:
    before = {name: field.value for name, field in state.fields.items() if name in (event.room_info or {})}
    return difference(before, event.room_info or {})


def _change(record: Record, late: bool, changed: dict[str, FieldChange]) -> Change:
    return Change(
        record.event_id,
        record.position,
        record.event_time_ms,
        record.received_at_ms,
        msgspec.Raw(record.operator.encode()),
        record.platform,
        late,
        changed,
    )
