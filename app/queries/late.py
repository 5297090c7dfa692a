"""Which updates were late: they arrived after an update that sorts after them in event order."""

from collections.abc import Iterator

from app.event import BEFORE_ALL, MAX_POSITION, MAX_TIME_MS, Key
from app.log import room_index
from app.log.records import Record
from app.projector.read_models import ReadModels
from app.queries.reader import Moment

_Overtaker = tuple[int, Key]
"""The position and the key of an update that arrived before another one and sorts after it."""


def late_positions(moment: Moment, room_id: str, records: list[Record]) -> set[int]:
    """The positions of those of a room's updates that were late; the updates come newest first."""
    late: set[int] = set()
    overtaker: _Overtaker = (MAX_POSITION, BEFORE_ALL)
    by_arrival = sorted(records, key=lambda record: record.position)
    while by_arrival:
        record = by_arrival[-1]
        if overtaker[0] >= record.position or overtaker[1] <= record.key:  # it has not overtaken this one too
            found = _overtaker_of(moment, room_id, record)
            if found is None:
                break
            overtaker = found
        late.add(by_arrival.pop().position)
    if by_arrival:
        # Whatever overtook the others arrived before this one, which was in time: it sorts at or before it.
        in_time = by_arrival[-1]
        others = [record for record in records if record.position not in late]
        late |= _late_among(moment, room_id, others, in_time)
    return late


def _overtaker_of(moment: Moment, room_id: str, late: Record) -> _Overtaker | None:
    """An update that overtook this one, None if there is none."""
    for begin_ms, until_ms in parts_from_before(moment.models, room_id, late.key, late.position):
        after = max(late.key, (begin_ms, ""))
        for found in room_index.overtakers(moment.log, room_id, after=after, before=late.position, until_ms=until_ms):
            return found
    return None


def _late_among(moment: Moment, room_id: str, records: list[Record], in_time: Record) -> set[int]:
    """The late ones of some updates, newest first, of which the one that arrived last was in time."""
    overtakers = sorted(
        room_index.overtakers(
            moment.log, room_id, after=records[-1].key, before=in_time.position, until_ms=in_time.event_time_ms
        ),
        key=lambda overtaker: overtaker[1],
        reverse=True,
    )
    late, earliest, i = set(), in_time.position, 0
    for record in records:
        while i < len(overtakers) and overtakers[i][1] > record.key:
            earliest = min(earliest, overtakers[i][0])
            i += 1
        if earliest < record.position:
            late.add(record.position)
    return late


def parts_from_before(models: ReadModels, room_id: str, after: Key, position: int) -> Iterator[tuple[int, int]]:
    """The parts of a room's history after a place that hold an event from before a log position.

    As the times of their first and last events, in event order. A part goes from one saved state to the next; what
    sorts after the last of those is always given. Reads a STEP-th of the history.
    """
    yield from models.conn.execute(
        """
        SELECT coalesce((
            SELECT event_time_ms FROM rooms_states AS before WHERE room_id = part.room_id
            AND (event_time_ms, event_id) < (part.event_time_ms, part.event_id)
            ORDER BY event_time_ms DESC, event_id DESC LIMIT 1
        ), :first), event_time_ms FROM rooms_states AS part
        WHERE room_id = :room_id AND (event_time_ms, event_id) >= (:time_ms, :event_id)
        AND min_position < :position ORDER BY event_time_ms, event_id
        """,
        {
            "room_id": room_id,
            "time_ms": after[0],
            "event_id": after[1],
            "position": position,
            "first": -MAX_TIME_MS,
        },
    )
    (last_ms,) = models.conn.execute(
        "SELECT max(event_time_ms) FROM rooms_states WHERE room_id = ?", (room_id,)
    ).fetchone()
    yield -MAX_TIME_MS if last_ms is None else last_ms, MAX_TIME_MS
