"""From the log to the read models: catch up, rebuild, and a room at any cut. The only writer of read models.

What a projection's rows say is settled in `fold`; this file decides which events to give it, in which transaction.
"""

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import ExitStack
from threading import Thread
from typing import Any

import msgspec

from app import db
from app.event import Event
from app.fold import ProjectionFailed, Run, Saved, fold, reason_of, start
from app.read_models import Checkpoint, ReadModels
from app.store import EventStore, Record
from app.tencent import read_event
from projections import ALL, Projection

BATCH = 500
"""Events that one transaction of `catch_up` covers, at most."""
REBUILD_FROM = 20_000
"""From so many unread events on, a projection that has read none is rebuilt: room by room is faster."""
REBUILD_PREFIX = "rebuild_"
_CHUNK_EVENTS = 20_000  # a task of a rebuild: whole rooms, of about so many events
_MAX_TIME_MS = 2**63 - 1

Progress = Callable[[int, int], None]
"""Told now and then how many events are done, and of how many."""


class Cut(msgspec.Struct, frozen=True):
    """Which events count: those at positions <= upto that happened at or before `as_of_ms` (None: all)."""

    upto: int
    as_of_ms: int | None = None

    def until(self, time_ms: int) -> "Cut":
        """The same cut, at an earlier time if that is earlier."""
        return Cut(self.upto, time_ms if self.as_of_ms is None else min(time_ms, self.as_of_ms))


class CaughtUp(msgspec.Struct, frozen=True):
    """What a step of `catch_up` did: events read, how many of them were late, and whether there are more."""

    events: int
    late: int
    more: bool


def no_progress(done: int, total: int) -> None:
    """Tell nobody."""


def event_of(record: Record) -> Event:
    """Make the event that projections see from a row of a room's log."""
    assert record.room_id is not None, f"position {record.position} belongs to no room"
    return read_event(
        record.event_id, record.event_time_ms, record.room_id, record.command, record.operator, record.body
    )


def events_of(records: Iterable[Record]) -> Iterator[tuple[int, Event]]:
    """Rows of the log as `fold` takes them."""
    for record in records:
        yield record.position, event_of(record)


# ---- catching up: in log order, one transaction a batch ----


def catch_up(log: EventStore, models: ReadModels, limit: int = BATCH) -> CaughtUp:
    """Let every projection read the next events of the log; rows, states and checkpoints change together.

    A projection that raises is stopped before the event it raised on, with the error in its checkpoint; the others
    go on. Any number of processes may do this at the same time.
    """
    head = log.head().position
    if all(checkpoint.position >= head for checkpoint in going(log, models).values()):
        return CaughtUp(0, 0, more=False)  # without taking the write lock
    try:
        with db.transaction(models.conn):
            return _read_on(log, models, limit)
    except BaseException:
        models.forget_heads()  # they are ahead of what was rolled back
        raise


def catch_up_all(log: EventStore, models: ReadModels, progress: Progress = no_progress) -> None:
    """Bring every projection that has not stopped to the end of the log."""
    begin = min(models.checkpoint(name).position for name in models.projections)
    done = 0
    while True:
        step = catch_up(log, models)
        done += step.events
        progress(done, max(done, log.head().position - begin))
        if not step.more:
            break


def stale_projections(log: EventStore, models: ReadModels) -> dict[str, str]:
    """Name the projections that need a rebuild, each with the reason.

    Raises db.NewerSchema if a newer version of this program wrote one.
    """
    reasons = {}
    head = log.head().position
    for name, projection in models.projections.items():
        checkpoint = models.checkpoint(name)
        if checkpoint.version > projection.VERSION:
            raise db.NewerSchema(
                f"read model {name} is of version {checkpoint.version}, this Roomlapse knows {projection.VERSION}:"
                " upgrade it, or delete read_models.db to rebuild it in the older form"
            )
        if checkpoint.version < projection.VERSION:
            reasons[name] = f"version {checkpoint.version} is now {projection.VERSION}"
        elif checkpoint.chain != log.chain_at(checkpoint.position):
            reasons[name] = "it was made from another log"
        elif checkpoint.position == 0 and head >= REBUILD_FROM:
            reasons[name] = "it has read nothing yet"
    return reasons


def resume(models: ReadModels) -> None:
    """Let projections that stopped try again, after whatever made them stop has been mended."""
    if all(models.checkpoint(name).error is None for name in models.projections):
        return  # nearly always: without taking the write lock
    with db.transaction(models.conn):
        for name in models.projections:
            checkpoint = models.checkpoint(name)
            if checkpoint.error is not None:
                models.save_checkpoint(name, msgspec.structs.replace(checkpoint, error=None))


def going(log: EventStore, models: ReadModels) -> dict[str, Checkpoint]:
    """The projections that can read on: not those that stopped, nor those of another version or another log."""
    checkpoints = {name: models.checkpoint(name) for name in models.projections}
    return {
        name: checkpoint
        for name, checkpoint in checkpoints.items()
        if checkpoint.error is None
        and checkpoint.version == models.projections[name].VERSION
        and checkpoint.chain == log.chain_at(checkpoint.position)
    }


def _read_on(log: EventStore, models: ReadModels, limit: int) -> CaughtUp:
    checkpoints = going(log, models)
    if not checkpoints:
        return CaughtUp(0, 0, more=False)
    after = min(checkpoint.position for checkpoint in checkpoints.values())
    records = log.tail(after, limit)
    if not records:
        return CaughtUp(0, 0, more=False)
    events = {record.position: event_of(record) for record in records if record.room_id is not None}
    late = 0
    for name, checkpoint in checkpoints.items():
        fresh = [record for record in records if record.position > checkpoint.position]
        models.keep_heads(name, checkpoint.position)
        if fresh:
            late = max(late, _project(log, models, name, fresh, events))
    return CaughtUp(len(records), late, more=len(records) == limit)


def _project(log: EventStore, models: ReadModels, name: str, records: list[Record], events: Mapping[int, Event]) -> int:
    """Take a projection over some records; if one of them makes it fail, stop it right before that one."""
    try:
        with db.savepoint(models.conn):
            return _advance(log, models, name, records, events)
    except ProjectionFailed as failure:
        models.forget_heads()
        if len(records) == 1:
            stop(models, name, failure)
            return 0
    late = 0
    for record in records:  # one by one, up to the one that fails
        if models.checkpoint(name).error is None:
            late += _project(log, models, name, [record], events)
    return late


def stop(models: ReadModels, name: str, failure: ProjectionFailed) -> None:
    """Keep a projection where it is, and say why in its checkpoint."""
    models.save_checkpoint(name, msgspec.structs.replace(models.checkpoint(name), error=str(failure)))


def _advance(log: EventStore, models: ReadModels, name: str, records: list[Record], events: Mapping[int, Event]) -> int:
    """Fold some records and write what comes of it; return how many were late. Raises ProjectionFailed."""
    plan = _plan(log, models, name, records, events)
    last = records[-1]
    try:
        for room_id, saved, run, head in plan:
            models.write(name, room_id, saved, run, head=head)
    except db.UNFIT_VALUE as error:
        raise ProjectionFailed(name, last.position, last.event_id, reason_of(error)) from error
    models.save_checkpoint(name, Checkpoint(models.projections[name].VERSION, last.position, last.chain, None))
    heads = {room_id: head for room_id, _, _, head in plan}
    return sum(_late_among(room, heads[room_id]) for room_id, room in _by_room(records).items())


def _late_among(records: list[Record], head: Saved) -> int:
    """How many of a room's records, in log order, arrived after one that sorts behind them."""
    late, furthest = 0, head.key
    for record in records:
        if record.key < furthest:
            late += 1
        furthest = max(furthest, record.key)
    return late


def _by_room(records: list[Record]) -> dict[str, list[Record]]:
    rooms: dict[str, list[Record]] = {}
    for record in records:
        if record.room_id is not None:
            rooms.setdefault(record.room_id, []).append(record)
    return rooms


def _plan(
    log: EventStore, models: ReadModels, name: str, records: list[Record], events: Mapping[int, Event]
) -> list[tuple[str, Saved, Run, Saved]]:
    """Fold without writing: for each room, the state that the fold goes on from, what it gives, and the last state."""
    plan = []
    upto = records[-1].position
    for room_id, fresh in _by_room(records).items():
        fresh.sort(key=lambda record: record.key)
        head = models.head(name, room_id)
        first = fresh[0].key
        saved = head if head.key < first else models.saved_before(name, room_id, first)
        if saved.key == head.key:
            history: Iterable[tuple[int, Event]] = [(record.position, events[record.position]) for record in fresh]
        else:
            history = events_of(log.history(room_id, after=saved.key, upto=upto))
        plan.append((room_id, saved, fold(name, models.projections[name], room_id, saved, history), head))
    return plan


# ---- time travel: the same fold over another cut ----


def rows_at(log: EventStore, models: ReadModels, name: str, room_id: str, cut: Cut) -> list[Any]:
    """The rows that a read model has for a room when only the events of the cut count.

    Goes on from the last saved state that holds for the cut; equal to a fold from the room's first event.
    """
    saved, run = fold_at(log, models, name, room_id, cut)
    if models.projections[name].Row.GROWS and saved.events:
        return models.rows_before(name, room_id, run.first) + run.rows
    return run.rows


def fold_at(log: EventStore, models: ReadModels, name: str, room_id: str, cut: Cut) -> tuple[Saved, Run]:
    """Fold a room up to a cut; return the saved state it went on from and what came of it."""
    as_of_ms = _MAX_TIME_MS if cut.as_of_ms is None else cut.as_of_ms
    saved = models.saved_at(name, room_id, as_of_ms, cut.upto)
    history = log.history(room_id, after=saved.key, upto=cut.upto, as_of_ms=cut.as_of_ms)
    return saved, fold(name, models.projections[name], room_id, saved, events_of(history))


# ---- rebuild: room by room, beside the live tables ----


def rebuild(
    log: EventStore,
    models: ReadModels,
    names: Iterable[str] | None = None,
    *,
    jobs: int = 1,
    progress: Progress = no_progress,
) -> int:
    """Fold the whole log again into new tables and swap them in when they are whole; return how many events it read.

    Receivers and readers go on meanwhile, readers with the old tables. Whatever ends it early, ProjectionFailed
    included, leaves the old ones as they were. One rebuild at a time: the caller holds the lock.
    """
    chosen = {name: models.projections[name] for name in (models.projections if names is None else names)}
    drop_leftovers(models)
    shadow = ReadModels(models.conn, chosen, REBUILD_PREFIX)
    shadow.create()
    head = log.head()
    done = 0
    progress(0, head.position)
    with ExitStack() as stack:
        for flat, events in _fold_rooms(log, chosen, head.position, jobs, stack):
            with db.transaction(models.conn):
                for name, (rows, states) in flat.items():
                    try:
                        shadow.insert(name, rows, states)
                    except db.UNFIT_VALUE as error:
                        raise ProjectionFailed(name, head.position, "one of these rooms'", reason_of(error)) from error
            done += events
            progress(done, head.position)
    with db.transaction(models.conn):
        for name, projection in chosen.items():
            shadow.save_checkpoint(name, Checkpoint(projection.VERSION, head.position, head.chain, None))
    while catch_up(log, shadow).more:
        pass
    with db.transaction(models.conn):  # the last events and the swap: nobody sees the one without the other
        while _read_on(log, shadow, BATCH).more:
            pass
        for name in chosen:
            if (reason := shadow.checkpoint(name).error) is not None:
                raise ProjectionFailed(name, head.position, "behind it", reason)
        models.take_over(shadow)
        shadow.drop()
    progress(head.position, head.position)
    return head.position


def has_leftovers(models: ReadModels) -> bool:
    """Whether a rebuild is running, or was killed and left its tables behind."""
    return bool(ReadModels(models.conn, {}, REBUILD_PREFIX).table_names())


def drop_leftovers(models: ReadModels) -> None:
    """Remove what a rebuild left behind when it was killed. The caller holds the rebuild lock."""
    with db.transaction(models.conn):
        ReadModels(models.conn, {}, REBUILD_PREFIX).drop()


Flat = dict[str, tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]]


def _fold_rooms(
    log: EventStore, projections: Mapping[str, Projection], upto: int, jobs: int, stack: ExitStack
) -> Iterator[tuple[Flat, int]]:
    """Fold all rooms, some at a time; give the columns of their rows and states, and how many events that took."""
    chunks = list(_chunks(log.room_sizes(upto)))
    if jobs == 1 or len(chunks) < 2:
        for first, last, events in chunks:
            yield _fold_chunk(log, projections, first, last, upto), events
        return
    pool = stack.enter_context(
        ProcessPoolExecutor(
            min(jobs, len(chunks)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_Worker.open,
            initargs=(log.path, tuple(projections)),
        )
    )
    stack.callback(pool.shutdown, cancel_futures=True)
    waiting: list[tuple[Future[Flat], int]] = []
    for first, last, events in chunks:
        waiting.append((pool.submit(_Worker.fold_chunk, first, last, upto), events))
        if len(waiting) > 2 * jobs:  # bounded: results wait in memory until they are written
            future, count = waiting.pop(0)
            yield future.result(), count
    for future, count in waiting:
        yield future.result(), count


def _chunks(sizes: Iterable[tuple[str, int]]) -> Iterator[tuple[str, str, int]]:
    """Cut the rooms, in order, into ranges (first room, last room, events) of about the same number of events."""
    first, events = None, 0
    last = ""
    for room_id, size in sizes:
        first = room_id if first is None else first
        last, events = room_id, events + size
        if events >= _CHUNK_EVENTS:
            yield first, last, events
            first, events = None, 0
    if first is not None:
        yield first, last, events


def _fold_chunk(log: EventStore, projections: Mapping[str, Projection], first: str, last: str, upto: int) -> Flat:
    tables = ReadModels(log.conn, projections)  # for its way of making columns; it writes nothing
    flat: Flat = {name: ([], []) for name in projections}
    for room_id, history in log.histories(first=first, last=last, upto=upto):
        for name, projection in projections.items():
            run = fold(name, projection, room_id, start(projection), history)
            try:
                rows, states = tables.flatten(name, room_id, run)
            except db.UNFIT_VALUE as error:
                position, event = history[-1]
                raise ProjectionFailed(name, position, event.event_id, reason_of(error)) from error
            flat[name][0].extend(rows)
            flat[name][1].extend(states)
    return flat


class _Worker:
    """A process of a rebuild: its own reader on the log, and the projections by name (modules do not cross over)."""

    log: EventStore
    projections: Mapping[str, Projection]

    @classmethod
    def open(cls, path: str, names: tuple[str, ...]) -> None:
        cls.log = EventStore(db.open_reader(path))
        gc.disable()  # a fold makes millions of small objects and no cycles; the collector would look at them all
        cls.projections = {name: ALL[name] for name in names}
        Thread(target=cls._end_with_parent, daemon=True).start()

    @classmethod
    def fold_chunk(cls, first: str, last: str, upto: int) -> Flat:
        return _fold_chunk(cls.log, cls.projections, first, last, upto)

    @staticmethod
    def _end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)  # a killed parent cannot end its pool; nothing here is worth finishing
