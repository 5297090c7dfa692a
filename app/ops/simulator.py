"""A simulated sender: seeded callbacks of live rooms, signed and posted as the real sender does."""

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec

from app.tencent.sender import compose_update, signed_query

_SENDER_TIMEOUT_S = 2.0  # how long the real sender waits
_MAX_CONNECTIONS = 16
_CALLBACKS_PER_CONNECTION = 100.0  # a second; a higher rate opens more connections
_PLATFORMS = ("iOS", "Android", "Web", "RESTAPI", "iPad", "Windows")
_NAMES = ("Late set", "Vinyl & tea", "房间 七", "Q&A, live", "Kitchen radio", "Ночной эфир", "Open mic")
_SEATS = ("None", "FreeToTake", "ApplyToTake")


class Sent(msgspec.Struct):
    """What was sent. `answers` counts status codes; 0 stands for no answer within 2 s."""

    sent: int = 0
    ok: int = 0
    seconds: float = 0.0
    answers: dict[int, int] = {}
    p50_ms: float = 0.0
    p99_ms: float = 0.0


class Callbacks:
    """Endless callback bodies; equal seeds and clocks give equal bodies."""

    def __init__(self, seed: int, rooms: int, duplicates: float, late: float, now_ms: Callable[[], int]) -> None:
        self._random = random.Random(seed)
        self._rooms = [f"room-{number:04d}" for number in range(1, rooms + 1)]
        self._duplicates = duplicates
        self._late = late
        self._now_ms = now_ms
        self._recent: list[tuple[bytes, str]] = []

    def __iter__(self) -> Iterator[tuple[bytes, str]]:
        """Yield bodies, each with the platform that it comes from."""
        while True:
            if self._recent and self._random.random() < self._duplicates:
                yield self._random.choice(self._recent)
                continue
            callback = (self._body(), self._random.choice(_PLATFORMS))
            self._recent = [*self._recent[-49:], callback]
            yield callback

    def _body(self) -> bytes:
        pick = self._random
        event_time_ms = self._now_ms()
        if pick.random() < self._late:
            event_time_ms -= pick.randint(1_000, 120_000)
        room_id, operator = pick.choice(self._rooms), f"host-{pick.randint(1, 20)}"
        return compose_update(room_id, operator, event_time_ms, self._patch())

    def _patch(self) -> dict[str, Any]:
        pick = self._random
        fields: dict[str, Callable[[], Any]] = {
            "RoomName": lambda: pick.choice(_NAMES),
            "MaxMemberCount": lambda: pick.choice((50, 100, 300, 1000)),
            "IsMessageDisabled": lambda: pick.random() < 0.2,
            "CoverURL": lambda: f"https://covers.example/{pick.randint(1, 40)}.png",
            "Category": lambda: sorted(pick.sample(range(1, 9), pick.randint(0, 3))),
            "ActivityStatus": lambda: pick.randint(0, 3),
            "IsPublicVisible": lambda: pick.random() < 0.6,
            "TakeSeatMode": lambda: pick.choice(_SEATS),
            "CustomInfo": lambda: f"scene={pick.randint(1, 9)}",
        }
        names = fields if pick.random() < 0.3 else pick.sample(list(fields), pick.randint(1, 4))
        return {name: fields[name]() for name in names}


class Sender:
    """Posts callbacks to a receiver at a rate, over a few kept connections; sends none again."""

    def __init__(self, url: str, sdk_app_id: str, token: str | None, rate: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname is not None
        self._make_connection = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port = parts.hostname, parts.port
        self._path = parts.path if parts.path.strip("/") else "/callbacks"
        self._sdk_app_id = sdk_app_id
        self._token = token
        self._rate = rate
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def stop(self) -> None:
        """End `send` from another thread."""
        self._stop.set()

    def send(
        self,
        callbacks: Iterator[tuple[bytes, str]],
        count: int | None = None,
        on_answer: Callable[[int], None] = lambda answered: None,
    ) -> Sent:
        """Send `count` callbacks (None: until `stop`), each at its time, whether or not earlier ones were answered."""
        answers: Counter[int] = Counter()
        times_ms: list[float] = []
        begin = time.monotonic()
        numbered = iter(range(count)) if count is not None else iter(range(2**62))

        def work() -> None:
            connection = self._connect()
            while not self._stop.is_set():
                with self._lock:
                    number = next(numbered, None)
                    if number is None:
                        break
                    body, platform = next(callbacks)
                if self._stop.wait(max(0.0, begin + number / self._rate - time.monotonic())):
                    break
                sent_at = time.monotonic()
                status = self._post(connection, body, platform)
                with self._lock:
                    answers[status] += 1
                    if len(times_ms) < 100_000:  # enough for percentiles, and bounded
                        times_ms.append((time.monotonic() - sent_at) * 1000)
                on_answer(answers.total())
            connection.close()

        connections = max(1, min(_MAX_CONNECTIONS, round(self._rate / _CALLBACKS_PER_CONNECTION + 0.5)))
        threads = [threading.Thread(target=work, daemon=True) for _ in range(connections)]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self._stop.set()
            for thread in threads:
                thread.join()
        times_ms.sort()
        return Sent(
            answers.total(),
            answers[200],
            round(time.monotonic() - begin, 3),
            dict(sorted(answers.items())),
            round(_percentile(times_ms, 0.50), 2),
            round(_percentile(times_ms, 0.99), 2),
        )

    def _connect(self) -> http.client.HTTPConnection:
        return self._make_connection(self._host, self._port, timeout=_SENDER_TIMEOUT_S)

    def _post(self, connection: http.client.HTTPConnection, body: bytes, platform: str) -> int:
        query = signed_query(self._sdk_app_id, self._token, time.time(), "127.0.0.1", platform)
        try:
            connection.request("POST", f"{self._path}?{query}", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
        except (OSError, http.client.HTTPException):
            connection.close()  # the next request opens it anew
            return 0
        return response.status


def _percentile(values: list[float], part: float) -> float:
    return values[min(len(values) - 1, int(len(values) * part))] if values else 0.0
