"""What a page is asked for: times in many ways, and questions that are none."""

import pytest
from conftest import T0, Server

from app.infra.times import format_time
from server.page.reading import api, check_state, listed, open_page, open_room, path_of, shown_fields, title_of
from server.page.town import DIARY, MARKUP

MOMENTS = [("/", ["at", "known_at"]), (path_of(DIARY), ["at", "known_at", "a", "b"])]
BAD_MOMENTS = [
    "yesterday",
    "2026-13-01",
    "2026-03-11T25:00",
    "1e9",
    "9" * 30,
    "2026-03-11T20:14+99:00",
    "٢٠٢٦-٠٣-١١",
    MARKUP,
]


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in MOMENTS for name in names])
@pytest.mark.parametrize("text", BAD_MOMENTS)
def test_a_time_that_is_none_is_a_page_that_says_so(town: Server, path: str, name: str, text: str) -> None:
    page = open_page(town, path, 400, **{name: text})
    assert "400" in title_of(page)
    assert "is not a time: write it like 2026-03-11 20:14" in page.text


@pytest.mark.parametrize(("path", "name"), [(path, name) for path, names in MOMENTS for name in names])
def test_a_time_in_seconds_is_a_page_that_says_which_milliseconds_it_is(town: Server, path: str, name: str) -> None:
    page = open_page(town, path, 400, **{name: f" {T0 // 1000} "})
    assert f"{T0 // 1000} looks like seconds: epoch milliseconds are needed, {T0 // 1000}000" in page.text


@pytest.mark.parametrize(
    "text",
    [
        str(T0),
        "2022-12-09T08:26:54.123Z",
        " 2022-12-09 08:26:54.123 ",
        "2022-12-09T16:26:54.123+08:00",
        "2022-12-09 08:26:54.123Z",
    ],
)
def test_a_time_may_be_written_in_many_ways_and_is_utc_without_an_offset(town: Server, text: str) -> None:
    page = open_room(town, DIARY, at=text)
    assert page.one("form", id="travel").one("input", name="at").attrs["value"] == format_time(T0)
    check_state(page, api(town, DIARY, as_of=T0))


def test_a_day_is_its_midnight_and_no_time_is_now(town: Server) -> None:
    page = open_page(town, "/", at="2022-12-10")
    assert page.one("input", name="at").attrs["value"] == "2022-12-10T00:00:00.000Z"
    for nothing in ("", "   "):
        assert open_page(town, "/", at=nothing).one("h1").text == "Rooms now"


@pytest.mark.parametrize("at", [-(10**15) + 1, -1, 0, 10**15 - 1, 253_402_300_799_999])
def test_times_at_the_ends_of_the_calendar_have_pages(town: Server, at: int) -> None:
    known = at >= T0 + 10**6
    page = open_room(town, DIARY, at=at)
    assert bool(shown_fields(page)) is known
    assert bool(listed(open_page(town, "/", at=at))) is known
    back = page.one("form", id="travel").one("input", name="at").attrs["value"]
    assert shown_fields(open_room(town, DIARY, at=back)) == shown_fields(page)


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/", {"show": "everything"}),
        ("/", {"show": ""}),
        ("/", {"sort": "RANDOM"}),
        ("/", {"window": "2h"}),
        ("/", {"cursor": "?"}),
        ("/", {"as_of": "0"}),
        ("/", {"Q": "x"}),
        ("/", {"limit": "5"}),
        (path_of(DIARY), {"late": "maybe"}),
        (path_of(DIARY), {"cursor": MARKUP}),
        (path_of(DIARY), {"as_of": "0"}),
        (path_of(DIARY), {"q": "x"}),
        (f"{path_of(DIARY)}/visibility.csv", {"field": "RoomName"}),
        ("/health", {"x": ""}),
        ("/event/x", {"x": ""}),
        ("/sign-in", {"token": "x"}),
        ("/", {MARKUP: MARKUP}),
    ],
)
def test_a_parameter_or_choice_that_there_is_not_is_400(town: Server, path: str, params: dict[str, str]) -> None:
    page = open_page(town, path, 400, **params)
    assert len(page.one("p", class_="empty").text) > 10


def test_a_parameter_given_twice_is_400(town: Server) -> None:
    for query in ("at=0&at=1", "q=a&q=b"):
        assert "more than once" in open_page(town, f"/?{query}", 400).text
