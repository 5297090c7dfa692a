"""What the page draws to scale: periods, ticks, and the bars of a histogram. Pure; knows nothing of HTTP or HTML."""

from collections.abc import Iterable, Sequence

import msgspec

from app.infra.times import format_duration, format_time
from app.queries.answers import Change, Interval
from app.server.page.values import text_of

SCALE = 1000
"""The width of every drawing: places and widths run from 0 to it."""
_DELAY_BOUNDS_MS = (0, 100, 250, 500, 1000, 2500, 5000, 15_000, 60_000, 600_000)


class Period(msgspec.Struct, frozen=True):
    """An interval of visibility to draw: from `x`, `width` wide."""

    x: float
    width: float
    public: bool
    from_ms: int
    to_ms: int | None
    duration_ms: int
    label: str


class Tick(msgspec.Struct, frozen=True):
    """A change to draw on a room's timeline."""

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
    intervals: Iterable[Interval], from_ms: int, to_ms: int, open_until_ms: int | None = None
) -> list[Period]:
    """Intervals drawn to scale in a window. The open one is drawn to the window's end.

    Its duration is counted to `open_until_ms` if that is given, else to the window's end.
    """
    periods = []
    for interval in intervals:
        end_ms = to_ms if interval.to_ms is None else min(interval.to_ms, to_ms)
        begin_ms = max(interval.from_ms, from_ms)
        if end_ms < begin_ms:
            continue
        x, end = place(begin_ms, from_ms, to_ms), place(end_ms, from_ms, to_ms)
        last_ms = open_until_ms if open_until_ms is not None and interval.to_ms is None else end_ms
        duration_ms = max(0, last_ms - begin_ms)
        word = "public" if interval.public else "hidden"
        until = ", ongoing" if interval.to_ms is None else f" to {format_time(interval.to_ms)}"
        label = f"{word} from {format_time(interval.from_ms)}{until}, {format_duration(duration_ms)}"
        periods.append(
            Period(x, round(end - x, 2), interval.public, interval.from_ms, interval.to_ms, duration_ms, label)
        )
    return periods


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
