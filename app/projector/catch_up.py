"""Catching up: every projection reads the next events of the log, a batch in one transaction.

What a projection's rows say is settled in `fold`; this file decides which events to give it, in which transaction.
"""

from contextlib import suppress
from operator import itemgetter

import msgspec

from app.event import History, Key
from app.infra import sqlite
from app.infra.errors import CorruptState, ProjectionFailed, reason_of
from app.infra.progress import Progress, no_progress
from app.log.store import EventStore
from app.projector.batches import Batch
from app.projector.checkpoints import running_projections, stop
from app.projector.fold import Run, Saved, fold
from app.projector.read_models import Checkpoint, ReadModels
from app.projector.runs import write_runs
from app.projector.states import saved_before

BATCH = 5000
"""Events that one transaction of `catch_up` covers, at most."""


class CaughtUp(msgspec.Struct, frozen=True):
    """What a step of `catch_up` did: events read, how many of them were late, and whether there are more."""

    events: int
    late: int
    more: bool


def catch_up(log: EventStore, models: ReadModels, limit: int = BATCH) -> CaughtUp:
    """Let every projection read the next events of the log; rows, states and checkpoints change together.

    A projection that raises is stopped before the event it raised on, with the error in its checkpoint; the others
    go on. Any number of processes may do this at the same time. The write lock is not held while events are folded,
    which takes long where late ones reach far back: a rebuild can write meanwhile.
    """
    head = log.head().position
    if all(checkpoint.position >= head for checkpoint in running_projections(log, models).values()):
        return CaughtUp(0, 0, more=False)  # without taking the write lock
    with sqlite.snapshot(models.conn):
        step = fold_next(log, models, limit)
    with models.transaction():
        if running_projections(log, models) != step.checkpoints:  # another process was faster; none can be now
            del step  # two of them would not be in memory at once
            step = fold_next(log, models, limit)
        return write_step(models, step)


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


class _Folded(msgspec.Struct, frozen=True):
    """What a batch gives in one projection: a run for each room, and how many of its events were late."""

    batch: Batch
    runs: list[tuple[str, Saved, Run]]
    late: int


class Step(msgspec.Struct, frozen=True):
    """The next events of the log, folded and not yet written. It holds as long as the checkpoints are these."""

    checkpoints: dict[str, Checkpoint]
    batches: dict[str, Batch]
    """What is new to each projection."""
    folded: dict[str, _Folded]
    """Without those that raised on one of the events."""
    events: int
    more: bool


def fold_next(log: EventStore, models: ReadModels, limit: int) -> Step:
    """Fold the next events of the log in every projection that can go on. Writes nothing."""
    checkpoints = running_projections(log, models)
    head = log.head().position
    after = min((checkpoint.position for checkpoint in checkpoints.values()), default=head)
    upto = min(head, after + limit)
    if upto <= after:
        return Step(checkpoints, {}, {}, 0, more=False)
    whole = Batch(log, log.unread(after, upto), upto)
    batches, folded = {}, {}
    for name, checkpoint in checkpoints.items():
        models.remembered.check(name, checkpoint.position)
        if checkpoint.position < upto:
            batches[name] = whole if checkpoint.position == after else whole.after(checkpoint.position)
            with suppress(ProjectionFailed):
                folded[name] = _fold(models, name, batches[name])
    return Step(checkpoints, batches, folded, upto - after, more=upto < head)


def _fold(models: ReadModels, name: str, batch: Batch) -> _Folded:
    """Fold a batch. Raises ProjectionFailed."""
    projection = models.projections[name]
    runs, late = [], 0
    for room_id, fresh in batch.rooms.items():
        first = fresh.events[0].key
        saved = models.remembered.saved(name, room_id)
        if saved is not None and saved.key < first:
            history, furthest = fresh, saved.key
        else:
            try:
                saved = saved_before(models, name, room_id, first)
            except CorruptState as error:
                raise ProjectionFailed(name, min(fresh.positions), fresh.events[0].event_id, str(error)) from error
            history = batch.history(room_id, saved.key)
            furthest = _last_before(history, min(fresh.positions), saved.key)
        runs.append((room_id, saved, fold(name, projection, room_id, saved, history)))
        late += _late_among(fresh, furthest)
    return _Folded(batch, runs, late)


def write_step(models: ReadModels, step: Step) -> CaughtUp:
    """Write what was folded. Call it inside a transaction."""
    late = 0
    for name, batch in step.batches.items():
        late = max(late, _project(models, name, batch, step.folded.get(name)))
    return CaughtUp(step.events, late, step.more)


def _project(models: ReadModels, name: str, batch: Batch, folded: _Folded | None) -> int:
    """Take a projection over a batch; return how many of its events were late.

    If one of them makes the projection fail, stop it right before that one.
    """
    try:
        if folded is not None:
            with models.savepoint():
                return _advance(models, name, folded)
    except ProjectionFailed:
        pass  # one of the events does not fit into the tables: find it
    late = 0
    for single in batch.one_by_one():
        try:
            with models.savepoint():
                late += _advance(models, name, _fold(models, name, single))
        except ProjectionFailed as failure:
            stop(models, name, failure)
            return late
    _move_checkpoint(models, name, batch)  # after the last of these there may be events of no room
    return late


def _advance(models: ReadModels, name: str, folded: _Folded) -> int:
    """Write what a batch gave; return how many of its events were late. Raises ProjectionFailed."""
    batch = folded.batch
    try:
        write_runs(models, name, folded.runs)
    except sqlite.UNFIT_VALUE as error:
        *_, fresh = batch.rooms.values()
        raise ProjectionFailed(name, fresh.positions[-1], fresh.events[-1].event_id, reason_of(error)) from error
    _move_checkpoint(models, name, batch)
    return folded.late


def _move_checkpoint(models: ReadModels, name: str, batch: Batch) -> None:
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
    """How many of a room's unread events arrived after one that sorts after them; `furthest` sorts last before."""
    if len(fresh.events) == 1:
        return int(fresh.events[0].key < furthest)
    late = 0
    for _, event in sorted(zip(fresh.positions, fresh.events, strict=True), key=itemgetter(0)):
        if event.key < furthest:
            late += 1
        else:
            furthest = event.key
    return late
