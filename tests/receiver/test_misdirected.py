"""Callbacks that miss their way: taken where they plainly are some, else refused as JSON, counted, logged and named."""

import json
from collections.abc import Iterator

import httpx
import pytest
from cli.commands import roomlapse
from conftest import APP_ID, T0, Server, StartServer, body_of
from kit.socket_client import Answer, SocketClient, ask

from app.receiver.misdirected import is_callback_path

QUERY = f"SdkAppid={APP_ID}&CallbackCommand=Live.CallbackAfterUpdateRoomInfo&ClientIP=203.0.113.9"
TAKEN = ["/callbacks", "/callbacks/", "//callbacks", "/callbacks//", "///callbacks//", "/%63allbacks"]
MISDIRECTED = [
    "/callback",
    "/",
    "/Callbacks",
    "/callbacks/x",
    "/rooms",
    "/rooms/r",
    "/sign-in",
    "/x/callbacks",
    "/nothing",
]
_times = iter(range(T0, T0 + 10**6))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("misdirected") / "data") as server:
        yield server


def counted(server: Server) -> int:
    """How many callbacks are counted as misdirected."""
    for line in server.client.get("/metrics").text.splitlines():
        if line.startswith('roomlapse_callbacks_total{outcome="misdirected"}'):
            return int(float(line.rpartition(" ")[2]))
    raise AssertionError("there is no such counter")


def raw(server: Server, target: bytes, body: bytes = b"", method: bytes = b"POST") -> Answer:
    """Send a request line as it is."""
    head = b"%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % (method, target, len(body))
    return ask(server.port, head + body)


def assert_refused(answer: Answer, status_code: int) -> None:
    assert answer.status == status_code, answer
    said = answer.json()
    assert (said["ActionStatus"], said["ErrorCode"]) == ("FAIL", status_code)
    assert "/callbacks" in said["ErrorInfo"] or "POST" in said["ErrorInfo"] or "HTTP" in said["ErrorInfo"]


@pytest.mark.parametrize("path", TAKEN)
def test_a_slash_too_many_costs_no_callback(server: Server, path: str) -> None:
    before = server.get("/status")["events"]
    answer = raw(server, f"{path}?{QUERY}".encode(), body_of("r", next(_times)))
    assert (answer.status, answer.json()["ActionStatus"]) == (200, "OK")
    assert server.get("/status")["events"] == before + 1


def test_which_paths_are_those_of_callbacks() -> None:
    assert all(is_callback_path(path) for path in ("/callbacks", "//callbacks", "/callbacks///"))
    assert not any(
        is_callback_path(path) for path in ("callbacks", "/", "", "/callbacks/x", "/xcallbacks", "/CALLBACKS")
    )


@pytest.mark.parametrize("path", MISDIRECTED)
@pytest.mark.parametrize("query", [QUERY, "sdkappid=1", "a=b&CALLBACKCOMMAND=x", "SdkAppId"])
def test_a_callback_on_another_path_is_refused_and_counted(server: Server, path: str, query: str) -> None:
    before, events = counted(server), server.get("/status")["events"]
    assert_refused(raw(server, f"{path}?{query}".encode(), body_of("r", next(_times))), 404)
    assert_refused(raw(server, f"{path}?{query}".encode(), method=b"GET"), 404)
    assert counted(server) == before + 2
    assert server.get("/status")["events"] == events


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_method_is_refused_and_counted(server: Server, method: str) -> None:
    before = counted(server)
    answer = raw(server, f"/callbacks?{QUERY}".encode(), method=method.encode())
    assert_refused(answer, 405)
    assert answer.headers["allow"] == "POST"
    assert counted(server) == before + 1


def test_a_redirect_turns_it_into_get_and_the_refusal_says_so(server: Server) -> None:
    answer = raw(server, f"/callbacks?{QUERY}".encode(), method=b"GET")
    assert "redirect" in answer.json()["ErrorInfo"]


def test_who_only_looks_is_not_counted(server: Server) -> None:
    before = counted(server)
    assert server.client.get("/callbacks").status_code == 405
    assert server.client.get("/callback").status_code == 404
    assert server.client.get("/rooms", params={"q": "SdkAppid="}).status_code == 200
    assert counted(server) == before


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", ""])
def test_one_without_parameters_is_known_by_its_body(server: Server, content_type: str) -> None:
    before = counted(server)
    headers = {"content-type": content_type} if content_type else {}
    answer = server.client.post("/", content=body_of("r", next(_times)), headers=headers)
    assert (answer.status_code, answer.json()["ActionStatus"]) == (404, "FAIL")
    assert counted(server) == before + 1
    other = server.client.post("/", content=b'{"Command":"x"}', headers=headers)
    assert other.json().keys() == {"status_code", "detail"}
    assert counted(server) == before + 1


RAW = {
    "in the query": b"/callbacks?SdkAppid=%s&OptPlatform=\xe6\x88\xbf" % APP_ID.encode(),
    "no UTF-8": b"/callbacks?SdkAppid=%s&ClientIP=\xff\xfe" % APP_ID.encode(),
    "in a path": b"/callbacks\xe6\x88\xbf?SdkAppid=%s" % APP_ID.encode(),
}


@pytest.mark.parametrize("kind", [*RAW])
def test_bytes_that_are_not_escaped(server: Server, kind: str) -> None:
    before = counted(server), server.get("/status")["events"]
    answer = raw(server, RAW[kind], body_of("r", next(_times)))
    if kind == "in a path":
        assert_refused(answer, 404)
        assert counted(server) == before[0] + 1
    else:
        assert answer.status == 200, answer
        assert server.get("/status")["events"] == before[1] + 1


def test_a_question_that_is_not_escaped_is_answered(server: Server) -> None:
    assert raw(server, b"/callbacks?SdkAppid=%s" % APP_ID.encode(), body_of("房间-1", next(_times))).status == 200
    answer = raw(server, "/rooms?q=房间".encode(), method=b"GET")
    assert [room["room_id"] for room in answer.json()["rooms"]] == ["房间-1"]
    assert raw(server, "/rooms/房间-1".encode(), method=b"GET").json()["room_id"] == "房间-1"


BROKEN = {
    "a space in the query": b"POST /callbacks?SdkAppid=1&x=a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "a header without a name": b"POST /callbacks?SdkAppid=1 HTTP/1.1\r\n: x\r\n\r\n",
    "two lengths": b"POST /callbacks?SdkAppid=1 HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a length that is none": b"POST /callbacks?SdkAppid=1 HTTP/1.1\r\nContent-Length: x\r\n\r\n",
    "length and chunks": b"POST /?SdkAppid=1 HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
    "a head without an end": b"POST /callbacks?SdkAppid=1 HTTP/1.1\r\n" + b"X: y\r\n" * 20_000,
    "a site without a path": b"POST http://h?SdkAppid=1 HTTP/1.1\r\nHost: h\r\n\r\n",
}


@pytest.mark.parametrize("kind", [*BROKEN])
def test_what_is_no_http_is_refused_in_json_and_counted(server: Server, kind: str) -> None:
    before = counted(server)
    answer = ask(server.port, BROKEN[kind])
    assert answer.status in (400, 404), answer
    assert answer.json()["ActionStatus"] == "FAIL"
    assert counted(server) == before + 1


@pytest.mark.parametrize(
    "garbage", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello\r\n\r\n", b"GET /\xff x\r\n\r\n"]
)
def test_garbage_is_refused_in_json(server: Server, garbage: bytes) -> None:
    with SocketClient(server.port) as client:
        client.send(garbage)
        answer = client.answer()
        assert answer.status == 400
        assert answer.json().keys() == {"status_code", "detail"}
        assert client.is_closed()


def test_a_query_that_is_too_long_is_refused_and_counted(server: Server) -> None:
    answer = raw(server, b"/callbacks?SdkAppid=1&x=" + b"y" * 9000, body_of("r", next(_times)))
    assert (answer.status, answer.json()["ErrorCode"]) == (414, 414)
    assert 'roomlapse_callbacks_total{outcome="too_large"} 0.0' not in server.client.get("/metrics").text


def test_the_log_the_health_page_and_doctor_name_it(start_server: StartServer) -> None:
    server = start_server()
    assert raw(server, f"/old/callback?{QUERY}&Sign={'f' * 64}".encode(), body_of("r", T0)).status == 404
    page = server.client.get("/health").text
    assert "/old/callback" in page
    assert "203.0.113.9" in page
    done = roomlapse("doctor", "--json", "--data", str(server.data), "--url", server.url)
    (refused,) = [it for it in json.loads(done.stdout)["findings"] if it["check"] == "refused"]
    assert refused["state"] == "warning"
    assert "1 misdirected" in refused["found"]
    server.stop()
    (record,) = [it for it in server.records() if it["message"] == "callbacks refused"]
    assert (record["path"], record["client_ip"], record["peer"]) == ("/old/callback", "203.0.113.9", "127.0.0.1")
    assert (record["outcome"], record["sdk_app_id"]) == ("misdirected", APP_ID)
    assert "f" * 64 not in server.logs()


def test_it_is_limited_like_any_refusal(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_RATE_LIMIT": "5"})
    statuses = [server.client.post(f"/callback?{QUERY}", content=b"{}").status_code for _ in range(60)]
    assert set(statuses) == {404, 429}
    assert httpx.post(f"{server.url}/callbacks?{QUERY}", content=body_of("r", T0)).status_code == 200
