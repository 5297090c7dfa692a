"""What the fault tests share: servers that may die, a load that remembers each answer, and what has to hold afterwards.

A row of the table is run in short by `make rounds` and in full by `make test-faults`; each test says with `report` what
it has seen, and `tests/faults/table.py` makes the table of docs/faults.md of it.
"""

import http.client
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import msgspec
from kit.callbacks import APP_ID
from kit.program import PROGRAM, Launched, environment, log_path_beside, projectors_of, serve_command
from kit.wait import wait_until

from app.infra.data_dir import DataDir
from app.log.files import open_log_reader
from app.ops.simulator import Callbacks
from app.tencent.body import decode
from app.tencent.sender import signed_query

FULL = os.environ.get("FAULTS") == "full"
RESULTS = Path(__file__).parent / "results.jsonl"
TOKEN = "fault-token-one"
_ANSWER_S = 10.0


def rounds(quick: int, full: int) -> int:
    """How many rounds of a fault to run."""
    return full if FULL else quick


def now_ms() -> int:
    return time.time_ns() // 1_000_000


# ---- the server ----


class Victim(Launched):
    """`roomlapse serve` with a callback token, made to be hurt: asked on a new connection each time, killed at the end.

    `wrap` goes before the command (`["faketime", ...]`), `env` is added to its environment.
    """

    def __init__(
        self,
        data: Path,
        *args: str,
        wrap: tuple[str, ...] = (),
        env: Mapping[str, str] | None = None,
        token: str = TOKEN,
    ) -> None:
        self.data = data
        secrets = {"ROOMLAPSE_CALLBACK_TOKENS": token} if token else {}
        super().__init__([*wrap, *serve_command(data, *args)], log_path_beside(data), secrets | dict(env or {}))

    def get(
        self, path: str, timeout_s: float = _ANSWER_S, headers: Mapping[str, str] | None = None
    ) -> tuple[int, bytes]:
        """Ask on a new connection; the status and the body."""
        return self.request("GET", path, b"", timeout_s, headers)

    def post(self, body: bytes, timeout_s: float = _ANSWER_S, query: str | None = None) -> tuple[int, bytes]:
        """Send a callback, signed now, on a new connection."""
        return self.request("POST", f"/callbacks?{query or query_now()}", body, timeout_s)

    def request(
        self,
        method: str,
        path: str,
        body: bytes,
        timeout_s: float = _ANSWER_S,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Ask anything on a new connection; the status and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def memory_bytes(self) -> int:
        """Resident memory of the server's own process."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def wait_for_projector(self) -> None:
        """Until the projector of a server that was killed has gone: it is in no group but its own, and ends a moment
        later by itself."""
        wait_until(lambda: projectors_of(self.data) == [], "the projector ends")

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()


def query_now(token: str | None = TOKEN) -> str:
    """A callback's query, signed now."""
    return signed_query(APP_ID, token, time.time(), "203.0.113.7", "Web")


# ---- the load ----


class Sent(msgspec.Struct):
    """What became of each callback: the statuses of its answers, by event_id; None for no answer at all."""

    answers: dict[str, list[int | None]] = {}

    def ok(self) -> set[str]:
        """Those that were answered OK at least once."""
        return {event_id for event_id, answers in self.answers.items() if 200 in answers}

    def refused(self) -> int:
        """How many answers were refusals."""
        return sum(1 for answers in self.answers.values() for answer in answers if answer not in (200, None))

    def unanswered(self) -> int:
        """How many callbacks got no answer."""
        return sum(1 for answers in self.answers.values() for answer in answers if answer is None)


class Load:
    """Sends callbacks from some threads until it is stopped, a tenth of them twice, some of them late.

    A thread whose connection breaks goes on with the next callback; what it had sent counts as unanswered. `port` may
    be changed meanwhile, after a restart. `times_s` holds how long each answer took.
    """

    def __init__(self, port: int, *, seed: int = 1, threads: int = 8, rooms: int = 50, pause_s: float = 0.0) -> None:
        self.port = port
        self.sent = Sent()
        self.times_s: list[float] = []
        self._pause_s = pause_s
        self._callbacks = iter(Callbacks(seed, rooms, 0.1, 0.1, now_ms))
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send_all, daemon=True) for _ in range(threads)]

    def _send_all(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stopping.is_set():
            with self._lock:
                body, _ = next(self._callbacks)
            event_id = decode(body, now_ms()).event_id
            status: int | None = None
            begin = time.monotonic()
            try:
                if connection is None or connection.port != self.port:
                    connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_S)
                connection.request("POST", f"/callbacks?{query_now()}", body)
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except ConnectionRefusedError:  # nobody is there: this one was not sent
                connection = None
                time.sleep(0.01)
                continue
            except (OSError, http.client.HTTPException):
                if connection is not None:
                    connection.close()
                connection = None
                time.sleep(0.01)
            with self._lock:
                self.sent.answers.setdefault(event_id, []).append(status)
                self.times_s.append(time.monotonic() - begin)
            if self._pause_s:
                time.sleep(self._pause_s)
        if connection is not None:
            connection.close()

    def wait_for_answers(self, count: int, timeout_s: float = 30.0) -> None:
        """Until so many answers have come, of any kind."""
        target = len(self.times_s) + count
        wait_until(lambda: len(self.times_s) >= target, f"{count} answers", timeout_s=timeout_s, every_s=0.005)

    def snapshot(self) -> Sent:
        """What has been answered up to now."""
        with self._lock:
            return Sent({event_id: list(answers) for event_id, answers in self.sent.answers.items()})

    def stop(self) -> Sent:
        """Let each thread finish its request; everything that was sent."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(_ANSWER_S + 5)
        return self.sent

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


# ---- what has to hold ----


class Kept(msgspec.Struct):
    """What the log holds of what was sent."""

    answered_ok: int
    lost: int
    """Answered OK and not there. Anything but 0 is a failure, but for a negative control."""
    twice: int
    unknown: int
    """Refused or unanswered, and there all the same."""
    events: int


def kept(data: Path, sent: Sent) -> Kept:
    """Count what is in the log of what was sent."""
    log = open_log_reader(DataDir(data))
    try:
        stored = [event_id for (event_id,) in log.conn.execute("SELECT event_id FROM events")]
    finally:
        log.close()
    ok, there = sent.ok(), set(stored)
    return Kept(
        len(ok), len(ok - there), len(stored) - len(there), len(there & (sent.answers.keys() - ok)), len(stored)
    )


def assert_exact(data: Path, sent: Sent) -> Kept:
    """Every callback answered OK is in the log exactly once, the others once or not at all, the chain holds, SQLite
    finds no fault, and the read models equal a fold of the whole log. The server may run or not."""
    found = kept(data, sent)
    assert (found.lost, found.twice) == (0, 0), found
    assert_verified(data)
    return found


def assert_verified(data: Path) -> None:
    """`roomlapse verify` finds nothing, after whatever catches the read models up."""
    for command in ("status", "verify"):
        done = run_program(command, "--data", str(data))
        assert done.returncode == 0, (command, done.stdout, done.stderr)


def run_program(*args: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `roomlapse` to its end."""
    return subprocess.run(
        [PROGRAM, *args], capture_output=True, text=True, env=environment(dict(env or {})), timeout=300, check=False
    )


@contextmanager
def no_traceback(victim: Victim) -> Iterator[None]:
    """Whatever happens in the block, no traceback is logged and each line is one JSON object."""
    yield
    victim.records()
    assert "Traceback" not in victim.logs()


# ---- the table ----


def report(row: int, fault: str, ran: str, lost: str, refused: str) -> None:
    """Say what a test has seen, for the table: how many rounds of what, what was lost, what was refused."""
    line = {"row": row, "fault": fault, "ran": ran, "lost": lost, "refused": refused, "full": FULL}
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"row {row}: {fault}: {ran}; lost {lost}; refused {refused}")
