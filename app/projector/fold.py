"""The one idea: a read model is a fold over one room's history in event order.

Pure. A fold goes on from a saved state, saves its state every `STEP` events, and says which rows of the read model its
events give. Everything else in Roomlapse decides which events to give it.
"""

from operator import attrgetter
from typing import Any

import msgspec

from app.event import BEFORE_ALL, Event, History, Key
from app.infra.errors import ProjectionFailed, reason_of
from projections import Projection

STEP = 33
"""Every STEP-th event of a room leaves its state behind: no question about the past folds more events than that."""


class Saved(msgspec.Struct, frozen=True):
    """A room's state after its first `events` events, the last of which stands at `key` in event order."""

    events: int
    key: Key
    max_position: int
    """The highest log position among those events: the state holds for any cut of the log at or after it."""
    min_position: int
    """The lowest log position among those of them that sort after the saved state before this one."""
    state: Any


class Run(msgspec.Struct):
    """What folding on from a saved state gives: `rows` replace all of the room's rows from `first` on (None: all)."""

    first: tuple[Any, ...] | None
    rows: list[Any]
    saves: list[Saved]
    """The states to keep, in order: one after every STEP-th event of the room."""
    last: Saved
    """The state after the last event; where it went on from, if there was no event."""


def start(projection: Projection) -> Saved:
    """The state of a room before its first event."""
    return Saved(0, BEFORE_ALL, 0, 0, projection.initial)


def row_key(row: Any) -> tuple[Any, ...]:
    """The part of a row's key that tells it from the room's other rows."""
    return tuple(getattr(row, column) for column in row.KEY[1:])


def fold(name: str, projection: Projection, room_id: str, saved: Saved, history: History) -> Run:
    """Fold a room's events on from a saved state that sorts before them.

    Raises ProjectionFailed, naming the event, when the projection does.
    """
    positions, events = history.positions, history.events
    assert not events or events[0].key > saved.key, f"event {events[0].event_id} is out of event order"
    apply, rows_of, grows = projection.apply, projection.rows, projection.Row.GROWS
    state, last, saves = saved.state, saved, []
    event: Event | None = None
    try:
        rows = list(rows_of(room_id, state)) if grows else []
        first = row_key(rows[0]) if rows else None
        begin = 0
        while begin < len(events):
            end = min(begin + STEP - last.events % STEP, len(events))
            if grows:
                for event in events[begin:end]:
                    before, state = state, apply(state, event)
                    if state is not before:
                        _replace_end(rows, list(rows_of(room_id, state)))
            else:
                for event in events[begin:end]:
                    state = apply(state, event)
            folded = positions[begin:end]
            max_position, min_position = max(last.max_position, *folded), min(folded)
            if last.events % STEP:
                min_position = min(min_position, last.min_position)
            last = Saved(last.events + end - begin, events[end - 1].key, max_position, min_position, state)
            if last.events % STEP == 0:
                saves.append(last)
            begin = end
        if not grows:
            rows = list(rows_of(room_id, state))
    except Exception as error:
        position = next((at for at, one in zip(positions, events, strict=True) if one is event), 0)
        raise ProjectionFailed(name, position, event.event_id if event else "", reason_of(error)) from error
    return Run(first, rows, saves, last)


def _replace_end(rows: list[Any], end: list[Any]) -> None:
    """Replace the rows from the first of `end` on; both are in the order of their keys."""
    if end:
        key_of = attrgetter(*end[0].KEY[1:])
        first, at = key_of(end[0]), len(rows)
        while at and key_of(rows[at - 1]) >= first:  # nearly always the last or the one before
            at -= 1
        rows[at:] = end
