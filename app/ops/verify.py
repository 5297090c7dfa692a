"""Recompute everything that can be recomputed, and name the first thing that differs."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import msgspec

from app.event import BadJSON
from app.infra import sqlite
from app.infra.data_dir import LOG_FILE, READ_MODELS_FILE, DataDir
from app.log.store import GENESIS, EventStore, Head, Record, next_chain
from app.projector.catch_up import Progress, no_progress
from app.projector.fold import Run, fold, row_key, start
from app.projector.read_models import BadState, ReadModels
from app.tencent.body import UPDATE_ROOM_INFO, Invalid, decode

_FAR_FUTURE_MS = 2**62  # whether EventTime was ahead of the clock was settled when the callback came
_PROGRESS_EVERY = 1000
_EVENTS_AT_ONCE = 20_000  # no reading of the log is held open for longer


class Difference(msgspec.Struct, frozen=True):
    """The first thing that is not what it should be, and the file that it is in."""

    file: str
    where: str
    what: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}"


def verify_data(data_dir: DataDir, progress: Progress = no_progress) -> tuple[Head | None, Difference | None]:
    """Verify the log in any case, and the read models if they can be opened. Gives also what the log's end was, None
    if it cannot be read. Raises sqlite.Error if a file cannot be opened now."""
    log = data_dir.open_log_reader()
    try:
        head = None
        with suppress(*sqlite.UNREADABLE):  # what it is that cannot be read is found below
            head = log.head()
        try:
            queries = data_dir.open_checked_queries()
        except (*sqlite.UNREADABLE, sqlite.NewerSchema, sqlite.NoData) as error:
            if isinstance(error, sqlite.Error) and not sqlite.tells_of_a_fault(error):
                raise
            return head, verify_log(log, progress) or Difference(READ_MODELS_FILE, READ_MODELS_FILE, str(error))
    finally:
        log.close()
    try:
        return head, verify(queries.log, queries.models, progress)
    finally:
        queries.close()


def verify(log: EventStore, models: ReadModels, progress: Progress = no_progress) -> Difference | None:
    """Check the log, see `verify_log`, then every row and saved state of the read models against a fold from each
    room's first event. Writes nothing; servers go on meanwhile."""
    progress = _Passes(progress, 1 + len(models.projections))
    return verify_log(log, progress) or _verify_read_models(log, models, progress)


def verify_log(log: EventStore, progress: Progress = no_progress) -> Difference | None:
    """Check a log alone, without any read models: its file, ids, chain and columns."""
    try:
        return (
            _verify_file(log.conn, LOG_FILE)
            or _verify_schema(log)
            or verify_chain(log, progress)
            or _verify_schema(log, missing=True)  # what somebody did without the guards is told before that
        )
    except sqlite.UNREADABLE as error:
        return Difference(LOG_FILE, LOG_FILE, f"cannot be read: {error}")


def _verify_read_models(log: EventStore, models: ReadModels, progress: Progress) -> Difference | None:
    try:
        return _verify_file(models.conn, READ_MODELS_FILE) or _verify_projections(log, models, progress)
    except sqlite.UNREADABLE as error:
        return Difference(READ_MODELS_FILE, READ_MODELS_FILE, f"cannot be read: {error}")


class _Passes:
    """Adds up the passes over the log: one for itself, one for each projection."""

    def __init__(self, progress: Progress, passes: int) -> None:
        self._progress = progress
        self._passes = passes
        self._over = self._last = 0

    def __call__(self, done: int, total: int) -> None:
        if done < self._last:
            self._over += 1
        self._last = done
        self._progress(self._over * total + done, self._passes * total)


def _verify_file(conn: sqlite.Connection, name: str) -> Difference | None:
    (answer,) = conn.execute("PRAGMA integrity_check(1)").fetchone()
    return None if answer == "ok" else Difference(name, name, f"SQLite's integrity check says: {answer}")


def _verify_schema(log: EventStore, *, missing: bool = False) -> Difference | None:
    name = sqlite.spoilt_schema(log.conn, missing=missing)
    return None if name is None else Difference(LOG_FILE, LOG_FILE, f"its {name} is not as it was made")


def verify_chain(log: EventStore, progress: Progress = no_progress, *, behind: int = 0) -> Difference | None:
    """Check the rows of the log behind a position: ids, chain, columns and the order of receipt."""
    last = _head_at(log, behind)
    head = log.head().position
    while records := log.tail(last.position, _PROGRESS_EVERY):
        for record in records:
            if (what := _verify_record(record, last)) is not None:
                return Difference(LOG_FILE, f"events, position {record.position}", what)
            last = Head(record.position, record.chain, record.received_at_ms)
        progress(last.position, max(head, last.position))
    return None


def _head_at(log: EventStore, position: int) -> Head:
    if position == 0:
        return Head(0, GENESIS, 0)
    (record,) = log.tail(position - 1, 1)
    return Head(position, record.chain, record.received_at_ms)


def _verify_record(record: Record, last: Head) -> str | None:
    if record.position != last.position + 1:
        return f"position {last.position + 1} is missing"
    try:
        callback = decode(record.body.encode(), _FAR_FUTURE_MS)
    except (Invalid, BadJSON) as error:
        return f"the body is not one that was accepted: {error}"
    if callback.event_id != record.event_id:
        return f"event_id is {record.event_id}, its body gives {callback.event_id}"
    chain = next_chain(last.chain, record.event_id, record.received_at_ms, record.body)
    if chain != record.chain:
        return f"chain is {record.chain}, the row and the one before it give {chain}"
    if record.received_at_ms < last.received_at_ms:
        return f"received_at_ms {record.received_at_ms} is before that of the row before, {last.received_at_ms}"
    if callback.room_id != record.room_id:
        return f"room_id is {record.room_id!r}, the body says {callback.room_id!r}"
    times = {callback.event_time_ms}
    if record.command != UPDATE_ROOM_INFO:
        times.add(record.received_at_ms)  # other callbacks may come without a time of their own
    if record.event_time_ms not in times:
        return f"event_time_ms is {record.event_time_ms}, the body says {callback.event_time_ms}"
    return None


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
    for behind, last in log.room_ranges(_EVENTS_AT_ONCE):
        for room_id, history in log.histories(behind=behind, last=last, upto=upto):
            yield room_id, fold(name, projection, room_id, start(projection), history), len(history.events)


def _compare(models: ReadModels, name: str, room_id: str, run: Run) -> str | None:
    expected = {row_key(row): _text(row) for row in run.rows}
    found = {row_key(row): _text(row) for row in models.rows(name, room_id)}
    for key in sorted(expected.keys() | found.keys()):
        if expected.get(key) != found.get(key):
            return f"the row is {found.get(key, 'missing')}, the log gives {expected.get(key, 'none')}"
    try:
        saved = models.states(name, room_id)
    except BadState as error:
        return str(error)
    if saved != run.saves:
        for mine, theirs in zip(saved, run.saves, strict=False):
            if mine != theirs:
                return f"the saved state after {theirs.events} events is not what they give"
        return f"{len(saved)} states are saved, {len(run.saves)} are due"
    return None


def _text(row: Any) -> str:
    return msgspec.json.encode(row).decode()
