"""What is drawn to scale: places, periods, ticks, delays."""

import itertools

import pytest
from conftest import T0
from hypothesis import given, settings
from hypothesis import strategies as st

from app.infra.times import format_time
from app.queries.answers import Column, FieldChange, Interval
from app.server.page.drawing import SCALE, delays_of, dense_ticks_of, periods_of, place, ticks_of
from server.page.answers import MINUTE, WINDOW, change_of

# ---- places ----


def test_a_place_is_the_part_of_the_window_that_is_over() -> None:
    assert place(0, 0, 1000) == 0
    assert place(250, 0, 1000) == SCALE / 4
    assert place(1000, 0, 1000) == SCALE
    assert place(T0 + 3 * MINUTE, *WINDOW) == SCALE * 3 / 10


def test_a_place_outside_of_the_window_is_its_edge() -> None:
    assert place(WINDOW[0] - 1, *WINDOW) == 0
    assert place(WINDOW[1] + 1, *WINDOW) == SCALE
    assert place(-(10**15), *WINDOW) == 0
    assert place(10**15, *WINDOW) == SCALE


def test_a_window_of_no_width_or_backwards_has_one_place() -> None:
    assert place(5, 5, 5) == 0
    assert place(6, 5, 4) == 0


@settings(max_examples=200)
@given(st.lists(st.integers(-(10**15), 10**15), min_size=2, max_size=6))
def test_places_keep_the_order_of_times_and_stay_on_the_scale(times: list[int]) -> None:
    window = (min(times), max(times))
    places = [place(at, *window) for at in sorted(times)]
    assert places == sorted(places)
    assert all(0 <= x <= SCALE for x in places)


# ---- periods ----


def test_periods_are_drawn_to_scale() -> None:
    periods = periods_of(
        [
            Interval(T0, T0 + MINUTE, False),
            Interval(T0 + MINUTE, T0 + 6 * MINUTE, True),
            Interval(T0 + 6 * MINUTE, None, False),
        ],
        *WINDOW,
    )
    assert [(period.x, period.width, period.public) for period in periods] == [
        (0, 100, False),
        (100, 500, True),
        (600, 400, False),
    ]
    assert [period.duration_ms for period in periods] == [MINUTE, 5 * MINUTE, 4 * MINUTE]


def test_an_open_period_ends_with_the_window_and_says_that_it_goes_on() -> None:
    (period,) = periods_of([Interval(T0 + 5 * MINUTE, None, True)], *WINDOW)
    assert (period.x, period.width, period.to_ms, period.duration_ms) == (500, 500, None, 5 * MINUTE)
    assert period.label == f"public from {format_time(T0 + 5 * MINUTE)}, ongoing, 5 min"
    (closed,) = periods_of([Interval(T0, T0 + 1500, False)], *WINDOW)
    assert closed.label == f"hidden from {format_time(T0)} to {format_time(T0 + 1500)}, 1 s 500 ms"


def test_periods_are_clipped_to_the_window() -> None:
    periods = periods_of(
        [Interval(T0 - MINUTE, T0 + MINUTE, True), Interval(T0 + MINUTE, T0 + 99 * MINUTE, False)], *WINDOW
    )
    assert [(period.x, period.width) for period in periods] == [(0, 100), (100, 900)]
    assert [period.duration_ms for period in periods] == [MINUTE, 9 * MINUTE]
    assert periods[0].from_ms == T0 - MINUTE  # what it says is not clipped
    assert periods[1].to_ms == T0 + 99 * MINUTE


def test_periods_wholly_before_or_behind_the_window_are_not_drawn() -> None:
    before, behind = Interval(T0 - 2 * MINUTE, T0 - 1, True), Interval(WINDOW[1] + 1, WINDOW[1] + 2, True)
    ahead = Interval(WINDOW[1] + 1, None, False)
    assert periods_of([before, behind, ahead], *WINDOW) == []


def test_a_period_that_begins_as_the_window_ends_is_there_without_width() -> None:
    (period,) = periods_of([Interval(WINDOW[1], None, True)], *WINDOW)
    assert (period.x, period.width, period.duration_ms) == (SCALE, 0, 0)


@settings(max_examples=200)
@given(st.lists(st.integers(T0 - 10**6, T0 + 10**7), min_size=2, max_size=12, unique=True), st.booleans())
def test_periods_tile_what_they_cover_without_gap_or_overlap(times: list[int], public: bool) -> None:
    edges: list[int | None] = [*sorted(times), None]
    intervals = [
        Interval(begin, end, public ^ bool(i % 2))
        for i, (begin, end) in enumerate(itertools.pairwise(edges))
        if begin is not None
    ]
    periods = periods_of(intervals, *WINDOW)
    for one, next_ in itertools.pairwise(periods):
        assert round(one.x + one.width, 2) == next_.x
        assert one.public is not next_.public
    assert all(period.width >= 0 and 0 <= period.x <= SCALE for period in periods)
    begin = max(min(times), WINDOW[0])
    if begin <= WINDOW[1]:
        assert sum(period.duration_ms for period in periods) == WINDOW[1] - begin
        assert periods[-1].x + periods[-1].width == pytest.approx(SCALE, abs=0.02)
    else:
        assert periods == []


# ---- more periods than can be told apart ----


def toggles(count: int, each_ms: int) -> list[Interval]:
    return [Interval(T0 + n * each_ms, T0 + (n + 1) * each_ms, n % 2 == 0) for n in range(count)]


def test_as_many_periods_as_may_be_are_drawn_one_by_one() -> None:
    assert [it.count for it in periods_of(toggles(10, 1000), T0, T0 + 10_000, most=10)] == [1] * 10


def test_of_more_than_may_be_those_too_narrow_are_joined_with_their_share() -> None:
    periods = periods_of(toggles(40, 1000), T0, T0 + 40_000, most=10)
    assert [(it.x, it.width, it.count, it.public_part) for it in periods] == [(n * 100, 100, 4, 0.5) for n in range(10)]
    assert periods[0].label == (f"4 periods from {format_time(T0)} to {format_time(T0 + 4000)}: public for 2 s of 4 s")


def test_a_wide_period_and_the_open_one_stand_alone_among_narrow_ones() -> None:
    narrow = toggles(30, 10)
    wide = Interval(T0 + 300, T0 + 5300, True)
    late = [Interval(T0 + 5300 + n * 10, T0 + 5310 + n * 10, n % 2 == 1) for n in range(30)]
    open_ = Interval(T0 + 5600, None, True)
    periods = periods_of([*narrow, wide, *late, open_], T0, T0 + 5610, most=10)
    assert [(it.count, it.from_ms, it.to_ms) for it in periods] == [
        (30, T0, T0 + 300),
        (1, T0 + 300, T0 + 5300),
        (30, T0 + 5300, T0 + 5600),
        (1, T0 + 5600, None),
    ]


def test_periods_end_where_what_is_known_ends() -> None:
    edge = T0 + 4 * MINUTE
    intervals = [Interval(T0, T0 + 3 * MINUTE, False), Interval(T0 + 3 * MINUTE, None, True)]
    periods = periods_of(intervals, *WINDOW, edge, known_until_ms=edge)
    assert [(it.x, it.width, it.duration_ms) for it in periods] == [(0, 300, 3 * MINUTE), (300, 100, MINUTE)]
    assert periods_of([Interval(edge + 1, None, True)], *WINDOW, known_until_ms=edge) == []


@settings(max_examples=200)
@given(
    st.lists(st.integers(1, 10**5), min_size=1, max_size=200),
    st.integers(1, 40),
    st.integers(-(10**5), 10**6),
    st.none() | st.integers(0, 10**7),
)
def test_thinned_or_not_a_drawing_covers_the_same_and_keeps_the_sums(
    widths: list[int], most: int, begin: int, known: int | None
) -> None:
    edges = list(itertools.accumulate(widths, initial=T0))
    intervals = [Interval(one, next_, n % 2 == 0) for n, (one, next_) in enumerate(itertools.pairwise(edges))]
    window = (T0 + begin, max(T0 + begin + 1, edges[-1]))
    known_until_ms = None if known is None else T0 + known
    all_, thinned = (
        periods_of(intervals, *window, known_until_ms=known_until_ms, most=number) for number in (10**9, most)
    )
    assert len(thinned) <= max(most, 3 * most + 2)
    assert sum(it.count for it in thinned) == len(all_)
    assert sum(it.duration_ms for it in thinned) == sum(it.duration_ms for it in all_)
    public_ms = sum(it.duration_ms * (it.public_part if it.count > 1 else it.public) for it in thinned)
    assert public_ms == pytest.approx(sum(it.duration_ms for it in all_ if it.public), abs=len(thinned) * 10**4)
    if all_:
        assert thinned[0].x == all_[0].x
        assert thinned[-1].x + thinned[-1].width == pytest.approx(all_[-1].x + all_[-1].width, abs=0.02)
    for one, next_ in itertools.pairwise(thinned):
        assert one.x + one.width == pytest.approx(next_.x, abs=0.02)


# ---- ticks ----


def test_a_mark_for_many_callbacks_stands_at_the_last_of_them_and_says_how_many() -> None:
    columns = [Column(3, T0, T0 + MINUTE, 0), Column(1, T0 + 2 * MINUTE, T0 + 2 * MINUTE, 1)]
    first, second = dense_ticks_of(columns, *WINDOW)
    assert (first.x, first.at_ms, first.late) == (100, T0 + MINUTE, False)
    assert first.label == f"3 callbacks from {format_time(T0)} to {format_time(T0 + MINUTE)}"
    assert second.late
    assert second.label.startswith("1 callback from ")
    assert second.label.endswith(", 1 of them late")


def test_ticks_come_oldest_first_though_changes_come_newest_first() -> None:
    changes = [change_of(T0 + 5 * MINUTE, B=FieldChange(1, 2)), change_of(T0, A=FieldChange(to=1))]
    ticks = ticks_of(changes, *WINDOW)
    assert [(tick.x, tick.at_ms, tick.late) for tick in ticks] == [(0, T0, False), (500, T0 + 5 * MINUTE, False)]


def test_a_tick_says_what_changed_and_by_whom_and_whether_it_was_late() -> None:
    plain, late = (
        change_of(T0 + 1, A=FieldChange(to=1), B=FieldChange(1, 2)),
        change_of(T0, "9007199254740993", late=True, A=FieldChange(1, 2)),
    )
    first, second = ticks_of([plain, late], *WINDOW)
    assert second.label == f"{format_time(T0 + 1)}: A, B by bob"
    assert first.label == f"{format_time(T0)}: A by 9007199254740993, late: received {format_time(T0 + 5)}"
    assert first.late


def test_no_changes_no_ticks_and_no_intervals_no_periods() -> None:
    assert ticks_of([], *WINDOW) == []
    assert periods_of([], *WINDOW) == []


# ---- delays ----


def test_delays_fall_into_their_columns_and_none_is_lost() -> None:
    bars = delays_of([-1, 0, 99, 100, 249, 250, 999, 1000, 59_999, 60_000, 599_999, 600_000, 10**9])
    counted = {bar.label: bar.count for bar in bars}
    assert counted == {
        "< 0": 1,
        "< 100 ms": 2,
        "< 250 ms": 2,
        "< 500 ms": 1,
        "< 1 s": 1,
        "< 2 s 500 ms": 1,
        "< 5 s": 0,
        "< 15 s": 0,
        "< 1 min": 1,
        "< 10 min": 2,
        ">= 10 min": 2,
    }


def test_the_highest_column_is_as_high_as_the_scale_and_the_others_to_it() -> None:
    bars = delays_of([5, 6, 7, 8, 300])
    assert {bar.label: bar.height for bar in bars if bar.count} == {"< 100 ms": SCALE, "< 500 ms": SCALE / 4}


def test_no_delays_is_a_flat_histogram() -> None:
    assert {(bar.count, bar.height) for bar in delays_of([])} == {(0, 0)}


@settings(max_examples=100)
@given(st.lists(st.integers(-(10**13), 10**13), max_size=40))
def test_every_delay_is_counted_once(delays: list[int]) -> None:
    assert sum(bar.count for bar in delays_of(delays)) == len(delays)
