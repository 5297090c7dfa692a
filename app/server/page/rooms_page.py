"""What the list of rooms shows."""

from typing import Any

from app.infra.times import now_ms
from app.queries import counts, rooms
from app.queries import visibility as visibilities
from app.queries.reader import Moment
from app.server.page import views
from app.server.page.asked import WINDOWS_MS, RoomsAsked

ROOMS_A_PAGE = 50


def read_rooms(moment: Moment, asked: RoomsAsked) -> dict[str, Any]:
    """The values of the template."""
    cut = asked.cut
    list_rooms = rooms.rooms if asked.sort == "name" else rooms.latest_rooms
    page = list_rooms(moment, cut, public=asked.public, q=asked.q, limit=ROOMS_A_PAGE, cursor=asked.cursor)
    end_ms = min(now_ms(), cut.latest_ms)
    window = (end_ms - WINDOWS_MS[asked.window], end_ms)
    counts_by_room = {room.room_id: counts.change_counts(moment, room.room_id, cut) for room in page.rooms}
    most = max((sum(it.changes for it in each.counts.values()) for each in counts_by_room.values()), default=0)
    lines = [
        views.line_of(
            room,
            counts_by_room[room.room_id],
            most,
            visibilities.visibility(moment, room.room_id, cut, from_ms=window[0], now_ms=end_ms),
            window,
        )
        for room in page.rooms
    ]
    return {"lines": lines, "next_cursor": page.next_cursor, "window": window, "head": moment.log.head().position}
