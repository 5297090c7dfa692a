"""Every route over HTTP, its answers held against the oracle on one scripted history (contract, 4)."""

import base64
import http.client
import itertools
import json
import re
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import httpx
import pytest
from conftest import APP_ID, T0, Server, StartServer, body_of
from kit.clock import signed_at
from oracle import Oracle
from prometheus_client.parser import text_string_to_metric_families

from app.infra.settings import Secrets
from app.server.sessions import READ, SESSION_S, Sessions
from app.tencent.request import sign

HOST, CAFE, BARE = "host 1/2".replace("/", "?"), "Café-Süd", "bare"
ROOMS = (HOST, CAFE, BARE)


def sibling(room_id: str, event_time_ms: int) -> bytes:
    content = {"CallbackCommand": "Live.CallbackAfterSetMetadata", "RoomId": room_id, "EventTime": event_time_ms}
    return json.dumps(content).encode()


def script() -> list[tuple[bytes, str | None]]:
    """Bodies and platforms in order of arrival: full, partial, late, duplicate, tied and empty updates, siblings."""
    first = body_of(HOST, T0, RoomName="Late set", MaxMemberCount=300, IsPublicVisible=False, Category=[1, 2])
    late = body_of(HOST, T0 + 500, operator="eve", RoomName="Overtaken", IsPublicVisible=True)
    return [
        (first, "RESTAPI"),
        (body_of(HOST, T0 + 1000, operator=2**53 + 1, IsPublicVisible=True), "iOS"),
        (body_of(CAFE, T0 + 10, RoomName="Vinyl & tea", IsPublicVisible=True, ActivityStatus=1), "Web"),
        (body_of(HOST, T0 + 2000, RoomName="Renamed", MaxMemberCount=300), None),
        (body_of(HOST, T0 + 2000, RoomName="Renamed again"), "iPad"),  # a tie: event_id decides
        (late, "Android"),
        (first, "Web"),  # a duplicate
        (body_of(CAFE, T0 + 20, ActivityStatus=1.0), "Web"),  # 1 and 1.0 differ
        (body_of(CAFE, T0 + 30, ActivityStatus=True), "Web"),
        (body_of(CAFE, T0 + 40, ActivityStatus="1", Notice=None), "Web"),
        (sibling(HOST, T0 + 5000), "Web"),
        (body_of(HOST, T0 + 3000, operator=None, Category=[], CustomInfo=""), "Web"),
        (body_of(HOST, T0 + 3000), "Web"),  # changes nothing
        (body_of(CAFE, T0 + 50, IsPublicVisible="false"), "Web"),  # nothing to the timeline
        (body_of(CAFE, T0 + 60, IsPublicVisible=False), "Web"),
        (body_of(CAFE, T0 + 60, IsPublicVisible=True, RoomName="x"), "Web"),
        (body_of(CAFE, T0 + 35, IsPublicVisible=False), "Windows"),  # late, and overruled
        (body_of(BARE, T0 + 700), "Web"),
        (late, None),  # a duplicate of the late one
        (body_of(HOST, T0 + 4000, IsPublicVisible=False, RoomName="NACHTS ß"), "Web"),
        (body_of(HOST, T0 - 9000, operator=["a", {"b": 1}], RoomName="The very first", IsPublicVisible=True), "Web"),
        (body_of(BARE, T0 + 800, Deep={"b": [1, {"c": None}], "a": 1.5}), "Web"),
        (body_of(BARE, T0 + 900, Deep={"a": 1.5, "b": [1, {"c": None}]}), "Web"),  # the same value, written otherwise
    ]


TIMES = [
    T0 - 9001,
    T0 - 9000,
    T0 - 1,
    T0,
    T0 + 30,
    T0 + 35,
    T0 + 60,
    T0 + 700,
    T0 + 1500,
    T0 + 2000,
    T0 + 3999,
    T0 + 9000,
]


class Scene(NamedTuple):
    server: Server
    oracle: Oracle
    received: list[int]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A server that took the script, and an oracle that was told what its log says."""
    with Server(tmp_path_factory.mktemp("web") / "data") as server:
        for body, platform in script():
            more = {} if platform is None else {"OptPlatform": platform, "ClientIP": "203.0.113.5"}
            assert server.post(body, **more).status_code == 200
            wait_for_next_millisecond()  # so that known_at can cut between any two
        for number in range(5):
            assert server.post(b"bad body %d" % number).status_code == 400
        oracle = Oracle()
        for event in server.get("/events", limit=500)["events"]:
            body = server.get(f"/events/{event['event_id']}")["body"].encode()
            assert oracle.receive(body, event["received_at_ms"], event["client_ip"], event["platform"])
        yield Scene(server, oracle, [event.received_at_ms for event in oracle.events])


def wait_for_next_millisecond() -> None:
    begin = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == begin:
        pass


def room_path(room_id: str) -> str:
    return "/rooms/" + quote(room_id, safe="")


def same(answer: Any, expected: Any) -> bool:
    """Whether two JSON values are the same: Python says 1 == 1.0 == True."""
    return json.dumps(answer, sort_keys=True) == json.dumps(expected, sort_keys=True)


def cuts(scene: Scene) -> Iterator[dict[str, int]]:
    """Every as_of, every known_at, and both together for some."""
    yield {}
    yield from ({"as_of": time_ms} for time_ms in TIMES)
    known = [scene.received[0] - 1, *scene.received[::3], scene.received[-1]]
    yield from ({"known_at": time_ms} for time_ms in known)
    yield from ({"as_of": a, "known_at": k} for a, k in itertools.product(TIMES[1::4], known[1::3]))


def assert_error(response: httpx.Response, status_code: int) -> str:
    assert response.status_code == status_code, response.text
    assert response.headers["content-type"].startswith("application/json")
    error = response.json()
    assert set(error) == {"status_code", "detail"}
    assert error["status_code"] == status_code
    assert isinstance(error["detail"], str)
    assert error["detail"]
    return str(error["detail"])


def assert_answers(scene: Scene, path: str, params: dict[str, Any], expected: Any) -> None:
    """The route gives what the oracle gives; None there is 404 here."""
    response = scene.server.client.get(path, params=params)
    if expected is None:
        assert_error(response, 404)
    else:
        assert response.status_code == 200, (path, params, response.text)
        assert same(response.json(), expected), (path, params, response.json(), expected)


# ---- the questions about rooms ----


@pytest.mark.parametrize("room_id", ROOMS)
def test_room(scene: Scene, room_id: str) -> None:
    for cut in cuts(scene):
        assert_answers(scene, room_path(room_id), cut, scene.oracle.room(room_id, **cut))


def test_rooms(scene: Scene) -> None:
    for cut in cuts(scene):
        expected = [scene.oracle.room(room_id, **cut) for room_id in scene.oracle.rooms(**cut)]
        assert_answers(scene, "/rooms", cut, {"rooms": expected, "next_cursor": None})


@pytest.mark.parametrize("public", [True, False])
def test_rooms_that_are_or_were_public_or_hidden(scene: Scene, public: bool) -> None:
    found = set()
    for cut in cuts(scene):
        expected = []
        for room_id in scene.oracle.rooms(**cut):
            intervals = scene.oracle.intervals(room_id, **cut)
            if intervals and intervals[-1]["public"] is public:
                expected.append(scene.oracle.room(room_id, **cut))
        assert_answers(scene, "/rooms", {**cut, "public": public}, {"rooms": expected, "next_cursor": None})
        found.add(len(expected))
    assert len(found) > 1


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("HOST", [HOST]),
        ("café", [CAFE]),
        ("CAFÉ-SÜD", [CAFE]),
        ("nachts SS", [HOST]),
        ("nachts ß", [HOST]),
        ("x", [CAFE]),
        ("?", [HOST]),
        ("%", []),
        ("_", []),
        ("a", [CAFE, BARE, HOST]),
        ("Vinyl", []),  # its name then, not now
        ("bob", []),
    ],
)
def test_q_finds_ids_and_names_in_any_case(scene: Scene, q: str, expected: list[str]) -> None:
    rooms = scene.server.get("/rooms", q=q)["rooms"]
    assert [room["room_id"] for room in rooms] == sorted(expected)


def test_q_asks_for_the_name_at_that_time(scene: Scene) -> None:
    rooms = scene.server.get("/rooms", q="vinyl", as_of=T0 + 10)["rooms"]
    assert [room["room_id"] for room in rooms] == [CAFE]
    assert scene.server.get("/rooms", q="vinyl", as_of=T0 + 9)["rooms"] == []


@pytest.mark.parametrize("room_id", ROOMS)
def test_history(scene: Scene, room_id: str) -> None:
    windows: list[dict[str, int]] = [{}, {"from": T0 + 500}, {"to": T0 + 2000}, {"from": T0, "to": T0 + 700}]
    for cut, window in itertools.product(cuts(scene), windows):
        as_of, known_at = cut.get("as_of"), cut.get("known_at")
        changes = scene.oracle.history(room_id, as_of, known_at, window.get("from"), window.get("to"))
        expected = None if changes is None else {"changes": changes, "next_cursor": None}
        assert_answers(scene, f"{room_path(room_id)}/history", {**cut, **window}, expected)


@pytest.mark.parametrize("field", ["RoomName", "IsPublicVisible", "ActivityStatus", "Deep", "RoomId", "nothing", ""])
def test_history_of_one_field(scene: Scene, field: str) -> None:
    for room_id in ROOMS:
        expected = {"changes": scene.oracle.history(room_id, field=field), "next_cursor": None}
        assert_answers(scene, f"{room_path(room_id)}/history", {"field": field}, expected)


def test_the_script_holds_what_it_is_for(scene: Scene) -> None:
    changes = scene.server.get(f"{room_path(HOST)}/history")["changes"]
    assert {change["late"] for change in changes} == {True, False}
    assert None in [change["platform"] for change in changes]
    assert scene.server.get("/status")["duplicates"] == 2
    assert len(changes) < scene.server.get(room_path(HOST))["events"]  # one of them changed nothing


@pytest.mark.parametrize("room_id", ROOMS)
def test_diff(scene: Scene, room_id: str) -> None:
    some_cuts = [{}, {"as_of": T0 + 1500}, {"known_at": scene.received[6]}]
    for cut, from_ms, to_ms in itertools.product(some_cuts, TIMES[::2], TIMES[1::2]):
        expected = scene.oracle.diff(room_id, from_ms, to_ms, **cut)
        assert_answers(scene, f"{room_path(room_id)}/diff", {**cut, "from": from_ms, "to": to_ms}, expected)


@pytest.mark.parametrize("room_id", ROOMS)
def test_change_counts_of_a_room(scene: Scene, room_id: str) -> None:
    for cut in cuts(scene):
        assert_answers(scene, f"{room_path(room_id)}/change-counts", cut, scene.oracle.counts(room_id, **cut))


def test_change_counts_over_all_rooms(scene: Scene) -> None:
    totals = scene.server.get("/change-counts")
    assert same(totals["counts"], scene.oracle.total_counts())
    changes = {}
    for room_id in scene.oracle.rooms():
        counts = scene.oracle.counts(room_id)
        assert counts is not None
        changes[room_id] = sum(count["changes"] for count in counts["counts"].values())
    by_changes = sorted(changes, key=lambda room_id: (-changes[room_id], room_id))
    assert totals["rooms"] == [{"room_id": room_id, "changes": changes[room_id]} for room_id in by_changes]
    assert totals["next_cursor"] is None


@pytest.mark.parametrize("room_id", ROOMS)
def test_visibility(scene: Scene, room_id: str) -> None:
    windows: list[dict[str, int]] = [
        {},
        {"from": T0 + 500},
        {"to": T0 + 2000},
        {"to": T0 - 50_000},
        {"from": T0 + 35, "to": T0 + 60},
        {"from": T0, "to": T0},
        {"from": T0 - 99_999, "to": T0 - 50_000},
        {"from": T0 + 10**6, "to": T0 + 2 * 10**6},
        {"from": 10**13},
        {"to": 10**13},
        {"from": T0 + 35, "to": 10**14},
        {"from": 10**13, "to": 10**14},
    ]
    for cut, window in itertools.product(cuts(scene), windows):
        before_ms = time.time_ns() // 1_000_000
        response = scene.server.client.get(f"{room_path(room_id)}/visibility", params={**cut, **window})
        after_ms = time.time_ns() // 1_000_000
        now_ms = after_ms
        in_the_future = window.get("from", 0) > after_ms  # then it is empty, and its end is no clock's
        if response.status_code == 200 and window.get("to", after_ms + 1) > after_ms and not in_the_future:
            now_ms = response.json()["window"]["to_ms"]
            if "as_of" not in cut:
                assert before_ms <= now_ms <= after_ms
        between = {f"{name}_ms": value for name, value in window.items()}
        expected = scene.oracle.visibility(
            room_id, max(now_ms, after_ms) if "as_of" in cut else now_ms, **between, **cut
        )
        if expected is None:
            assert_error(response, 404)
        else:
            assert same(response.json(), expected), (cut, window)


def test_time_that_has_not_happened_is_neither_public_nor_hidden(scene: Scene) -> None:
    now_ms = time.time_ns() // 1_000_000
    year = scene.server.get(f"{room_path(HOST)}/visibility", to=now_ms + 365 * 86_400_000)
    plain = scene.server.get(f"{room_path(HOST)}/visibility")
    assert 0 <= plain["public_ms"] + plain["hidden_ms"] - year["public_ms"] - year["hidden_ms"] < 5000
    assert now_ms <= year["window"]["to_ms"] == year["intervals"][-1]["to_ms"] <= plain["window"]["to_ms"]
    assert sum(it["to_ms"] - it["from_ms"] for it in year["intervals"]) == year["public_ms"] + year["hidden_ms"]
    ahead = scene.server.get(f"{room_path(HOST)}/visibility", **{"from": now_ms + 10**9, "to": now_ms + 2 * 10**9})
    assert (ahead["intervals"], ahead["public_ms"], ahead["hidden_ms"]) == ([], 0, 0)
    past = scene.server.get(f"{room_path(HOST)}/visibility", as_of=T0 + 2000, to=now_ms)
    assert past["window"]["to_ms"] == T0 + 2000
    assert past["public_ms"] + past["hidden_ms"] == T0 + 2000 - past["window"]["from_ms"]


def test_times_come_as_milliseconds_or_as_iso_8601_with_an_offset(scene: Scene) -> None:
    asked = scene.server.get(room_path(HOST), as_of=T0)
    assert asked["as_of_ms"] == T0 == 1_670_574_414_123
    for text in (
        "2022-12-09T08:26:54.123Z",
        "2022-12-09T16:26:54.123+08:00",
        "2022-12-09T00:26:54.123-08:00",
        "2022-12-09 08:26:54.123+00:00",
        "20221209T082654.123Z",
    ):
        assert scene.server.get(room_path(HOST), as_of=text) == asked
        assert scene.server.get(room_path(HOST), known_at=text.replace("2022", "2099"))["events"] > 1


# ---- pages ----


def pages(server: Server, path: str, key: str, **params: Any) -> list[Any]:
    """All items, one a page."""
    items: list[Any] = []
    for _ in range(1000):
        page = server.get(path, limit=1, **params)
        assert len(page[key]) <= 1
        items += page[key]
        if page["next_cursor"] is None:
            return items
        assert page[key]
        params["cursor"] = page["next_cursor"]
    raise AssertionError("there is always a next page")


@pytest.mark.parametrize(
    ("path", "key", "params"),
    [
        ("/rooms", "rooms", {}),
        ("/rooms", "rooms", {"as_of": T0 + 700}),
        ("/rooms", "rooms", {"public": "false"}),
        ("/rooms", "rooms", {"q": "a"}),
        (f"{room_path(HOST)}/history", "changes", {}),
        (f"{room_path(HOST)}/history", "changes", {"field": "RoomName", "to": T0 + 2001}),
        (f"{room_path(CAFE)}/history", "changes", {"from": T0 + 20, "as_of": T0 + 60}),
        ("/change-counts", "rooms", {}),
        ("/rejected", "rejected", {}),
    ],
)
def test_pages_of_one_give_each_item_once_in_order(scene: Scene, path: str, key: str, params: dict[str, Any]) -> None:
    whole = scene.server.get(path, limit=500, **params)
    assert whole["next_cursor"] is None
    assert whole[key]
    assert same(pages(scene.server, path, key, **params), whole[key])


def test_the_quarantine_is_listed_newest_first(scene: Scene) -> None:
    bodies = [rejected["body"] for rejected in scene.server.get("/rejected")["rejected"]]
    assert bodies == [f"bad body {number}" for number in reversed(range(5))]


def test_the_log_is_paged_by_position(scene: Scene) -> None:
    whole = scene.server.get("/events", limit=500)
    assert whole["head"] == len(whole["events"]) == len(scene.oracle.events)
    after, found = 0, []
    while events := scene.server.get("/events", after=after, limit=1)["events"]:
        found += events
        after = events[-1]["position"]
    assert found == whole["events"]
    assert scene.server.get("/events", after=10**15) == {"events": [], "head": whole["head"]}


def test_the_log_says_what_came_and_how(scene: Scene) -> None:
    events = scene.server.get("/events", limit=500)["events"]
    for event, stored in zip(events, scene.oracle.events, strict=True):
        assert set(event) == {
            *("position", "event_id", "room_id", "command", "event_time_ms", "received_at_ms"),
            *("operator", "client_ip", "platform", "chain"),
        }
        assert (event["position"], event["event_id"]) == (stored.position, stored.event_id)
        assert same(event["operator"], stored.operator)
        assert event["platform"] == stored.platform
        alone = scene.server.get(f"/events/{stored.event_id}")
        assert same({**alone, "body": json.loads(alone["body"])}, {**event, "body": stored.body})
    assert scene.server.get("/status")["chain"] == events[-1]["chain"]


# ---- questions that make no sense ----

PER_ROOM = ("", "/history", "/change-counts", "/visibility", "/diff?from=0&to=2000000000000")
LISTS = ("/rooms", f"{room_path(HOST)}/history", "/change-counts", "/rejected")


def b64(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


CURSORS = [
    "!",
    "%00",
    "garbage",
    "AAAA",
    "é",
    b64("{}"),
    b64("null"),
    b64("[]"),
    b64("[1]"),
    b64('["a",1]'),
    b64("true"),
    b64("1.5"),
    b64("9" * 30),
    b64(f'[{"9" * 30},"a"]'),
    b64("-" + "9" * 30),
    b64('"\\ud800"'),
    b64('[1,"\\ud800"]'),
    "A" * 8000,
]


@pytest.mark.parametrize("cursor", CURSORS)
@pytest.mark.parametrize("path", LISTS)
def test_a_cursor_that_no_page_gave_is_400_or_a_page(scene: Scene, path: str, cursor: str) -> None:
    response = scene.server.client.get(f"{path}?cursor={cursor}")
    # A few of them have the form of one list's cursor; for the others they are garbage.
    if response.status_code != 200:
        assert_error(response, 400)


@pytest.mark.parametrize("path", LISTS)
def test_a_cursor_that_cannot_be_read_is_400(scene: Scene, path: str) -> None:
    for cursor in ("!", "garbage", b64("{}"), b64("true")):
        assert_error(scene.server.client.get(f"{path}?cursor={cursor}"), 400)


BAD = [
    *[
        f"{path}?limit={limit}"
        for path in (*LISTS, "/events")
        for limit in ("0", "501", "-1", "x", "", "1.5", "9" * 30)
    ],
    *[f"{path}?asof=1" for path in (*LISTS, "/events", "/status", "/healthz", "/readyz", "/metrics")],
    *[f"{room_path(HOST)}{path.partition('?')[0]}?as-of=1" for path in PER_ROOM],
    f"/events/{'0' * 64}?as_of=1",
    "/events?cursor=x",
    "/events?after=-1",
    "/events?after=x",
    "/events?after=99999999999999999999",
    "/events/stream?after=-1",
    "/events/stream?after=x",
    "/events/stream?limit=1",
    "/change-counts?as_of=1",
    "/rooms?public=maybe",
    "/rooms?from=1",
    "/rejected?q=x",
    *[
        f"{path}?{name}={time_}"
        for path in ("/rooms", room_path(HOST), f"{room_path(HOST)}/history", f"{room_path(HOST)}/visibility")
        for name in ("as_of", "known_at")
        for time_ in (
            "2026-03-11T14:28:44",
            "2026-03-11",
            "yesterday",
            "",
            "1.5",
            "14:28Z",
            "99999999999999999999",
            "%00",
        )
    ],
    *[f"{room_path(HOST)}/{route}?from=2026-03-11T14:28:44" for route in ("history", "visibility")],
    *[f"{room_path(HOST)}/{route}?from=2000&to=1999" for route in ("history", "visibility")],
    f"{room_path(HOST)}/diff",
    f"{room_path(HOST)}/diff?from=1",
    f"{room_path(HOST)}/diff?to=1",
    f"{room_path(HOST)}/diff?from=1&to=2026-03-11T14:28:44",
]


@pytest.mark.parametrize("path", BAD)
def test_a_bad_question_is_400_and_says_why(scene: Scene, path: str) -> None:
    assert_error(scene.server.client.get(path), 400)


SECONDS = [
    *[f"{path}?{name}={T0 // 1000}" for path in ("/rooms", room_path(HOST)) for name in ("as_of", "known_at")],
    *[
        f"{room_path(HOST)}/{route}?{name}={T0 // 1000}"
        for route in ("history", "visibility")
        for name in ("as_of", "known_at", "from", "to")
    ],
    *[f"{room_path(HOST)}/change-counts?{name}={T0 // 1000}" for name in ("as_of", "known_at")],
    f"{room_path(HOST)}/diff?from={T0 // 1000}&to={T0}",
    f"{room_path(HOST)}/diff?from={T0}&to={T0 // 1000}",
    *[f"{room_path(HOST)}/diff?from=0&to={T0}&{name}={T0 // 1000}" for name in ("as_of", "known_at")],
]


@pytest.mark.parametrize("path", SECONDS)
def test_a_time_in_seconds_is_refused_on_every_route(scene: Scene, path: str) -> None:
    detail = assert_error(scene.server.client.get(path), 400)
    assert detail == f"{T0 // 1000} looks like seconds: epoch milliseconds are needed, {T0 // 1000}000"


def test_times_without_an_offset_are_told_what_is_missing(scene: Scene) -> None:
    detail = assert_error(scene.server.client.get("/rooms?as_of=2026-03-11T14:28:44"), 400)
    assert "offset" in detail


@pytest.mark.parametrize("path", PER_ROOM)
def test_an_unknown_room_is_404(scene: Scene, path: str) -> None:
    for room_id in ("nobody", "%00", "%FF", quote(HOST[:-1]), quote(HOST.upper()), "a%20"):
        assert_error(scene.server.client.get(f"/rooms/{room_id}{path}"), 404)


@pytest.mark.parametrize("path", PER_ROOM)
def test_a_room_unknown_at_that_time_is_404(scene: Scene, path: str) -> None:
    join = "&" if "?" in path else "?"
    for room_id in ROOMS:
        for cut in (f"as_of={T0 - 9001}", f"known_at={scene.received[0] - 1}", "known_at=0", "as_of=-1"):
            assert_error(scene.server.client.get(f"{room_path(room_id)}{path}{join}{cut}"), 404)


def test_a_room_that_only_a_late_event_made_known_then_was_not_known_then(scene: Scene) -> None:
    (early,) = [event for event in scene.oracle.events if event.is_update and event.event_time_ms == T0 - 9000]
    params = {"as_of": T0 - 1, "known_at": early.received_at_ms - 1}
    assert_error(scene.server.client.get(room_path(HOST), params=params), 404)
    assert scene.server.get(room_path(HOST), as_of=T0 - 1, known_at=early.received_at_ms)["events"] == 1


@pytest.mark.parametrize("path", [f"/events/{'0' * 64}", "/events/x", "/events/%00", "/nothing", "/rooms/a/nothing"])
def test_what_is_not_there_is_404(scene: Scene, path: str) -> None:
    assert_error(scene.server.client.get(path), 404)


def test_reading_routes_take_no_other_method(scene: Scene) -> None:
    for path in ("/rooms", room_path(HOST), "/events", "/status"):
        assert_error(scene.server.client.delete(path), 405)


# ---- the event stream ----


class Sent(NamedTuple):
    """A server-sent event."""

    position: int
    event: str
    data: Any


@contextmanager
def streaming(server: Server, path: str = "/events/stream", **headers: str) -> Iterator[Iterator[Sent]]:
    """Read a stream through a client of its own. What it gives began behind a position taken before this returns."""
    with (
        httpx.Client(base_url=server.url, timeout=httpx.Timeout(10, read=30)) as client,
        client.stream("GET", path, headers=headers) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        yield read_stream(response)


def read_stream(response: httpx.Response) -> Iterator[Sent]:
    block: dict[str, str] = {}
    for line in response.iter_lines():
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            block[name] = value
        elif block:
            assert set(block) == {"id", "event", "data"}
            yield Sent(int(block["id"]), block["event"], json.loads(block["data"]))
            block = {}


def updates_after(scene: Scene, position: int) -> list[dict[str, Any]]:
    """What each update behind a position changed in its room's history as that stands now."""
    return [
        {**change, "room_id": event.room_id}
        for event in scene.oracle.events
        if event.position > position and event.is_update
        for change in scene.oracle.history(event.room_id) or []
        if change["position"] == event.position
    ]


@pytest.mark.parametrize("position", [0, 1, 5, 15])
@pytest.mark.parametrize("how", ["after", "Last-Event-ID", "both"])
def test_the_stream_resumes_behind_a_position(scene: Scene, position: int, how: str) -> None:
    path = "/events/stream"
    if how != "Last-Event-ID":
        path += f"?after={position if how == 'after' else 3}"  # a browser resumes with the same URL and the header
    headers = {} if how == "after" else {"Last-Event-ID": str(position)}
    expected = updates_after(scene, position)
    assert len(expected) > 3
    with streaming(scene.server, path, **headers) as stream:
        changing = (sent for sent in stream if sent.data["changed"])  # history leaves out what changed nothing
        for wanted, sent in zip(expected, changing, strict=False):
            assert (sent.event, sent.position) == ("room-updated", wanted["position"])
            assert same(sent.data, wanted)


def test_last_event_id_that_is_no_position_is_400(scene: Scene) -> None:
    for value in ("x", "-1", "1.5", "9" * 30, "٣"):
        headers = [(b"Last-Event-ID", value.encode())]
        assert_error(scene.server.client.get("/events/stream", headers=headers), 400)


def test_a_live_event_arrives_and_only_those_behind_the_open(start_server: StartServer) -> None:
    server = start_server()
    server.post(body_of("before", T0, RoomName="old"))
    with streaming(server) as stream:
        server.post(sibling("r", T0))
        for number in range(3):
            server.post(body_of("房间", T0 + number, RoomName=f"n{number}"), OptPlatform="Web")
            sent = next(stream)
            assert (sent.position, sent.event) == (3 + number, "room-updated")
            (newest,) = server.get("/rooms/房间/history", limit=1)["changes"]
            assert sent.data == {**newest, "room_id": "房间"}


def test_open_streams_end_when_the_server_stops(start_server: StartServer) -> None:
    server = start_server()
    server.post(body_of("r", T0, RoomName="n"))
    with streaming(server, "/events/stream?after=0") as first, streaming(server, "/events/stream") as second:
        assert next(first).position == 1
        begin = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert list(first) == []
        assert list(second) == []
        assert server.process.wait(10) == 0
        assert time.monotonic() - begin < 10
    assert server.stop() == 0


# ---- health, metrics, schema ----


def metrics(server: Server) -> dict[tuple[str, str], float]:
    """Every sample by name and by the value of its only label."""
    response = server.client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, next(iter(sample.labels.values()), "")): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
    }


def test_status(scene: Scene) -> None:
    status = scene.server.get("/status")
    assert set(status) == {"head", "events", "duplicates", "rejected", "chain", "last_received_at_ms", "projections"}
    (last,) = scene.server.get("/events", after=status["head"] - 1)["events"]
    assert status["last_received_at_ms"] == last["received_at_ms"]
    assert status["head"] == status["events"] == len(scene.oracle.events)
    assert (status["duplicates"], status["rejected"]) == (2, 5)
    assert set(status["projections"]) == {"current_room", "change_counts", "visibility"}
    for projection in status["projections"].values():
        assert set(projection) == {"version", "position", "lag"}
        assert projection["position"] + projection["lag"] == status["head"]


def test_an_empty_log_has_received_nothing(start_server: StartServer) -> None:
    server = start_server()
    assert server.get("/status")["last_received_at_ms"] is None
    assert "roomlapse_last_callback_timestamp_seconds 0.0" in server.client.get("/metrics").text
    assert "never" in server.client.get("/health").text
    before_s = time.time()
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.post(body_of("r", T0)).status_code == 200  # a duplicate is a sign of life too
    text = server.client.get("/metrics").text
    (line,) = [line for line in text.splitlines() if line.startswith("roomlapse_last_callback_timestamp_seconds ")]
    assert before_s - 0.01 <= float(line.split()[1]) <= time.time()
    assert server.get("/status")["last_received_at_ms"] >= (before_s - 0.01) * 1000
    for metric in ("roomlapse_build_info{", "process_resident_memory_bytes ", "process_open_fds ", 'sqlite="3.'):
        assert metric in text
    server.stop()
    again = start_server()  # a restart is no sign of life
    said = [it for it in again.client.get("/metrics").text.splitlines() if it.startswith(line.split()[0] + " ")]
    assert before_s - 0.01 <= float(said[0].split()[1]) <= float(line.split()[1])


def test_alive_and_ready(scene: Scene) -> None:
    assert scene.server.client.get("/healthz").status_code == 200
    ready = scene.server.get("/readyz")
    assert ready["ready"] is True
    assert set(ready["lag"]) == {"current_room", "change_counts", "visibility"}


def test_metrics_count_what_happened(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_CALLBACK_TOKENS": "metrics-token"})
    now = str(int(time.time()))
    signature = {"RequestTime": now, "Sign": sign("metrics-token", now)}
    before = metrics(server)
    assert server.post(body_of("r", T0 + 1000, RoomName="a"), **signature).status_code == 200
    for _ in range(2):
        assert server.post(body_of("r", T0 + 1000, RoomName="a"), **signature).status_code == 200
    for number in range(3):
        assert server.post(body_of("r", T0 + number, RoomName="late"), **signature).status_code == 200
    for _ in range(4):
        assert server.post(b"bad", **signature).status_code == 400
    for _ in range(5):
        assert server.post(body_of("r", T0), **signature, SdkAppid="1").status_code == 403
    for _ in range(6):
        assert server.post(body_of("r", T0)).status_code == 401
    assert server.post(b"x" * 65_537, **signature).status_code == 413
    server.get("/rooms")  # waits until the projections have read it all
    after = metrics(server)
    grown = {name: after[name] - before.get(name, 0) for name in after}
    for outcome, number in {
        "accepted": 4,
        "duplicate": 2,
        "quarantined": 4,
        "forbidden": 5,
        "unsigned": 6,
        "too_large": 1,
        "unavailable": 0,
    }.items():
        assert grown["roomlapse_callbacks_total", outcome] == number, outcome
    assert grown["roomlapse_duplicates_total", ""] == 2
    assert grown["roomlapse_quarantined_total", ""] == 4
    assert grown["roomlapse_late_events_total", ""] == 3
    assert grown["roomlapse_commit_callbacks_sum", ""] == 10
    assert grown["roomlapse_commit_callbacks_count", ""] == grown["roomlapse_commit_seconds_count", ""] == 10
    assert grown["roomlapse_commit_seconds_sum", ""] > 0
    assert grown["roomlapse_commit_failures_total", ""] == 0
    for projection in ("current_room", "change_counts", "visibility"):
        assert after["roomlapse_projection_lag", projection] == 0
        assert after["roomlapse_projection_stopped", projection] == 0
    assert after["roomlapse_log_head", ""] == 4
    assert after["roomlapse_wal_bytes", "events"] > 0
    assert after["roomlapse_wal_bytes", "read_models"] > 0


def test_the_schema_is_openapi_and_refers_to_no_other_host(scene: Scene) -> None:
    response = scene.server.client.get("/schema")
    assert response.status_code == 200
    assert "json" in response.headers["content-type"]
    schema = response.json()
    assert schema["openapi"].startswith("3.")
    assert {
        *("/callbacks", "/rooms", "/rooms/{room_id}", "/rooms/{room_id}/history", "/rooms/{room_id}/diff"),
        *("/rooms/{room_id}/change-counts", "/rooms/{room_id}/visibility", "/change-counts", "/events"),
        *("/events/{event_id}", "/events/stream", "/rejected", "/status", "/healthz", "/readyz", "/metrics"),
    } <= set(schema["paths"])
    assert re.findall(r"[a-z]+://[^\s\"]+", response.text) == []
    assert "cdn" not in response.text.lower()


@pytest.mark.parametrize("accept", ["*/*", "text/html", "application/json"])
def test_the_schema_has_no_viewer_from_elsewhere(scene: Scene, accept: str) -> None:
    for path in ("/schema", "/schema/swagger", "/schema/redoc", "/schema/elements", "/schema/rapidoc", "/docs"):
        text = scene.server.client.get(path, headers={"Accept": accept}).text
        assert "//" not in text, path


# ---- the API token, and what is never said ----

API_TOKEN = "api-token-5d0c11"
CALLBACK_TOKEN = "callback-token-a91b"
OPEN = ("/healthz", "/readyz")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"ROOMLAPSE_API_TOKEN": API_TOKEN, "ROOMLAPSE_CALLBACK_TOKENS": CALLBACK_TOKEN}
    with Server(tmp_path_factory.mktemp("guarded") / "data", env=env) as server:
        now = str(int(time.time()))
        response = server.post(body_of("r", T0, RoomName="n"), RequestTime=now, Sign=sign(CALLBACK_TOKEN, now))
        assert response.status_code == 200, "callbacks need no bearer"
        yield server


def test_a_stream_ends_with_the_session_that_opened_it(guarded: Server) -> None:
    with signed_at(time.time() - SESSION_S + 2):  # it lasts for two to three seconds more
        cookie = Sessions(Secrets((CALLBACK_TOKEN,), API_TOKEN)).write_cookie(READ).partition(";")[0]
    with streaming(guarded, "/events/stream?after=0", Cookie=cookie) as stream:
        assert next(stream).data["room_id"] == "r"
        time.sleep(3.2)
        now = str(int(time.time()))
        guarded.post(body_of("r", T0 + 1), RequestTime=now, Sign=sign(CALLBACK_TOKEN, now))
        assert [sent.position for sent in stream] in ([], [2])  # what came just then may still be sent
    assert_error(guarded.client.get("/events/stream", headers={"Cookie": cookie}), 401)


GUARDED = [
    "/rooms",
    "/rooms/r",
    "/rooms/r/history",
    f"/rooms/r/diff?from=0&to={T0}",
    "/rooms/r/change-counts",
    "/rooms/r/visibility",
    "/change-counts",
    "/events",
    "/rejected",
    "/status",
    "/metrics",
    "/schema",
]


@pytest.mark.parametrize("path", [*GUARDED, "/events/stream?after=0", f"/events/{'0' * 64}", "/rooms/nobody"])
def test_reading_needs_the_api_token(guarded: Server, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {API_TOKEN}x"},
        {"Authorization": f"Bearer {CALLBACK_TOKEN}"},
        {"Authorization": f"Basic {API_TOKEN}"},
        {"Authorization": API_TOKEN},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer None"},
    ):
        assert_error(guarded.client.get(path, headers=headers), 401)


@pytest.mark.parametrize("path", GUARDED)
def test_with_the_api_token_it_answers(guarded: Server, path: str) -> None:
    assert guarded.client.get(path, headers={"Authorization": f"Bearer {API_TOKEN}"}).status_code == 200


def test_the_stream_opens_with_the_api_token(guarded: Server) -> None:
    with streaming(guarded, "/events/stream?after=0", Authorization=f"Bearer {API_TOKEN}") as stream:
        assert next(stream).data["room_id"] == "r"


@pytest.mark.parametrize("path", OPEN)
def test_health_is_open(guarded: Server, path: str) -> None:
    assert guarded.client.get(path).status_code == 200


def test_logs_are_json_lines_without_tokens_signs_queries_or_bodies(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_API_TOKEN": API_TOKEN, "ROOMLAPSE_CALLBACK_TOKENS": CALLBACK_TOKEN})
    now = str(int(time.time()))
    signature = sign(CALLBACK_TOKEN, now)
    bearer = {"Authorization": f"Bearer {API_TOKEN}"}
    good = {"RequestTime": now, "Sign": signature}
    assert server.post(body_of("r", T0, RoomName="body-secret-1"), **good).status_code == 200
    assert server.post(b"body-secret-2", **good).status_code == 400
    assert server.post(b"body-secret-2", RequestTime=now, Sign=signature[:-1] + "_").status_code == 401
    assert server.post(b"x" * 65_537, **good).status_code == 413
    assert server.client.get(f"/rooms/r?{API_TOKEN}={signature}", headers=bearer).status_code == 400
    assert server.client.get("/rooms/nobody", headers=bearer).status_code == 404
    address = urlsplit(server.url)
    assert address.hostname is not None
    with socket.create_connection((address.hostname, address.port or 0), timeout=10) as connection:
        connection.sendall(
            f"GARBAGE /callbacks?Sign={signature} HTTP/9.9\r\nAuthorization: {API_TOKEN}\r\n\r\n".encode()
        )
        assert b"400" in connection.recv(65_536)
    cut = http.client.HTTPConnection(address.netloc, timeout=10)
    cut.putrequest("POST", f"/callbacks?SdkAppid={APP_ID}&Sign={signature}&RequestTime={now}")
    cut.putheader("Content-Length", "100")
    cut.endheaders(b"body-secret-3")
    cut.close()
    assert server.stop() == 0
    lines = server.logs().splitlines()
    assert lines, "at least the end is logged"
    for line in lines:
        assert isinstance(json.loads(line), dict), line
    for secret in (API_TOKEN, CALLBACK_TOKEN, signature, signature[:-1], "body-secret"):
        assert secret not in server.logs()
