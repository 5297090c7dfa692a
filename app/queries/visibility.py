"""When a room was public and when it was hidden."""

from collections.abc import Iterable, Iterator

from app.event import MAX_TIME_MS, Cut
from app.infra import times
from app.projector.read_models import ReadModels
from app.queries import answers
from app.queries.answers import Interval, Window
from app.queries.paging import check_window
from app.queries.reader import Moment
from app.queries.rooms import check_known


def visibility(
    moment: Moment,
    room_id: str,
    cut: Cut,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    now_ms: int | None = None,
) -> answers.Visibility:
    """When a room was public and when hidden, clipped to [from_ms, to_ms). Raises NotFound.

    The window ends now (or at `as_of_ms`, if that is earlier) at the latest: what comes after has not happened. Without
    `to_ms` that is where the sums end, and the last interval stays open.
    """
    check_window(from_ms, to_ms)
    cut = moment.cut(cut, "visibility", "current_room")
    if cut.holds_all_upto(moment.position("visibility")):
        found = _intervals(moment.models, room_id, from_ms, to_ms)
    else:
        found = [Interval(row.from_ms, row.to_ms, row.public) for row in moment.rows("visibility", room_id, cut)]
    if not found:
        check_known(moment, room_id, cut)
    end = min(times.now_ms() if now_ms is None else now_ms, cut.latest_ms)
    end = end if to_ms is None else min(end, to_ms)
    end = end if from_ms is None else max(end, from_ms)
    begin = from_ms if from_ms is not None else next((it.from_ms for it in found if it.from_ms < end), None)
    intervals = list(_clip(found, from_ms, None if to_ms is None else end))
    window, sums = Window(begin, end), {True: 0, False: 0}
    for interval in intervals:
        sums[interval.public] += window.duration_ms(interval)
    return answers.Visibility(room_id, intervals, sums[True], sums[False], window)


def _intervals(models: ReadModels, room_id: str, from_ms: int | None, to_ms: int | None) -> list[Interval]:
    """A room's intervals that touch a window, in order, as the read model has them."""
    rows = models.conn.execute(
        "SELECT from_ms, to_ms, public FROM visibility WHERE room_id = :room_id AND from_ms < :to"
        " AND from_ms >= coalesce((SELECT max(from_ms) FROM visibility"
        " WHERE room_id = :room_id AND from_ms <= :from), :from) ORDER BY from_ms",
        {
            "room_id": room_id,
            "from": -MAX_TIME_MS if from_ms is None else from_ms,
            "to": MAX_TIME_MS if to_ms is None else to_ms,
        },
    )
    return [Interval(from_, to, bool(public)) for from_, to, public in rows]


def _clip(intervals: Iterable[Interval], from_ms: int | None, to_ms: int | None) -> Iterator[Interval]:
    """The parts within a window; an open interval stays open where the window does."""
    for interval in intervals:
        begin = interval.from_ms if from_ms is None else max(interval.from_ms, from_ms)
        ends = [end_ms for end_ms in (interval.to_ms, to_ms) if end_ms is not None]
        end = min(ends, default=None)
        if end is None or begin < end:
            yield Interval(begin, end, interval.public)
