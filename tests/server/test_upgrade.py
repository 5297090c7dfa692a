"""Offers to upgrade (RFC 9110, 7.8): they are ignored, the body is read, and the connection goes on."""

from collections.abc import Iterator

import pytest
from conftest import APP_ID, T0, Server, StartServer, body_of
from kit.socket_client import SocketClient

OFFERS = {
    "h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
    "websocket": b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n",
    "TLS": b"connection: keep-alive, upgrade\r\nupgrade: TLS/1.0\r\n",
    "two, in two lines": b"Connection: upgrade\r\nConnection: HTTP2-Settings\r\nUpgrade: h2c, foo/2\r\n",
    "one that expects to be asked for the body": b"Connection: Upgrade\r\nUpgrade: h2c\r\nExpect: 100-continue\r\n",
}
_times = iter(range(T0, T0 + 10**6))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("upgrade") / "data") as server:
        yield server


def request(offer: bytes, body: bytes, *, chunked: bool = False, line: bytes | None = None) -> tuple[bytes, bytes]:
    """A callback's head and body."""
    line = line or b"POST /callbacks?SdkAppid=%s HTTP/1.1" % APP_ID.encode()
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % len(body)
    if chunked:
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])) + b"0\r\n\r\n"
    return line + b"\r\nHost: 127.0.0.1\r\n" + offer + framing + b"\r\n\r\n", body


def new_body() -> bytes:
    return body_of("upgraded", next(_times), CustomInfo="房间")


@pytest.mark.parametrize("offer", OFFERS.values(), ids=[*OFFERS])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("split", ["one packet", "head and body", "many packets"])
def test_the_body_is_stored_and_the_connection_goes_on(server: Server, offer: bytes, chunked: bool, split: str) -> None:
    before = server.get("/status")["events"]
    with SocketClient(server.port) as client:
        for _ in range(3):
            head, body = request(offer, new_body(), chunked=chunked)
            whole = head + body
            packets = {
                "one packet": [whole],
                "head and body": [head, body],
                "many packets": [whole[i : i + 16] for i in range(0, len(whole), 16)],
            }[split]
            client.send(*packets, pause_s=0.001)
            answer = client.answer("POST")
            assert (answer.status, answer.json()["ActionStatus"]) == (200, "OK")
            assert "upgrade" not in answer.headers
        plain = client.ask(b"GET /rooms/upgraded HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert plain.status == 200
    status = server.get("/status")
    assert (status["events"], status["rejected"]) == (before + 3, 0)


def test_requests_that_come_in_one_packet_are_all_answered(server: Server) -> None:
    before = server.get("/status")["events"]
    offers = [*OFFERS.values()][:3]
    pieces = [b"".join(request(offer, new_body(), chunked=number % 2 == 0)) for number, offer in enumerate(offers * 40)]
    with SocketClient(server.port) as client:
        client.send(b"".join(pieces))
        count, received = 0, b""
        while count < len(pieces):
            part = client.socket.recv(65536)
            assert part, received
            received += part
            count = received.count(b"HTTP/1.1 200 ")
    assert server.get("/status")["events"] == before + len(pieces)


def test_questions_are_answered_too(server: Server) -> None:
    with SocketClient(server.port) as client:
        for _ in range(2):
            answer = client.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + OFFERS["websocket"] + b"\r\n")
            assert (answer.status, answer.json()) == (200, {"status": "ok"})
        close = OFFERS["websocket"].replace(b"Connection: Upgrade", b"Connection: Upgrade, close")
        answer = client.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + close + b"\r\n")
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert client.is_closed()
    with SocketClient(server.port) as client:
        answer = client.ask(b"GET /healthz HTTP/1.0\r\n" + OFFERS["websocket"] + b"\r\n")
        assert answer.status == 200
        assert client.is_closed()


def test_a_blocking_callback_that_offers_one_is_stored(server: Server) -> None:
    before = server.get("/status")["events"]
    body = b'{"CallbackCommand":"Group.CallbackBeforeSendMsg","EventTime":%d}' % next(_times)
    with SocketClient(server.port) as client:
        answer = client.ask(b"".join(request(OFFERS["websocket"], body)))
        assert (answer.status, answer.json()["ActionStatus"]) == (200, "OK")
        assert client.ask(b"".join(request(b"", new_body()))).status == 200
    assert server.get("/status")["events"] == before + 2


@pytest.mark.parametrize(
    "line", [b"CONNECT example.org:443 HTTP/1.1", b"CONNECT /callbacks?SdkAppid=1 HTTP/1.1", b"PRI * HTTP/2.0"]
)
def test_a_tunnel_and_another_protocol_are_refused_in_json(server: Server, line: bytes) -> None:
    with SocketClient(server.port) as client:
        client.send(line + b"\r\nHost: 127.0.0.1\r\n\r\n")
        answer = client.answer()
        assert answer.status == 400
        assert isinstance(answer.json(), dict)
        assert client.is_closed()


@pytest.mark.parametrize(
    ("begin", "said"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32), "TLS"),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"),
    ],
)
def test_another_protocol_is_named_counted_and_logged(start_server: StartServer, begin: bytes, said: str) -> None:
    server = start_server()
    with SocketClient(server.port) as client:
        client.send(begin)
        assert said in client.answer().json()["detail"]
    assert 'outcome="misdirected"} 1.0' in server.client.get("/metrics").text
    server.stop()
    (record,) = [it for it in server.records() if it["message"] == "callbacks refused"]
    assert said in record["reason"]
