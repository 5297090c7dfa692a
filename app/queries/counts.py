"""How often fields were seen and changed: of one room, and over all rooms."""

from app.event import Cut
from app.projector.read_models import ReadModels
from app.queries.answers import ChangeCounts, ChangeTotals, Counts, RoomTotal
from app.queries.paging import DEFAULT_LIMIT, Integer, check_limit, read_cursor, write_cursor
from app.queries.reader import Moment
from app.queries.rooms import check_known


def change_counts(moment: Moment, room_id: str, cut: Cut) -> ChangeCounts:
    """How often each field of a room was seen and changed. Raises NotFound."""
    cut = moment.cut(cut, "change_counts", "current_room")
    rows = moment.rows("change_counts", room_id, cut)
    if not rows:
        check_known(moment, room_id, cut)
    return ChangeCounts(
        room_id,
        {row.field: Counts(row.observations, row.changes, row.first_seen_ms, row.last_changed_ms) for row in rows},
    )


def change_totals(moment: Moment, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> ChangeTotals:
    """The counts per field over all rooms, and the rooms with the most changes."""
    check_limit(limit)
    after = read_cursor(cursor, tuple[Integer, str]) if cursor else None
    moment.position("change_counts")  # raises if it cannot answer
    counts = _field_totals(moment.models)
    rooms = _most_changed(moment.models, after, limit + 1)
    page = rooms[:limit]
    more = len(rooms) > limit
    return ChangeTotals(counts, page, write_cursor((page[-1].changes, page[-1].room_id)) if more else None)


def _field_totals(models: ReadModels) -> dict[str, Counts]:
    rows = models.conn.execute(
        "SELECT field, sum(observations), sum(changes), min(first_seen_ms), max(last_changed_ms)"
        " FROM change_counts GROUP BY field ORDER BY field"
    )
    return {field: Counts(*counts) for field, *counts in rows}


def _most_changed(models: ReadModels, after: tuple[int, str] | None, limit: int) -> list[RoomTotal]:
    """Rooms with their number of changes, most first, ties by room_id, after a place in that order."""
    changes, room_id = after or (2**62, "")
    rows = models.conn.execute(
        "SELECT room_id, sum(changes) AS n FROM change_counts GROUP BY room_id"
        " HAVING n < ? OR (n = ? AND room_id > ?) ORDER BY n DESC, room_id LIMIT ?",
        (changes, changes, room_id, limit),
    )
    return [RoomTotal(*row) for row in rows]
