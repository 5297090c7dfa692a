"""Answers are compressed for those who take it: pages and JSON, at any length, never callbacks and streams."""

import gzip

import httpx
import pytest
from conftest import T0, Server, StartServer, body_of


@pytest.fixture
def server(start_server: StartServer) -> Server:
    server = start_server()
    for number in range(60):
        body = body_of(f"room {number}", T0 + number, RoomName="name " * 20, IsPublicVisible=True)
        assert server.post(body).status_code == 200
    assert server.post(body_of("large", T0, **{f"field {n}": "value " * 100 for n in range(100)})).status_code == 200
    assert server.post(body_of("small", T0)).status_code == 200
    return server


def ask(server: Server, path: str, accepted: str | None) -> tuple[httpx.Headers, bytes]:
    """The head of an answer and its bytes as they came over the wire."""
    headers = {"accept-encoding": accepted} if accepted is not None else {}
    with httpx.Client(base_url=server.url) as client:
        client.headers.pop("accept-encoding")
        with client.stream("GET", path, headers=headers) as response:
            assert response.status_code == 200, path
            return response.headers, b"".join(response.iter_raw())


@pytest.mark.parametrize(
    "path",
    [
        "/?at=2026-03-11",
        "/?sort=name&at=2023-01-01",
        "/room/large?at=2023-01-01",
        "/rooms",
        "/rooms/large",
        "/events",
        "/schema/openapi.json",
        "/static/page.css",
        "/static/room.js",
    ],
)
def test_a_long_answer_is_shorter_on_the_wire_and_the_same_behind_it(server: Server, path: str) -> None:
    plain_head, plain = ask(server, path, None)
    head, sent = ask(server, path, "br, gzip;q=0.8")
    assert "content-encoding" not in plain_head
    assert head["content-encoding"] == "gzip"
    assert head["vary"] == "accept-encoding"
    assert int(head["content-length"]) == len(sent)
    assert head["content-type"] == plain_head["content-type"]
    assert head["x-content-type-options"] == "nosniff"
    if len(plain) > 4096:
        assert len(sent) < len(plain) / 2
    if "/static/" in path or path.startswith("/rooms"):
        assert gzip.decompress(sent) == plain
    else:
        assert abs(len(gzip.decompress(sent)) - len(plain)) < 100  # pages tell of the time that goes by


@pytest.mark.parametrize("accepted", ["identity", "gzip;q=0", "gzip; q=0.000, br", "deflate"])
def test_who_does_not_take_gzip_gets_none(server: Server, accepted: str) -> None:
    head, sent = ask(server, "/rooms", accepted)
    assert "content-encoding" not in head
    assert sent.startswith(b"{")


def test_a_short_answer_and_a_callback_s_are_left_as_they_are(server: Server) -> None:
    head, sent = ask(server, "/rooms/small", "gzip")
    assert "content-encoding" not in head
    assert sent.startswith(b"{")
    answer = server.post(body_of("r", T0))
    assert "content-encoding" not in answer.headers


def test_the_event_stream_is_not_held_back_by_compression(server: Server) -> None:
    with server.client.stream("GET", "/events/stream", headers={"accept-encoding": "gzip"}) as response:
        assert "content-encoding" not in response.headers
        lines = response.iter_lines()
        assert next(lines).startswith(":")
        assert server.post(body_of("streamed", T0)).status_code == 200
        assert any(line.startswith("data:") and "streamed" in line for line in lines)


def test_an_error_is_readable_either_way(server: Server) -> None:
    response = server.client.get("/rooms/" + "x" * 100, headers={"accept-encoding": "gzip"})
    assert response.status_code == 404
    assert response.json()["status_code"] == 404
