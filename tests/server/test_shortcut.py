"""The shortcut answers like the route that it spares, and leaves to it whatever is odd."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import APP_ID, T0, StartServer, body_of

from app.infra.settings import Secrets, Settings
from app.log.files import open_log
from app.log.records import Arrival
from app.queries import log as log_queries
from app.server.authentication import Authentication
from app.server.node import Service
from app.server.shortcut import Shortcut
from app.tencent.body import decode

TOKEN = "a-reader's-token"


def taken(service: Service, path: str, query: bytes = b"", *headers: tuple[bytes, bytes], method: str = "GET") -> Any:
    """What the shortcut sends, None if it leaves the request alone."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers)}
    answered = asyncio.run(Shortcut(service, Authentication(service.settings.secrets)).take(scope, send))
    assert answered is bool(sent)
    return sent or None


@contextmanager
def started(data: Path, token: str | None) -> Iterator[Service]:
    """A service with one room, open or closed by a token."""
    service = Service(Settings(APP_ID, data, secrets=Secrets(api_token=token)))
    service.start()
    log = open_log(service.data_dir)
    log.append([Arrival(decode(body_of("r", T0, RoomName="é"), T0), T0)])
    log.close()
    assert service.projector.wait_for(1, 20)
    service.readers.read(log_queries.status)  # a reader is open now: opening one is no work for an event loop
    yield service
    service.stop()


@pytest.fixture(scope="module", params=[None, TOKEN])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """For tests that only ask."""
    with started(tmp_path_factory.mktemp("shortcut") / "data", request.param) as service:
        yield service


def authorization(service: Service) -> list[tuple[bytes, bytes]]:
    token = service.settings.secrets.api_token
    return [] if token is None else [(b"authorization", f"Bearer {token}".encode())]


@pytest.mark.parametrize("query", [b"", b"as_of=%d" % T0, b"as_of=2100-01-01T00:00:00%2B08:00", b"as_of=%d&" % T0])
def test_a_plain_question_is_answered(service: Service, query: bytes) -> None:
    start, body = taken(service, "/rooms/r", query, *authorization(service))
    assert start["status"] == 200
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()
    assert '"RoomName":"é"'.encode() in body["body"]


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/rooms", b""),
        ("/rooms/", b""),
        ("/rooms/unknown", b""),
        ("/rooms/r/history", b""),
        ("/room/r", b""),
        ("/rooms/r", b"as_of=%d" % (T0 - 1)),
        ("/rooms/r", b"as_of=yesterday"),
        ("/rooms/r", b"as_of="),
        ("/rooms/r", b"as_of=1&as_of=1"),
        ("/rooms/r", b"asof=1"),
        ("/rooms/r", b"limit=1"),
    ],
)
def test_whatever_is_odd_is_left_to_the_routes(service: Service, path: str, query: bytes) -> None:
    assert taken(service, path, query, *authorization(service)) is None


@pytest.mark.parametrize("method", ["POST", "HEAD", "DELETE"])
def test_other_methods_are_left_to_the_routes(service: Service, method: str) -> None:
    assert taken(service, "/rooms/r", b"", *authorization(service), method=method) is None


@pytest.mark.parametrize("given", [b"", b"Bearer", b"Bearer wrong", b"Basic " + TOKEN.encode(), TOKEN.encode()])
def test_without_the_right_token_nothing_is_answered(service: Service, given: bytes) -> None:
    if service.settings.secrets.api_token is not None:
        assert taken(service, "/rooms/r", b"", (b"authorization", given)) is None
        assert taken(service, "/rooms/r") is None
        assert taken(service, "/rooms/r", b"", (b"authorization", given), *authorization(service)) is None


@pytest.mark.parametrize("token", [None, TOKEN])
def test_read_models_that_are_behind_are_left_to_the_routes(tmp_path: Path, token: str | None) -> None:
    with started(tmp_path / "data", token) as service:
        service.projector.stop()
        log = open_log(service.data_dir)
        log.append([Arrival(decode(body_of("r", T0 + 1), T0 + 1), T0)])
        log.close()
        assert service.projector.position == 1, "nobody reads on"
        assert taken(service, "/rooms/r", b"", *authorization(service)) is None
        service.projector.stop = lambda: None  # type: ignore[method-assign]  # it has been


def test_the_route_and_the_shortcut_give_the_same_bytes(start_server: StartServer) -> None:
    server = start_server()
    for number in range(5):
        assert server.post(body_of("a b", T0 + number, RoomName=f"n{number}", X=1.50)).status_code == 200
    known_at = 4_000_000_000_000  # everything counts, but the shortcut leaves such a question to the route
    by_shortcut = server.client.get("/rooms/a%20b", params={"as_of": T0 + 3})
    by_route = server.client.get("/rooms/a%20b", params={"as_of": T0 + 3, "known_at": known_at})
    assert by_route.content == by_shortcut.content.replace(b'"known_at_ms":null', b'"known_at_ms":%d' % known_at)
    assert b'"known_at_ms":null' in by_shortcut.content
    del by_shortcut.headers["content-length"], by_route.headers["content-length"]
    assert by_shortcut.headers == by_route.headers
