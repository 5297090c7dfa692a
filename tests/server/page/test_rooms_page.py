"""The list of rooms: search, filter, sorting, paging, past times."""

import json
import time
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from conftest import T0, Server, StartServer
from html_tree import Node, moments_in, read_html, rows_of, values_of

from app.infra.times import format_time
from server.page.reading import all_listed, api, check, check_headers, check_state, listed, open_page, path_of, submit
from server.page.town import CROWD, DIARY, HOSTILE, MARKUP, crowd


def test_the_list_shows_each_room_with_its_state_and_last_change(town: Server) -> None:
    page = open_page(town, "/", q="crowd 120", sort="name")
    (row,) = rows_of(page.one("table", class_="rooms"))
    at = format_time(T0 + 40_000).replace("T", " ").removesuffix("Z")
    assert row[0] == "crowd 120The CROWD 120"
    assert row[1] == "public"
    assert row[2] == f"IsPublicVisible true, RoomName The CROWD 120 by bob, {at}"
    assert row[3] == "0"
    assert rows_of(open_page(town, "/", q="crowd 119").one("table", class_="rooms"))[0][1] == "unknown"
    assert rows_of(open_page(town, "/", q="crowd 117").one("table", class_="rooms"))[0][1] == "hidden"


@pytest.mark.parametrize("sort", ["activity", "name"])
@pytest.mark.parametrize("show", ["all", "public", "hidden"])
def test_paging_gives_each_room_once_in_order(town: Server, sort: str, show: str) -> None:
    wanted = [
        (at, room_id) for room_id, at, public in crowd() if show == "all" or public is {"public": True}.get(show, False)
    ]
    expected = sorted(wanted, key=(lambda it: it[1]) if sort == "name" else None, reverse=sort == "activity")
    pages = all_listed(town, open_page(town, "/", q="CROWD", sort=sort, show=show))
    assert [room_id for page in pages for room_id in page] == [room_id for _, room_id in expected]
    assert [len(page) for page in pages] == [50] * (len(expected) // 50) + [len(expected) % 50]


def test_all_rooms_are_listed_over_the_pages_by_either_order(town: Server) -> None:
    everything = {room_id for room_id, _, _ in crowd()} | set(HOSTILE) | {DIARY}
    for sort in ("activity", "name"):
        found = [room_id for page in all_listed(town, open_page(town, "/", sort=sort)) for room_id in page]
        assert len(found) == len(everything)
        assert set(found) == everything


def test_a_page_behind_the_first_has_a_way_back_to_it(town: Server) -> None:
    first = open_page(town, "/", q="crowd", sort="name")
    second = check(town.client.get(first.one("a", rel="next").attrs["href"]))
    back = second.one("nav", aria_label="Pages of rooms").all("a")[0]
    assert back.text == "First page"
    assert listed(check(town.client.get(back.attrs["href"]))) == listed(first)
    assert listed(first) != listed(second)


def test_turning_pages_keeps_every_question(town: Server) -> None:
    asked: dict[str, Any] = {
        "q": "crowd",
        "show": "public",
        "sort": "name",
        "window": "7d",
        "at": T0 + 10**6,
        "known_at": 10**14,
    }
    page = open_page(town, "/", **asked)
    href = page.all("a", rel="next")
    assert href == []  # 49 are public
    page = open_page(town, "/", **asked | {"show": "all"})
    kept = parse_qs(urlsplit(page.one("a", rel="next").attrs["href"]).query)
    assert kept.pop("cursor")
    assert kept == {
        "q": ["crowd"],
        "sort": ["name"],
        "window": ["7d"],
        "at": [format_time(T0 + 10**6)],
        "known_at": [format_time(10**14)],
    }


def test_the_form_of_the_list_asks_what_was_typed_and_shows_it_again(town: Server) -> None:
    form = open_page(town, "/").one("form", id="filters")
    typed = {"q": "crowd 0", "show": "hidden", "sort": "name", "window": "1h", "at": "2022-12-09 08:27:05"}
    page = submit(town, form, **typed)
    at = 1670574425000
    expected = [room_id for room_id, time_ms, public in crowd() if public is False and time_ms <= at]
    assert listed(page) == sorted(expected)
    assert values_of(page.one("form", id="filters")) == typed | {"at": format_time(at)}
    assert page.one("h1").text.startswith("Rooms at 2022-12-09 08:27:05")
    assert "This list shows a past time and does not update." in page.text
    back = next(link for link in page.all("a") if link.text == "Back to now")
    now = check(town.client.get(back.attrs["href"]))
    assert values_of(now.one("form", id="filters")) == typed | {"at": ""}


@pytest.mark.parametrize("name", HOSTILE)
def test_searching_for_a_hostile_name_finds_it_and_shows_it_as_text(town: Server, name: str) -> None:
    page = open_page(town, "/", q=name)
    assert name in listed(page)
    assert page.one("input", name="q").attrs["value"] == name


def test_a_search_that_finds_nothing_says_so(town: Server) -> None:
    page = open_page(town, "/", q=MARKUP * 2)
    assert listed(page) == []
    assert "No matches" in page.text
    assert "No room was known at that time" in open_page(town, "/", at=T0 - 1).text


def test_a_list_at_a_time_is_that_of_the_api_and_its_links_go_to_that_time(town: Server) -> None:
    at = T0 + 20_000
    page = open_page(town, "/", at=at, sort="name")
    assert all_listed(town, page) == [
        [room["room_id"] for room in town.get("/rooms", as_of=at, limit=500)["rooms"]][i : i + 50]
        for i in range(0, len(listed(page)) + 20, 50)
    ]
    link = open_page(town, "/", at=at, q=DIARY).one("table").one("tbody").one("a")
    check_state(check(town.client.get(link.attrs["href"])), api(town, DIARY, as_of=at))


def test_a_list_as_it_was_known_has_the_rooms_received_by_then(town: Server) -> None:
    events = town.get("/events", limit=500)["events"]
    known_at = events[30]["received_at_ms"]
    expected = {event["room_id"] for event in events if event["received_at_ms"] <= known_at}
    assert len(expected) < CROWD
    for sort in ("activity", "name"):
        page = open_page(town, "/", known_at=known_at, sort=sort)
        assert {room_id for rooms in all_listed(town, page) for room_id in rooms} == expected
        assert page.one("input", name="known_at").attrs["value"] == format_time(known_at)


@pytest.mark.parametrize("window", ["1h", "6h", "24h", "7d"])
def test_the_strip_of_a_room_reaches_back_as_far_as_asked(town: Server, window: str) -> None:
    end = T0 + 3_600_000
    page = open_page(town, "/", q="crowd 000", window=window, at=end)
    hours = {"1h": 1, "6h": 6, "24h": 24, "7d": 168}[window]
    assert moments_in(page.one("table").one("thead")) == [end - hours * 3_600_000, end]
    (period,) = page.one("svg", class_="strip").all("rect", class_="public")
    assert float(period.attrs["width"]) == pytest.approx(1000 / hours, abs=0.01)
    assert float(period.attrs["x"]) == pytest.approx(1000 - 1000 / hours, abs=0.01)


def test_a_server_without_events_says_how_to_send_some(start_server: StartServer) -> None:
    server = start_server()
    assert "No callback has been received yet" in open_page(server, "/").text
    assert "never" in open_page(server, "/health").text


def test_a_room_of_the_list_leads_to_its_page_at_the_same_times(town: Server) -> None:
    known = api(town, DIARY, "/history", limit=1)["changes"][0]["received_at_ms"]
    for params in ({}, {"at": T0 + 30_000}, {"known_at": known}, {"at": T0 + 30_000, "known_at": known}):
        page = open_page(town, "/", q=DIARY, **params)
        (row,) = [row for row in page.all("tr") if row.attrs.get("data-room") == DIARY]
        address = urlsplit(row.one("a").attrs["href"])
        assert address.path == path_of(DIARY)
        assert dict(parse_qsl(address.query)) == {name: format_time(at) for name, at in params.items()}


def test_a_list_of_a_time_to_come_ends_its_strips_now(town: Server) -> None:
    heading = open_page(town, "/", at="2099-01-01").one("table", class_="rooms").one("thead")
    begin_ms, end_ms = moments_in(heading)
    now_ms = time.time_ns() // 1_000_000
    assert now_ms - 60_000 < end_ms <= now_ms
    assert end_ms - begin_ms == 6 * 3_600_000


# ---- some rows of it ----


def test_some_rows_are_those_of_the_list(town: Server) -> None:
    wanted = ["crowd 007", "crowd 003", HOSTILE[0], "nobody"]
    whole = {row.attrs["data-room"]: row for page in (1, 2, 3, 4) for row in rows_behind(town, page)}
    answer = town.client.get("/", params={"only": json.dumps(wanted), "at": T0 + 10**7})
    assert answer.status_code == 200
    check_headers(answer)
    rows = [row for row in read_html(answer.text).all("tr") if "data-room" in row.attrs]
    assert [row.attrs["data-room"] for row in rows] == wanted[:3]
    for row in rows:
        same = whole[row.attrs["data-room"]]
        assert row.text == same.text
        assert {name: row.attrs[name] for name in ("data-time", "data-cursor", "data-changes")} == {
            name: same.attrs[name] for name in ("data-time", "data-cursor", "data-changes")
        }
    assert len(answer.content) < 10_000


def rows_behind(server: Server, page: int) -> list[Node]:
    """The rows of a page of the list."""
    found = open_page(server, "/", at=T0 + 10**7)
    for _ in range(page - 1):
        links = found.all("a", rel="next")
        if not links:
            return []
        found = check(server.client.get(links[0].attrs["href"]))
    return [row for row in found.all("tr") if "data-room" in row.attrs]


def test_rows_that_the_list_would_not_hold_are_left_out(town: Server) -> None:
    only = json.dumps(["crowd 001", "crowd 002", "crowd 004"])  # hidden, public, unknown
    for asked, expected in (
        ({"show": "public"}, ["crowd 002"]),
        ({"show": "hidden"}, ["crowd 001"]),
        ({"q": "004"}, ["crowd 004"]),
        ({"at": T0 - 1}, []),
    ):
        answer = town.client.get("/", params={"only": only, **asked})
        assert listed(read_html(answer.text)) == expected, asked


@pytest.mark.parametrize("only", ["", "x", "{}", "[1]", json.dumps(["r"] * 21), '["a"'])
def test_what_is_no_list_of_rooms_is_refused(town: Server, only: str) -> None:
    answer = town.client.get("/", params={"only": only})
    assert answer.status_code == 400
    assert "only is a JSON array of at most 20 room ids" in answer.text


@pytest.mark.parametrize("sort", ["activity", "name"])
def test_the_next_page_can_begin_behind_any_row(town: Server, sort: str) -> None:
    first, second = rows_of_sorted(town, sort, {}), rows_of_sorted(town, sort, {"cursor": ""})
    assert first == second
    cut = open_page(town, "/", sort=sort).all("tr", data_room=first[9])[0].attrs["data-cursor"]
    assert rows_of_sorted(town, sort, {"cursor": cut})[:40] == first[10:]


def rows_of_sorted(server: Server, sort: str, more: dict[str, Any]) -> list[str]:
    return listed(open_page(server, "/", sort=sort, **more))
