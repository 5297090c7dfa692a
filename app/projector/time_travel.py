"""Time travel: the same fold over another cut of a room's history."""

from typing import Any

from app.event import Cut
from app.log import room_index
from app.log.store import EventStore
from app.projector.fold import Run, Saved, fold
from app.projector.read_models import ReadModels
from app.projector.states import saved_at


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
    saved = saved_at(models, name, room_id, cut.latest_ms, cut.upto)
    history = room_index.history(log, room_id, after=saved.key, upto=cut.upto, as_of_ms=cut.latest_ms)
    return saved, fold(name, models.projections[name], room_id, saved, history)
