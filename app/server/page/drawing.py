"""What the page draws to scale: periods, ticks, and the bars of a histogram. Pure; knows nothing of HTTP or HTML."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from app.infra.times import format_duration, format_time
from app.queries.answers import Change, Column, Interval
from app.server.page.values import text_of

SCALE = 1000
"""The width of every drawing: places and widths run from 0 to it."""
MAX_PERIODS = 500
"""How many periods a timeline draws one by one, and how many columns it has if there are more: 3 pixels on a wide
screen."""
_DELAY_BOUNDS_MS = (0, 100, 250, 500, 1000, 2500, 5000, 15_000, 60_000, 600_000)


class Period(msgspec.Struct, frozen=True):
    """An interval of visibility to draw, or several that are too narrow to be told apart: from `x`, `width` wide."""

    x: float
    width: float
    public: bool
    from_ms: int
    to_ms: int | None
    duration_ms: int
    label: str
    count: int = 1
    """How many intervals it stands for."""
    public_part: float = 0.0
    """How much of a drawn stretch of several intervals was public, from 0 to 1."""


class Tick(msgspec.Struct, frozen=True):
    """A change to draw on a room's timeline, or several callbacks of about the same time."""

    x: float
    at_ms: int
    late: bool
    label: str


class Bar(msgspec.Struct, frozen=True):
    """A bar of a histogram, `height` from 0 to SCALE."""

    label: str
    count: int
    height: float


def place(at_ms: int, from_ms: int, to_ms: int) -> float:
    """Where a time stands between two others, from 0 to SCALE; outside of them, at the nearer edge."""
    if to_ms <= from_ms:
        return 0.0
    return round(min(1.0, max(0.0, (at_ms - from_ms) / (to_ms - from_ms))) * SCALE, 2)


def periods_of(
    intervals: Iterable[Interval],
    from_ms: int,
    to_ms: int,
    open_until_ms: int | None = None,
    *,
    known_until_ms: int | None = None,
    most: int = MAX_PERIODS,
) -> list[Period]:
    """Intervals drawn to scale in a window. The open one is drawn to the window's end, none beyond `known_until_ms`.

    Its duration is counted to `open_until_ms` if that is given, else to where it is drawn to. Of more than `most`
    intervals, those narrower than a `most`-th of the window are joined with their neighbours until they are as wide:
    at most about three times as many are drawn, however many there are.
    """
    edge_ms = to_ms if known_until_ms is None else min(to_ms, known_until_ms)
    shown = [it for it in intervals if _end_of(it, edge_ms) >= max(it.from_ms, from_ms)]
    width_ms = (to_ms - from_ms) / most if len(shown) > most else 0
    return [
        _period(run[0], from_ms, to_ms, edge_ms, open_until_ms)
        if len(run) == 1
        else _joined(run, from_ms, to_ms, edge_ms)
        for run in _runs(shown, from_ms, edge_ms, width_ms)
    ]


def _end_of(interval: Interval, edge_ms: int) -> int:
    return edge_ms if interval.to_ms is None else min(interval.to_ms, edge_ms)


def _runs(intervals: list[Interval], from_ms: int, edge_ms: int, width_ms: float) -> Iterator[list[Interval]]:
    """Neighbours narrower than a width, together until they reach it; all others alone."""
    run: list[Interval] = []
    for interval in intervals:
        begin_ms = max(interval.from_ms, from_ms)
        wide = interval.to_ms is None or _end_of(interval, edge_ms) - begin_ms >= width_ms
        if run and (wide or begin_ms - max(run[0].from_ms, from_ms) >= width_ms):
            yield run
            run = []
        if wide:
            yield [interval]
        else:
            run.append(interval)
    if run:
        yield run


def _period(interval: Interval, from_ms: int, to_ms: int, edge_ms: int, open_until_ms: int | None) -> Period:
    begin_ms, end_ms = max(interval.from_ms, from_ms), _end_of(interval, edge_ms)
    x, end = place(begin_ms, from_ms, to_ms), place(end_ms, from_ms, to_ms)
    last_ms = open_until_ms if open_until_ms is not None and interval.to_ms is None else end_ms
    duration_ms = max(0, last_ms - begin_ms)
    word = "public" if interval.public else "hidden"
    until = ", ongoing" if interval.to_ms is None else f" to {format_time(interval.to_ms)}"
    label = f"{word} from {format_time(interval.from_ms)}{until}, {format_duration(duration_ms)}"
    return Period(x, round(end - x, 2), interval.public, interval.from_ms, interval.to_ms, duration_ms, label)


def _joined(run: list[Interval], from_ms: int, to_ms: int, edge_ms: int) -> Period:
    begin_ms, end_ms = max(run[0].from_ms, from_ms), _end_of(run[-1], edge_ms)
    x, end = place(begin_ms, from_ms, to_ms), place(end_ms, from_ms, to_ms)
    public_ms = sum(_end_of(it, edge_ms) - max(it.from_ms, from_ms) for it in run if it.public)
    part = public_ms / (end_ms - begin_ms) if end_ms > begin_ms else 0.0
    label = (
        f"{len(run)} periods from {format_time(begin_ms)} to {format_time(end_ms)}:"
        f" public for {format_duration(public_ms)} of {format_duration(end_ms - begin_ms)}"
    )
    return Period(
        x, round(end - x, 2), part >= 0.5, begin_ms, end_ms, end_ms - begin_ms, label, len(run), round(part, 3)
    )


def ticks_of(changes: Iterable[Change], from_ms: int, to_ms: int) -> list[Tick]:
    """Changes, which come newest first, drawn to scale in a window, oldest first."""
    ticks = [
        Tick(
            place(change.event_time_ms, from_ms, to_ms),
            change.event_time_ms,
            change.late,
            f"{format_time(change.event_time_ms)}: {', '.join(change.changed)} by {text_of(change.operator)}"
            + (f", late: received {format_time(change.received_at_ms)}" if change.late else ""),
        )
        for change in changes
    ]
    return ticks[::-1]


def dense_ticks_of(columns: Iterable[Column], from_ms: int, to_ms: int) -> list[Tick]:
    """A mark for each column of a timeline in which callbacks happened, at the last of them."""
    return [
        Tick(
            place(column.last_ms, from_ms, to_ms),
            column.last_ms,
            column.late > 0,
            f"{column.events} {'callback' if column.events == 1 else 'callbacks'}"
            f" from {format_time(column.first_ms)} to {format_time(column.last_ms)}"
            + (f", {column.late} of them late" if column.late else ""),
        )
        for column in columns
    ]


def delays_of(delays_ms: Sequence[int]) -> list[Bar]:
    """A histogram of how long deliveries took. A delay below 0 means that a clock is wrong."""
    bounds = _DELAY_BOUNDS_MS
    names = ["< 0", *(f"< {format_duration(bound)}" for bound in bounds[1:]), f">= {format_duration(bounds[-1])}"]
    counts = [0] * len(names)
    for delay_ms in delays_ms:
        counts[next((i for i, bound in enumerate(bounds) if delay_ms < bound), len(bounds))] += 1
    most = max(counts, default=0)
    return [
        Bar(name, count, round(SCALE * count / most, 1) if most else 0.0)
        for name, count in zip(names, counts, strict=True)
    ]
