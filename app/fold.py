"""The one idea: a read model is a fold over one room's history in event order.

Pure. A fold goes on from a saved state, saves its state every `STEP` events and at the end, and says which rows of
the read model its events give. Everything else in Roomlapse decides which events to give it.
"""

from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import msgspec

from app.event import BEFORE_ALL, Event, Key
from projections import Projection

STEP = 100
"""Every STEP-th event of a room leaves its state behind: no question about the past folds more events than that."""


class ProjectionFailed(Exception):
    """A projection raised on an event. It stops there; the log and the other projections go on."""

    def __init__(self, name: str, position: int, event_id: str, reason: str) -> None:
        super().__init__(name, position, event_id, reason)  # all of them: it has to cross from process to process
        self.name = name
        self.position = position
        self.event_id = event_id
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.name} stopped at position {self.position}, event {self.event_id}: {self.reason}"


class Saved(msgspec.Struct, frozen=True):
    """A room's state after its first `events` events, the last of which stands at `key` in event order."""

    events: int
    key: Key
    max_position: int
    """The highest log position among those events: the state holds for any cut of the log at or behind it."""
    state: Any


class Run(msgspec.Struct):
    """What folding on from a saved state gives: `rows` replace all of the room's rows from `first` on (None: all)."""

    first: tuple[Any, ...] | None
    rows: list[Any]
    saves: list[Saved]
    """The states to keep, in order; the last is the one after the last event, if there was an event."""

    @property
    def state(self) -> Any:
        """The state after the last event."""
        return self.saves[-1].state


def start(projection: Projection) -> Saved:
    """The state of a room before its first event."""
    return Saved(0, BEFORE_ALL, 0, projection.initial)


def row_key(row: Any) -> tuple[Any, ...]:
    """The part of a row's key that tells it from the room's other rows."""
    return tuple(getattr(row, column) for column in row.KEY[1:])


def fold(name: str, projection: Projection, room_id: str, saved: Saved, history: Iterable[tuple[int, Event]]) -> Run:
    """Fold a room's events, given with their positions in event order, on from a saved state that sorts before them.

    Raises ProjectionFailed, naming the event, when the projection does.
    """
    grows = projection.Row.GROWS
    apply = projection.apply
    state, events, max_position = saved.state, saved.events, saved.max_position
    rows = list(projection.rows(room_id, state)) if grows else []
    first = row_key(rows[0]) if rows else None
    saves: list[Saved] = []
    last_ms, last_id = saved.key
    position, event_id = 0, ""
    for position, event in history:
        event_time_ms, event_id = event.event_time_ms, event.event_id
        assert event_time_ms > last_ms or (event_time_ms == last_ms and event_id > last_id), (
            f"position {position} is out of event order"
        )
        last_ms, last_id = event_time_ms, event_id
        try:
            before, state = state, apply(state, event)
            if grows and state is not before:
                _replace_end(rows, list(projection.rows(room_id, state)))
        except Exception as error:
            raise ProjectionFailed(name, position, event_id, reason_of(error)) from error
        events += 1
        if position > max_position:  # noqa: PLR1730  a call of max costs as much as all the rest of the loop
            max_position = position
        if not events % STEP:
            saves.append(Saved(events, (last_ms, last_id), max_position, state))
    if events % STEP or not saves:
        saves.append(Saved(events, (last_ms, last_id), max_position, state))
    if not grows:
        try:
            rows = list(projection.rows(room_id, state))
        except Exception as error:
            raise ProjectionFailed(name, position, event_id, reason_of(error)) from error
    return Run(first, rows, saves)


def reason_of(error: BaseException) -> str:
    """Say what was raised, as a checkpoint keeps it."""
    return f"{type(error).__name__}: {error}"


def _replace_end(rows: list[Any], end: list[Any]) -> None:
    """Replace the rows from the first of `end` on; both are in the order of their keys."""
    if end:
        del rows[bisect_left(rows, row_key(end[0]), key=row_key) :]
        rows += end
