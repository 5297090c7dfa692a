"""Every page over HTTP, as a browser without scripts meets it: links, forms, hostile names, signing in."""

import csv
import io
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import msgspec
import pytest
from conftest import T0, Server, StartServer, body_of
from html_tree import Node, attributes, moments_in, read_html, rows_of, values_of
from kit.wait import wait_until

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.texts import visible
from app.infra.times import format_time
from app.projector.upkeep import open_read_models
from app.server.page.values import text_of

READ_TOKEN, ADMIN_TOKEN = "reader-ß-token", "admin-token"
GUARDED = {"ROOMLAPSE_API_TOKEN": READ_TOKEN, "ROOMLAPSE_ADMIN_TOKEN": ADMIN_TOKEN}
COOKIE = "roomlapse_session"
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
MARKUP = "<script>alert(1)<img src=x onerror=alert(2)>"
CLOSING = "</td></table></main></title></script>-->]]><svg onload=alert(1)>"  # no room id: they hold no slash
HOSTILE = [
    "a b",
    " lead and trail ",
    "what?",
    "a#b",
    "100%",
    "%41",
    "a%2Fb%00",
    "a+b&c=d;e",
    ".hidden",
    "..a",
    "...",
    "dots.and.dots",
    "Café-Süd",
    "直播间🎤",
    "\u202egnp.exe\u202c",
    "a\nb\tc\rd\x1be\x7f",
    "zero\u200bwidth\ufeff",
    "line\u2028par\u2029",
    MARKUP,
    '" onmouseover="alert(1)" x=\'',
    "<!-- <svg onload=alert(1)> <textarea>",
    "&lt;b&gt;&amp;",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\\\\back\\slash",
    "=HYPERLINK(1)",
    "é" * 64,
    "x" * 128,
]
NUMBERS = [2**63, 10**30, 2**53 + 1]
DIARY, SIBLINGS = "diary", "only siblings"
CROWD = 121


def crowd() -> list[tuple[str, int, bool | None]]:
    """Many rooms: their id, the time of their last update, whether they are public."""
    return [
        (f"crowd {n:03}", T0 + 1000 * (n // 3), None if n % 5 == 4 else n % 2 == 0) for n in range(CROWD)
    ]  # three of them in each millisecond


def diary() -> list[tuple[bytes, str]]:
    """The callbacks of a room with a long history, in order of arrival: ties, repeats, late ones, odd values."""
    made: list[tuple[bytes, str]] = []
    operators: list[Any] = ["ann", "bob", 2**63, None, MARKUP]
    for n in range(60):
        fields: dict[str, Any] = {"RoomName": f"chapter {n}", "MaxMemberCount": NUMBERS[n % 3]}
        if n % 4 == 0:
            fields["IsPublicVisible"] = n % 8 == 0
        made.append((body_of(DIARY, T0 + 1000 * n, operator=operators[n % 5], **fields), ["Web", "iOS", MARKUP][n % 3]))
    made.append((body_of(DIARY, T0 + 5000, operator="tied", CustomInfo=CLOSING), "Web"))
    made.append((body_of(DIARY, T0 + 60_500, operator="same", RoomName="chapter 59"), "Web"))  # changes nothing
    made.append((body_of(DIARY, T0 + 10_500, operator="eve", Category=[1, 2, 3], RoomName=""), "Android"))
    made.append((body_of(DIARY, T0 + 20_500, operator="eve", IsPublicVisible=False, Notice="\u202eetiton"), "Android"))
    info = f'{{"RoomId":"{DIARY}","CoverURL":"https://covers.example/{"x" * 600}.png","Ratio":1.50}}'
    made.append(
        (
            b'{"CallbackCommand":"Live.CallbackAfterUpdateRoomInfo","Operator_Account":1.50,"RoomInfo":%s,"EventTime":%d}'
            % (info.encode(), T0 + 70_000),
            "Web",
        )
    )
    return made


REFUSED = [
    b"<script>alert('quarantine')</script>",
    b"\xff\xfe\x00binary",
    "\u202etfel".encode(),
    b'{"a": "' + b"x" * 9000,
]


def fill(server: Server) -> None:
    """Send everything that the tests look at."""
    for room_id, at, public in crowd():
        fields = {} if public is None else {"IsPublicVisible": public}
        assert server.post(body_of(room_id, at, RoomName=f"The {room_id.upper()}", **fields)).status_code == 200
    for n, room_id in enumerate(HOSTILE):
        name = HOSTILE[-1 - n]
        body = body_of(room_id, T0 + 10**6 + n, operator=name, IsPublicVisible=True, RoomName=name, **{name: [CLOSING]})
        assert server.post(body, OptPlatform=name).status_code == 200
    for body, platform in diary():
        assert server.post(body, OptPlatform=platform, ClientIP="203.0.113.5").status_code == 200
    content = {"CallbackCommand": "Live.CallbackAfterSetMetadata", "RoomId": SIBLINGS, "EventTime": T0 + 5}
    assert server.post(json.dumps(content).encode()).status_code == 200
    for body in REFUSED:
        assert server.post(body).status_code == 400


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without tokens, with many rooms."""
    with Server(tmp_path_factory.mktemp("town") / "data") as server:
        fill(server)
        yield server


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that wants tokens for reading, with a few rooms."""
    with Server(tmp_path_factory.mktemp("guarded") / "data", env=GUARDED) as server:
        for room_id in ("r", "what? #1 é%", "日本"):
            assert server.post(body_of(room_id, T0, IsPublicVisible=True, RoomName="secret")).status_code == 200
        for body in REFUSED:
            assert server.post(body).status_code == 400
        yield server


@pytest.fixture
def browser(guarded: Server) -> Iterator[httpx.Client]:
    """Somebody who has not signed in."""
    with httpx.Client(base_url=guarded.url, timeout=30) as client:
        yield client


@pytest.fixture(params=["read", "admin"])
def member(request: pytest.FixtureRequest, browser: httpx.Client) -> tuple[str, httpx.Client]:
    """Somebody who has signed in, and what they may do."""
    sign_in(browser, {"read": READ_TOKEN, "admin": ADMIN_TOKEN}[request.param])
    return request.param, browser


def sign_in(client: httpx.Client, token: str, **more: str) -> httpx.Response:
    return client.post("/sign-in", data={"token": token, **more})


def check(response: httpx.Response, status_code: int = 200) -> Node:
    """Check what every page has to be, and read it."""
    assert response.status_code == status_code, response.text
    check_headers(response)
    page = read_html(response.text)
    for tag, name, value in attributes(page):
        assert not name.startswith("on"), f"{tag} {name}"
        assert name != "style", f"{tag} has a style of its own"
        if name in ("href", "src", "action", "formaction", "xlink:href"):
            ours = value.startswith(("/", "#")) and not value.startswith(("//", "/\\"))
            assert ours or value.startswith(("https://covers.example/",)), value
    assert page.all("style") == []
    assert [(script.attrs["src"], script.raw_text) for script in page.all("script")] == [("/static/page.js", "")]
    assert [link.attrs["href"] for link in page.all("link", rel="stylesheet")] == ["/static/page.css"]
    assert {node.tag for node in page.elements}.isdisjoint(
        {"iframe", "object", "embed", "base", "img", "foreignobject"}
    )
    ids = [value for _, name, value in attributes(page) if name == "id"]
    assert len(ids) == len(set(ids))
    assert len(page.all("h1")) == 1
    assert title_of(page).endswith("Roomlapse")
    for node in page.elements:
        if node.tag != "pre":
            shown = "".join(child for child in node.children if isinstance(child, str))
            assert not {unicodedata.category(char) for char in shown.replace("\n", "")} & HIDDEN_CATEGORIES, shown
    for field in page.elements:
        if field.tag in ("input", "select") and field.attrs.get("type") != "hidden" and "hidden" not in field.attrs:
            assert field.parent is not None
            assert field.parent.tag == "label", f"nothing says what {field.attrs} is"
    return page


def title_of(page: Node) -> str:
    """The title of the page; the drawings in it have titles too."""
    return page.one("head").one("title").text


def check_headers(response: httpx.Response) -> None:
    headers = response.headers
    assert headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "form-action": "'self'",
        "base-uri": "'none'",
        "frame-ancestors": "'none'",
    }
    assert len(headers.get_list("content-security-policy")) == 1
    check_other_headers(response)


def check_other_headers(response: httpx.Response) -> None:
    headers = response.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


def open_page(server: Server, path: str, status_code: int = 200, **params: Any) -> Node:
    return check(server.client.get(path, params=params or None), status_code)


def path_of(room_id: str) -> str:
    return "/room/" + quote(room_id, safe="")


def open_room(server: Server, room_id: str, **params: Any) -> Node:
    return open_page(server, path_of(room_id), **params)


def api(server: Server, room_id: str, what: str = "", **params: Any) -> Any:
    """What the API says of a room, fractions as they came."""
    response = server.client.get("/rooms/" + quote(room_id, safe="") + what, params=params)
    assert response.status_code == 200, response.text
    return json.loads(response.text, parse_float=lambda text: msgspec.Raw(text.encode()))


def submit(server: Server, form: Node, **typed: str) -> Node:
    """Fill in a form and send it, as a browser would."""
    fields = values_of(form)
    assert set(typed) <= set(fields), f"the form has {sorted(fields)}"
    address = urlsplit(form.attrs["action"])
    return check(server.client.get(address.path, params=fields | typed))


def listed(page: Node) -> list[str]:
    """The rooms of a list, in its order."""
    return [row.attrs["data-room"] for row in page.all("tr") if "data-room" in row.attrs]


def all_listed(server: Server, page: Node) -> list[list[str]]:
    """The rooms of a list and of all pages behind it."""
    found = [listed(page)]
    while links := page.all("a", rel="next"):
        page = check(server.client.get(links[0].attrs["href"]))
        found.append(listed(page))
    return found


def shown_fields(page: Node) -> dict[str, list[str]]:
    """The fields of a room that is shown: value, who set it, when, from where, which event."""
    tables = page.all("table", class_="fields")
    if not tables:
        return {}
    lines = {}
    for row in tables[0].one("tbody").all("tr"):
        lines[name_of(row)] = [cell.text for cell in row.all("td")]
    return lines


def name_of(row: Node) -> str:
    """The field that a row is about, without the marks behind it."""
    return " ".join(child.strip() for child in row.one("th").children if isinstance(child, str)).strip()


def as_shown(value: Any) -> str:
    """How a page writes a JSON value."""
    return " ".join(visible(text_of(value)).split()) or "empty"


def check_state(page: Node, room: dict[str, Any] | None) -> None:
    """A room's page shows the state that the API tells of."""
    shown = shown_fields(page)
    if room is None:
        assert shown == {}
        assert "This room was unknown then" in page.text
        return
    assert set(shown) == {as_shown(name) for name in room["room_info"]}
    for name, value in room["room_info"].items():
        cell, by, at, _, event_id = shown[as_shown(name)]
        set_by = room["fields"][name]
        assert cell == as_shown(value)
        assert event_id == set_by["event_id"][:12]
        assert at == format_time(set_by["set_at_ms"]).replace("T", " ").removesuffix("Z")
        assert by == as_shown(set_by["operator"])


# ---- every page ----

PAGES = ["/", path_of(DIARY), f"{path_of(DIARY)}?at={T0}&known_at={T0}", "/health", "/sign-in"]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_no_script_of_its_own_and_loads_nothing_from_elsewhere(town: Server, path: str) -> None:
    page = check(town.client.get(path))
    assert page.one("html").attrs["lang"] == "en"
    assert town.client.get(path).headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    ("path", "status_code"),
    [
        ("/?at=yesterday", 400),
        ("/?unknown=1", 400),
        ("/room/nobody", 404),
        ("/event/nothing", 404),
        ("/static/nothing", 404),
        ("/health?at=1", 400),
        ("/static/page.css?v=1", 400),
    ],
)
def test_an_error_is_a_page_too_and_as_safe(town: Server, path: str, status_code: int) -> None:
    page = open_page(town, path, status_code)
    assert title_of(page).startswith(str(status_code))
    assert page.one("p", class_="empty").text
    assert page.one("main").one("a").attrs["href"] == "/"


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("page.css", "text/css; charset=utf-8"),
        ("page.js", "text/javascript; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_what_pages_load_comes_with_its_type(town: Server, name: str, kind: str) -> None:
    response = town.client.get(f"/static/{name}")
    assert (response.status_code, response.headers["content-type"]) == (200, kind)
    assert response.content == (Path("app/server/page/static") / name).read_bytes()
    check_other_headers(response)


@pytest.mark.parametrize(
    "path", ["/static/..%2ftemplates%2fbase.html", "/static/%2e%2e", "/static/.", "/static/page.py"]
)
def test_nothing_but_those_files_is_given_out(town: Server, path: str) -> None:
    with httpx.Client(base_url=town.url) as client:
        response = client.get(path, follow_redirects=False)
    assert response.status_code == 404
    assert "{%" not in response.text


@pytest.mark.parametrize(
    "path", ["/", path_of(DIARY), "/health", "/event/x", "/room/r/visibility.csv", "/static/page.js"]
)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_pages_take_no_other_method(town: Server, path: str, method: str) -> None:
    assert town.client.request(method, path).status_code == 405


# ---- bad questions ----

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
        (f"{path_of(DIARY)}/visibility.csv", {"at": "0"}),
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


@pytest.mark.parametrize(
    "path", ["/room/nobody", "/room/%00", "/room/" + "x" * 500, path_of(MARKUP + "?"), "/room/%FF"]
)
def test_an_unknown_room_is_a_404_page(town: Server, path: str) -> None:
    page = open_page(town, path, 404)
    assert page.one("h1").text == "Not found"
    assert "no room" in page.one("p", class_="empty").text
    assert open_page(town, f"{path}/visibility.csv", 404).one("h1").text == "Not found"


# ---- the list ----


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


def changes_of(server: Server, room_id: str, **params: Any) -> list[dict[str, Any]]:
    """The whole history as the API tells it, oldest first."""
    found: list[dict[str, Any]] = api(server, room_id, "/history", limit=500, **params)["changes"]
    return found[::-1]


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


# ---- history ----


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


# ---- CSV ----


def test_the_file_has_the_intervals_of_the_api(town: Server) -> None:
    link = next(link for link in open_room(town, DIARY).all("a") if link.attrs["href"].endswith(".csv"))
    response = town.client.get(link.attrs["href"])
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert response.headers["content-disposition"] == 'attachment; filename="visibility-diary.csv"'
    check_other_headers(response)
    read = list(csv.DictReader(io.StringIO(response.text, newline="")))
    intervals = api(town, DIARY, "/visibility")["intervals"]
    assert [(int(row["from_ms"]), int(row["to_ms"]) if row["to_ms"] else None, row["visibility"]) for row in read] == [
        (it["from_ms"], it["to_ms"], "public" if it["public"] else "hidden") for it in intervals
    ]
    assert {row["room_id"] for row in read} == {DIARY}


@pytest.mark.parametrize("room_id", HOSTILE)
def test_the_name_of_the_file_is_plain_whatever_the_room_is_called(town: Server, room_id: str) -> None:
    response = town.client.get(f"{path_of(room_id)}/visibility.csv")
    assert response.status_code == 200
    name = response.headers["content-disposition"].removeprefix('attachment; filename="').removesuffix('"')
    assert name.startswith("visibility-")
    assert name.endswith(".csv")
    assert all(char.isascii() and (char.isalnum() or char in "-_.") for char in name)
    assert ".." not in name.removesuffix(".csv") or ".." in room_id[1:]
    (_, line) = csv.reader(io.StringIO(response.text, newline=""))
    assert not line[0].startswith(("=", "+", "-", "@"))


# ---- one callback ----


def test_a_callback_is_shown_exactly_as_it_came(town: Server) -> None:
    for change in (changes_of(town, DIARY)[-1], changes_of(town, MARKUP)[0], changes_of(town, HOSTILE[14])[0]):
        page = open_page(town, f"/event/{change['event_id']}")
        event = town.get(f"/events/{change['event_id']}")
        assert page.one("pre", id="body").raw_text == event["body"]
        facts = page.one("dl")
        told = dict(zip([it.text for it in facts.all("dt")], [it.text for it in facts.all("dd")], strict=True))
        assert told["Command"] == event["command"]
        assert told["Position"] == f"{event['position']:,}"
        assert (told["event_id"], told["chain"]) == (event["event_id"], event["chain"])
        assert moments_in(facts) == [event["event_time_ms"], event["received_at_ms"]]
        room = check(town.client.get(facts.one("a").attrs["href"]))
        assert room.one("h1").text == told["Room"]
        assert town.client.get(page.one("main").all("a")[-1].attrs["href"]).json() == event


def test_a_number_that_made_a_callback_is_shown_digit_by_digit(town: Server) -> None:
    by = {str(2**63): 2, "1.50": -1}
    for shown, i in by.items():
        page = open_page(town, f"/event/{changes_of(town, DIARY)[i]['event_id']}")
        assert page.one("dl").all("dd")[2].text == shown


def test_callbacks_of_the_history_are_a_link_away(town: Server) -> None:
    page = open_room(town, DIARY)
    links = [link.attrs["href"] for link in page.one("table", class_="history").all("a") if link.text == "raw"]
    assert len(links) == 25
    check(town.client.get(links[0]))
    fields = page.one("table", class_="fields").all("a")
    assert check(town.client.get(fields[-1].attrs["href"])).one("pre", id="body")


# ---- health ----


def test_health_shows_the_log_the_projections_and_the_delays(town: Server) -> None:
    status = town.get("/status")
    page = open_page(town, "/health")
    numbers = {it.one("dt").text: it.one("dd").text for it in page.one("dl", class_="numbers").all("div")}
    assert numbers["Log head"] == f"{status['head']:,}"
    assert numbers["Quarantined"] == str(len(REFUSED))
    assert numbers["Duplicates"] == str(status["duplicates"])
    assert int(numbers["Refused since the server started"].replace(",", "")) >= len(REFUSED)
    assert int(numbers["Answered OK since the server started"].replace(",", "")) >= status["head"]
    assert status["chain"] in page.text
    projections, delays, _ = page.all("table")
    assert {row[0]: row[4] for row in rows_of(projections)} == dict.fromkeys(status["projections"], "running")
    assert sum(int(row[1].replace(",", "")) for row in rows_of(delays)) == status["head"]


def test_what_was_refused_is_shown_as_text_newest_first(town: Server) -> None:
    page = open_page(town, "/health")
    rejected = town.get("/rejected")["rejected"]
    rows = page.one("table", class_="quarantine").one("tbody").all("tr")
    assert len(rows) == len(REFUSED)
    for row, one in zip(rows, rejected, strict=True):
        as_text, in_base64 = row.all("pre")
        assert as_text.raw_text == visible(one["body"][:4000])
        assert in_base64.raw_text == one["body_base64"][:6000]
        assert one["reason"] in row.text
        assert moments_in(row) == [one["received_at_ms"]]
    assert "\u202e" not in page.raw_text


# ---- banners ----


def banners(page: Node) -> list[str]:
    return [banner.text for banner in page.all("p", class_="banner")]


def test_a_receiver_of_unsigned_callbacks_says_so_on_every_page(town: Server) -> None:
    for path, status_code in [
        ("/", 200),
        (path_of(DIARY), 200),
        ("/health", 200),
        ("/room/nobody", 404),
        ("/?x=1", 400),
    ]:
        (banner,) = banners(open_page(town, path, status_code))
        assert banner.startswith("Callbacks are not signed")


def stop_projection(data: Path, name: str, error: str) -> None:
    """Leave in the read models what a projection leaves there that an event has stopped."""
    models = open_read_models(DataDir(data))
    with sqlite.transaction(models.conn):
        models.save_checkpoint(name, msgspec.structs.replace(models.checkpoint(name), error=error))
    models.close()


def test_a_projection_that_stands_still_is_told_to_members_on_every_page_and_to_nobody_else(
    start_server: StartServer, tmp_path: Path
) -> None:
    server = start_server(env=GUARDED)
    assert server.post(body_of("r", T0, RoomName="n")).status_code == 200
    with httpx.Client(base_url=server.url, timeout=30) as client:
        sign_in(client, READ_TOKEN)
        check(client.get("/room/r"))
        stop_projection(tmp_path / "data", "visibility", f"visibility stopped at position 1: {MARKUP}")
        assert server.post(body_of("r", T0 + 1, RoomName="m")).status_code == 200
        said = f"The projection visibility has stopped: visibility stopped at position 1: {MARKUP}"

        def page_that_says_it() -> Node | None:
            page = check(client.get("/health"))
            return page if said in banners(page) else None

        page = wait_until(page_that_says_it)
        assert page is not None
        (row,) = page.all("table")[0].all("tr", class_="bad")
        assert row.one("th").text == "visibility"
        assert row.all("td")[-1].text == f"visibility stopped at position 1: {MARKUP}"
        for path in ("/", "/room/r", "/room/r/visibility.csv"):
            page = check(client.get(path), 503)
            assert page.one("h1").text == "Unavailable"
            assert said in banners(page)
    with httpx.Client(base_url=server.url, timeout=30) as stranger:
        for path in ("/sign-in", "/static/nothing"):
            response = stranger.get(path)
            assert banners(check(response, response.status_code)) == []
            assert "position 1" not in response.text


# ---- signing in ----


@pytest.mark.parametrize("path", ["/", "/room/r", "/room/nobody", "/room/r/visibility.csv", "/health", "/event/x"])
def test_who_has_not_signed_in_is_sent_to_do_so_and_told_nothing(browser: httpx.Client, path: str) -> None:
    response = browser.get(path)
    assert (response.status_code, response.text) == (303, "")
    assert response.headers["location"] == f"/sign-in?next={path}"
    check_other_headers(response)
    page = check(browser.get(response.headers["location"]))
    assert values_of(page.one("form"))["next"] == path
    assert page.one("form").attrs == {"method": "post", "action": "/sign-in", "class": "sign-in"}
    assert "secret" not in page.text
    assert banners(page) == []


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/room/r?at=2026-03-11T20:14:00%2B08:00&operator=a%26b&field=%E6%97%A5",
        f"/room/{quote('what? #1 é%', safe='')}?at={T0}",
        f"/room/{quote('日本', safe='')}",
        "/?q=100%25&show=public",
    ],
)
def test_signing_in_leads_to_the_page_that_was_asked_for(browser: httpx.Client, path: str) -> None:
    page = check(browser.get(browser.get(path).headers["location"]))
    form = values_of(page.one("form")) | {"token": READ_TOKEN}
    response = browser.post("/sign-in", data=form)
    assert (response.status_code, response.text) == (303, "")
    assert response.headers["location"] == path
    check(browser.get(response.headers["location"]))


def test_the_session_is_kept_from_scripts_and_other_sites(browser: httpx.Client) -> None:
    (cookie,) = sign_in(browser, READ_TOKEN).headers.get_list("set-cookie")
    assert cookie.startswith(f"{COOKIE}=read.")
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert READ_TOKEN not in cookie


@pytest.mark.parametrize("token", ["", "wrong", READ_TOKEN[:-1], READ_TOKEN.upper(), "日本", "\x00", MARKUP])
def test_a_wrong_token_opens_nothing(browser: httpx.Client, token: str) -> None:
    response = sign_in(browser, token, next="/room/r")
    page = check(response, 401)
    assert "set-cookie" not in response.headers
    assert banners(page) == ["The token is wrong."]
    assert values_of(page.one("form"))["next"] == "/room/r"
    assert page.one("input", name="token").attrs.get("value") is None
    assert browser.get("/").status_code == 303


def test_blanks_around_a_token_that_was_pasted_do_not_matter(browser: httpx.Client) -> None:
    assert sign_in(browser, f"  {READ_TOKEN}\r\n").status_code == 303
    check(browser.get("/"))


@pytest.mark.parametrize(
    "body", [b"", b"\xff\xfe", b"token", b"&&&=;", b'{"token":"x"}', b"token=%FF%00", b"a=" + b"b" * 4000]
)
def test_a_form_that_is_none_opens_nothing(browser: httpx.Client, body: bytes) -> None:
    check(browser.post("/sign-in", content=body), 401)


def test_a_form_that_is_too_large_is_refused_however_it_is_sent(browser: httpx.Client) -> None:
    large = f"token={READ_TOKEN}&next=/&more={'x' * 5000}".encode()
    check(browser.post("/sign-in", content=large), 413)
    response = browser.post("/sign-in", content=iter([large[:3000], large[3000:]]))  # in chunks, its length unsaid
    check(response, 413)
    assert "set-cookie" not in response.headers
    assert browser.get("/").status_code == 303


ELSEWHERE = [
    "//evil.example",
    "///evil.example",
    "https://evil.example",
    "http:evil.example",
    "/\\evil.example",
    "\\\\evil.example",
    "javascript:alert(1)",
    "/\n/evil.example",
    "/\t/evil.example",
    "\n//evil.example",
    " //evil.example",
    "/x\r\nSet-Cookie: a=b",
    "evil.example",
    "//[",
    "//ex℀mple",
    "/日本",
    "@evil.example",
    "",
]


@pytest.mark.parametrize("elsewhere", ELSEWHERE)
def test_signing_in_leads_to_no_other_site(browser: httpx.Client, elsewhere: str) -> None:
    page = check(browser.get("/sign-in", params={"next": elsewhere}))
    assert values_of(page.one("form"))["next"] == "/"
    response = sign_in(browser, READ_TOKEN, next=elsewhere)
    assert response.status_code == 303
    assert response.headers.get_list("location") == ["/"]
    assert len(response.headers.get_list("set-cookie")) == 1


def test_where_to_go_on_to_is_text_in_the_form(browser: httpx.Client) -> None:
    page = check(browser.get("/sign-in", params={"next": f'/"{MARKUP}'}))
    assert values_of(page.one("form"))["next"] == f'/"{MARKUP}'


def test_signing_out_ends_the_session(browser: httpx.Client) -> None:
    sign_in(browser, READ_TOKEN)
    form = next(form for form in check(browser.get("/")).all("form") if form.attrs["action"] == "/sign-out")
    assert form.attrs["method"] == "post"
    response = browser.post("/sign-out")
    assert (response.status_code, response.headers["location"]) == (303, "/")
    assert COOKIE not in browser.cookies
    assert browser.get("/").status_code == 303
    assert browser.get("/sign-out").status_code == 405  # a link or a picture signs nobody out


@pytest.mark.parametrize("value", ["", "x", "read.9999999999.", "admin.9999999999." + "0" * 64, "a.b.c", '"', "é" * 3])
def test_a_forged_session_is_none(browser: httpx.Client, value: str) -> None:
    header = [(b"cookie", f"{COOKIE}={value}".encode())]
    assert browser.get("/", headers=header).status_code == 303
    assert browser.get("/rooms", headers=header).status_code == 401


def test_a_reader_cannot_make_an_admin_of_a_session(browser: httpx.Client) -> None:
    sign_in(browser, READ_TOKEN)
    value = browser.cookies[COOKIE]
    browser.cookies.clear()
    raised = {"cookie": f"{COOKIE}={value.replace('read.', 'admin.', 1)}"}
    assert browser.get("/", headers=raised).status_code == 303
    assert browser.get("/", headers={"cookie": f"{COOKIE}={value}"}).status_code == 200


def test_a_session_lives_beside_cookies_of_other_programs_on_this_host(browser: httpx.Client) -> None:
    sign_in(browser, READ_TOKEN)
    value = browser.cookies[COOKIE]
    browser.cookies.clear()
    check(browser.get("/", headers={"cookie": f'flag; prefs={{"a":"b,c"}}; a/b=1; {COOKIE}={value}; x'}))


def test_a_server_without_tokens_asks_nobody_to_sign_in_or_out(town: Server) -> None:
    page = open_page(town, "/")
    assert [form.attrs["action"] for form in page.all("form")] == ["/"]


def test_only_members_find_a_way_to_sign_out(member: tuple[str, httpx.Client]) -> None:
    page = check(member[1].get("/"))
    assert "/sign-out" in [form.attrs["action"] for form in page.all("form")]


# ---- who may see what ----


def test_a_callback_is_shown_to_admins_alone(guarded: Server, member: tuple[str, httpx.Client]) -> None:
    scope, client = member
    event_id = guarded.client.get("/rooms/r", headers={"authorization": f"Bearer {ADMIN_TOKEN}"}).json()["event_id"]
    response = client.get(f"/event/{event_id}")
    if scope == "admin":
        assert "secret" in check(response).one("pre", id="body").text
    else:
        assert "admin token" in check(response, 403).text
        assert "secret" not in response.text
    links = [link.attrs["href"] for link in check(client.get("/room/r")).all("a")]
    assert (f"/event/{event_id}" in links) is (scope == "admin")


def test_what_was_refused_is_shown_to_admins_alone(member: tuple[str, httpx.Client]) -> None:
    scope, client = member
    response = client.get("/health")
    page = check(response)
    assert bool(page.all("table", class_="quarantine")) is (scope == "admin")
    assert ("quarantine')" in page.raw_text) is (scope == "admin")
    assert (f"{len(REFUSED)} rejected callbacks. Sign in with the admin token" in page.text) is (scope == "read")


def test_every_other_page_is_open_to_readers(member: tuple[str, httpx.Client]) -> None:
    client = member[1]
    for path in ("/", "/room/r", "/health"):
        check(client.get(path))
    assert client.get("/room/r/visibility.csv").status_code == 200
    check(client.get("/room/nobody"), 404)


@pytest.mark.parametrize("path", ["/rooms", "/rooms/r", "/rooms/r/history", "/events", "/status", "/events/stream"])
def test_the_api_still_wants_its_bearer(browser: httpx.Client, path: str) -> None:
    response = browser.get(path)
    assert response.status_code == 401
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"status_code": 401, "detail": "this needs the header Authorization: Bearer <API token>"}


def test_the_api_opens_to_a_session_too_for_the_scripts_of_the_page(member: tuple[str, httpx.Client]) -> None:
    scope, client = member
    assert client.get("/rooms/r").json()["room_info"]["RoomName"] == "secret"
    assert client.get("/rooms/r").headers["content-type"] == "application/json"
    assert len(client.get("/rooms").json()["rooms"]) == 3
    with client.stream("GET", "/events/stream", params={"after": 0}) as stream:
        assert stream.status_code == 200
        assert next(stream.iter_lines()) == ": room updates follow"
    for path in ("/rejected", "/metrics"):
        assert client.get(path).status_code == (200 if scope == "admin" else 403)


@pytest.mark.parametrize("authorization", ["Bearer wrong", f"Bearer {ADMIN_TOKEN}x", "Bearer \xff"])
def test_a_wrong_bearer_is_refused_even_with_a_session(member: tuple[str, httpx.Client], authorization: str) -> None:
    header = [(b"authorization", authorization.encode("latin-1"))]
    assert member[1].get("/rooms", headers=header).status_code == 401
    assert member[1].get("/", headers=header).status_code == 303


def test_a_bearer_opens_the_pages_too(browser: httpx.Client) -> None:
    header = {"authorization": f"Bearer {ADMIN_TOKEN}"}
    check(browser.get("/", headers=header))
    assert check(browser.get("/health", headers=header)).all("table", class_="quarantine")


def test_a_receiver_of_signed_callbacks_has_no_banner_and_a_session_signs_none(start_server: StartServer) -> None:
    server = start_server(env={**GUARDED, "ROOMLAPSE_CALLBACK_TOKENS": "callback-token"})
    with httpx.Client(base_url=server.url, timeout=30) as client:
        sign_in(client, ADMIN_TOKEN)
        assert client.get("/status").json()["head"] == 0
        assert banners(check(client.get("/"))) == banners(check(client.get("/health"))) == []
        assert client.post("/callbacks", params={"SdkAppid": "1400000001"}, content=body_of("r", T0)).status_code == 401
        assert client.get("/status").json()["head"] == 0


def test_tokens_and_cookies_are_in_no_log(start_server: StartServer) -> None:
    server = start_server(env=GUARDED)
    with httpx.Client(base_url=server.url, timeout=30) as client:
        sign_in(client, READ_TOKEN)
        value = client.cookies[COOKIE]
        sign_in(client, "mistyped-token")
        check(client.get("/?x=1"), 400)
        check(client.get("/room/nobody"), 404)
    server.stop()
    for secret in (READ_TOKEN, ADMIN_TOKEN, value, "mistyped-token"):
        assert secret not in server.logs()


def test_no_request_of_all_these_was_a_bug(town: Server, guarded: Server) -> None:
    for server in (town, guarded):
        lines = [msgspec.json.decode(line) for line in server.logs().splitlines()]
        assert lines
        assert [line for line in lines if line["message"] == "a request failed"] == []
