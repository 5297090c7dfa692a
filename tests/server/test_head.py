"""HEAD is answered wherever GET is, with the same head and without the body; probes are answered to whoever asks."""

from collections.abc import Iterator

import pytest
from conftest import T0, Server, StartServer, body_of
from kit.socket_client import SocketClient

TOKEN = "a-token-to-read"
PATHS = [
    *("/rooms", "/rooms/r", "/rooms/r?as_of=1900000000000", "/rooms/nobody", "/rooms/r/history", "/rooms/r/visibility"),
    *("/rooms/r/change-counts", "/change-counts", "/events", "/rejected", "/status", "/metrics", "/healthz", "/readyz"),
    *("/", "/room/r", "/health", "/static/page.css", "/room/r/visibility.csv", "/schema", "/nothing", "/rooms?asof=1"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("head") / "data") as server:
        assert server.post(body_of("r", T0, IsPublicVisible=True)).status_code == 200
        yield server


@pytest.mark.parametrize("path", PATHS)
def test_head_is_get_without_a_body(server: Server, path: str) -> None:
    got = server.client.get(path)
    head = server.client.head(path)
    assert head.status_code == got.status_code
    assert head.content == b""
    varies = {"date", "content-length"} if path in ("/metrics", "/", "/room/r", "/health") else {"date"}
    assert {k: v for k, v in head.headers.items() if k not in varies} == {
        k: v for k, v in got.headers.items() if k not in varies
    }


def test_the_connection_goes_on_after_head(server: Server) -> None:
    with SocketClient(server.port) as client:
        for path in (b"/events/stream", b"/rooms", b"/events/stream?after=0", b"/rooms/r"):
            answer = client.ask(b"HEAD %s HTTP/1.1\r\nHost: localhost\r\n\r\n" % path)
            assert (answer.status, answer.body) == (200, b"")
        assert client.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").status == 200
    assert server.get("/status")["events"] == 1


def test_head_needs_the_token_where_get_does(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_API_TOKEN": TOKEN})
    for path in ("/rooms", "/rooms/r", "/metrics", "/"):
        assert server.client.head(path).status_code == server.client.get(path).status_code in (303, 401)
    assert server.client.head("/rooms", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize(
    "rest",
    [
        b" HTTP/1.0\r\n\r\n",
        b" HTTP/1.1\r\nHost: roomlapse.default.svc:8000\r\n\r\n",
        b" HTTP/1.1\r\nHost: \r\n\r\n",
        b" HTTP/1.1\r\n\r\n",
        b" HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ],
)
@pytest.mark.parametrize("method", [b"GET", b"HEAD"])
def test_probes_are_answered_under_any_name(server: Server, path: str, rest: bytes, method: bytes) -> None:
    with SocketClient(server.port) as client:
        assert client.ask(method + b" " + path.encode() + rest).status == 200
    with SocketClient(server.port) as client:
        other = client.ask(method + b" /rooms" + rest)
        assert other.status == 421
