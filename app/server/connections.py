"""Connections with deadlines: a client must send its request and take the answer in time, or it is cut off.

What is no valid request is refused in JSON, and an offer to upgrade is declined: the request is read without it.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from app.infra.asgi import Scope
from app.server.request_head import escape_line, find_other_protocol, head_without_offer, write_refusal
from app.tencent.request import carries_callback

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together."""
READ_WITHIN_S = 20.0
"""From a request's first byte (or the connection's opening) to its last."""
TAKE_WITHIN_S = 20.0
"""Within this a client has to take some of an answer that does not fit into the system's buffers."""
MAX_IDLE = 1000
"""So many connections may wait for their next request; of more, those that have waited longest are closed."""
_CHECK_S = 1.0


class Connection(HttpToolsProtocol):
    """uvicorn's protocol, which has no deadline for a request and no limit for a head.

    `cut_idle` checks all connections each second, which costs less than a timer for every request.
    """

    on_broken: Callable[[Scope, str], None] | None = None
    """Called for each callback whose request is not valid HTTP, with its path, query and client, and the reason."""
    reading_since_s: float | None = None
    _awaits_request = True
    _in_line = False  # the request line goes on with the next packet
    _declining = False  # an upgrade that the head has just offered
    _handed_over = False  # to the application, which then counts what becomes of the request
    _answering: RequestResponseCycle | None = None
    _untaken_bytes = 0  # of answers, at the last check
    _untaken_since_s = 0.0
    _steps = 0  # heads, pieces of bodies and ends that came
    _head_bytes = 0  # since the last step: of a head, or of the headers that may follow a body in chunks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.reading_since_s = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Refuse a head that is too long."""
        if self.reading_since_s is None:
            self.reading_since_s = time.monotonic()
        steps = self._steps
        self._unset_keepalive_if_required()
        self._in_line |= self._awaits_request
        if self._in_line:
            data, ended = escape_line(data)
            self._in_line = not ended
        self._feed(data)
        if steps == self._steps:  # all of it belongs to a head that has no end yet
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self._refuse(f"the request line and headers are longer than {MAX_HEAD_BYTES} bytes")

    def _feed(self, data: bytes) -> None:
        rest = memoryview(data)
        try:
            while rest:
                try:
                    self.parser.feed_data(rest)
                    break
                except httptools.HttpParserUpgrade as offered:
                    rest = rest[offered.args[0] :]
                    self._declining = False
                    method, version = self.parser.get_method(), self.parser.get_http_version()
                    head = head_without_offer(method, self.url, version, self.headers)
                    self.parser = httptools.HttpRequestParser(self)
                    self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
                    self.parser.feed_data(head)
        except httptools.HttpParserError as error:
            reason = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else None
            other = find_other_protocol(data)
            self._refuse(other or f"this is no valid HTTP request: {reason or error}", always_told=other is not None)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request; uvicorn would do it in plain text."""
        self._refuse(msg)

    def _refuse(self, reason: str, *, always_told: bool = False) -> None:
        """Refuse a request that the application has not seen, or not to its end, and close the connection."""
        url: bytes = getattr(self, "url", b"")
        path, _, query = url.partition(b"?")
        if self.on_broken is not None and not self._handed_over and (always_told or carries_callback(query)):
            self.on_broken({"path": path.decode("latin-1"), "query_string": query, "client": self.client}, reason)
        self.transport.write(write_refusal(url, reason))
        self.transport.close()

    def on_message_begin(self) -> None:
        """Begin the deadline of a request, also of one that came in one piece with the end of another."""
        super().on_message_begin()
        self._handed_over = self._awaits_request = False
        if self.reading_since_s is None:
            self.reading_since_s = time.monotonic()

    def on_headers_complete(self) -> None:
        """Begin to read a body."""
        self._step()
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("CONNECT is not served")
            self._declining = True
            return
        super().on_headers_complete()
        self._handed_over = True

    def on_body(self, body: bytes) -> None:
        """Read a piece of it."""
        self._step()
        if not self._declining:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing more."""
        self._step()
        if not self._declining:
            super().on_message_complete()
            self.reading_since_s = None
            self._awaits_request = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every request of the connection; uvicorn tells the last one of a pipeline only."""
        self._disconnect()
        super().connection_lost(exc)

    def cut(self, *, discard: bool = False) -> None:
        """Close the connection at once. `discard`: with what is on its way, which the system would keep for minutes for
        a client that does not read."""
        self._disconnect()
        sock = self.transport.get_extra_info("socket")
        if discard and sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _disconnect(self) -> None:
        if self._answering is not None and not self._answering.response_complete:
            self._answering.disconnected = True
            self._answering.message_event.set()

    @property
    def idle_until_s(self) -> float | None:
        """When it is closed if no request comes, on the event loop's clock; None while one is read or answered."""
        return None if self.timeout_keep_alive_task is None else self.timeout_keep_alive_task.when()

    def takes_nothing(self, since_s: float) -> bool:
        """Whether the client has taken none of its answers since a time, as seen by the calls of this method."""
        untaken = self.transport.get_write_buffer_size()
        if not untaken or untaken < self._untaken_bytes or not self._untaken_bytes:
            self._untaken_since_s = time.monotonic()
        self._untaken_bytes = untaken
        return bool(untaken) and self._untaken_since_s < since_s

    def _step(self) -> None:
        self._steps += 1
        self._head_bytes = 0


async def cut_idle(connections: set[Connection]) -> None:
    """Cut connections whose request does not complete in time, or whose client takes no answers, until cancelled."""
    while True:
        await asyncio.sleep(_CHECK_S)
        cut_unfinished(connections, READ_WITHIN_S)
        latest_s = time.monotonic() - TAKE_WITHIN_S
        for connection in list(connections):
            if connection.takes_nothing(latest_s):
                connection.cut(discard=True)
        close_idlest(connections, MAX_IDLE)


def close_idlest(connections: set[Connection], leave: int) -> None:
    """Close those that have waited longest for a request, if more wait than may."""
    idle = [(until_s, connection) for connection in connections if (until_s := connection.idle_until_s) is not None]
    idle.sort(key=lambda waiting: waiting[0])
    for _, connection in idle[: max(0, len(idle) - leave)]:
        connection.transport.close()


def cut_unfinished(connections: set[Connection], within_s: float) -> None:
    """Cut connections whose request is not complete after so long."""
    latest_s = time.monotonic() - within_s
    for connection in list(connections):
        if connection.reading_since_s is not None and connection.reading_since_s < latest_s:
            connection.cut()
