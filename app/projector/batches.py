"""Unread events, room by room in event order, and the histories that late ones reach back into."""

from collections.abc import Iterator, Mapping
from operator import itemgetter

from app.event import Event, History, Key
from app.log import room_index
from app.log.store import EventStore


class Batch:
    """Unread events up to a position: each room's in event order, and the histories that late ones reach back into.

    Read once for all projections.
    """

    def __init__(self, log: EventStore, rooms: Mapping[str, list[tuple[int, Event]]], upto: int) -> None:
        self.log = log
        self.upto = upto
        self.rooms = {room_id: _in_event_order(arrivals) for room_id, arrivals in rooms.items()}
        self._histories: dict[tuple[str, Key], History] = {}

    def history(self, room_id: str, after: Key) -> History:
        """A room's events after a place in event order, the unread ones among them."""
        found = self._histories.get((room_id, after))
        if found is None:
            found = self._histories[room_id, after] = room_index.history(self.log, room_id, after=after, upto=self.upto)
        return found

    def after(self, position: int) -> "Batch":
        """Those of the events that stand after a position."""
        rooms = {}
        for room_id, history in self.rooms.items():
            arrivals = [pair for pair in zip(history.positions, history.events, strict=True) if pair[0] > position]
            if arrivals:
                rooms[room_id] = arrivals
        return Batch(self.log, rooms, self.upto)

    def one_by_one(self) -> Iterator["Batch"]:
        """Each of the events alone, in log order."""
        arrivals = [
            (position, room_id, event)
            for room_id, history in self.rooms.items()
            for position, event in zip(history.positions, history.events, strict=True)
        ]
        for position, room_id, event in sorted(arrivals, key=itemgetter(0)):
            yield Batch(self.log, {room_id: [(position, event)]}, position)


def _in_event_order(arrivals: list[tuple[int, Event]]) -> History:
    if len(arrivals) > 1:
        arrivals = sorted(arrivals, key=lambda arrival: arrival[1].key)
    return History([position for position, _ in arrivals], [event for _, event in arrivals])
