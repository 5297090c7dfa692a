"""Connections: the head that has no end, and the request that does not get whole; without a network."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from conftest import StartServer
from kit.socket_client import SocketClient
from uvicorn.server import ServerState

from app.infra.errors import BadSettings
from app.infra.settings import Settings, read_idle_s
from app.server import connections
from app.server.connections import (
    MAX_HEAD_BYTES,
    READ_WITHIN_S,
    TAKE_WITHIN_S,
    Connection,
    close_idlest,
    cut_idle,
)

HEAD = b"POST /callbacks HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n"
CHUNKED = b"POST /callbacks HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"


class Wire(asyncio.Transport):
    """What a connection writes to, and how it ends."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closed = False
        self.aborted = False
        self.untaken_bytes = 0

    def get_write_buffer_size(self) -> int:
        return self.untaken_bytes

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"sockname": ("127.0.0.1", 80), "peername": ("127.0.0.1", 4)}.get(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written += bytes(data)

    def is_closing(self) -> bool:
        return self.closed

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass


async def echo_length(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers how long the body was."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            return
        size += len(message["body"])
        more = message["more_body"]
    text = b"%d" % size
    headers = [(b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": text})


async def opened() -> tuple[Connection, Wire]:
    config = uvicorn.Config(echo_length, http=Connection, ws="none", log_config=None, access_log=False)
    config.load()
    connection, wire = Connection(config, ServerState(), {}), Wire()
    connection.connection_made(wire)
    return connection, wire


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def refused(wire: Wire) -> bool:
    return wire.closed and b" 400 " in wire.written.partition(b"\r\n")[0]


ENDLESS: dict[str, tuple[bytes, bytes]] = {
    "request line": (b"GET /", b"x" * 1000),
    "header value": (b"GET / HTTP/1.1\r\nX: ", b"y" * 1000),
    "headers": (b"GET / HTTP/1.1\r\n", b"X: " + b"y" * 995 + b"\r\n"),
    "trailers": (CHUNKED + b"2\r\nab\r\n0\r\n", b"X: " + b"y" * 995 + b"\r\n"),
    "chunk extension": (CHUNKED + b"2;", b"y" * 1000),
    "headers, behind a whole request": (HEAD + b"x" * 10 + b"GET / HTTP/1.1\r\n", b"X: " + b"y" * 995 + b"\r\n"),
}


@pytest.mark.parametrize("kind", list(ENDLESS))
def test_a_head_is_refused_at_64_kib_and_not_before(kind: str) -> None:
    begin, piece = ENDLESS[kind]

    async def run() -> None:
        connection, wire = await opened()
        connection.data_received(begin)
        await settled()
        sent = 0
        while not wire.closed:
            assert sent <= MAX_HEAD_BYTES, "it takes more than it may"
            connection.data_received(piece)
            sent += len(piece)
        assert sent > MAX_HEAD_BYTES - 2 * len(piece) - len(begin), f"refused after {sent} bytes"
        assert b" 400 " in wire.written
        assert str(MAX_HEAD_BYTES).encode() in wire.written

    asyncio.run(run())


def test_a_body_is_no_head_however_it_is_cut() -> None:
    async def run() -> None:
        for size in (1, 10, 1000):
            connection, wire = await opened()
            connection.data_received(CHUNKED)
            chunk = b"%x\r\n%s\r\n" % (size, b"b" * size)
            count = 2 * MAX_HEAD_BYTES // len(chunk)
            for number in range(count):
                connection.data_received(chunk)
                if number % 100 == 0:
                    await asyncio.sleep(0)
            assert not wire.closed
            connection.data_received(b"0\r\n\r\n")
            await settled()
            assert wire.written.endswith(b"\r\n\r\n%d" % (count * size))

    asyncio.run(run())


def test_many_requests_on_one_connection_do_not_add_up_to_a_long_head() -> None:
    async def run() -> None:
        connection, wire = await opened()
        for number in range(2000):
            connection.data_received(HEAD[:20])
            connection.data_received(HEAD[20:])
            connection.data_received(b"x" * 10)
            await settled()
            assert wire.written.count(b"HTTP/1.1 200 ") == number + 1
        assert not wire.closed

    asyncio.run(run())


# ---- requests that do not get whole ----

WAITS: dict[str, list[bytes]] = {
    "nothing came": [],
    "half a head": [HEAD[:30]],
    "a head": [HEAD],
    "half a body": [HEAD + b"x"],
    "chunks without end": [CHUNKED, b"1\r\nx\r\n"],
    "a whole request and half a head in one piece": [HEAD + b"x" * 10 + HEAD[:30]],
    "a whole request and half a body in one piece": [HEAD + b"x" * 10 + HEAD + b"x"],
    "a whole request, then half a head": [HEAD + b"x" * 10, HEAD[:30]],
    "blank lines": [b"\r\n\r\n"],
}
RESTS: dict[str, list[bytes]] = {
    "a whole request": [HEAD + b"x" * 10],
    "two in one piece": [(HEAD + b"x" * 10) * 2],
    "one in many pieces": [bytes([byte]) for byte in HEAD + b"x" * 10],
    "one that is over and one more": [HEAD, b"x" * 10, HEAD, b"x" * 10],
    "chunks with an end": [CHUNKED, b"1\r\nx\r\n0\r\n\r\n"],
}


@pytest.mark.parametrize("kind", list(WAITS))
def test_it_waits_since_the_first_byte_of_what_is_not_whole(kind: str) -> None:
    async def run() -> None:
        before_s = time.monotonic()
        connection, _ = await opened()
        for piece in WAITS[kind]:
            connection.data_received(piece)
            await settled()
        since_s = connection.reading_since_s
        assert since_s is not None
        assert before_s <= since_s <= time.monotonic()
        if kind != "nothing came" and not kind.startswith("a whole"):
            connection.data_received(b"1" if kind != "chunks without end" else b"1\r\nx\r\n")
            assert connection.reading_since_s == since_s, "a byte more is no new beginning"

    asyncio.run(run())


@pytest.mark.parametrize("kind", list(RESTS))
def test_it_waits_for_nothing_after_a_whole_request(kind: str) -> None:
    async def run() -> None:
        connection, wire = await opened()
        for piece in RESTS[kind]:
            connection.data_received(piece)
        await settled()
        assert connection.reading_since_s is None
        assert b"HTTP/1.1 200 " in wire.written

    asyncio.run(run())


def cut_after(monkeypatch: pytest.MonkeyPatch, waited_s: float | None) -> bool:
    """Whether a connection that has waited so long (None: for nothing) is cut at the next look."""
    monkeypatch.setattr(connections, "_CHECK_S", 0.0)

    async def run() -> bool:
        connection, wire = await opened()
        connection.reading_since_s = None if waited_s is None else time.monotonic() - waited_s
        cutter = asyncio.create_task(cut_idle({connection}))
        await settled()
        cutter.cancel()
        return wire.aborted

    return asyncio.run(run())


def test_who_is_not_whole_in_twenty_seconds_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    assert READ_WITHIN_S == 20.0  # SECURITY.md says so
    assert not cut_after(monkeypatch, None)
    assert not cut_after(monkeypatch, 0.0)
    assert not cut_after(monkeypatch, READ_WITHIN_S - 10)
    assert cut_after(monkeypatch, READ_WITHIN_S + 0.01)
    assert cut_after(monkeypatch, 3600.0)


@pytest.mark.parametrize(
    ("looks", "cut"),
    [
        pytest.param([(0, 9), (1, 9), (19, 9)], False, id="not long enough"),
        pytest.param([(0, 9), (21, 9)], True, id="nothing taken"),
        pytest.param([(0, 9), (1, 9), (21, 9), (22, 9)], True, id="nothing taken, seen often"),
        pytest.param([(0, 9), (19, 8), (38, 8)], False, id="a little taken"),
        pytest.param([(0, 9), (19, 8), (40, 8)], True, id="a little taken, then nothing"),
        pytest.param([(0, 9), (10, 20), (21, 30)], True, id="more and more"),
        pytest.param([(0, 9), (10, 0), (11, 9), (30, 9)], False, id="all taken, and more came"),
        pytest.param([(0, 9), (10, 0), (11, 9), (32, 9)], True, id="all taken, and no more"),
        pytest.param([(0, 0), (50, 0)], False, id="nothing to take"),
    ],
)
def test_who_takes_nothing_for_twenty_seconds_is_cut(
    looks: list[tuple[float, int]], cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert TAKE_WITHIN_S == 20.0  # SECURITY.md says so
    clock_s = 0.0
    monkeypatch.setattr("app.server.connections.time.monotonic", lambda: 1000 + clock_s)

    connection, wire = asyncio.run(opened())
    found = False
    for clock_s, wire.untaken_bytes in looks:
        found = connection.takes_nothing(1000 + clock_s - TAKE_WITHIN_S)
    assert found is cut


def test_connections_may_come_and_go_while_they_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_CHECK_S", 0.0)

    async def run() -> None:
        late: set[Connection] = set()
        wires = []
        for _ in range(50):
            connection, wire = await opened()
            connection.reading_since_s = 0.0
            on_abort: Callable[[], None] = late.clear
            monkeypatch.setattr(wire, "abort", lambda on_abort=on_abort, wire=wire: (wire.close(), on_abort()))
            late.add(connection)
            wires.append(wire)
        cutter = asyncio.create_task(cut_idle(late))
        await settled()
        assert not cutter.done()
        cutter.cancel()
        assert all(wire.closed for wire in wires)

    asyncio.run(run())


# ---- connections that wait for their next request ----


def test_an_idle_connection_stays_for_75_s_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings("1").idle_s == read_idle_s({}) == 75  # SECURITY.md says so
    assert read_idle_s({"ROOMLAPSE_IDLE_S": "5"}) == 5
    for wrong in ("0", "-1", "x", "1.5", "3601", "٥", "9" * 40):
        with pytest.raises(BadSettings, match="ROOMLAPSE_IDLE_S"):
            read_idle_s({"ROOMLAPSE_IDLE_S": wrong})


def test_of_too_many_idle_connections_those_that_waited_longest_are_closed() -> None:
    async def run() -> None:
        found = [await opened() for _ in range(10)]
        for connection, _ in found[1:]:  # the first has asked nothing yet: another limit is for that
            connection.data_received(HEAD + b"x" * 10)
            await settled()
            await asyncio.sleep(0.002)
        busy, _ = found[5]
        busy.data_received(HEAD)
        assert [connection.idle_until_s is not None for connection, _ in found] == [False] + [True] * 4 + [False] + [
            True
        ] * 4
        close_idlest({connection for connection, _ in found}, 5)
        assert [wire.closed for _, wire in found] == [False, True, True, True, False, False, False, False, False, False]
        close_idlest({connection for connection, _ in found if not connection.transport.is_closing()}, 5)
        assert sum(wire.closed for _, wire in found) == 3

    asyncio.run(run())


@pytest.mark.slow
def test_a_connection_can_be_used_again_after_as_long_as_is_set(start_server: StartServer) -> None:
    with SocketClient(start_server(env={"ROOMLAPSE_IDLE_S": "2"}).port) as short:
        ask = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with SocketClient(start_server().port) as long:
            assert short.ask(ask).status == long.ask(ask).status == 200
            time.sleep(1.5)
            assert short.ask(ask).status == 200
            time.sleep(3.5)
            assert long.ask(ask).status == 200, "exactly five seconds after the last answer"
            assert short.is_closed()
