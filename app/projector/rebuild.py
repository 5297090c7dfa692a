"""Rebuilding: the whole log folded again, room by room, into tables beside the live ones, which are then swapped."""

import gc
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack

from app.infra import sqlite
from app.infra.errors import ProjectionFailed, reason_of
from app.infra.processes import workers
from app.infra.progress import Progress, no_progress
from app.log import room_index
from app.log.store import EventStore
from app.projector.catch_up import BATCH, catch_up, fold_next, write_step
from app.projector.checkpoints import projections_of_log, running_projections
from app.projector.columns import Table
from app.projector.fold import fold, start
from app.projector.read_models import Checkpoint, ReadModels
from app.projector.registry import REBUILD_PREFIX, known_projections
from app.projector.runs import Flat, insert_flat
from projections import Projection

_TRIES = 3  # to catch up beside a projector that goes on; then it has to wait
_CHUNK_EVENTS = 20_000  # a task of a rebuild: whole rooms, of about so many events
FlatRooms = dict[str, Flat]
"""By projection: the columns of the rows and saved states of some rooms."""
MAPPED_BYTES = 2**31 - 2**16
"""As much of the log as SQLite maps: for processes that fold room after room, which is all over the file."""


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
            with models.transaction():
                for name, columns in flat.items():
                    try:
                        insert_flat(shadow, name, columns)
                    except sqlite.UNFIT_VALUE as error:
                        raise ProjectionFailed(name, head.position, "one of these rooms'", reason_of(error)) from error
            done += events
            progress(done, head.position)
    with models.transaction():
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
    with models.transaction():
        live = projections_of_log(log, models)
        while _is_behind(running_projections(log, shadow), live):
            if not and_catch_up:
                return False
            write_step(shadow, fold_next(log, shadow, BATCH))
        for name in shadow.projections:
            checkpoint = shadow.checkpoint(name)
            if checkpoint.error is not None:
                raise ProjectionFailed(name, checkpoint.position, "behind it", checkpoint.error)
        _take_over(models, shadow)
        _drop_tables(models.conn)
        return True


def _take_over(models: ReadModels, shadow: ReadModels) -> None:
    """Put the shadow's tables in the place of the live ones. Call it inside a transaction."""
    for name in shadow.projections:
        models.tables[name].replace_with(models.conn, shadow.tables[name])
        models.remembered.forget(name)
        models.save_checkpoint(name, shadow.checkpoint(name))


def _is_behind(checkpoints: Mapping[str, Checkpoint], others: Mapping[str, Checkpoint]) -> bool:
    """Whether a projection has read less than one of the same name."""
    return any(name in others and own.position < others[name].position for name, own in checkpoints.items())


def has_leftovers(models: ReadModels) -> bool:
    """Whether a rebuild is running, or was killed and left its tables."""
    return bool(_tables_of_rebuild(models.conn))


def drop_leftovers(models: ReadModels) -> None:
    """Remove what a killed rebuild left. The caller holds the rebuild lock."""
    with models.transaction():
        _drop_tables(models.conn)


def _tables_of_rebuild(conn: sqlite.Connection) -> list[str]:
    """The tables of a rebuild, those of projections that are no more included."""
    rows = conn.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, ?) = ?",
        (len(REBUILD_PREFIX), REBUILD_PREFIX),
    )
    return [name for (name,) in rows]


def _drop_tables(conn: sqlite.Connection) -> None:
    for name in _tables_of_rebuild(conn):
        conn.execute(f'DROP TABLE "{name}"')


def _fold_rooms(
    log: EventStore, projections: Mapping[str, Projection], upto: int, jobs: int, stack: ExitStack
) -> Iterator[tuple[FlatRooms, int]]:
    """Fold all rooms, some at a time; give the columns of their rows and states, and how many events that took."""
    ranges = room_index.room_ranges(log, _CHUNK_EVENTS)
    if jobs == 1:
        for after, last in ranges:
            yield _fold_range(log, projections, after, last, upto)
        return
    pool = stack.enter_context(workers(jobs, _Worker.open, log.path, tuple(projections)))
    waiting: deque[Future[tuple[FlatRooms, int]]] = deque()
    for after, last in ranges:
        waiting.append(pool.submit(_Worker.fold_range, after, last, upto))
        if len(waiting) > 2 * jobs:  # bounded: results wait in memory until they are written
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _fold_range(
    log: EventStore, projections: Mapping[str, Projection], after: str, last: str | None, upto: int
) -> tuple[FlatRooms, int]:
    """Fold the rooms of a range from their first events; give the columns, and how many events that took."""
    tables = {name: Table("", projection) for name, projection in projections.items()}
    flat: FlatRooms = {name: ([], []) for name in projections}
    events = 0
    collecting = gc.isenabled()
    gc.disable()  # a fold makes millions of small objects and no cycles; the collector would look at them all
    try:
        for room_id, history in room_index.histories(log, after=after, last=last, upto=upto):
            events += len(history.events)
            for name, projection in projections.items():
                run = fold(name, projection, room_id, start(projection), history)
                try:
                    rows, states = tables[name].flatten(room_id, run)
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
        known = known_projections()
        cls.projections = {name: known[name] for name in names}

    @classmethod
    def fold_range(cls, after: str, last: str | None, upto: int) -> tuple[FlatRooms, int]:
        return _fold_range(cls.log, cls.projections, after, last, upto)
