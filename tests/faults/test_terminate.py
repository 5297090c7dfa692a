"""Row 9: the server is asked to end (SIGTERM) while callbacks come, with an event stream open and two
requests half sent, one of which never gets whole."""

import random
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

from conftest import body_of

from app.tencent.body import decode
from faults.lib import Load, Victim, assert_exact, kept, now_ms, query_now, report, rounds

_GONE_WITHIN_S = 10.0


class Stream:
    """A reader of `/events/stream`, in a thread, until the server ends the stream."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self._socket.sendall(b"GET /events/stream HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        self.seen = threading.Event()
        self.ended_by = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._socket:
            received = b""
            try:
                while chunk := self._socket.recv(65536):
                    received = (received + chunk)[-100_000:]
                    if b"event: room-updated" in received:
                        self.seen.set()
                # The last chunk of a chunked answer: the stream was ended, not cut.
                self.ended_by = "its end" if received.endswith(b"0\r\n\r\n") else "a cut"
            except OSError as error:
                self.ended_by = repr(error)

    def wait_for_end(self) -> str:
        """How it ended."""
        self._thread.join(30)
        return self.ended_by


class HalfSent:
    """A callback of which the head and half of the body have been sent."""

    def __init__(self, port: int, room_id: str) -> None:
        body = body_of(room_id, now_ms(), RoomName="half sent")
        self.event_id = decode(body, now_ms()).event_id
        self._rest = body[20:]
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        head = (
            f"POST /callbacks?{query_now()} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            f"Content-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body[:20])
        assert self._socket.recv(4096).startswith(b"HTTP/1.1 100 ")  # the server has begun to read it

    def send_rest(self) -> None:
        self._socket.sendall(self._rest)

    def answer(self) -> bytes:
        """What comes until the connection ends; nothing if it was cut."""
        received = b""
        with self._socket, suppress(ConnectionResetError):
            while chunk := self._socket.recv(4096):
                received += chunk
        return received


def test_sigterm_under_load_with_a_stream_open_ends_the_server_soon_and_loses_nothing(tmp_path: Path) -> None:
    count = rounds(3, 20)
    pick = random.Random(9)
    data = tmp_path / "data"
    slowest_s = 0.0
    victim = Victim(data)
    load = Load(victim.port)
    load.__enter__()
    try:
        for number in range(count):
            stream = Stream(victim.port)
            load.wait_for_answers(pick.randint(20, 300))
            assert stream.seen.wait(20), "no event came through the stream"
            cut, finished = HalfSent(victim.port, f"cut-{number}"), HalfSent(victim.port, f"finished-{number}")
            begin = time.monotonic()
            victim.terminate()
            finished.send_rest()
            code = victim.stop()
            slowest_s = max(slowest_s, time.monotonic() - begin)
            logs = victim.logs()
            assert code == 0, f"after SIGTERM {number + 1}: {code}: {logs}"
            assert "Traceback" not in logs
            assert victim.records()[-1]["message"] == "stopped"
            assert stream.wait_for_end() == "its end"
            assert cut.answer() == b""
            assert b'"ActionStatus":"OK"' in finished.answer()
            load.sent.answers[finished.event_id] = [200]
            load.sent.answers[cut.event_id] = [None]
            # The last connection to close a database tidies its WAL away: all of them were closed.
            assert sorted(file.name for file in data.glob("*.db*")) == ["events.db", "read_models.db"]
            victim = Victim(data)
            load.port = victim.port
            assert kept(data, load.snapshot()).lost == 0, f"after SIGTERM {number + 1}"
    finally:
        sent = load.stop()
        victim.stop()
    found = assert_exact(data, sent)
    assert slowest_s < _GONE_WITHIN_S
    assert found.answered_ok > 10 * count
    report(
        9,
        "SIGTERM under load, an event stream open, requests half sent",
        f"{count} times, {found.answered_ok} callbacks answered OK, gone within {slowest_s:.1f} s, exit code 0",
        str(found.lost),
        f"{sent.refused()}; {sent.unanswered()} unanswered, {found.unknown} of both stored",
    )
