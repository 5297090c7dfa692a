"""What is shown of a room: fields and blame, its line in the list, steps, comparisons."""

import json

import pytest
from conftest import T0

from app.queries.answers import ChangeCounts, Counts, FieldChange, Interval
from app.server.page.views import blame_of, compare, fields_of, line_of, steps_of
from server.page.answers import MINUTE, WINDOW, raw, room_of, timeline

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
