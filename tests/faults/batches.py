"""What the tests of a failing disk share: callbacks sent in batches, sent again, and disks that can fail."""

import http.client
import json
import os
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest
from kit.callbacks import APP_ID, body_of
from kit.wait import wait_until

from app.tencent.body import decode
from faults.lib import Sent, Victim, now_ms, query_now, run_program

T = TypeVar("T")

BACK_WITHIN_S = 10.0
"""How soon callbacks are taken again once the disk takes them."""
AT_ONCE_S = 1.0
"""What `at once` means for a blocking callback; its sender waits 2 s."""
ROOMS = 20
_SENDER_WAITS_S = 10.0


class Batches:
    """Sends callbacks to one server, each with its own body, from many connections at a time, and remembers what became
    of each. Those that were not answered OK can be sent again."""

    def __init__(self, victim: Victim, threads: int = 16) -> None:
        self.victim = victim
        self.sent = Sent()
        self.slowest_s = 0.0
        """The longest that an answer took, in the latest batch."""
        self._threads = threads
        self._bodies: dict[str, bytes] = {}

    def send(self, count: int, bytes_each: int = 0) -> list[int | None]:
        """Send so many new callbacks; the statuses of their answers, None for no answer."""
        begin, time_ms = len(self._bodies), now_ms()
        bodies = [
            body_of(f"room-{number % ROOMS}", time_ms, RoomName=f"name {number}", CustomInfo="c" * bytes_each)
            for number in range(begin, begin + count)
        ]
        return self._send_all({decode(body, time_ms).event_id: body for body in bodies})

    def send_one(self, bytes_each: int = 0) -> int | None:
        """Send one new callback."""
        return self.send(1, bytes_each)[0]

    def redeliver(self) -> list[int | None]:
        """Send all those again that have never been answered OK."""
        ok = self.sent.ok()
        return self._send_all({event_id: body for event_id, body in self._bodies.items() if event_id not in ok})

    def of_room(self, number: int) -> int:
        """How many have been sent for a room."""
        return sum(1 for body in self._bodies.values() if _room_of(body) == f"room-{number}")

    def ok_of_room(self, number: int) -> int:
        """How many of them have been answered OK."""
        return sum(1 for event_id in self.sent.ok() if _room_of(self._bodies[event_id]) == f"room-{number}")

    def __len__(self) -> int:
        return len(self._bodies)

    def _send_all(self, bodies: dict[str, bytes]) -> list[int | None]:
        self._bodies |= bodies
        answers = post_all(self.victim, list(bodies.values()), self._threads)
        for event_id, (status, _) in zip(bodies, answers, strict=True):
            self.sent.answers.setdefault(event_id, []).append(status)
        self.slowest_s = max((took_s for _, took_s in answers), default=0.0)
        return [status for status, _ in answers]


def _room_of(body: bytes) -> str:
    return str(json.loads(body)["RoomInfo"]["RoomId"])


def post_all(victim: Victim, bodies: list[bytes], threads: int) -> list[tuple[int | None, float]]:
    """Send callbacks from some connections at once, in turn on each; the status of each answer and how long it took."""
    answers: list[tuple[int | None, float]] = [(None, 0.0)] * len(bodies)

    def send_share(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", victim.port, timeout=_SENDER_WAITS_S)
        for number in range(first, len(bodies), threads):
            status: int | None = None
            begin = time.monotonic()
            try:
                connection.request("POST", f"/callbacks?{query_now()}", bodies[number])
                answer = connection.getresponse()
                answer.read()
                status = answer.status
            except (OSError, http.client.HTTPException):
                connection.close()
            answers[number] = (status, time.monotonic() - begin)
        connection.close()

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(send_share, range(min(threads, len(bodies)))):
            pass
    return answers


def metric(victim: Victim, name: str) -> float:
    """One of the server's metrics, by its whole name."""
    status, text = victim.get("/metrics")
    assert status == 200
    for line in text.decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"no metric {name}")


def readiness(victim: Victim) -> tuple[int, str]:
    """The status of `/readyz`, and what it says is wrong with the log, empty if nothing is."""
    status, body = victim.get("/readyz")
    return status, str(json.loads(body).get("failure") or "")


def events_of(victim: Victim, room_id: str) -> tuple[int, int]:
    """The status of `GET /rooms/{room_id}`, and how many events the room has by it."""
    status, body = victim.get(f"/rooms/{room_id}")
    return status, json.loads(body)["events"] if status == 200 else 0


def ask_together(questions: Sequence[Callable[[], T]]) -> list[T]:
    """Ask all at once; the answers, in order."""
    with ThreadPoolExecutor(len(questions)) as pool:
        return [future.result() for future in [pool.submit(question) for question in questions]]


def reads_of_rooms(victim: Victim, batches: Batches) -> Counter[int]:
    """Ask for some rooms and for all; what the statuses were. Whatever is answered has to be right: of now."""
    some = range(0, ROOMS, 5)
    rooms = ask_together([partial(events_of, victim, f"room-{number}") for number in some])
    for number, (status, events) in zip(some, rooms, strict=True):
        assert status == 503 or events == batches.ok_of_room(number), f"room-{number}: an answer from the past"
    lists = ask_together([partial(victim.get, path) for path in ("/rooms", "/change-counts")])
    for path in ("/status", "/events?limit=5", "/healthz", "/metrics"):  # these wait for nothing
        assert victim.get(path)[0] == 200
    return Counter(status for status, _ in [*rooms, *lists])


def blocking_body(number: int, bytes_each: int = 0) -> bytes:
    """A callback that holds up a user's action."""
    body = {"CallbackCommand": "Live.CallbackBeforeSendGift", "RoomId": "room-0", "GiftId": number}
    return json.dumps(body | {"Text": "t" * bytes_each}).encode()


def assert_blocking_is_answered_at_once(victim: Victim) -> None:
    """Such a callback gets OK whatever the disk does."""
    begin = time.monotonic()
    status, answer = victim.post(blocking_body(time.monotonic_ns()))
    assert (status, json.loads(answer)["ActionStatus"]) == (200, "OK")
    assert time.monotonic() - begin < AT_ONCE_S


def assert_full_log_is_not_flooded(victim: Victim, begin_s: float, failures: int) -> None:
    """What fails all the time is not said all the time: the log's own disk would be full of it soon."""
    lines = [str(record["message"]) for record in victim.records()]
    most = 2 + failures + (time.monotonic() - begin_s) / 10
    for beginning, kinds in (("commit failed", 1), ("callbacks refused", 2), ("projections wait", 2)):
        said = sum(1 for line in lines if line.startswith(beginning))
        assert said <= most * kinds, (beginning, said, most)
    assert any(line.startswith("commit failed") for line in lines)


def wait_until_ready(victim: Victim, batches: Batches) -> float:
    """Until the server takes callbacks again and reads see everything; how long it took."""
    begin = time.monotonic()
    wait_until(
        lambda: readiness(victim)[0] == 200 and batches.send_one() == 200,
        "callbacks are taken again",
        timeout_s=BACK_WITHIN_S,
        every_s=0.05,
    )
    return time.monotonic() - begin


def ends_with_a_sentence(data: Path, command: str = "serve", app_id: str = APP_ID, exit_code: int = 1) -> str:
    """Run a command that has to end with an exit code and one line on stderr, below those of its log; that line."""
    args = ("--sdk-app-id", app_id, "--port", "0") if command == "serve" else ()
    done = run_program(command, *args, "--data", str(data))
    assert done.returncode == exit_code, (done.stdout, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith(("{", "Usage: "))]
    assert line.startswith("Error: ")
    return line.removeprefix("Error: ")


# ---- disks ----


def run_tool(*command: str) -> str:
    """Run a tool of the system; what it printed. Raises OSError if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except FileNotFoundError:
        raise OSError(f"{command[0]} is not installed") from None
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def need(*tools: str, root: bool = False) -> None:
    """Skip the test where a tool is missing, or it is not run by root who has to mount something."""
    if root and os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")


@contextmanager
def skipping_where_it_cannot_be(what: str) -> Iterator[None]:
    """Skip the test where the system does not do what the block asks of it."""
    try:
        yield
    except OSError as error:
        pytest.skip(f"{what} here: {error}")


def unmount(path: Path) -> None:
    """Let go of whatever is mounted there, also if somebody uses it."""
    while any(line.split()[1] == str(path) for line in Path("/proc/self/mounts").read_text().splitlines()):
        run_tool("umount", "--lazy", str(path))


class LoopDisk:
    """An ext4 file system in a file; like any other it turns read-only by itself when its device fails it."""

    def __init__(self, folder: Path, megabytes: int = 96) -> None:
        self.path = folder / "disk"
        self._image = folder / "disk.img"
        self._devices: list[str] = []
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(megabytes << 20)
        run_tool("mkfs.ext4", "-q", "-F", str(self._image))
        self.mount()

    def mount(self) -> None:
        """Mount it through a device of its own."""
        device = run_tool("losetup", "--find", "--show", str(self._image))
        self._devices.append(device)
        run_tool("mount", "-t", "ext4", "-o", "errors=remount-ro", device, str(self.path))

    def turn_read_only(self) -> None:
        """Do what the file system does when a write to its device fails."""
        run_tool("mount", "-o", "remount,abort", str(self.path))

    def repair(self) -> None:
        """Do what an operator does then: unmount it, though files are open, check it, and mount it again.

        A copy of it: while files are open the old one lives on, and would write to the new one's blocks when they are
        closed, which is no fault that a real disk has.
        """
        run_tool("umount", "--lazy", str(self.path))
        run_tool("blockdev", "--flushbufs", self._devices[-1])
        old, self._image = self._image, self._image.with_name(f"disk-{len(self._devices)}.img")
        run_tool("cp", "--sparse=always", str(old), str(self._image))
        with suppress(OSError):  # its exit code is 1 when it has mended something
            run_tool("e2fsck", "-f", "-y", str(self._image))
        self.mount()

    def remove(self) -> None:
        """Unmount it and let go of the devices."""
        unmount(self.path)
        for device in self._devices:
            with suppress(OSError):  # a device that nobody uses any more has gone by itself
                run_tool("losetup", "--detach", device)
