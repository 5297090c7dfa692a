"""Saved states: what every STEP-th event of a room leaves behind, so that no question folds more events than that."""

from typing import Any

from app.event import MAX_POSITION, MAX_TIME_MS, Key
from app.projector.columns import STATE_COLUMNS
from app.projector.fold import Saved, start
from app.projector.read_models import ReadModels


def saved_before(
    models: ReadModels, name: str, room_id: str, key: Key, as_of_ms: int = MAX_TIME_MS, upto: int = MAX_POSITION
) -> Saved:
    """The last saved state of a room that sorts before a place, holds at a time and for a log cut at a position."""
    where = "(event_time_ms, event_id) < (?, ?) AND event_time_ms <= ? AND max_position <= ?"
    return _saved(models, name, where, room_id, *key, as_of_ms, upto)


def saved_at(models: ReadModels, name: str, room_id: str, as_of_ms: int, upto: int) -> Saved:
    """The last saved state of a room that holds at a time, and for a log cut at a position."""
    return _saved(models, name, "event_time_ms <= ? AND max_position <= ?", room_id, as_of_ms, upto)


def _saved(models: ReadModels, name: str, where: str, *args: Any) -> Saved:
    row = models.conn.execute(
        f"SELECT {STATE_COLUMNS} FROM {models.tables[name].states} WHERE room_id = ? AND {where}"
        " ORDER BY event_time_ms DESC, event_id DESC LIMIT 1",
        args,
    ).fetchone()
    if row is None:
        return start(models.projections[name])
    return models.tables[name].read_state(row)


def states_of(models: ReadModels, name: str, room_id: str) -> list[Saved]:
    """All saved states of a room, in event order."""
    rows = models.conn.execute(
        f"SELECT {STATE_COLUMNS} FROM {models.tables[name].states} WHERE room_id = ? ORDER BY event_time_ms, event_id",
        (room_id,),
    )
    return [models.tables[name].read_state(row) for row in rows]
