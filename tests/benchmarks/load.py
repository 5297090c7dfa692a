"""The load generator: sends requests that are ready made, and reads of the answers only what it must.

load.py PORT REQUESTS CONNECTIONS RATE: REQUESTS is a file with a msgpack list of requests. With RATE 0 each connection
sends its next request when its last was answered; else requests are due at that rate, whatever the answers, and an
answer's time counts from when its request was due. Prints what it saw as JSON.
"""

import asyncio
import gc
import sys
import time
from collections import Counter, deque
from pathlib import Path
from typing import cast

import msgspec
import uvloop

_LONGEST_S = 300
_TICK_S = 0.001


class _Load:
    def __init__(self, requests: list[bytes], rate: float) -> None:
        self._requests = requests
        self._rate = rate
        self._sent = 0
        self._idle: deque[_Connection] = deque()
        self._begin = 0.0
        self.answers: Counter[int] = Counter()
        self.times_s: list[float] = []
        self.lags_s: list[float] = []
        self.done = asyncio.Event()

    def start(self, connections: "list[_Connection]") -> None:
        self._idle.extend(connections)
        self._begin = time.perf_counter()
        self._send_due()
        if self._rate:
            self._tick()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._begin

    def _tick(self) -> None:
        self._send_due()
        if self._sent < len(self._requests):
            asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def _send_due(self) -> None:
        while self._idle and self._sent < len(self._requests):
            now = time.perf_counter()
            due = self._begin + self._sent / self._rate if self._rate else now
            if due > now:
                return
            self.lags_s.append(now - due)
            request = self._requests[self._sent]
            self._sent += 1
            self._idle.popleft().send(request, due)

    def answered(self, connection: "_Connection", status: int, due: float) -> None:
        self.times_s.append(time.perf_counter() - due)
        self.answers[status] += 1
        if len(self.times_s) == len(self._requests):
            self.done.set()
        if status:
            self._idle.append(connection)
            self._send_due()

    def lost(self, connection: "_Connection") -> None:
        if connection in self._idle:
            self._idle.remove(connection)


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load) -> None:
        self._load = load
        self._transport: asyncio.Transport | None = None
        self._buffer = b""
        self._due: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's looks like one, and is none

    def send(self, request: bytes, due: float) -> None:
        assert self._transport is not None
        self._due = due
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or len(buffer) < end + 4 + _content_length(buffer, end):
            self._buffer = buffer
            return
        self._buffer = b""
        self._answered(int(buffer[9:12]))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  whyever
        if self._due is not None:
            self._answered(0)
        self._load.lost(self)

    def _answered(self, status: int) -> None:
        assert self._due is not None, "an answer without a request"
        due, self._due = self._due, None
        self._load.answered(self, status, due)


def _content_length(buffer: bytes, end: int) -> int:
    head = buffer[:end].lower()
    at = head.find(b"content-length:")
    assert at >= 0, f"an answer without a length: {head!r}"
    return int(head[at + 15 :].partition(b"\r\n")[0])


async def _run(port: int, requests: list[bytes], connections: int, rate: float) -> bytes:
    load = _Load(requests, rate)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_LONGEST_S):
        opened = [
            (await loop.create_connection(lambda: _Connection(load), "127.0.0.1", port))[1] for _ in range(connections)
        ]
        load.start(opened)
        await load.done.wait()
    seconds = load.seconds
    return msgspec.json.encode(
        {
            "seconds": seconds,
            "answers": {str(status): count for status, count in load.answers.items()},
            "p50_ms": _percentile_ms(load.times_s, 0.5),
            "p99_ms": _percentile_ms(load.times_s, 0.99),
            "lag_p99_ms": _percentile_ms(load.lags_s, 0.99),
        }
    )


def _percentile_ms(times_s: list[float], part: float) -> float:
    return sorted(times_s)[min(len(times_s) - 1, int(len(times_s) * part))] * 1000


def main() -> None:
    port, path, connections, rate = sys.argv[1:]
    requests = msgspec.msgpack.decode(Path(path).read_bytes(), type=list[bytes])
    gc.disable()  # it would pause the sending, and there are no cycles to find
    sys.stdout.buffer.write(uvloop.run(_run(int(port), requests, int(connections), float(rate))))


if __name__ == "__main__":
    main()
