"""The connections of the server: none may hold on to it without asking something whole and taking the answer."""

import asyncio
import socket
import struct
import time

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

MAX_HEAD_BYTES = 64 * 1024
"""Request line and headers together."""
READ_WITHIN_S = 20.0
"""From a request's first byte (or the connection's opening) to its last."""
TAKE_WITHIN_S = 20.0
"""Within this a client takes some of what it is sent, as far as the system's buffers do not hold it."""
_LOOK_S = 1.0


class Connection(HttpToolsProtocol):
    """uvicorn's, which waits for a request for ever and keeps whatever head it is sent.

    It is watched by `cut_idle`: a look at all of them each second costs less than a timer for every request.
    """

    reading_since_s: float | None = None
    _answering: RequestResponseCycle | None = None
    _untaken_bytes = 0  # of answers, at the last look
    _untaken_since_s = 0.0
    _steps = 0  # heads, pieces of bodies and ends: what a request goes forward by
    _head_bytes = 0  # since the last step: of a head, or of the headers that may follow a body in chunks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self.reading_since_s = time.monotonic()

    def data_received(self, data: bytes) -> None:
        """Refuse a head that has no end."""
        if self.reading_since_s is None:
            self.reading_since_s = time.monotonic()
        steps = self._steps
        super().data_received(data)
        if steps == self._steps:  # all of it belongs to a head that has no end yet
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The request line and headers are longer than {MAX_HEAD_BYTES} bytes.")

    def on_message_begin(self) -> None:
        """Begin to wait for a request's end, also of one that came in one piece with the end of another."""
        super().on_message_begin()
        if self.reading_since_s is None:
            self.reading_since_s = time.monotonic()

    def on_headers_complete(self) -> None:
        """Begin to read a body."""
        self._step()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Read a piece of it."""
        self._step()
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Wait for nothing more."""
        self._step()
        super().on_message_complete()
        self.reading_since_s = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the application, also that of a request which others wait behind: uvicorn tells the last one only."""
        self._disconnect()
        super().connection_lost(exc)

    def cut(self, *, discard: bool = False) -> None:
        """End the connection at once. `discard`: also what is on its way; the system would keep it for minutes for a
        client that does not read."""
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

    def takes_nothing(self, since_s: float) -> bool:
        """Whether the client has taken nothing of its answers since a time. Ask now and then: each look counts."""
        untaken = self.transport.get_write_buffer_size()
        if not untaken or untaken < self._untaken_bytes or not self._untaken_bytes:
            self._untaken_since_s = time.monotonic()
        self._untaken_bytes = untaken
        return bool(untaken) and self._untaken_since_s < since_s

    def _step(self) -> None:
        self._steps += 1
        self._head_bytes = 0


async def cut_idle(connections: set[Connection]) -> None:
    """Cut connections whose request does not get whole in time, or whose client takes no answers. Runs until it is
    cancelled."""
    while True:
        await asyncio.sleep(_LOOK_S)
        cut_unfinished(connections, READ_WITHIN_S)
        latest_s = time.monotonic() - TAKE_WITHIN_S
        for connection in list(connections):
            if connection.takes_nothing(latest_s):
                connection.cut(discard=True)


def cut_unfinished(connections: set[Connection], within_s: float) -> None:
    """Cut connections whose request is not whole after so long."""
    latest_s = time.monotonic() - within_s
    for connection in list(connections):
        if connection.reading_since_s is not None and connection.reading_since_s < latest_s:
            connection.cut()
