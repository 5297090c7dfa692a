"""What a request has to pass, and what every answer carries: lengths, names, tokens of two roles, pages of browsers.

And the callbacks that hold up somebody's action, which are answered before anything else.
"""

import json
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import APP_ID, T0, UPDATE, Server, StartServer, body_of, run
from kit.wait import wait_until

from app.infra.errors import BadSettings
from app.infra.rate_limit import RateLimit
from app.infra.settings import Secrets, Settings, read_allowed_hosts
from app.log import schema
from app.server.guards import MAX_PATH_BYTES, SECURITY_HEADERS, HeadCheck
from app.tencent.request import MAX_QUERY_BYTES, sign

API, ADMIN, CALLBACK = "gate-api-token", "gate-admin-token", "gate-callback-token"
BLOCKING = "Live.CallbackBeforeSendGift"


def scope_of(
    *hosts: str, path: str = "/rooms", query: bytes = b"", headers: tuple[tuple[bytes, bytes], ...] = ()
) -> Any:
    """A request's head; each of `hosts` is a Host header."""
    given = [(b"host", host.encode("latin-1")) for host in hosts]
    return {"path": path, "raw_path": path.encode(), "query_string": query, "headers": [*given, *headers]}


def head_check(*allowed: str, host: str = "127.0.0.1", api_token: str | None = None) -> HeadCheck:
    secrets = Secrets(api_token=api_token)
    settings = Settings(APP_ID, Path("data"), host=host, secrets=secrets, allowed_hosts=allowed)
    return HeadCheck(settings, RateLimit(0))


def status_of(check: HeadCheck, scope: Any) -> int | None:
    refusal = check.check(scope)
    return None if refusal is None else refusal.status_code


# ---- the name that is called ----

LOCAL = ["127.0.0.1", "127.0.0.1:8000", "localhost", "LOCALHOST:1", "[::1]", "[::1]:8000"]
FOREIGN = [
    *(
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "evil.example#localhost",
    ),
    *("0x7f.1", "127.1", "", " ", "localhost ", "user@localhost", "\xe9", "2130706433"),
]


@pytest.mark.parametrize("host", LOCAL)
def test_without_a_token_the_loopback_s_own_names_are_answered(host: str) -> None:
    assert status_of(head_check(), scope_of(host)) is None


@pytest.mark.parametrize("host", FOREIGN)
def test_without_a_token_a_page_s_own_name_for_this_machine_is_not(host: str) -> None:
    assert status_of(head_check(), scope_of(host)) == 421
    for path in ("/healthz", "/readyz"):  # probes call it as they like, or by no name
        assert status_of(head_check(), scope_of(host, path=path)) is None
        assert status_of(head_check(), scope_of(path=path)) is None


def test_no_name_or_two_are_none() -> None:
    assert status_of(head_check(), scope_of()) == 421
    assert status_of(head_check(), scope_of("localhost", "localhost")) == 421
    assert status_of(head_check(), scope_of("localhost", "evil.example")) == 421


def test_with_a_token_any_name_is_answered() -> None:
    for host in (*LOCAL, *FOREIGN):
        assert status_of(head_check(api_token=API), scope_of(host)) is None


def test_on_another_address_without_a_token_names_have_to_be_allowed_too() -> None:
    for host in FOREIGN:
        assert status_of(head_check(host="0.0.0.0"), scope_of(host)) == 421


def test_names_that_are_allowed_replace_any_name_and_keep_the_loopback() -> None:
    names = read_allowed_hosts({"ROOMLAPSE_ALLOWED_HOSTS": " Rooms.Example , other.example,"})
    for guarded in (head_check(*names), head_check(*names, api_token=API), head_check(*names, host="0.0.0.0")):
        for host in ("rooms.example", "ROOMS.example:443", "other.example", *LOCAL):
            assert status_of(guarded, scope_of(host)) is None, host
        for host in FOREIGN:
            assert status_of(guarded, scope_of(host)) == 421, host


@pytest.mark.parametrize("host", ["http://rooms.example", "rooms.example:8000", "a b", "*", "[::1]"])
def test_what_is_no_name_of_a_host_is_refused(host: str) -> None:
    with pytest.raises(BadSettings, match="ALLOWED_HOSTS"):
        read_allowed_hosts({"ROOMLAPSE_ALLOWED_HOSTS": f"fine.example,{host}"})


def test_an_address_itself_is_answered_no_name_server_can_turn_it() -> None:
    for host in ("127.0.0.5:9", "203.0.113.7", "[2001:db8::1]:8000"):
        assert status_of(head_check(), scope_of(host)) is None


# ---- lengths ----


def test_a_query_or_a_path_may_be_so_long_and_no_longer() -> None:
    assert status_of(head_check(), scope_of("localhost", query=b"x" * MAX_QUERY_BYTES)) is None
    assert status_of(head_check(), scope_of("localhost", query=b"x" * (MAX_QUERY_BYTES + 1))) == 414
    assert status_of(head_check(), scope_of("localhost", path="/" + "x" * (MAX_PATH_BYTES - 1))) is None
    assert status_of(head_check(), scope_of("localhost", path="/" + "x" * MAX_PATH_BYTES)) == 414


# ---- a running server: what every answer carries ----


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Without any token."""
    with Server(tmp_path_factory.mktemp("open") / "data") as server:
        assert server.post(body_of("r", T0, RoomName="n")).status_code == 200
        assert server.get("/rooms/r")["events"] == 1
        yield server


EVERY_KIND: dict[str, tuple[str, str, int]] = {
    "the shortcut": ("GET", "/rooms/r", 200),
    "a route": ("GET", "/rooms/r/history", 200),
    "a list": ("GET", "/rooms", 200),
    "text": ("GET", "/metrics", 200),
    "metrics": ("GET", "/metrics", 200),
    "health": ("GET", "/healthz", 200),
    "readiness": ("GET", "/readyz", 200),
    "the schema": ("GET", "/schema", 200),
    "a bad question": ("GET", "/rooms?as_of=yesterday", 400),
    "an unknown parameter": ("GET", "/rooms?asof=1", 400),
    "a parameter of the wrong type": ("GET", "/rooms?limit=x", 400),
    "an unknown room": ("GET", "/rooms/nobody", 404),
    "an unknown route": ("GET", "/nothing", 404),
    "another method": ("DELETE", "/rooms", 405),
    "a head alone": ("HEAD", "/rooms", 200),
    "options": ("OPTIONS", "/rooms", 204),
    "too long a query": ("GET", f"/rooms?q={'x' * 9000}", 414),
    "too long a path": ("GET", f"/rooms/{'x' * 5000}", 414),
}


@pytest.mark.parametrize("kind", list(EVERY_KIND))
def test_every_answer_to_a_question_carries_the_headers_for_browsers(open_server: Server, kind: str) -> None:
    method, path, status_code = EVERY_KIND[kind]
    response = open_server.client.request(method, path)
    assert response.status_code == status_code, response.text
    for name, value in SECURITY_HEADERS:
        assert response.headers.get_list(name.decode()) == [value.decode()], (kind, name, response.headers)
    assert "server" not in response.headers
    assert not [name for name in response.headers if name.startswith("access-control-")]


def test_the_stream_carries_them_too(open_server: Server) -> None:
    with open_server.client.stream("GET", "/events/stream?after=0") as response:
        assert response.status_code == 200
        for name, value in SECURITY_HEADERS:
            assert response.headers.get_list(name.decode()) == [value.decode()], name


def test_another_name_is_421_in_words_that_say_what_to_set_but_for_callbacks(open_server: Server) -> None:
    evil = {"Host": "evil.example"}
    for path in ("/rooms", "/rooms/r", "/", "/metrics", "/schema", "/nothing", "/events/stream"):
        response = open_server.client.get(path, headers=evil)
        assert response.status_code == 421
        assert "ROOMLAPSE_ALLOWED_HOSTS" in response.json()["detail"]
        assert response.headers["x-content-type-options"] == "nosniff"
    response = open_server.client.post(f"/callbacks?SdkAppid={APP_ID}", content=body_of("r", T0 + 1), headers=evil)
    assert response.json()["ActionStatus"] == "OK"


def test_names_come_from_the_environment(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_ALLOWED_HOSTS": "rooms.example"})
    assert server.client.get("/rooms", headers={"Host": "rooms.example"}).status_code == 200
    assert server.client.get("/rooms").status_code == 200
    assert server.client.get("/rooms", headers={"Host": "evil.example"}).status_code == 421


def test_too_long_a_query_of_a_callback_is_refused_in_the_sender_s_words(open_server: Server) -> None:
    response = open_server.post(body_of("r", T0), Sign="x" * 9000)
    assert response.status_code == 414
    assert response.json().keys() == {"ActionStatus", "ErrorInfo", "ErrorCode"}


# ---- pages of browsers ----


def test_without_a_callback_token_a_page_cannot_send_callbacks(open_server: Server) -> None:
    before = open_server.get("/status")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:8000", ""):
        for body in (body_of("forged", T0), b"not json"):
            response = open_server.client.post(
                f"/callbacks?SdkAppid={APP_ID}", content=body, headers={"Origin": origin}
            )
            assert response.status_code == 403, origin
            assert "token" in response.json()["ErrorInfo"]
    after = open_server.get("/status")
    assert (after["head"], after["rejected"]) == (before["head"], before["rejected"])
    preflight = open_server.client.options("/callbacks", headers={"Origin": "http://evil.example"})
    assert preflight.status_code == 405
    assert not [name for name in preflight.headers if name.startswith("access-control-")]


# ---- two scopes ----

READ = [
    *("/rooms", "/rooms/r", "/rooms/r/history", f"/rooms/r/diff?from=0&to={T0}", "/rooms/r/change-counts"),
    *("/rooms/r/visibility", "/change-counts", "/events", "/status", "/events/stream?after=0"),
]
ADMINS = ["/events/{event_id}", "/rejected", "/metrics"]
OPEN = ["/healthz", "/readyz"]


class Guarded:
    """A server with callback and API tokens, with or without an admin token; `event_id` is in its log."""

    def __init__(self, server: Server, has_admin: bool) -> None:
        self.server = server
        self.has_admin = has_admin
        now = str(int(time.time()))
        response = server.post(body_of("r", T0, RoomName="n"), RequestTime=now, Sign=sign(CALLBACK, now))
        assert response.status_code == 200, response.text
        self.event_id = self.ask("/events", f"Bearer {API}").json()["events"][0]["event_id"]

    def ask(self, path: str, *authorizations: str) -> httpx.Response:
        path = path.replace("{event_id}", getattr(self, "event_id", ""))
        headers = [(b"Authorization", value.encode("latin-1")) for value in authorizations]
        with self.server.client.stream("GET", path, headers=headers) as response:
            if "stream" not in path or response.status_code != 200:
                response.read()
            return response


@pytest.fixture(scope="module", params=[True, False], ids=["admin token", "no admin token"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    env = {"ROOMLAPSE_API_TOKEN": API, "ROOMLAPSE_CALLBACK_TOKENS": CALLBACK}
    if request.param:
        env["ROOMLAPSE_ADMIN_TOKEN"] = ADMIN
    with Server(tmp_path_factory.mktemp("guarded") / "data", env=env) as server:
        yield Guarded(server, request.param)


def test_the_lists_of_this_file_name_every_route(guarded: Guarded) -> None:
    schema = guarded.ask("/schema", f"Bearer {API}").json()
    asked = {path.partition("?")[0].replace("/r/", "/{room_id}/") for path in (*READ, *ADMINS, *OPEN)}
    asked = {"/rooms/{room_id}" if path == "/rooms/r" else path for path in asked}
    assert set(schema["paths"]) == {*asked, "/callbacks"}


@pytest.mark.parametrize("path", [*READ, *ADMINS, "/schema", "/nothing"])
def test_without_a_right_token_it_is_401_and_says_what_is_needed(guarded: Guarded, path: str) -> None:
    wrong = [
        *([], ["Bearer"], ["Bearer wrong"], [API], [f"Basic {API}"], [f"Token {API}"], [f"Bearer{API}"]),
        *([f"Bearer {API}x"], [f"Bearer {API[:-1]}"], [f"Bearer {API.upper()}"], [f"Bearer {CALLBACK}"]),
        *(
            [f"Bearer {API} {API}"],
            [f"Bearer {API}, Bearer {API}"],
            ["Bearer None"],
            ["Bearer \xe9"],
            [f"Basic {ADMIN}"],
        ),
    ]
    if not guarded.has_admin:
        wrong.append([f"Bearer {ADMIN}"])
    for authorizations in wrong:
        response = guarded.ask(path, *authorizations)
        if path == "/nothing":
            assert response.status_code in {401, 404}
            continue
        assert response.status_code == 401, authorizations
        assert response.json().keys() == {"status_code", "detail"}
        assert "Bearer" in response.json()["detail"]
        for secret in (API, ADMIN, CALLBACK):
            assert secret not in response.text


@pytest.mark.parametrize("path", [*READ, "/schema"])
def test_either_token_reads(guarded: Guarded, path: str) -> None:
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert guarded.ask(path, f"{scheme} {API}").status_code == 200
        if guarded.has_admin:
            assert guarded.ask(path, f"{scheme} {ADMIN}").status_code == 200


@pytest.mark.parametrize("path", ADMINS)
def test_what_is_for_admins_is_403_with_the_token_for_reading_if_there_are_two(guarded: Guarded, path: str) -> None:
    response = guarded.ask(path, f"Bearer {API}")
    if guarded.has_admin:
        assert response.status_code == 403
        assert "admin" in response.json()["detail"]
        assert response.json().keys() == {"status_code", "detail"}
        assert guarded.ask(path, f"Bearer {ADMIN}").status_code == 200
    else:
        assert response.status_code == 200


@pytest.mark.parametrize("path", OPEN)
def test_what_is_open_needs_none_and_tells_nothing_of_rooms(guarded: Guarded, path: str) -> None:
    for authorizations in ([], ["Bearer wrong"], [f"Bearer {API}"]):
        response = guarded.ask(path, *authorizations)
        assert response.status_code == 200
        assert '"r"' not in response.text


def test_tokens_in_a_query_open_nothing(guarded: Guarded) -> None:
    for query in (f"?token={API}", f"?access_token={API}", f"?Authorization=Bearer%20{API}"):
        assert guarded.ask(f"/rooms{query}").status_code == 401


def test_an_admin_token_without_or_like_the_api_token_is_wrong_usage(tmp_path: Path) -> None:
    for env in ({"ROOMLAPSE_ADMIN_TOKEN": ADMIN}, {"ROOMLAPSE_ADMIN_TOKEN": API, "ROOMLAPSE_API_TOKEN": API}):
        done = run("serve", "--sdk-app-id", APP_ID, "--port", "0", "--data", str(tmp_path / "data"), env=env)
        assert done.returncode == 2
        assert b"ROOMLAPSE_ADMIN_TOKEN" in done.stderr
        assert ADMIN.encode() not in done.stderr
        assert API.encode() not in done.stderr


# ---- callbacks that hold up somebody's action ----


def signed_query(command: str) -> str:
    now = str(int(time.time()))
    return f"SdkAppid={APP_ID}&CallbackCommand={command}&RequestTime={now}&Sign={sign(CALLBACK, now)}"


@pytest.mark.parametrize("command", [BLOCKING, "Group.CallbackBeforeSendMsg", "State.CallbackBeforeX"])
def test_a_blocking_callback_is_ok_and_in_the_log_soon_after(guarded: Guarded, command: str) -> None:
    body = json.dumps({"CallbackCommand": command, "RoomId": "r", "EventTime": T0, "Number": time.time_ns()}).encode()
    for url_command in (command, UPDATE, ""):  # the body's own decides, where it has one
        response = guarded.server.client.post(f"/callbacks?{signed_query(url_command)}", content=body)
        assert response.status_code == 200
        assert response.json() == {"ActionStatus": "OK", "ErrorInfo": "", "ErrorCode": 0}

    def found_events() -> list[dict[str, Any]]:
        events = guarded.ask("/events?limit=500", f"Bearer {API}").json()["events"]
        return [event for event in events if event["command"] == command]

    found = wait_until(found_events)
    assert len(found) == 1
    stored = guarded.ask(f"/events/{found[0]['event_id']}", f"Bearer {ADMIN if guarded.has_admin else API}").json()
    assert stored["body"].encode() == body


def test_a_blocking_callback_that_is_invalid_is_ok_and_quarantined(guarded: Guarded) -> None:
    for number, bad in enumerate((b"no json", b'{"CallbackCommand":7}', b"")):
        before = guarded.ask("/status", f"Bearer {API}").json()["rejected"]
        response = guarded.server.client.post(f"/callbacks?{signed_query(BLOCKING)}", content=bad)
        assert (response.status_code, response.json()["ActionStatus"]) == (200, "OK"), number
        wait_until(lambda before=before: guarded.ask("/status", f"Bearer {API}").json()["rejected"] == before + 1)  # type: ignore[misc]
        bearer = f"Bearer {ADMIN if guarded.has_admin else API}"
        assert guarded.ask("/rejected?limit=1", bearer).json()["rejected"][0]["body"] == bad.decode()
        # Of a command that holds up nobody the same body is refused.
        assert guarded.server.client.post(f"/callbacks?{signed_query(UPDATE)}", content=bad).status_code == 400


def test_a_blocking_callback_that_is_not_signed_or_not_ours_is_refused_all_the_same(guarded: Guarded) -> None:
    query = signed_query(BLOCKING)
    body = json.dumps({"CallbackCommand": BLOCKING}).encode()
    for changed, status in (
        (query.replace("Sign=", "Sign=0"), 401),
        (query.replace(APP_ID, "1400000002"), 403),
        (query.partition("&RequestTime")[0], 401),
    ):
        assert guarded.server.client.post(f"/callbacks?{changed}", content=body).status_code == status


def test_a_blocking_callback_is_answered_while_the_log_cannot_be_written(start_server: StartServer) -> None:
    """Somebody else holds the log's write lock: others wait, who is held up does not."""

    server = start_server()
    assert server.post(body_of("r", T0)).status_code == 200
    body = json.dumps({"CallbackCommand": BLOCKING, "RoomId": "r"}).encode()
    holder = schema.open_log(server.data / "events.db")
    holder.execute("BEGIN IMMEDIATE")
    try:
        connection = HTTPConnection("127.0.0.1", int(server.url.rpartition(":")[2]), timeout=1.4)
        connection.request("POST", f"/callbacks?SdkAppid={APP_ID}", body)
        assert connection.getresponse().status == 200
        connection.close()
        assert server.post(body_of("r", T0 + 1)).status_code == 503
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    wait_until(lambda: BLOCKING in {event["command"] for event in server.get("/events")["events"]})
