"""What the list of rooms shows, and what the rows of some of its rooms."""

from collections.abc import Iterable
from typing import Any

from app.infra.times import now_ms
from app.queries import counts, rooms
from app.queries import visibility as visibilities
from app.queries.answers import Room
from app.queries.reader import Moment
from app.server.page import views
from app.server.page.asked import WINDOWS_MS, RoomsAsked
from app.server.page.drawing import place

ROOMS_A_PAGE = 50


def read_rooms(moment: Moment, asked: RoomsAsked) -> dict[str, Any]:
    """The values of the template."""
    list_rooms = rooms.rooms if asked.sort == "name" else rooms.latest_rooms
    page = list_rooms(moment, asked.cut, public=asked.public, q=asked.q, limit=ROOMS_A_PAGE, cursor=asked.cursor)
    return _lines(moment, asked, page.rooms) | {"next_cursor": page.next_cursor, "rooms_a_page": ROOMS_A_PAGE}


def read_rows(moment: Moment, asked: RoomsAsked, room_ids: Iterable[str]) -> dict[str, Any]:
    """The values of the template of some rows: of those rooms that the list would hold, on any of its pages."""
    found = rooms.named_rooms(moment, room_ids, asked.cut, public=asked.public, q=asked.q)
    return _lines(moment, asked, found)


def _lines(moment: Moment, asked: RoomsAsked, listed: list[Room]) -> dict[str, Any]:
    end_ms = min(now_ms(), asked.cut.latest_ms)
    window = (end_ms - WINDOWS_MS[asked.window], end_ms)
    known_ms = asked.known_at_ms if asked.known_at_ms is not None and asked.known_at_ms < end_ms else None
    counts_by_room = {room.room_id: counts.change_counts(moment, room.room_id, asked.cut) for room in listed}
    most = max((sum(it.changes for it in each.counts.values()) for each in counts_by_room.values()), default=0)
    lines = [
        views.line_of(
            room,
            counts_by_room[room.room_id],
            most,
            visibilities.visibility(moment, room.room_id, asked.cut, from_ms=window[0], now_ms=end_ms),
            window,
            known_ms,
        )
        for room in listed
    ]
    return {
        "lines": lines,
        "cursors": {room.room_id: rooms.cursor_behind(room, by_name=asked.sort == "name") for room in listed},
        "window": window,
        "known_x": None if known_ms is None else place(known_ms, *window),
        "head": moment.log.head().position,
    }
