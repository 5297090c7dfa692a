"""A room's page: hostile names, its state at any time, its timeline, two times side by side."""

import csv
import io
import json
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from conftest import T0, Server, StartServer, body_of
from html_tree import Node, moments_in, rows_of, values_of

from app.infra.texts import visible
from app.infra.times import format_time, now_ms
from server.page.reading import (
    api,
    as_shown,
    changes_of,
    check,
    check_state,
    listed,
    name_of,
    open_page,
    open_room,
    path_of,
    shown_fields,
    submit,
    title_of,
)
from server.page.town import DIARY, HOSTILE, NUMBERS, SIBLINGS

# ---- hostile rooms ----


@pytest.mark.parametrize("room_id", HOSTILE)
def test_a_hostile_room_is_text_wherever_it_stands_and_its_links_lead_to_it(town: Server, room_id: str) -> None:
    (row,) = [
        row for row in open_page(town, "/", q=room_id, sort="name").all("tr") if row.attrs.get("data-room") == room_id
    ]
    page = check(town.client.get(row.one("a").attrs["href"]))
    name = HOSTILE[-1 - HOSTILE.index(room_id)]
    title = " ".join(visible(room_id).split())
    assert row.one("a").text == page.one("h1").text == title
    assert title_of(page) == f"{title} · Roomlapse"
    check_state(page, api(town, room_id))
    assert " ".join(visible(name).split()) in page.one("p", class_="what").text
    links = {link.attrs["href"].partition("#")[0] for link in page.one("main").all("a")}
    links = {link for link in links if not link.startswith(("https://", "/event/"))}
    assert len(links) >= 2
    for link in links:
        if link.endswith(".csv"):
            _, *lines = csv.reader(io.StringIO(town.client.get(link).text, newline=""))
            assert [line[0].removeprefix("'") for line in lines] == [room_id.removeprefix("'")]
        else:
            assert check(town.client.get(link)).one("h1").text == title
    for form in page.one("main").all("form"):
        assert submit(town, form).one("h1").text == title


@pytest.mark.parametrize("room_id", [".", ".."])
def test_a_room_that_is_called_like_a_folder_can_be_opened_from_the_list(
    start_server: StartServer, room_id: str
) -> None:
    server = start_server()
    assert server.post(body_of(room_id, T0, RoomName="folder")).status_code == 200
    page = open_page(server, "/")
    assert listed(page) == [room_id]
    link = page.one("table").one("tbody").one("a").attrs["href"]
    assert check(server.client.get(link)).one("h1").text == room_id


# ---- a room ----


def test_the_room_shows_the_state_of_any_time(town: Server) -> None:
    check_state(open_room(town, DIARY), api(town, DIARY))
    for at in (T0, T0 + 5000, T0 + 10_499, T0 + 10_500, T0 + 33_333, T0 + 10**6):
        page = open_room(town, DIARY, at=at)
        check_state(page, api(town, DIARY, as_of=at))
        assert moments_in(page.one("h2", id="state-title")) == [at]


def test_the_room_shows_what_was_believed_at_any_time(town: Server) -> None:
    received = sorted({change["received_at_ms"] for change in changes_of(town, DIARY)})
    for known_at in (received[0], received[len(received) // 2], received[-2], received[-1]):
        for at in (None, T0 + 10_600, T0 + 20_600):
            cut: dict[str, Any] = {} if at is None else {"as_of": at}
            page = open_room(town, DIARY, known_at=known_at, **({} if at is None else {"at": at}))
            known = town.client.get(f"/rooms/{DIARY}", params={**cut, "known_at": known_at}).status_code == 200
            check_state(page, api(town, DIARY, **cut, known_at=known_at) if known else None)
            assert known_at in moments_in(page.one("h2", id="state-title"))


def test_before_its_first_event_nothing_was_known_about_a_room(town: Server) -> None:
    page = open_room(town, DIARY, at=T0 - 1)
    check_state(page, None)
    assert moments_in(page.one("section", id="moment").one("p", class_="empty")) == [T0]
    following = page.one("a", id="next").attrs["href"]
    check_state(check(town.client.get(following)), api(town, DIARY, as_of=T0))
    received = changes_of(town, DIARY)[0]["received_at_ms"]
    page = open_room(town, DIARY, known_at=received - 1)
    check_state(page, None)
    assert moments_in(page.one("section", id="moment").one("p", class_="empty")) == [received]
    assert "No matches" in page.text


@pytest.mark.parametrize("known", [False, True])
def test_the_next_and_previous_links_step_through_all_changes_and_back(town: Server, known: bool) -> None:
    cut = {"known_at": changes_of(town, DIARY)[20]["received_at_ms"]} if known else {}
    times = sorted({change["event_time_ms"] for change in changes_of(town, DIARY, **cut)})
    assert len(times) > 15
    page = open_room(town, DIARY, at=T0 - 1, **cut)
    stepped = []
    while links := page.all("a", id="next"):
        page = check(town.client.get(links[0].attrs["href"]))
        (at,) = moments_in(page.one("h2", id="state-title"))[:1]
        stepped.append(at)
        assert moments_in(page.one("p", class_="what"))[0] == at
        assert len(stepped) <= len(times)
    assert stepped == times
    check_state(page, api(town, DIARY, **cut))
    back = [stepped[-1]]
    while links := page.all("a", id="previous"):
        page = check(town.client.get(links[0].attrs["href"]))
        back.append(moments_in(page.one("h2", id="state-title"))[0])
        assert len(back) <= len(times)
    assert back == times[::-1]


def test_from_now_the_previous_change_is_the_one_before_the_last(town: Server) -> None:
    times = sorted({change["event_time_ms"] for change in changes_of(town, DIARY)})
    page = open_room(town, DIARY)
    assert page.all("a", id="next") == []
    page = check(town.client.get(page.one("a", id="previous").attrs["href"]))
    assert moments_in(page.one("h2", id="state-title")) == [times[-2]]


def test_the_last_change_says_who_did_what_from_where_and_whether_late(town: Server) -> None:
    page = open_room(town, DIARY, at=T0 + 20_500)
    what = page.one("p", class_="what")
    assert "by eve from Android" in what.text
    assert "late, received" in what.text
    # It said false of IsPublicVisible as well: so it was already.
    assert [step.text for step in what.all("span", class_="step")] == ["Notice not set → \\u202eetiton"]
    assert [name_of(row) for row in page.one("table", class_="fields").all("tr", class_="fresh")] == ["Notice"]


def test_numbers_and_long_addresses_are_shown_exactly(town: Server) -> None:
    page = open_room(town, DIARY)
    fields = shown_fields(page)
    assert fields["MaxMemberCount"][0] == str(NUMBERS[59 % 3])
    assert fields["Ratio"][:2] == ["1.5", "1.50"]  # a value is canonical, an operator as it came
    link = page.one("table", class_="fields").one("a", rel="noopener noreferrer nofollow")
    assert link.attrs["href"] == f"https://covers.example/{'x' * 600}.png"
    assert link.text.endswith("…")
    seen = {shown_fields(open_room(town, DIARY, at=T0 + 1000 * n))["MaxMemberCount"][0] for n in range(3)}
    assert seen == {str(number) for number in NUMBERS}
    assert shown_fields(open_room(town, DIARY, at=T0 + 2000))["MaxMemberCount"][1] == str(2**63)


def test_the_timeline_has_a_mark_for_each_change_that_leads_there(town: Server) -> None:
    changes = changes_of(town, DIARY)
    page = open_room(town, DIARY)
    drawing = page.one("svg", class_="timeline")
    marks = drawing.all("a")
    assert len(marks) == len(changes)
    begin, end = (int(page.one("div", id="room").attrs[name]) for name in ("data-first", "data-end"))
    assert (begin, end >= T0 + 70_000) == (T0, True)
    for mark, change in zip(marks, changes, strict=True):
        line = mark.one("line")
        assert ("late" in line.attrs["class"].split()) is change["late"]
        assert float(line.attrs["x1"]) == pytest.approx(
            (change["event_time_ms"] - begin) / (end - begin) * 1000, abs=0.01
        )
        assert parse_qs(urlsplit(mark.attrs["href"]).query)["at"] == [format_time(change["event_time_ms"])]
    periods = drawing.all("rect", class_="period")
    intervals = api(town, DIARY, "/visibility")["intervals"]
    assert ["public" in period.attrs["class"].split() for period in periods] == [it["public"] for it in intervals]
    assert ["open" in period.attrs["class"].split() for period in periods] == [it["to_ms"] is None for it in intervals]
    assert sum(float(period.attrs["width"]) for period in periods) == pytest.approx(1000, abs=0.2)


def test_the_sliders_reach_over_the_timeline_of_the_room_and_stand_at_the_moment_shown(town: Server) -> None:
    page = open_room(town, DIARY, at=T0 + 7000)
    at = page.one("input", id="at").attrs
    assert (at["min"], at["value"]) == (str(T0), str(T0 + 7000))
    assert int(at["max"]) >= T0 + 70_000
    begin, end = int(at["min"]), int(at["max"])
    cursor = float(page.one("line", id="cursor").attrs["x1"])
    assert cursor == pytest.approx(7000 / (end - begin) * 1000, abs=0.01)
    now = open_room(town, DIARY)
    assert float(now.one("line", id="cursor").attrs["x1"]) == 1000


def test_the_periods_are_a_table_newest_first_that_leads_to_their_begin(town: Server) -> None:
    intervals = api(town, DIARY, "/visibility")["intervals"][::-1]
    table = open_room(town, DIARY).one("table", class_="periods")
    assert [row[0] for row in rows_of(table)] == ["public" if it["public"] else "hidden" for it in intervals]
    assert rows_of(table)[0][2] == "ongoing"
    links = [parse_qs(urlsplit(link.attrs["href"]).query)["at"] for link in table.all("a")]
    assert links == [[format_time(it["from_ms"])] for it in intervals]


def test_travelling_by_the_form_keeps_both_times(town: Server) -> None:
    page = submit(town, open_room(town, DIARY).one("form", id="travel"), at=str(T0 + 9000), known_at=str(10**14))
    assert values_of(page.one("form", id="travel")) == {"at": format_time(T0 + 9000), "known_at": format_time(10**14)}
    check_state(page, api(town, DIARY, as_of=T0 + 9000, known_at=10**14))
    back = next(link for link in page.all("a") if link.text == "Back to now")
    check_state(check(town.client.get(back.attrs["href"])), api(town, DIARY))


def test_a_room_that_only_other_callbacks_spoke_of_has_nothing_to_show(town: Server) -> None:
    page = open_room(town, SIBLINGS)
    check_state(page, None)
    assert page.all("table", class_="history") == []
    assert "No callback has said whether this room is public" in page.text


# ---- two times ----


def compare_form(page: Node) -> Node:
    return page.one("section", id="compare").one("form")


@pytest.mark.parametrize(("a", "b"), [(T0, T0 + 70_000), (T0 + 30_000, T0 + 10_400), (T0 - 1, T0), (T0 + 1, T0 + 2)])
def test_comparing_two_times_marks_what_the_api_says_differs(town: Server, a: int, b: int) -> None:
    page = submit(town, compare_form(open_room(town, DIARY)), a=str(a), b=str(b))
    table = page.one("section", id="compare").one("table")
    assert moments_in(table.one("thead")) == [a, b]
    differing = [name_of(row) for row in table.one("tbody").all("tr", class_="fresh")]
    expected = api(town, DIARY, "/diff", **{"from": a, "to": b})["changed"]
    assert differing == sorted(expected)
    for row in table.one("tbody").all("tr"):
        before, after = row.all("td")
        if change := expected.get(name_of(row)):
            assert before.text == (as_shown(change["from"]) if "from" in change else "not set")
            assert after.text == (as_shown(change["to"]) if "to" in change else "not set")
    assert values_of(compare_form(page)) == {"a": format_time(a), "b": format_time(b)}


def test_comparing_times_when_there_was_no_room_says_so(town: Server) -> None:
    page = open_room(town, DIARY, a=T0 - 9, b=T0 - 5)
    assert "The room was unknown at both times." in page.one("section", id="compare").text


def test_comparing_is_off_until_both_times_are_given_and_proposes_the_whole_timeline(town: Server) -> None:
    page = open_room(town, DIARY, a=T0)
    assert page.one("section", id="compare").all("table") == []
    proposed = values_of(compare_form(open_room(town, DIARY)))
    assert proposed["a"] == format_time(T0)
    assert proposed["b"] >= format_time(T0 + 70_000)


def test_comparing_keeps_the_moment_and_what_was_known(town: Server) -> None:
    known_at = changes_of(town, DIARY)[5]["received_at_ms"]
    page = submit(town, compare_form(open_room(town, DIARY, at=T0, known_at=known_at)), a=str(T0), b=str(T0 + 10**6))
    expected = api(town, DIARY, "/diff", **{"from": T0, "to": T0 + 10**6, "known_at": known_at})["changed"]
    table = page.one("section", id="compare").one("table")
    differing = [name_of(row) for row in table.one("tbody").all("tr", class_="fresh")]
    assert differing == sorted(expected)
    assert values_of(page.one("form", id="travel")) == {"at": format_time(T0), "known_at": format_time(known_at)}


# ---- what was known, and long rooms ----


def test_what_was_not_known_yet_is_hatched_and_counts_for_nothing(town: Server) -> None:
    known_at = changes_of(town, DIARY)[20]["received_at_ms"]
    page = open_room(town, DIARY, known_at=known_at)
    first, end = (int(page.one("div", id="room").attrs[name]) for name in ("data-first", "data-end"))
    drawing = page.one("svg", class_="timeline")
    edge = min(1.0, (known_at - first) / (end - first)) * 1000
    mark = drawing.one("line", id="known-mark").attrs
    assert float(mark["x1"]) == float(mark["x2"]) == pytest.approx(edge, abs=0.01)
    hatched = drawing.one("rect", class_="unknown").attrs
    assert float(hatched["x"]) == pytest.approx(edge, abs=0.01)
    assert float(hatched["x"]) + float(hatched["width"]) == pytest.approx(1000, abs=0.01)
    assert moments_in(page.one("section", id="visibility").one("p"))[-1] == known_at
    now = open_room(town, DIARY)
    assert now.all("rect", class_="unknown") == []
    assert "off" in now.one("line", id="known-mark").attrs["class"].split()


def test_the_known_at_slider_tells_when_the_room_s_callbacks_arrived(town: Server) -> None:
    events = town.get("/events", limit=500)["events"]
    arrived = sorted({event["received_at_ms"] for event in events if event["room_id"] == DIARY})
    for known_at in (None, arrived[0], arrived[5], arrived[-1], arrived[0] - 1):
        asked = {} if known_at is None else {"known_at": known_at}
        told = json.loads(open_room(town, DIARY, **asked).one("input", id="known").attrs["data-arrivals"])
        assert told == sorted(set(told))
        assert set(told) <= set(arrived)
        at = arrived[-1] + 1 if known_at is None else known_at
        before = [it for it in arrived if it < at]
        assert [it for it in told if it < at][-3:] == before[-3:]
        assert [it for it in told if it > at][:3] == [it for it in arrived if it > at][:3]


@pytest.mark.parametrize("late", [0, 40])
def test_a_room_with_more_than_can_be_drawn_is_drawn_whole(start_server: StartServer, late: int) -> None:
    server = start_server()
    count, at = 700, now_ms() - 7_000_000
    bodies = [body_of("busy", at + n * 10_000, IsPublicVisible=n % 2 == 0) for n in range(count)]
    for body in [*bodies[late:], *bodies[:late]]:
        assert server.post(body).status_code == 200
    page = open_room(server, "busy")
    drawing = page.one("svg", class_="timeline")
    periods = [node for node in drawing.elements if "period" in node.attrs.get("class", "").split()]
    assert 100 < len(periods) <= 502
    first = next(node for node in drawing.elements if node.tag == "rect" and "nothing" not in node.attrs["class"])
    assert float(first.attrs["x"]) == 0
    assert f"{count} periods are drawn as {len(periods)}" in page.one("p", id="legend").text
    marks = drawing.all("a")
    assert 100 < len(marks) <= 500
    counted = sum(int(mark.attrs["aria-label"].partition(" ")[0]) for mark in marks)
    assert counted == count
    said_late = [mark.attrs["aria-label"] for mark in marks if "late" in mark.one("line").attrs["class"].split()]
    assert sum(int(label.split()[-4]) for label in said_late) == late
    (row,) = [row for row in open_page(server, "/").all("tr") if row.attrs.get("data-room") == "busy"]
    assert row.one("svg", class_="strip").attrs["aria-label"].endswith("thinned")


def test_a_brief_page_has_the_state_and_the_history_alone(town: Server) -> None:
    whole, brief = (town.client.get(path_of(DIARY), params={"brief": text}) for text in ("false", "true"))
    assert brief.status_code == 200
    page, full = check(brief), check(whole)
    assert shown_fields(page) == shown_fields(full)
    assert page.one("h2", id="state-title").text == full.one("h2", id="state-title").text
    assert page.one("table", class_="history").text == full.one("table", class_="history").text
    assert page.all("svg", class_="timeline") == page.all("table", class_="periods") == []
    assert len(brief.content) < len(whole.content) / 2
