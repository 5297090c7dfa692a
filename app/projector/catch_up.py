"""From the log to the read models: catch up, rebuild, and a room at any cut. The only writer of read models.

What a projection's rows say is settled in `fold`; this file decides which events to give it, in which transaction.
"""

import gc
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from operator import itemgetter
from typing import Any

import msgspec

from app.event import Cut, Event, History, Key
from app.infra import sqlite
from app.infra.errors import NewerSchema, ProjectionFailed, reason_of
from app.infra.processes import workers
from app.infra.progress import Progress, no_progress
from app.log import room_index
from app.log.store import EventStore
from app.projector.fold import Run, Saved, fold, start
from app.projector.read_models import Checkpoint, ReadModels
from projections import ALL, Projection

BATCH = 5000
"""Events that one transaction of `catch_up` covers, at most."""
REBUILD_FROM = 20_000
"""From so many unread events on, a projection that has read none is rebuilt: room by room is faster."""
REBUILD_PREFIX = "rebuild_"
_TRIES = 3  # to catch up beside a projector that goes on; then it has to wait
_CHUNK_EVENTS = 20_000  # a task of a rebuild: whole rooms, of about so many events
MAPPED_BYTES = 2**31 - 2**16
"""As much of the log as SQLite maps: for processes that fold room after room, which is all over the file."""


class CaughtUp(msgspec.Struct, frozen=True):
    """What a step of `catch_up` did: events read, how many of them were late, and whether there are more."""

    events: int
    late: int
    more: bool


def catch_up(log: EventStore, models: ReadModels, limit: int = BATCH) -> CaughtUp:
    """Let every projection read the next events of the log; rows, states and checkpoints change together.

    A projection that raises is stopped before the event it raised on, with the error in its checkpoint; the others
    go on. Any number of processes may do this at the same time. The write lock is not held while events are folded,
    which takes long where late ones reach far back: whoever else writes, a rebuild say, has its turn meanwhile.
    """
    head = log.head().position
    if all(checkpoint.position >= head for checkpoint in going(log, models).values()):
        return CaughtUp(0, 0, more=False)  # without taking the write lock
    try:
        with sqlite.snapshot(models.conn):
            step = _fold_on(log, models, limit)
        with sqlite.transaction(models.conn):
            if going(log, models) != step.checkpoints:  # somebody else was faster; now nobody can be
                del step  # two of them would not be in memory at once
                step = _fold_on(log, models, limit)
            return _write(models, step)
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

    Raises NewerSchema if a newer version of this program wrote one.
    """
    reasons = {}
    head = log.head().position
    for name, projection in models.projections.items():
        checkpoint = models.checkpoint(name)
        if checkpoint.version > projection.VERSION:
            raise NewerSchema(
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
    with sqlite.transaction(models.conn):
        for name in models.projections:
            checkpoint = models.checkpoint(name)
            if checkpoint.error is not None:
                models.save_checkpoint(name, msgspec.structs.replace(checkpoint, error=None))


def going(log: EventStore, models: ReadModels) -> dict[str, Checkpoint]:
    """The projections that can read on: not those that stopped, nor those of another version or another log."""
    return {name: checkpoint for name, checkpoint in _of_this_log(log, models).items() if checkpoint.error is None}


def _of_this_log(log: EventStore, models: ReadModels) -> dict[str, Checkpoint]:
    """The projections that have read this log, in this version."""
    checkpoints = {name: models.checkpoint(name) for name in models.projections}
    return {
        name: checkpoint
        for name, checkpoint in checkpoints.items()
        if checkpoint.version == models.projections[name].VERSION
        and checkpoint.chain == log.chain_at(checkpoint.position)
    }


class _Batch:
    """Unread events up to a position: each room's in event order, and the histories that late ones reach back into.

    Read once for all projections.
    """

    def __init__(self, log: EventStore, rooms: Mapping[str, list[tuple[int, Event]]], upto: int) -> None:
        self.log = log
        self.upto = upto
        self.rooms = {room_id: _in_event_order(arrivals) for room_id, arrivals in rooms.items()}
        self._histories: dict[tuple[str, Key], History] = {}

    def history(self, room_id: str, after: Key) -> History:
        """A room's events behind a place in event order, the unread ones among them."""
        found = self._histories.get((room_id, after))
        if found is None:
            found = self._histories[room_id, after] = room_index.history(self.log, room_id, after=after, upto=self.upto)
        return found

    def behind(self, position: int) -> "_Batch":
        """Those of the events that stand behind a position."""
        rooms = {}
        for room_id, history in self.rooms.items():
            arrivals = [pair for pair in zip(history.positions, history.events, strict=True) if pair[0] > position]
            if arrivals:
                rooms[room_id] = arrivals
        return _Batch(self.log, rooms, self.upto)

    def one_by_one(self) -> Iterator["_Batch"]:
        """Each of the events alone, in log order."""
        arrivals = [
            (position, room_id, event)
            for room_id, history in self.rooms.items()
            for position, event in zip(history.positions, history.events, strict=True)
        ]
        for position, room_id, event in sorted(arrivals, key=itemgetter(0)):
            yield _Batch(self.log, {room_id: [(position, event)]}, position)


def _in_event_order(arrivals: list[tuple[int, Event]]) -> History:
    if len(arrivals) > 1:
        arrivals = sorted(arrivals, key=lambda arrival: arrival[1].key)
    return History([position for position, _ in arrivals], [event for _, event in arrivals])


class _Folded(msgspec.Struct, frozen=True):
    """What a batch gives in one projection: a run for each room, and how many of its events were late."""

    batch: _Batch
    runs: list[tuple[str, Saved, Run]]
    late: int


class _Step(msgspec.Struct, frozen=True):
    """The next events of the log, folded and not yet written. It holds as long as the checkpoints are these."""

    checkpoints: dict[str, Checkpoint]
    batches: dict[str, _Batch]
    """What is new to each projection."""
    folded: dict[str, _Folded]
    """Without those that raised on one of the events."""
    events: int
    more: bool


def _fold_on(log: EventStore, models: ReadModels, limit: int) -> _Step:
    """Fold the next events of the log in every projection that can go on. Writes nothing."""
    checkpoints = going(log, models)
    head = log.head().position
    after = min((checkpoint.position for checkpoint in checkpoints.values()), default=head)
    upto = min(head, after + limit)
    if upto <= after:
        return _Step(checkpoints, {}, {}, 0, more=False)
    whole = _Batch(log, log.unread(after, upto), upto)
    batches, folded = {}, {}
    for name, checkpoint in checkpoints.items():
        models.keep_heads(name, checkpoint.position)
        if checkpoint.position < upto:
            batches[name] = whole if checkpoint.position == after else whole.behind(checkpoint.position)
            with suppress(ProjectionFailed):
                folded[name] = _fold(models, name, batches[name])
    return _Step(checkpoints, batches, folded, upto - after, more=upto < head)


def _fold(models: ReadModels, name: str, batch: _Batch) -> _Folded:
    """Fold a batch. Raises ProjectionFailed."""
    projection = models.projections[name]
    runs, late = [], 0
    for room_id, fresh in batch.rooms.items():
        first = fresh.events[0].key
        saved = models.head(name, room_id)
        if saved is not None and saved.key < first:
            history, furthest = fresh, saved.key
        else:
            saved = models.saved_before(name, room_id, first)
            history = batch.history(room_id, saved.key)
            furthest = _last_before(history, min(fresh.positions), saved.key)
        runs.append((room_id, saved, fold(name, projection, room_id, saved, history)))
        late += _late_among(fresh, furthest)
    return _Folded(batch, runs, late)


def _write(models: ReadModels, step: _Step) -> CaughtUp:
    """Write what was folded. Call it inside a transaction."""
    late = 0
    for name, batch in step.batches.items():
        late = max(late, _project(models, name, batch, step.folded.get(name)))
    return CaughtUp(step.events, late, step.more)


def _project(models: ReadModels, name: str, batch: _Batch, folded: _Folded | None) -> int:
    """Take a projection over a batch; return how many of its events were late.

    If one of them makes the projection fail, stop it right before that one.
    """
    try:
        if folded is not None:
            with sqlite.savepoint(models.conn):
                return _advance(models, name, folded)
    except ProjectionFailed:
        models.forget_heads()
    late = 0
    for single in batch.one_by_one():
        try:
            with sqlite.savepoint(models.conn):
                late += _advance(models, name, _fold(models, name, single))
        except ProjectionFailed as failure:
            models.forget_heads()
            stop(models, name, failure)
            return late
    _move_checkpoint(models, name, batch)  # behind the last of these there may be events of no room
    return late


def stop(models: ReadModels, name: str, failure: ProjectionFailed) -> None:
    """Keep a projection where it is, and say why in its checkpoint."""
    models.save_checkpoint(name, msgspec.structs.replace(models.checkpoint(name), error=str(failure)))


def _advance(models: ReadModels, name: str, folded: _Folded) -> int:
    """Write what a batch gave; return how many of its events were late. Raises ProjectionFailed."""
    batch = folded.batch
    try:
        models.write(name, folded.runs)
    except sqlite.UNFIT_VALUE as error:
        *_, fresh = batch.rooms.values()
        raise ProjectionFailed(name, fresh.positions[-1], fresh.events[-1].event_id, reason_of(error)) from error
    _move_checkpoint(models, name, batch)
    return folded.late


def _move_checkpoint(models: ReadModels, name: str, batch: _Batch) -> None:
    chain = batch.log.chain_at(batch.upto)
    assert chain is not None, f"the log has no position {batch.upto}"
    models.move_checkpoint(name, Checkpoint(models.projections[name].VERSION, batch.upto, chain, None))


def _last_before(history: History, position: int, key: Key) -> Key:
    """The last place in event order among a history's events that arrived before a position, `key` if there is none."""
    for at, event in zip(reversed(history.positions), reversed(history.events), strict=True):
        if at < position:
            return event.key
    return key


def _late_among(fresh: History, furthest: Key) -> int:
    """How many of a room's unread events arrived after one that sorts behind them; `furthest` sorts last before."""
    if len(fresh.events) == 1:
        return int(fresh.events[0].key < furthest)
    late = 0
    for _, event in sorted(zip(fresh.positions, fresh.events, strict=True), key=itemgetter(0)):
        if event.key < furthest:
            late += 1
        else:
            furthest = event.key
    return late


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
    saved = models.saved_at(name, room_id, cut.latest_ms, cut.upto)
    history = room_index.history(log, room_id, after=saved.key, upto=cut.upto, as_of_ms=cut.latest_ms)
    return saved, fold(name, models.projections[name], room_id, saved, history)


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
            with sqlite.transaction(models.conn):
                for name, (rows, states) in flat.items():
                    try:
                        shadow.insert(name, rows, states)
                    except sqlite.UNFIT_VALUE as error:
                        raise ProjectionFailed(name, head.position, "one of these rooms'", reason_of(error)) from error
            done += events
            progress(done, head.position)
    with sqlite.transaction(models.conn):
        for name, projection in chosen.items():
            shadow.save_checkpoint(name, Checkpoint(projection.VERSION, head.position, head.chain, None))
    tries = 1
    while not _swap(log, models, shadow, and_catch_up=tries == _TRIES):
        tries += 1
    progress(head.position, head.position)
    return head.position


def _swap(log: EventStore, models: ReadModels, shadow: ReadModels, *, and_catch_up: bool) -> bool:
    """Catch the shadow's tables up and put them in the place of the live ones, where no reader would see a step back.

    Says whether it did so: the projector of a busy server may be faster. It has to wait with `and_catch_up`. Raises
    ProjectionFailed.
    """
    while catch_up(log, shadow).more:
        pass
    with sqlite.transaction(models.conn):
        live = _of_this_log(log, models)
        while _is_behind(going(log, shadow), live):
            if not and_catch_up:
                return False
            _write(shadow, _fold_on(log, shadow, BATCH))
        for name in shadow.projections:
            checkpoint = shadow.checkpoint(name)
            if checkpoint.error is not None:
                raise ProjectionFailed(name, checkpoint.position, "behind it", checkpoint.error)
        models.take_over(shadow)
        shadow.drop()
        return True


def _is_behind(checkpoints: Mapping[str, Checkpoint], others: Mapping[str, Checkpoint]) -> bool:
    """Whether a projection has read less than one of the same name."""
    return any(name in others and own.position < others[name].position for name, own in checkpoints.items())


def has_leftovers(models: ReadModels) -> bool:
    """Whether a rebuild is running, or was killed and left its tables behind."""
    return bool(ReadModels(models.conn, {}, REBUILD_PREFIX).table_names())


def drop_leftovers(models: ReadModels) -> None:
    """Remove what a rebuild left behind when it was killed. The caller holds the rebuild lock."""
    with sqlite.transaction(models.conn):
        ReadModels(models.conn, {}, REBUILD_PREFIX).drop()


Flat = dict[str, tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]]


def _fold_rooms(
    log: EventStore, projections: Mapping[str, Projection], upto: int, jobs: int, stack: ExitStack
) -> Iterator[tuple[Flat, int]]:
    """Fold all rooms, some at a time; give the columns of their rows and states, and how many events that took."""
    ranges = room_index.room_ranges(log, _CHUNK_EVENTS)
    if jobs == 1:
        for behind, last in ranges:
            yield _fold_range(log, projections, behind, last, upto)
        return
    pool = stack.enter_context(workers(jobs, _Worker.open, log.path, tuple(projections)))
    waiting: deque[Future[tuple[Flat, int]]] = deque()
    for behind, last in ranges:
        waiting.append(pool.submit(_Worker.fold_range, behind, last, upto))
        if len(waiting) > 2 * jobs:  # bounded: results wait in memory until they are written
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _fold_range(
    log: EventStore, projections: Mapping[str, Projection], behind: str, last: str | None, upto: int
) -> tuple[Flat, int]:
    """Fold the rooms of a range from their first events; give the columns, and how many events that took."""
    tables = ReadModels(log.conn, projections)  # for its way of making columns; it writes nothing
    flat: Flat = {name: ([], []) for name in projections}
    events = 0
    collecting = gc.isenabled()
    gc.disable()  # a fold makes millions of small objects and no cycles; the collector would look at them all
    try:
        for room_id, history in room_index.histories(log, behind=behind, last=last, upto=upto):
            events += len(history.events)
            for name, projection in projections.items():
                run = fold(name, projection, room_id, start(projection), history)
                try:
                    rows, states = tables.flatten(name, room_id, run)
                except sqlite.UNFIT_VALUE as error:
                    position, event = history.positions[-1], history.events[-1]
                    raise ProjectionFailed(name, position, event.event_id, reason_of(error)) from error
                flat[name][0].extend(rows)
                flat[name][1].extend(states)
    finally:
        if collecting:
            gc.enable()
    return flat, events


class _Worker:
    """A process of a rebuild: its own reader on the log, and the projections by name (modules do not cross over)."""

    log: EventStore
    projections: Mapping[str, Projection]

    @classmethod
    def open(cls, path: str, names: tuple[str, ...]) -> None:
        cls.log = EventStore(sqlite.open_reader(path, mapped_bytes=MAPPED_BYTES))
        cls.projections = {name: ALL[name] for name in names}

    @classmethod
    def fold_range(cls, behind: str, last: str | None, upto: int) -> tuple[Flat, int]:
        return _fold_range(cls.log, cls.projections, behind, last, upto)
