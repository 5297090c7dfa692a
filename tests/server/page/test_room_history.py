"""A room's history: all of it over its pages, its filters."""

import pytest
from conftest import T0, Server
from html_tree import Node, moments_in, rows_of, values_of

from app.infra.times import format_time
from app.server.page.values import text_of
from server.page.reading import api, as_shown, changes_of, check, check_state, open_room, submit
from server.page.town import DIARY, MARKUP


def history_form(page: Node) -> Node:
    return page.one("section", id="history").one("form")


def shown_history(server: Server, page: Node) -> list[list[str]]:
    """The rows of the history, over all of its pages: when, by whom, from where, what, which event."""
    rows: list[list[str]] = []
    while True:
        section = page.one("section", id="history")
        for table in section.all("table", class_="history"):
            rows += rows_of(table)
        older = [link for link in section.all("a") if link.text == "Older"]
        if not older:
            return rows
        page = check(server.client.get(older[0].attrs["href"]))
        assert any(link.text == "Newest" for link in page.one("section", id="history").all("a"))


def test_the_history_has_every_change_once_newest_first_over_its_pages(town: Server) -> None:
    changes = changes_of(town, DIARY)[::-1]
    page = open_room(town, DIARY)
    assert len(rows_of(page.one("table", class_="history"))) == 25
    rows = shown_history(town, page)
    assert len(rows) == len(changes) > 50
    for row, change in zip(rows, changes, strict=True):
        when = format_time(change["event_time_ms"]).replace("T", " ").removesuffix("Z")
        assert row[0] == when + (" late" if change["late"] else "")
        assert row[1] == as_shown(change["operator"])
        assert row[2] == as_shown(change["platform"])
        for name in change["changed"]:
            assert name in row[3]


@pytest.mark.parametrize(
    ("typed", "params"),
    [
        ({"field": "Category"}, {"field": "Category"}),
        ({"field": "NoSuchField"}, {"field": "NoSuchField"}),
        ({"operator": "eve"}, {}),
        ({"operator": str(2**63)}, {}),
        ({"operator": MARKUP}, {}),
        ({"operator": "null"}, {}),
        ({"late": "yes"}, {}),
        ({"late": "no"}, {}),
        ({"late": "yes", "operator": "eve", "field": "Notice"}, {"field": "Notice"}),
        ({"late": "no", "operator": "ann", "field": "IsPublicVisible"}, {"field": "IsPublicVisible"}),
        ({}, {}),
    ],
)
def test_the_history_form_filters_by_field_operator_and_lateness(
    town: Server, typed: dict[str, str], params: dict[str, str]
) -> None:
    wanted = [
        change
        for change in changes_of(town, DIARY, **params)[::-1]
        if typed.get("operator") in (None, text_of(change["operator"]))
        and typed.get("late") in (None, "yes" if change["late"] else "no")
    ]
    page = submit(town, history_form(open_room(town, DIARY)), **typed)
    assert [row[4] for row in shown_history(town, page)] == ["raw"] * len(wanted)
    rows = [row for table in page.all("table", class_="history") for row in table.one("tbody").all("tr")]
    ids = [row.all("a")[-1].attrs["href"].removeprefix("/event/") for row in rows]
    assert ids == [change["event_id"] for change in wanted[:25]]
    assert values_of(history_form(page)) == {"field": "", "operator": "", "late": ""} | typed
    if typed:
        everything = next(link for link in page.all("a") if link.text == "All changes")
        again = check(town.client.get(everything.attrs["href"]))
        assert values_of(history_form(again)) == {"field": "", "operator": "", "late": ""}


def test_filtering_keeps_the_moment_and_other_moments_keep_the_filter(town: Server) -> None:
    page = submit(town, history_form(open_room(town, DIARY, at=T0 + 9000, known_at=10**14)), operator="ann")
    assert values_of(page.one("form", id="travel")) == {"at": format_time(T0 + 9000), "known_at": format_time(10**14)}
    check_state(page, api(town, DIARY, as_of=T0 + 9000))
    following = check(town.client.get(page.one("a", id="next").attrs["href"]))
    assert values_of(history_form(following))["operator"] == "ann"
    assert values_of(following.one("form", id="travel"))["known_at"] == format_time(10**14)
    assert moments_in(following.one("h2", id="state-title"))[0] == T0 + 10_000


def test_changes_after_the_moment_shown_are_marked_as_ahead(town: Server) -> None:
    rows = open_room(town, DIARY, at=T0 + 58_000).one("table", class_="history").one("tbody").all("tr")
    ahead = [moments_in(row)[0] for row in rows if "ahead" in row.attrs["class"].split()]
    others = [moments_in(row)[0] for row in rows if "ahead" not in row.attrs["class"].split()]
    assert ahead == [T0 + 70_000, T0 + 59_000]
    assert max(others) == T0 + 58_000
