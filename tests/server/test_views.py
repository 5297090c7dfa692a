"""What the page draws: places, widths, texts, comparisons and files, from answers written by hand."""

import csv
import io
import itertools
import json
from typing import Any

import msgspec
import pytest
from conftest import T0
from hypothesis import given, settings
from hypothesis import strategies as st

from app.infra.times import format_time
from app.queries.answers import Change, ChangeCounts, Counts, FieldChange, Interval, Room, SetBy, Visibility, Window
from app.server.page.drawing import SCALE, delays_of, periods_of, place, ticks_of
from app.server.page.values import text_of
from app.server.page.views import blame_of, compare, fields_of, line_of, steps_of
from app.server.page.visibility_file import safe_cell, visibility_csv

MINUTE = 60_000
WINDOW = (T0, T0 + 10 * MINUTE)


def raw(text: str) -> msgspec.Raw:
    return msgspec.Raw(text.encode())


def room_of(fields: dict[str, str], set_by: dict[str, tuple[int, str, str]] | None = None, room_id: str = "r") -> Room:
    """A room whose values are JSON text, each set by (time, event_id, operator as JSON text)."""
    set_by = set_by or dict.fromkeys(fields, (T0, "e1", '"bob"'))
    last = max(set_by.values(), default=(T0, "e1", ""))
    return Room(
        room_id,
        # The read model's rows hold an object of raw JSON, and so do these.
        raw("{" + ",".join(f"{json.dumps(name)}:{text}" for name, text in fields.items()) + "}"),  # type: ignore[arg-type]
        {name: SetBy(at, event_id, raw(operator)) for name, (at, event_id, operator) in set_by.items()},
        last[1],
        last[0],
        len({by[1] for by in set_by.values()}),
        None,
        None,
    )


def change_of(at: int, operator: str = '"bob"', late: bool = False, **changed: FieldChange) -> Change:
    return Change("e1", 1, at, at + 5, raw(operator), "Web", late, changed)


def timeline(room_id: str, *intervals: Interval, to_ms: int = WINDOW[1]) -> Visibility:
    begin = intervals[0].from_ms if intervals else None
    return Visibility(room_id, list(intervals), 0, 0, Window(begin, to_ms))


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


# ---- ticks ----


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


# ---- texts ----


@pytest.mark.parametrize(
    ("json_text", "shown"),
    [
        ('"bob"', "bob"),
        ('""', ""),
        ('"\\u00fc\\n\\"q\\""', 'ü\n"q"'),
        ("null", "null"),
        ("true", "true"),
        ("9223372036854775808", "9223372036854775808"),  # 2**63
        ("-9223372036854775809", "-9223372036854775809"),
        (str(10**30), str(10**30)),
        ("9007199254740993", "9007199254740993"),  # 2**53 + 1: a double would make it ...992
        ("1.0", "1.0"),
        ("1.50", "1.50"),
        ("1e2", "1e2"),
        ("0.1000000000000000055511151231257827", "0.1000000000000000055511151231257827"),
        ("-0.0", "-0.0"),
        ('{"a": [1,  2.50]}', '{"a": [1,  2.50]}'),
    ],
)
def test_raw_json_shows_as_it_came_and_a_string_bare(json_text: str, shown: str) -> None:
    assert text_of(raw(json_text)) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("bob", "bob"),
        ("", ""),
        (None, "null"),
        (False, "false"),
        (2**63, "9223372036854775808"),
        (10**30, "1" + "0" * 30),
        (1.0, "1.0"),
        ([1, {"b": "é", "a": None}], '[1,{"a":null,"b":"é"}]'),
    ],
)
def test_values_that_are_no_raw_json_show_the_same_way(value: Any, shown: str) -> None:
    assert text_of(value) == shown


def test_a_long_text_is_cut_and_says_so() -> None:
    assert text_of("x" * 400) == "x" * 400
    assert text_of("x" * 401) == "x" * 399 + "…"
    assert text_of(raw('"' + "é" * 500 + '"')) == "é" * 399 + "…"
    assert len(text_of([1] * 10_000)) == 400


@settings(max_examples=200)
@given(
    st.text(max_size=60) | st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
)
def test_what_is_shown_reads_back_as_the_value(value: Any) -> None:
    shown = text_of(value)
    if isinstance(value, str):
        assert shown == value
    else:
        assert shown == json.dumps(value)
        assert text_of(raw(json.dumps(value))) == shown


# ---- a room and its blame ----


def test_each_field_has_its_value_and_the_event_that_set_it() -> None:
    room = room_of(
        {"CoverURL": '"https://covers.example/a.png"', "MaxMemberCount": str(10**30), "RoomName": '"x"'},
        {
            "CoverURL": (T0, "e1", "9007199254740993"),
            "MaxMemberCount": (T0 + 1, "e2", '"eve"'),
            "RoomName": (T0 + 2, "e3", "null"),
        },
    )
    views = fields_of(room, {"e1": "iOS", "e2": None})
    assert [(view.name, view.text, view.operator, view.platform) for view in views] == [
        ("CoverURL", "https://covers.example/a.png", "9007199254740993", "iOS"),
        ("MaxMemberCount", str(10**30), "eve", None),
        ("RoomName", "x", "null", None),
    ]
    assert [(view.set_at_ms, view.event_id, view.fresh) for view in views] == [
        (T0, "e1", False),
        (T0 + 1, "e2", False),
        (T0 + 2, "e3", True),
    ]
    blame = blame_of(room)
    assert {name: (by.set_at_ms, by.event_id, bytes(by.operator)) for name, by in blame.items()} == {
        "CoverURL": (T0, "e1", b"9007199254740993"),
        "MaxMemberCount": (T0 + 1, "e2", b'"eve"'),
        "RoomName": (T0 + 2, "e3", b"null"),
    }


@pytest.mark.parametrize(
    "value",
    [
        "javascript:alert(1)",
        " javascript:alert(1)",
        "data:text/html,<script>",
        "//evil.example",
        "ftp://x",
        "xhttp://y",
        " https://x",
        "http",
    ],
)
def test_only_http_addresses_are_links(value: str) -> None:
    room = room_of({"CoverURL": json.dumps(value)})
    assert fields_of(room, {})[0].link is None


@pytest.mark.parametrize("value", ["http://x", "https://x/?a=1&b=2", "HTTPS://X/\u202e", "https://x/" + "y" * 2000])
def test_a_link_leads_to_the_whole_address_however_long(value: str) -> None:
    (view,) = fields_of(room_of({"CoverURL": json.dumps(value)}), {})
    assert view.link == value
    assert len(view.text) <= 400


def test_a_room_without_fields_has_none_to_show() -> None:
    assert fields_of(room_of({}), {}) == []


# ---- a line of the list ----


def counts_of(changes: int) -> ChangeCounts:
    return ChangeCounts("r", {"A": Counts(9, changes, T0, None), "B": Counts(1, 0, T0, None)})


def test_a_line_shows_the_last_change_and_who_made_it() -> None:
    room = room_of(
        {"A": "1", "B": "2", "RoomName": '"tea"'},
        {"A": (T0 + 9, "e1", '"ann"'), "B": (T0, "e0", '"bob"'), "RoomName": (T0 + 9, "e1", '"ann"')},
    )
    visible = timeline("r", Interval(T0, T0 + MINUTE, True), Interval(T0 + MINUTE, None, False))
    line = line_of(room, counts_of(3), 4, visible, WINDOW)
    assert (line.room_id, line.name, line.public) == ("r", "tea", False)
    assert (line.changed_at_ms, line.changed_by, line.changed_what) == (T0 + 9, "ann", "A 1, RoomName tea")
    assert (line.changes, line.bar) == (3, 750)
    assert [(period.x, period.width) for period in line.periods] == [(0, 100), (100, 900)]


def test_of_two_changes_in_one_millisecond_the_one_with_the_greater_event_id_is_the_last() -> None:
    for first, second in (("A", "B"), ("B", "A")):
        room = room_of({"A": "1", "B": "2"}, {first: (T0, "e1", '"ann"'), second: (T0, "e2", '"eve"')})
        line = line_of(room, counts_of(0), 0, timeline("r"), WINDOW)
        assert (line.changed_by, line.changed_what.split()[0]) == ("eve", second)


def test_a_line_shows_two_fields_of_many_and_how_many_more() -> None:
    room = room_of({name: f'"{name * 99}"' for name in "ABCDE"})
    line = line_of(room, counts_of(0), 0, timeline("r"), WINDOW)
    assert line.changed_what == f"A {'A' * 60}, B {'B' * 60} and 3 more"


def test_a_room_that_never_said_much_has_a_line_too() -> None:
    line = line_of(room_of({}), counts_of(0), 0, timeline("r"), WINDOW)
    assert (line.public, line.changed_by, line.changed_what, line.bar, line.periods) == (None, "", "", 0, [])
    assert line.changed_at_ms == T0


def test_a_room_without_a_name_and_one_with_an_empty_name_differ() -> None:
    def name(fields: dict[str, str]) -> str | None:
        return line_of(room_of(fields), counts_of(0), 0, timeline("r"), WINDOW).name

    assert name({}) is None
    assert name({"RoomName": '""'}) == ""
    assert name({"RoomName": "12345678901234567890"}) == "12345678901234567890"


# ---- steps and comparisons ----


def test_a_step_says_what_was_and_what_is_and_what_was_not() -> None:
    steps = steps_of(
        {"A": FieldChange(to=raw("1")), "B": FieldChange(raw("1"), raw("1.0")), "C": FieldChange(raw('""'))}
    )
    assert [(step.name, step.before, step.after) for step in steps] == [
        ("A", None, "1"),
        ("B", "1", "1.0"),
        ("C", "", None),
    ]


def test_a_comparison_has_every_field_of_both_times_by_name() -> None:
    before, after = room_of({"B": "1", "C": '"x"', "D": "null"}), room_of({"A": "[]", "C": '"x"', "D": '""'})
    assert [(it.name, it.before, it.after, it.differs) for it in compare(before, after)] == [
        ("A", None, "[]", True),
        ("B", "1", None, True),
        ("C", "x", "x", False),
        ("D", "null", "", True),
    ]


def test_a_comparison_with_a_time_when_there_was_no_room() -> None:
    room = room_of({"A": "1"})
    assert [(it.before, it.after, it.differs) for it in compare(None, room)] == [(None, "1", True)]
    assert [(it.before, it.after, it.differs) for it in compare(room, None)] == [("1", None, True)]
    assert compare(None, None) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", '"1"'), ("1", "1.0"), ("true", '"true"'), ("null", '"null"'), ("[]", '"[]"'), ("0", "-0.0")],
)
def test_values_that_look_alike_differ(one: str, other: str) -> None:
    (it,) = compare(room_of({"A": one}), room_of({"A": other}))
    assert it.differs
    (same,) = compare(room_of({"A": one}), room_of({"A": one}))
    assert not same.differs


def test_long_values_that_differ_only_at_their_end_differ() -> None:
    (it,) = compare(room_of({"A": f'"{"x" * 999}a"'}), room_of({"A": f'"{"x" * 999}b"'}))
    assert it.differs


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


# ---- CSV ----


def read_csv(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text, newline="")))


def test_the_file_has_a_line_for_each_period_in_exact_times() -> None:
    answer = timeline("r", Interval(T0, T0 + MINUTE, True), Interval(T0 + MINUTE, None, False))
    head, *lines = read_csv(visibility_csv(answer))
    assert head == ["room_id", "visibility", "from", "to", "from_ms", "to_ms", "duration_ms"]
    end = T0 + MINUTE
    assert lines == [
        ["r", "public", format_time(T0), format_time(end), str(T0), str(end), str(MINUTE)],
        ["r", "hidden", format_time(end), "", str(end), "", str(9 * MINUTE)],
    ]
    assert visibility_csv(answer).count("\r\n") == 3


def test_an_open_period_from_the_future_has_lasted_no_time() -> None:
    (_, line) = read_csv(visibility_csv(timeline("r", Interval(WINDOW[1] + 5, None, True))))
    assert line[-1] == "0"


def test_a_timeline_of_nothing_is_a_head() -> None:
    assert len(read_csv(visibility_csv(timeline("r")))) == 1


@pytest.mark.parametrize("begin", ["=", "+", "-", "@"])
@pytest.mark.parametrize("blanks", ["", " ", "   ", "\n", "\u00a0", "\u3000 ", "\x0b", " \t ", "\t", "\r", "\r\n"])
def test_no_cell_begins_like_a_formula(begin: str, blanks: str) -> None:
    text = f"{blanks}{begin}cmd|' /C calc'!A0"
    assert safe_cell(text) == f"'{text}"
    (_, line) = read_csv(visibility_csv(timeline(text, Interval(T0, None, True))))
    assert line[0] == f"'{text}"


@pytest.mark.parametrize("text", ["\tcmd", "\rcmd", "\t", "\r\n"])
def test_no_cell_begins_with_a_tab_or_a_carriage_return(text: str) -> None:
    assert safe_cell(text) == f"'{text}"
    (_, line) = read_csv(visibility_csv(timeline(text, Interval(T0, None, True))))
    assert line[0] == f"'{text}"


@pytest.mark.parametrize("text", ["room", "a=1", "1+1", "x@y", "", "'", "é", "a\tb", "room-1"])
def test_other_cells_stay_as_they_are(text: str) -> None:
    assert safe_cell(text) == text


@settings(max_examples=200)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40))
def test_any_room_id_reads_back_from_the_file_and_is_no_formula(room_id: str) -> None:
    lines = read_csv(visibility_csv(timeline(room_id, Interval(T0, T0 + 1, True), Interval(T0 + 1, None, False))))
    assert [len(line) for line in lines] == [7, 7, 7]
    for line in lines[1:]:
        assert line[0] in (room_id, f"'{room_id}")
        assert not line[0].lstrip().startswith(("=", "+", "-", "@"))
        assert not line[0].startswith(("\t", "\r"))


@pytest.mark.parametrize("room_id", ['say "hi", you', "a,b;c", "line\nline", "line\r\nline", '"', ",", "\n"])
def test_quotes_commas_and_newlines_in_a_room_id_stay_in_their_cell(room_id: str) -> None:
    lines = read_csv(visibility_csv(timeline(room_id, Interval(T0, None, True))))
    assert [line[0] for line in lines[1:]] == [room_id]
    assert [len(line) for line in lines] == [7, 7]
