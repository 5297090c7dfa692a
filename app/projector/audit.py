"""Compare the read models with a fold of every room from its first event. Names the first difference."""

from collections.abc import Iterator
from typing import Any

import msgspec

from app.infra import sqlite
from app.infra.data_dir import READ_MODELS_FILE
from app.infra.errors import CorruptState
from app.infra.progress import Progress
from app.log import room_index
from app.log.audit import Difference, verify_file
from app.log.store import EventStore
from app.projector import states
from app.projector.fold import Run, fold, row_key, start
from app.projector.read_models import ReadModels

_PROGRESS_EVERY = 1000
_EVENTS_AT_ONCE = 20_000  # no reading of the log is held open for longer


def verify_read_models(log: EventStore, models: ReadModels, progress: Progress) -> Difference | None:
    """Check every row and saved state. Writes nothing; servers go on meanwhile."""
    try:
        return verify_file(models.conn, READ_MODELS_FILE) or _verify_projections(log, models, progress)
    except sqlite.UNREADABLE as error:
        return Difference(READ_MODELS_FILE, READ_MODELS_FILE, f"cannot be read: {error}")


def _verify_projections(log: EventStore, models: ReadModels, progress: Progress) -> Difference | None:
    with sqlite.snapshot(models.conn):
        for name in models.projections:
            where = f"projection {name}"
            checkpoint = models.find_checkpoint(name)
            known = models.projections[name].VERSION
            if checkpoint is None or checkpoint.version < known:
                return Difference(
                    READ_MODELS_FILE, where, "its read model is not of this version: any other command rebuilds it"
                )
            if checkpoint.version > known:
                what = f"its read model is of version {checkpoint.version}, this Roomlapse knows {known}: upgrade it"
                return Difference(READ_MODELS_FILE, where, what)
            if checkpoint.error is not None:
                return Difference(READ_MODELS_FILE, where, checkpoint.error)
            if log.chain_at(checkpoint.position) != checkpoint.chain:
                return Difference(
                    READ_MODELS_FILE, where, f"its checkpoint at position {checkpoint.position} is not of this log"
                )
            if (difference := _verify_projection(log, models, name, checkpoint.position, progress)) is not None:
                return difference
    return None


def _verify_projection(
    log: EventStore, models: ReadModels, name: str, upto: int, progress: Progress
) -> Difference | None:
    table = models.projections[name].Row.TABLE
    known = models.known_room_ids(name)
    next_known = next(known, None)
    done = 0
    for room_id, run, events in _fold_all(log, models, name, upto):
        if next_known is not None and next_known < room_id:
            break  # both walks go by room_id: this one was passed over
        if next_known == room_id:
            next_known = next(known, None)
        if (what := _compare(models, name, room_id, run)) is not None:
            return Difference(READ_MODELS_FILE, f"{table}, room {room_id!r}", what)
        done += events
        if done % _PROGRESS_EVERY < events:
            progress(done, max(done, upto))
    if next_known is not None:
        return Difference(
            READ_MODELS_FILE, f"{table}, room {next_known!r}", "is in the read model, but the log has no such room"
        )
    return None


def _fold_all(log: EventStore, models: ReadModels, name: str, upto: int) -> Iterator[tuple[str, Run, int]]:
    projection = models.projections[name]
    for after, last in room_index.room_ranges(log, _EVENTS_AT_ONCE):
        for room_id, history in room_index.histories(log, after=after, last=last, upto=upto):
            yield room_id, fold(name, projection, room_id, start(projection), history), len(history.events)


def _compare(models: ReadModels, name: str, room_id: str, run: Run) -> str | None:
    expected = {row_key(row): _text(row) for row in run.rows}
    found = {row_key(row): _text(row) for row in models.rows(name, room_id)}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            return f"the row is {found.get(key, 'missing')}, the log gives {expected.get(key, 'none')}"
    try:
        saved = states.states_of(models, name, room_id)
    except CorruptState as error:
        return str(error)
    if saved != run.saves:
        for mine, theirs in zip(saved, run.saves, strict=False):
            if mine != theirs:
                return f"the saved state after {theirs.events} events is not what they give"
        return f"{len(saved)} states are saved, {len(run.saves)} are due"
    return None


def _text(row: Any) -> str:
    return msgspec.json.encode(row).decode()
