"""The reads: what was room X like at time T, what did we believe at K, what changed, how often, when was it public.

Boring functions that return structs; HTTP and the command line print the same ones. Each read sees one consistent
moment: the read models in a snapshot, and the log up to the position that they have read.
"""

import base64
import time
from bisect import insort
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice, takewhile
from typing import Annotated, Any

import msgspec

from app.event import BEFORE_ALL, Cut, Event, Key, canonical_json
from app.infra import sqlite
from app.infra.errors import BadQuestion, Behind, NotFound, Unavailable
from app.infra.times import format_time
from app.log import quarantine, room_index
from app.log.records import Record, Rejected
from app.log.store import EventStore
from app.projector.catch_up import fold_at, rows_at
from app.projector.fold import Saved
from app.projector.read_models import Checkpoint, ReadModels
from app.tencent.body import UPDATE_ROOM_INFO
from projections import current_room

MAX_LIMIT = 500
DEFAULT_LIMIT = 100
_Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]  # what SQLite can compare with
_MAX_TIME_MS = 2**63 - 1
_LAST_ID = "g"  # sorts behind every event_id

Json = Any
"""A JSON value; at run time often a msgspec.Raw, so that numbers go out as they came in."""


class SetBy(msgspec.Struct, frozen=True):
    """Which event last changed or first set a field."""

    set_at_ms: int
    event_id: str
    operator: Json


class Room(msgspec.Struct, frozen=True):
    """A room at a moment: `as_of_ms` and `known_at_ms` are those asked for."""

    room_id: str
    room_info: dict[str, Json]
    fields: dict[str, SetBy]
    event_id: str
    event_time_ms: int
    events: int
    as_of_ms: int | None
    known_at_ms: int | None


class Rooms(msgspec.Struct, frozen=True):
    """A page of rooms, by room_id."""

    rooms: list[Room]
    next_cursor: str | None


class FieldChange(msgspec.Struct, frozen=True, rename={"from_": "from"}):
    """A field's value before and after; `from` is absent where it had none, `to` where it has none."""

    from_: Json | msgspec.UnsetType = msgspec.UNSET
    to: Json | msgspec.UnsetType = msgspec.UNSET


class Change(msgspec.Struct, frozen=True):
    """An event that changed or first set fields. `late`: it arrived after an event that sorts behind it."""

    event_id: str
    position: int
    event_time_ms: int
    received_at_ms: int
    operator: Json
    platform: str | None
    late: bool
    changed: dict[str, FieldChange]


class RoomChange(Change, frozen=True):
    """A change and the room it happened in, as the event stream sends it."""

    room_id: str = ""


class History(msgspec.Struct, frozen=True):
    """A page of a room's changes, newest first."""

    changes: list[Change]
    next_cursor: str | None


class Diff(msgspec.Struct, frozen=True):
    """What differs between two moments of a room."""

    changed: dict[str, FieldChange]


class Counts(msgspec.Struct, frozen=True):
    """How often a field was seen and changed; `last_changed_ms` is null while `changes` is 0."""

    observations: int
    changes: int
    first_seen_ms: int
    last_changed_ms: int | None


class ChangeCounts(msgspec.Struct, frozen=True):
    """The counts of a room's fields."""

    room_id: str
    counts: dict[str, Counts]


class RoomTotal(msgspec.Struct, frozen=True):
    """A room and its number of changes."""

    room_id: str
    changes: int


class ChangeTotals(msgspec.Struct, frozen=True):
    """The counts per field over all rooms, and a page of the rooms with the most changes."""

    counts: dict[str, Counts]
    rooms: list[RoomTotal]
    next_cursor: str | None


class Interval(msgspec.Struct, frozen=True):
    """A half-open interval; `to_ms` is null while it is open."""

    from_ms: int
    to_ms: int | None
    public: bool


class Window(msgspec.Struct, frozen=True):
    """The half-open window that a timeline was asked for; `from_ms` is null if it ends before the timeline begins."""

    from_ms: int | None
    to_ms: int


class Visibility(msgspec.Struct, frozen=True):
    """A room's visibility within a window, and the sums of it."""

    room_id: str
    intervals: list[Interval]
    public_ms: int
    hidden_ms: int
    window: Window


class LogEvent(msgspec.Struct, frozen=True):
    """A row of the log, without its body."""

    position: int
    event_id: str
    room_id: str | None
    command: str
    event_time_ms: int
    received_at_ms: int
    operator: Json
    client_ip: str | None
    platform: str | None
    chain: str


class LogEventWithBody(LogEvent, frozen=True):
    """A row of the log; `body` is exactly what was received."""

    body: str = ""


class Events(msgspec.Struct, frozen=True):
    """A page of the log in log order, and the position where the log ends."""

    events: list[LogEvent]
    head: int


class Quarantined(msgspec.Struct, frozen=True):
    """A refused body. `body` is readable, `body_base64` exact."""

    id: int
    received_at_ms: int
    reason: str
    client_ip: str | None
    platform: str | None
    body: str
    body_base64: str


class Quarantine(msgspec.Struct, frozen=True):
    """A page of the quarantine, newest first."""

    rejected: list[Quarantined]
    next_cursor: str | None


class ProjectionStatus(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far a projection has read; `error` if it stopped, `fingerprint` if asked for."""

    version: int
    position: int
    lag: int
    error: str | None = None
    fingerprint: str | None = None


class Status(msgspec.Struct, frozen=True):
    """The log and its projections in short. `chain` is the last row's."""

    head: int
    events: int
    duplicates: int
    rejected: int
    chain: str
    projections: dict[str, ProjectionStatus]


_Pair = tuple[Record, dict[str, FieldChange]]


class Life(msgspec.Struct, frozen=True):
    """From when to when a room had events, and when the first and the last of them were received."""

    first_ms: int
    last_ms: int
    first_received_ms: int
    last_received_ms: int


class Queries:
    """All reads, behind two read-only connections. Not for use by two threads at a time."""

    def __init__(self, log: EventStore, models: ReadModels) -> None:
        self.log = log
        self.models = models
        self.required = 0
        """The position that a read model has to have read for an answer."""
        self._positions: dict[str, int] = {}
        self._found_in_log: tuple[int, str] | None = None

    def close(self) -> None:
        """Close both connections."""
        self.log.close()
        self.models.close()

    # ---- rooms ----

    def room(self, room_id: str, as_of: int | None = None, known_at: int | None = None) -> Room:
        """A room as of a time, as known at another. Raises NotFound."""
        with self._reading("current_room") as position:
            row = self._room_row(room_id, self._cut(position, as_of, known_at))
            if row is None:
                raise _no_room(room_id, as_of, known_at)
            return _room(row, as_of, known_at)

    def rooms(
        self,
        as_of: int | None = None,
        known_at: int | None = None,
        *,
        public: bool | None = None,
        q: str | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Rooms:
        """Rooms by room_id: all, or those public (hidden) then, or those whose id or name then holds `q`."""
        _check_limit(limit)
        after: str = _read_cursor(cursor, str) if cursor else ""
        needle = q.casefold() if q else None
        found: list[Room] = []
        with self._reading(*(["current_room"] if public is None else ["current_room", "visibility"])) as position:
            cut = self._cut(position, as_of, known_at)
            for room_id in self._candidates(public, after, cut):
                row = self._room_row(room_id, cut)
                if row is None:
                    continue
                if needle is not None and needle not in _name(row) and needle not in room_id.casefold():
                    continue
                if len(found) == limit:
                    return Rooms(found, _write_cursor(found[-1].room_id))
                found.append(_room(row, as_of, known_at))
        return Rooms(found, None)

    def latest_rooms(
        self,
        as_of: int | None = None,
        known_at: int | None = None,
        *,
        public: bool | None = None,
        q: str | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> Rooms:
        """The rooms that `rooms` gives, those whose last update is the latest first."""
        _check_limit(limit)
        before = _read_cursor(cursor, tuple[_Integer, str]) if cursor else None
        needle = q.casefold() if q else None
        found: list[Room] = []
        places: list[Key] = []
        with self._reading("current_room", "visibility") as position:
            cut = self._cut(position, as_of, known_at)
            for place in self._latest(cut, needle):
                if before is not None and place >= before:
                    continue
                room_id = place[1]
                row = self._room_row(room_id, cut)
                if row is None or (needle and needle not in _name(row) and needle not in room_id.casefold()):
                    continue
                if public is not None and self._is_public(room_id, cut) is not public:
                    continue
                if len(found) == limit:
                    return Rooms(found, _write_cursor(places[-1]))
                found.append(_room(row, as_of, known_at))
                places.append(place)
        return Rooms(found, None)

    def _latest(self, cut: Cut, needle: str | None) -> Iterator[Key]:
        """Rooms with the time of their last update in the cut, the latest first."""
        if not cut.holds_all_upto(self._positions["current_room"]):
            yield from self._latest_in_log(cut)
        else:
            plain = needle is not None and needle.isascii() and needle.isprintable() and not set(needle) & set('"\\')
            yield from self.models.latest_rooms(needle if plain else None)

    def _latest_in_log(self, cut: Cut) -> Iterator[Key]:
        """The same, from the log: a room's last event is at or behind its last update, and much sooner found."""
        ready: list[Key] = []  # whose last updates are known, the latest at the end
        for bound in room_index.last_times(self.log, upto=cut.upto, as_of_ms=cut.latest_ms):
            while ready and ready[-1] >= bound:
                yield ready.pop()
            time_ms = room_index.last_update_ms(self.log, bound[1], upto=cut.upto, as_of_ms=cut.latest_ms)
            if time_ms is not None:
                insort(ready, (time_ms, bound[1]))
        yield from reversed(ready)

    def _is_public(self, room_id: str, cut: Cut) -> bool | None:
        intervals = self._rows("visibility", room_id, cut)
        return intervals[-1].public if intervals else None

    def _candidates(self, public: bool | None, after: str, cut: Cut) -> Iterator[str]:
        """The rooms among which to look, by room_id: those that are public (hidden) in the cut, or all."""
        if public is None:
            yield from self.models.room_ids("current_room", after)
        elif cut.upto == self._positions["visibility"]:
            yield from self.models.public_room_ids(cut.as_of_ms, public, after)
        else:
            for room_id in self.models.room_ids("visibility", after):
                intervals = rows_at(self.log, self.models, "visibility", room_id, cut)
                if intervals and intervals[-1].public == public:
                    yield room_id

    def _room_row(self, room_id: str, cut: Cut) -> Any:
        rows = self._rows("current_room", room_id, cut)
        return rows[0] if rows else None

    # ---- history ----

    def history(
        self,
        room_id: str,
        as_of: int | None = None,
        known_at: int | None = None,
        *,
        from_ms: int | None = None,
        to_ms: int | None = None,
        field: str | None = None,
        operator: str | None = None,
        late: bool | None = None,
        limit: int = DEFAULT_LIMIT,
        cursor: str | None = None,
    ) -> History:
        """A room's changes within [from_ms, to_ms), newest first; an event that changed nothing is none of them.

        Only those that touch a field, were made by an operator (as text, or as JSON text), arrived late or did not.
        """
        _check_limit(limit)
        _check_window(from_ms, to_ms)
        end: Key = _read_cursor(cursor, tuple[_Integer, str]) if cursor else (_MAX_TIME_MS, "")
        if to_ms is not None:
            end = min(end, (to_ms, ""))

        def matches(record: Record, changed: dict[str, FieldChange]) -> bool:
            by = operator is None or record.operator in (operator, canonical_json(operator))
            return by and bool(changed) and (field is None or field in changed)

        with self._reading("current_room") as position:
            cut = self._cut(position, as_of, known_at)
            if self._room_row(room_id, cut) is None:
                raise _no_room(room_id, as_of, known_at)
            window = takewhile(
                lambda pair: from_ms is None or pair[0].event_time_ms >= from_ms,
                self._changes_before(room_id, cut, end),
            )
            pairs = (pair for pair in window if matches(*pair))
            found = list(islice(self._with_late(room_id, pairs, late, limit + 1), limit + 1))
        page = found[:limit]
        changes = [_change(record, is_late, changed) for record, changed, is_late in page]
        return History(changes, _write_cursor(page[-1][0].key) if len(found) > limit else None)

    def _with_late(
        self, room_id: str, pairs: Iterator[_Pair], wanted: bool | None, at_once: int
    ) -> Iterator[tuple[Record, dict[str, FieldChange], bool]]:
        """Updates, newest first, each with whether it was late; `wanted`: only those that were, or were not."""
        while some := list(islice(pairs, at_once)):
            late = self._late_positions(room_id, [record for record, _ in some])
            for record, changed in some:
                is_late = record.position in late
                if wanted is None or is_late is wanted:
                    yield record, changed, is_late

    def _changes_before(self, room_id: str, cut: Cut, end: Key) -> Iterator[tuple[Record, dict[str, FieldChange]]]:
        """A room's updates that sort before `end`, newest first: from saved state to saved state backwards."""
        until = end
        while True:
            saved = self._saved_before(room_id, until, cut)
            state, changes = saved.state, []
            for record in room_index.records(
                self.log, room_id, after=saved.key, upto=cut.upto, until=until, as_of_ms=cut.latest_ms
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

    def life(self, room_id: str) -> Life:
        """From when to when a room had events. Raises NotFound."""
        found = room_index.span(self.log, room_id)
        if found is None:
            raise _no_room(room_id, None, None)
        return Life(*found)

    def next_change(
        self, room_id: str, after_ms: int, as_of: int | None = None, known_at: int | None = None
    ) -> int | None:
        """When a room changed next after a time; None if it did not."""
        with self._reading("current_room") as position:
            cut = self._cut(position, as_of, known_at)
            saved, run = fold_at(self.log, self.models, "current_room", room_id, cut.until(after_ms))
            state = run.last.state
            after = max(run.last.key, saved.key, (after_ms, _LAST_ID))
            for record in room_index.records(self.log, room_id, after=after, upto=cut.upto, as_of_ms=cut.latest_ms):
                event = record.event
                if event.room_info is not None:
                    if _changed_by(state, event):
                        return record.event_time_ms
                    state = current_room.apply(state, event)
        return None

    def _saved_before(self, room_id: str, key: Key, cut: Cut) -> Saved:
        """The last saved state before a place in event order that holds for the cut."""
        return self.models.saved_before("current_room", room_id, key, cut.latest_ms, cut.upto)

    def _late_positions(self, room_id: str, records: list[Record]) -> set[int]:
        """Which of some updates, newest first, arrived after an update that sorts behind them."""
        late: set[int] = set()
        overtaker = (_MAX_TIME_MS, BEFORE_ALL)
        by_arrival = sorted(records, key=lambda record: record.position)
        while by_arrival:
            record = by_arrival[-1]
            if overtaker[0] >= record.position or overtaker[1] <= record.key:  # it has not overtaken this one too
                found = self._overtaker_of(room_id, record)
                if found is None:
                    break
                overtaker = found
            late.add(by_arrival.pop().position)
        if by_arrival:
            # What came before the last of these sorts before it: whatever has overtaken the others stands among them.
            in_time = by_arrival[-1]
            others = [record for record in records if record.position not in late]
            late |= self._late_among(room_id, others, in_time)
        return late

    def _overtaker_of(self, room_id: str, late: Record) -> tuple[int, Key] | None:
        """An update that came before another and sorts behind it, None if there is none."""
        for begin_ms, until_ms in self.models.parts_from_before("current_room", room_id, late.key, late.position):
            behind = max(late.key, (begin_ms, ""))
            for found in room_index.overtakers(
                self.log, room_id, behind=behind, before=late.position, until_ms=until_ms
            ):
                return found
        return None

    def _late_among(self, room_id: str, records: list[Record], in_time: Record) -> set[int]:
        """The same, for updates of which the one that came last was in time."""
        overtakers = sorted(
            room_index.overtakers(
                self.log, room_id, behind=records[-1].key, before=in_time.position, until_ms=in_time.event_time_ms
            ),
            key=lambda overtaker: overtaker[1],
            reverse=True,
        )
        late, earliest, i = set(), in_time.position, 0
        for record in records:
            while i < len(overtakers) and overtakers[i][1] > record.key:
                earliest = min(earliest, overtakers[i][0])
                i += 1
            if earliest < record.position:
                late.add(record.position)
        return late

    def changes_after(self, position: int, limit: int) -> tuple[list[RoomChange], int]:
        """The room updates behind a position, in log order, and the position read up to.

        Each says what it changed in its room's history as that stands now, like `history`.
        """
        with self._reading("current_room") as upto:
            records = [record for record in self.log.tail(position, limit) if record.position <= upto]
            rooms: dict[str, list[Record]] = {}
            for record in records:
                if record.command == UPDATE_ROOM_INFO and record.room_id is not None:
                    rooms.setdefault(record.room_id, []).append(record)
            changes = [change for room_id, updates in rooms.items() for change in self._changes(room_id, updates, upto)]
        changes.sort(key=lambda change: change.position)
        return changes, records[-1].position if records else position

    def _changes(self, room_id: str, updates: list[Record], upto: int) -> Iterator[RoomChange]:
        """What some updates of one room changed."""
        updates.sort(key=lambda record: record.key, reverse=True)
        late = self._late_positions(room_id, updates)
        state, reached = None, BEFORE_ALL
        for record in reversed(updates):
            saved = self._saved_before(room_id, record.key, Cut(upto=upto))
            if state is None or saved.key > reached:
                state, reached = saved.state, saved.key
            for earlier in room_index.records(self.log, room_id, after=reached, upto=upto, until=record.key):
                event, reached = earlier.event, earlier.key
                if reached == record.key:
                    change = _change(record, record.position in late, _changed_by(state, event))
                    yield RoomChange(**msgspec.structs.asdict(change), room_id=room_id)
                state = current_room.apply(state, event)

    def diff(
        self, room_id: str, from_ms: int, to_ms: int, as_of: int | None = None, known_at: int | None = None
    ) -> Diff:
        """What differs between a room as of `from_ms` and as of `to_ms`. Raises NotFound if it was unknown at both."""
        with self._reading("current_room") as position:
            cut = self._cut(position, as_of, known_at)
            before = self._values(room_id, cut.until(from_ms))
            after = self._values(room_id, cut.until(to_ms))
        if before is None and after is None:
            raise _no_room(room_id, to_ms, known_at)
        return Diff(_difference(before or {}, after or {}))

    def _values(self, room_id: str, cut: Cut) -> dict[str, str] | None:
        state: current_room.State = fold_at(self.log, self.models, "current_room", room_id, cut)[1].last.state
        return {name: field.value for name, field in state.fields.items()} if state.events else None

    # ---- counts and visibility ----

    def change_counts(self, room_id: str, as_of: int | None = None, known_at: int | None = None) -> ChangeCounts:
        """How often each field of a room was seen and changed. Raises NotFound."""
        with self._reading("change_counts", "current_room") as position:
            cut = self._cut(position, as_of, known_at)
            rows = self._rows("change_counts", room_id, cut)
            if not rows and self._room_row(room_id, cut) is None:
                raise _no_room(room_id, as_of, known_at)
        return ChangeCounts(
            room_id,
            {row.field: Counts(row.observations, row.changes, row.first_seen_ms, row.last_changed_ms) for row in rows},
        )

    def change_totals(self, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> ChangeTotals:
        """The counts per field over all rooms, and the rooms with the most changes."""
        _check_limit(limit)
        after = _read_cursor(cursor, tuple[_Integer, str]) if cursor else None
        with self._reading("change_counts"):
            counts = {field: Counts(*counts) for field, counts in self.models.field_totals()}
            rooms = [RoomTotal(*row) for row in self.models.most_changed(after, limit + 1)]
        page = rooms[:limit]
        more = len(rooms) > limit
        return ChangeTotals(counts, page, _write_cursor((page[-1].changes, page[-1].room_id)) if more else None)

    def visibility(
        self,
        room_id: str,
        as_of: int | None = None,
        known_at: int | None = None,
        *,
        from_ms: int | None = None,
        to_ms: int | None = None,
        now_ms: int | None = None,
    ) -> Visibility:
        """When a room was public and when hidden, clipped to [from_ms, to_ms). Raises NotFound.

        Without `to_ms` the sums end now (or at `as_of`, if that is earlier) and the last interval stays open.
        """
        _check_window(from_ms, to_ms)
        with self._reading("visibility", "current_room") as position:
            cut = self._cut(position, as_of, known_at)
            if cut.holds_all_upto(self._positions["visibility"]):
                rows = self.models.intervals(room_id, from_ms, to_ms)
            else:
                rows = self._rows("visibility", room_id, cut)
            if not rows and self._room_row(room_id, cut) is None:
                raise _no_room(room_id, as_of, known_at)
        end = to_ms
        if end is None:
            now_ms = time.time_ns() // 1_000_000 if now_ms is None else now_ms
            end = now_ms if as_of is None else min(now_ms, as_of)
            end = end if from_ms is None else max(end, from_ms)
        begin = from_ms if from_ms is not None else next((row.from_ms for row in rows if row.from_ms < end), None)
        intervals = list(_clip(rows, from_ms, to_ms))
        sums = {True: 0, False: 0}
        for interval in intervals:
            until = end if interval.to_ms is None else min(interval.to_ms, end)
            sums[interval.public] += max(0, until - interval.from_ms)
        return Visibility(room_id, intervals, sums[True], sums[False], Window(begin, end))

    # ---- the log ----

    def events(self, after: int = 0, limit: int = DEFAULT_LIMIT) -> Events:
        """The log in log order, behind a position."""
        _check_limit(limit)
        with sqlite.snapshot(self.log.conn):
            records = self.log.tail(after, limit)
            return Events([_log_event(record) for record in records], self.log.head().position)

    def event(self, event_id: str) -> LogEventWithBody:
        """One event of the log with its body. Raises NotFound."""
        record = self.log.get(event_id)
        if record is None:
            raise NotFound(f"no event {event_id[:80]!r}")
        return LogEventWithBody(**msgspec.structs.asdict(_log_event(record)), body=record.body)

    def rejected(self, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Quarantine:
        """The quarantine, newest first."""
        _check_limit(limit)
        before = _read_cursor(cursor, _Integer) if cursor else None
        rows = quarantine.page(self.log.conn, before, limit + 1)
        page = rows[:limit]
        return Quarantine(
            [_quarantined(row) for row in page], _write_cursor(page[-1].id) if len(rows) > limit else None
        )

    def status(self, fingerprint: bool = False) -> Status:
        """The log's head and how far each projection is behind it."""
        with sqlite.snapshot(self.models.conn), sqlite.snapshot(self.log.conn):
            # The checkpoints first: a log read after them is never behind them.
            checkpoints = {name: self.models.checkpoint(name) for name in self.models.projections}
            head = self.log.head()
            projections = {
                name: ProjectionStatus(
                    checkpoint.version,
                    checkpoint.position,
                    max(0, head.position - checkpoint.position),
                    checkpoint.error,
                    self.models.fingerprint(name) if fingerprint else None,
                )
                for name, checkpoint in checkpoints.items()
            }
            return Status(
                head.position,
                head.position,
                self.log.duplicates(),
                quarantine.count(self.log.conn),
                head.chain,
                projections,
            )

    # ---- helpers ----

    @contextmanager
    def _reading(self, *names: str) -> Iterator[int]:
        """A consistent moment of some read models; gives the position that all of them have read."""
        with sqlite.snapshot(self.models.conn):
            self._positions = {name: self._position(name) for name in names}
            yield min(self._positions.values())

    def _rows(self, name: str, room_id: str, cut: Cut) -> list[Any]:
        """A room's rows in a cut, at the moment that is being read."""
        if cut.holds_all_upto(self._positions[name]):
            return self.models.rows(name, room_id)
        return rows_at(self.log, self.models, name, room_id, cut)

    def _position(self, name: str) -> int:
        checkpoint = self.models.checkpoint(name)
        if checkpoint.error is not None:
            raise Unavailable(checkpoint.error)
        version = self.models.projections[name].VERSION
        if checkpoint.version != version or not self._is_of_this_log(checkpoint):
            raise Unavailable(f"{name} has to be rebuilt for this version or this log, and will be: try again")
        if checkpoint.position < self.required:
            raise Behind(f"{name} has read up to position {checkpoint.position} of {self.required}")
        return checkpoint.position

    def _is_of_this_log(self, checkpoint: Checkpoint) -> bool:
        place = (checkpoint.position, checkpoint.chain)
        if place != self._found_in_log:
            if checkpoint.chain != self.log.chain_at(checkpoint.position):
                return False
            self._found_in_log = place  # and stays there: the log only grows
        return True

    def _cut(self, position: int, as_of: int | None, known_at: int | None) -> Cut:
        upto = position if known_at is None else min(position, self.log.position_at(known_at))
        return Cut(as_of_ms=as_of, known_at_ms=known_at, upto=upto)


def _room(row: Any, as_of: int | None, known_at: int | None) -> Room:
    return Room(row.room_id, row.room_info, row.fields, row.event_id, row.event_time_ms, row.events, as_of, known_at)


class _Named(msgspec.Struct):
    name: Any = msgspec.field(name="RoomName", default="")


def _name(row: Any) -> str:
    name = msgspec.json.decode(row.room_info, type=_Named).name
    return name.casefold() if isinstance(name, str) else ""


def _no_room(room_id: str, as_of: int | None, known_at: int | None) -> NotFound:
    if as_of is None and known_at is None:
        return NotFound(f"no room {room_id!r}")
    times = [
        f"{what} {format_time(time_ms)}"
        for what, time_ms in (("as of", as_of), ("known at", known_at))
        if time_ms is not None
    ]
    return NotFound(f"no room {room_id!r} at that time: {', '.join(times)}")


def _changed_by(state: current_room.State, event: Event) -> dict[str, FieldChange]:
    before = {name: field.value for name, field in state.fields.items() if name in (event.room_info or {})}
    return _difference(before, event.room_info or {})


def _difference(before: dict[str, str], after: dict[str, str]) -> dict[str, FieldChange]:
    """Compare two sets of fields whose values are canonical JSON text."""
    return {
        name: FieldChange(
            _raw(before[name]) if name in before else msgspec.UNSET,
            _raw(after[name]) if name in after else msgspec.UNSET,
        )
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }


def _raw(text: str | None) -> msgspec.Raw:
    return msgspec.Raw((text or "null").encode())


def _change(record: Record, late: bool, changed: dict[str, FieldChange]) -> Change:
    return Change(
        record.event_id,
        record.position,
        record.event_time_ms,
        record.received_at_ms,
        _raw(record.operator),
        record.platform,
        late,
        changed,
    )


def _log_event(record: Record) -> LogEvent:
    return LogEvent(
        record.position,
        record.event_id,
        record.room_id,
        record.command,
        record.event_time_ms,
        record.received_at_ms,
        _raw(record.operator),
        record.client_ip,
        record.platform,
        record.chain,
    )


def _quarantined(row: Rejected) -> Quarantined:
    return Quarantined(
        row.id,
        row.received_at_ms,
        row.reason,
        row.client_ip,
        row.platform,
        row.body.decode(errors="replace"),
        base64.b64encode(row.body).decode(),
    )


def _clip(rows: list[Any], from_ms: int | None, to_ms: int | None) -> Iterator[Interval]:
    for row in rows:
        begin = row.from_ms if from_ms is None else max(row.from_ms, from_ms)
        end = row.to_ms if to_ms is None else (to_ms if row.to_ms is None else min(row.to_ms, to_ms))
        if end is None or begin < end:
            yield Interval(begin, end, row.public)


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= MAX_LIMIT:
        raise BadQuestion(f"limit must be from 1 to {MAX_LIMIT}")


def _check_window(from_ms: int | None, to_ms: int | None) -> None:
    if from_ms is not None and to_ms is not None and from_ms > to_ms:
        raise BadQuestion("from is after to")


def _write_cursor(place: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def _read_cursor(cursor: str, kind: Any) -> Any:
    try:
        place = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(place, type=kind)
    except (ValueError, msgspec.DecodeError):
        raise BadQuestion("cursor is not one that a page gave as next_cursor") from None
