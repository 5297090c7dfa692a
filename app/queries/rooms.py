"""What rooms are like: one of them, lists of them, and what differs between two times of one."""

import re
from bisect import insort
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from app.event import Cut, Key
from app.infra.errors import NotFound
from app.infra.times import format_time
from app.log import room_index
from app.projector.read_models import ReadModels
from app.projector.time_travel import fold_at, rows_at
from app.queries.answers import Diff, FieldChange, Room, Rooms
from app.queries.paging import DEFAULT_LIMIT, Integer, check_limit, read_cursor, write_cursor
from app.queries.reader import Moment
from projections import current_room

# As a GLOB: characters that casefold to something with an ASCII letter in it, as SQLite's LIKE does not know.
_FOLDS_TO_ASCII = "*[\u00df\u0130\u0149\u017f\u01f0\u1e96-\u1e9a\u1e9e\u212a\ufb00-\ufb06]*"


def room(moment: Moment, room_id: str, cut: Cut) -> Room:
    """A room as of a time, as known at another. Raises NotFound."""
    cut = moment.cut(cut, "current_room")
    row = _row(moment, room_id, cut)
    if row is None:
        raise no_room(room_id, cut)
    return _room(row, cut)


def rooms(
    moment: Moment,
    cut: Cut,
    *,
    public: bool | None = None,
    q: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Rooms:
    """Rooms by room_id: all, or those public (hidden) then, or those whose id or name then holds `q`."""
    check_limit(limit)
    after: str = read_cursor(cursor, str) if cursor else ""
    needle = q.casefold() if q else None
    found: list[Room] = []
    cut = moment.cut(cut, *(["current_room"] if public is None else ["current_room", "visibility"]))
    for room_id in _candidates(moment, public, after, cut):
        row = _row(moment, room_id, cut)
        if row is None or not _matches(row, needle):
            continue
        if len(found) == limit:
            return Rooms(found, write_cursor(found[-1].room_id))
        found.append(_room(row, cut))
    return Rooms(found, None)


def latest_rooms(
    moment: Moment,
    cut: Cut,
    *,
    public: bool | None = None,
    q: str | None = None,
    limit: int = DEFAULT_LIMIT,
    cursor: str | None = None,
) -> Rooms:
    """The rooms that `rooms` gives, those whose last update is the latest first."""
    check_limit(limit)
    before = read_cursor(cursor, tuple[Integer, str]) if cursor else None
    needle = q.casefold() if q else None
    found: list[Room] = []
    cut = moment.cut(cut, "current_room", "visibility")
    for place in _latest(moment, cut, needle):
        if before is not None and place >= before:
            continue
        room_id = place[1]
        row = _row(moment, room_id, cut)
        if row is None or not _matches(row, needle):
            continue
        if public is not None and _is_public(moment, room_id, cut) is not public:
            continue
        if len(found) == limit:
            return Rooms(found, write_cursor((found[-1].event_time_ms, found[-1].room_id)))
        found.append(_room(row, cut))
    return Rooms(found, None)


def named_rooms(
    moment: Moment, room_ids: Iterable[str], cut: Cut, *, public: bool | None = None, q: str | None = None
) -> list[Room]:
    """Those of some rooms that a list of all would hold."""
    needle = q.casefold() if q else None
    cut = moment.cut(cut, "current_room", "visibility")
    found = []
    for room_id in room_ids:
        row = _row(moment, room_id, cut)
        if row is None or not _matches(row, needle):
            continue
        if public is None or _is_public(moment, room_id, cut) is public:
            found.append(_room(row, cut))
    return found


def cursor_behind(room: Room, *, by_name: bool) -> str:
    """The cursor that `rooms` or `latest_rooms` would give after a room."""
    return write_cursor(room.room_id if by_name else (room.event_time_ms, room.room_id))


def diff(moment: Moment, room_id: str, from_ms: int, to_ms: int, cut: Cut) -> Diff:
    """What differs between a room as of `from_ms` and as of `to_ms`. Raises NotFound if it was unknown at both."""
    cut = moment.cut(cut, "current_room")
    before = _values(moment, room_id, cut.until(from_ms))
    after = _values(moment, room_id, cut.until(to_ms))
    if before is None and after is None:
        raise no_room(room_id, Cut(as_of_ms=to_ms, known_at_ms=cut.known_at_ms))
    return Diff(difference(before or {}, after or {}))


def check_known(moment: Moment, room_id: str, cut: Cut) -> None:
    """Raise NotFound if no update of a room counts; the cut ends at a position."""
    if _row(moment, room_id, cut) is None:
        raise no_room(room_id, cut)


def no_room(room_id: str, cut: Cut) -> NotFound:
    """The error that says that a room is unknown, and at which times if a cut has any."""
    times = [
        f"{what} {format_time(time_ms)}"
        for what, time_ms in (("as of", cut.as_of_ms), ("known at", cut.known_at_ms))
        if time_ms is not None
    ]
    return NotFound(f"no room {room_id!r} at that time: {', '.join(times)}" if times else f"no room {room_id!r}")


def difference(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, FieldChange]:
    """Compare two sets of fields whose values are canonical JSON text."""
    return {
        name: FieldChange(
            msgspec.Raw(before[name].encode()) if name in before else msgspec.UNSET,
            msgspec.Raw(after[name].encode()) if name in after else msgspec.UNSET,
        )
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def _row(moment: Moment, room_id: str, cut: Cut) -> Any:
    rows = moment.rows("current_room", room_id, cut)
    return rows[0] if rows else None


def _room(row: Any, cut: Cut) -> Room:
    return Room(
        row.room_id,
        row.room_info,
        row.fields,
        row.event_id,
        row.event_time_ms,
        row.events,
        cut.as_of_ms,
        cut.known_at_ms,
    )


class _Named(msgspec.Struct):
    name: Any = msgspec.field(name="RoomName", default="")


def _matches(row: Any, needle: str | None) -> bool:
    """Whether a room's id or name holds a text that is casefolded."""
    if needle is None or needle in row.room_id.casefold():
        return True
    name = msgspec.json.decode(row.room_info, type=_Named).name
    return isinstance(name, str) and needle in name.casefold()


def _values(moment: Moment, room_id: str, cut: Cut) -> dict[str, str] | None:
    state: current_room.State = fold_at(moment.log, moment.models, "current_room", room_id, cut)[1].last.state
    return {name: field.value for name, field in state.fields.items()} if state.events else None


# ---- which rooms, by room_id ----


def _candidates(moment: Moment, public: bool | None, after: str, cut: Cut) -> Iterator[str]:
    """The rooms among which to look, by room_id: those that are public (hidden) in the cut, or all."""
    if public is None:
        yield from moment.models.room_ids("current_room", after)
    elif cut.upto == moment.position("visibility"):
        yield from _public_room_ids(moment.models, cut.as_of_ms, public, after)
    else:
        for room_id in moment.models.room_ids("visibility", after):
            intervals = rows_at(moment.log, moment.models, "visibility", room_id, cut)
            if intervals and intervals[-1].public == public:
                yield room_id


def _public_room_ids(models: ReadModels, at_ms: int | None, public: bool, after: str) -> Iterator[str]:
    """The rooms that are (or, at a time, were) public or hidden, by room_id, behind `after`."""
    where = "to_ms IS NULL" if at_ms is None else "from_ms <= :at AND (to_ms IS NULL OR to_ms > :at)"
    for (room_id,) in models.conn.execute(
        f"SELECT room_id FROM visibility WHERE room_id > :after AND public = :public AND {where} ORDER BY room_id",
        {"at": at_ms, "public": public, "after": after},
    ):
        yield room_id


def _is_public(moment: Moment, room_id: str, cut: Cut) -> bool | None:
    intervals = moment.rows("visibility", room_id, cut)
    return intervals[-1].public if intervals else None


# ---- which rooms, the latest first ----


def _latest(moment: Moment, cut: Cut, needle: str | None) -> Iterator[Key]:
    """Rooms with the time of their last update in the cut, the latest first."""
    if not cut.holds_all_upto(moment.position("current_room")):
        yield from _latest_in_log(moment, cut)
    else:
        plain = needle is not None and needle.isascii() and needle.isprintable() and not set(needle) & set('"\\')
        yield from _latest_in_read_model(moment.models, needle if plain else None)


def _latest_in_read_model(models: ReadModels, text: str | None) -> Iterator[Key]:
    """The same; `text`: only rooms that hold it somewhere.

    The text is ASCII and compared without regard to case; it may hold none of the characters that JSON escapes.
    A room with a character in it that is an ASCII one in another case (as ß is ss) is given whatever the text.
    """
    where, args = "", tuple[str, ...]()
    if text is not None:
        pattern = "%" + re.sub(r"([%_!])", r"!\1", text) + "%"
        where = "WHERE room_id LIKE ? ESCAPE '!' OR room_info LIKE ? ESCAPE '!' OR room_id GLOB ? OR room_info GLOB ?"
        args = (pattern, pattern, _FOLDS_TO_ASCII, _FOLDS_TO_ASCII)
    yield from models.conn.execute(
        f"SELECT event_time_ms, room_id FROM rooms {where} ORDER BY event_time_ms DESC, room_id DESC", args
    )


def _latest_in_log(moment: Moment, cut: Cut) -> Iterator[Key]:
    """The same, from the log: a room's last event is at or behind its last update, and much sooner found."""
    log = moment.log
    ready: list[Key] = []  # whose last updates are known, the latest at the end
    for bound in room_index.last_times(log, upto=cut.upto, as_of_ms=cut.latest_ms):
        while ready and ready[-1] >= bound:
            yield ready.pop()
        time_ms = room_index.last_update_ms(log, bound[1], upto=cut.upto, as_of_ms=cut.latest_ms)
        if time_ms is not None:
            insort(ready, (time_ms, bound[1]))
    yield from reversed(ready)
