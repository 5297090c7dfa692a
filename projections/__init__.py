"""What a projection is, and which ones there are.

A projection is a module with the five names of `Projection`. To add one: one file here, one line in `ALL`, one test
file. It may import the standard library, msgspec and `app.event`, nothing else.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

from app.event import Event
from projections import change_counts, current_room, visibility


class Row(Protocol):
    """A frozen msgspec Struct: a line of the read model = its columns = its JSON.

    Its fields may be str, int, bool, any of them or None, or msgspec.Raw for JSON; the first ones are those of KEY.
    """

    TABLE: ClassVar[str]
    """The read model's table."""
    KEY: ClassVar[tuple[str, ...]]
    """The columns that identify a line, `room_id` first; a room's rows come in the order of the others."""
    GROWS: ClassVar[bool]
    """Whether the table grows with a room's history, as a timeline does.

    If not, `rows` gives all rows of the room. If so, `rows` gives the last ones: those that the latest event could
    have touched, and all after them. What stands before the first of them was settled by earlier states and stays.
    Once a room has rows, `rows` never gives none.
    """


class Projection(Protocol):
    """A fold over one room's history in event order. Everything in it is pure: no clock, SQL, I/O or randomness."""

    VERSION: int
    """Raise it when the meaning of the rows or the state changes; a lower stored version is rebuilt."""
    Row: Any
    """The class of the rows, see `Row`."""
    initial: Any
    """The state of a room before its first event: an instance of a msgspec Struct, which is how states are saved."""

    def apply(self, state: Any, event: Event, /) -> Any:
        """Give the state after the event. Return the same object if nothing changed."""

    def rows(self, room_id: str, state: Any, /) -> Iterable[Any]:
        """Give the rows that a room in this state has, in the order of their keys."""


ALL: dict[str, Projection] = {
    "current_room": current_room,
    "change_counts": change_counts,
    "visibility": visibility,
}
