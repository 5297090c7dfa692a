"""The states of rooms after their last event, remembered from our own writes: they are nowhere on disk.

This is the one owner of them. They hold for one position of a projection's checkpoint, and not after a rollback.
"""

from collections.abc import Iterable
from itertools import islice

import msgspec

from app.projector.columns import Columns
from app.projector.fold import Saved

MAX_ROOMS = 4096
"""Rooms that are remembered, of each projection: those last written."""


class RoomState(msgspec.Struct, frozen=True):
    """A room after its last event: its state, and the lines of those of its rows that the next event may touch."""

    saved: Saved
    lines: dict[Columns, Columns]


class Remembered:
    """Remembered states by projection and room."""

    def __init__(self, names: Iterable[str]) -> None:
        self._rooms: dict[str, dict[str, RoomState]] = {name: {} for name in names}
        self._positions: dict[str, int] = {}

    def saved(self, name: str, room_id: str) -> Saved | None:
        """A room's state after its last event, None unless it is remembered."""
        state = self._rooms[name].get(room_id)
        return None if state is None else state.saved

    def take(self, name: str, room_id: str) -> RoomState | None:
        """Give a room's state and forget it: another one is about to be written."""
        return self._rooms[name].pop(room_id, None)

    def keep(self, name: str, room_id: str, state: RoomState) -> None:
        """Remember a room's state, as the one that was written last."""
        self._rooms[name][room_id] = state

    def trim(self, name: str) -> None:
        """Forget those that were written longest ago, down to MAX_ROOMS."""
        rooms = self._rooms[name]
        for room_id in list(islice(rooms, max(0, len(rooms) - MAX_ROOMS))):
            del rooms[room_id]

    def move(self, name: str, position: int) -> None:
        """Say that the states of a projection hold for this position of its checkpoint from now on."""
        self._positions[name] = position

    def check(self, name: str, position: int) -> None:
        """Forget the states of a projection unless they hold for this position: somebody else moved its checkpoint."""
        if self._positions.get(name) != position:
            self.forget(name)

    def forget(self, name: str | None = None) -> None:
        """Forget the states of a projection, or of all."""
        for rooms in self._rooms.values() if name is None else [self._rooms[name]]:
            rooms.clear()
