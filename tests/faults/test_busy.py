"""Row 10: everything at once on one data directory. Row 23: one room of a hundred thousand events."""

import bisect
import http.client
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

from conftest import APP_ID, PROGRAM, body_of, environment
from kit.wait import wait_until
from prometheus_client.parser import text_string_to_metric_families

from app.infra.sqlite import open_reader
from faults.lib import (
    FULL,
    TOKEN,
    Load,
    Victim,
    assert_exact,
    assert_verified,
    no_traceback,
    now_ms,
    report,
    rounds,
    run_program,
)

_CHECKPOINT_BYTES = 1000 * 4096
"""The log's WAL is moved into the database and begun anew once it has a thousand pages, if no reader is in the way."""
_WAL_BYTES = 8192 * 4096
"""How large it gets where no reader holds it up (docs/explanation/decisions/wal-behind-the-answers.md)."""
_COMMIT_BYTES = 2 * 2**20
"""More than a commit of this load takes."""


class Readers:
    """Threads that ask over HTTP, each on a connection of its own, until they are stopped; every status is counted."""

    def __init__(self, port: int, paths: list[str], threads: int, pause_s: float = 0.0) -> None:
        self.statuses: Counter[int | str] = Counter()
        self.refusals: list[tuple[int, str]] = []
        self._port, self._paths, self._pause_s = port, paths, pause_s
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(n,), daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def _ask(self, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        pick = random.Random(number)
        while not self._stopping.wait(self._pause_s * pick.random() * 2):
            path = pick.choice(self._paths)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                body = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.statuses[type(error).__name__] += 1
                connection.close()
                continue
            self.statuses[answer.status] += 1
            if answer.status != 200:
                self.refusals.append((answer.status, body[:200].decode()))
        connection.close()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join(40)


class Rebuilds:
    """`roomlapse rebuild`, again and again, until it is stopped."""

    def __init__(self, data: Path) -> None:
        self.done = 0
        self.failures: list[str] = []
        self._data = data
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.is_set():
            done = run_program("rebuild", "--data", str(self._data))
            if done.returncode:
                self.failures.append(done.stderr)
            else:
                self.done += 1

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(120)


def wal_bytes(data: Path, database: str = "events") -> int:
    path = data / f"{database}.db-wal"
    return path.stat().st_size if path.exists() else 0


def commits_of(victim: Victim) -> float:
    return metric(victim, "roomlapse_commit_seconds_count")


def metric(victim: Victim, name: str) -> float:
    status, text = victim.get("/metrics", timeout_s=30)
    assert status == 200
    return next(
        sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name == name
    )


def test_a_receiver_rebuilds_and_readers_at_once_see_no_lock_and_the_wal_stays_bounded(tmp_path: Path) -> None:
    part_s = rounds(2, 20)
    data = tmp_path / "data"
    rooms = [f"/rooms/room-{number:04d}" for number in range(1, 51)]
    paths = ["/rooms", "/rooms?q=radio", "/change-counts", "/status", "/events?limit=50"]
    paths += [f"{room}{what}" for room in rooms for what in ("", "/history", "/visibility", "/change-counts")]
    paths += [f"{room}?as_of={now_ms()}" for room in rooms]
    with Victim(data) as victim, no_traceback(victim), Load(victim.port, threads=4) as load:
        load.wait_for_answers(500)  # then each room has an event
        readers, rebuilds = Readers(victim.port, paths, 4), Rebuilds(data)
        holder = open_reader(data / "events.db")
        try:
            time.sleep(part_s)
            free_bytes = wal_bytes(data)

            # A reader in an open transaction: nothing behind it can leave the WAL.
            holder.execute("BEGIN")
            (seen,) = holder.execute("SELECT count(*) FROM events").fetchone()
            before, commits = wal_bytes(data), commits_of(victim)
            deadline = time.monotonic() + 3 * part_s + 30
            time.sleep(part_s)
            while wal_bytes(data) < 2 * _CHECKPOINT_BYTES and time.monotonic() < deadline:
                time.sleep(0.05)
            held_bytes = wal_bytes(data)
            each_bytes = (held_bytes - before) / (commits_of(victim) - commits)
            assert holder.execute("SELECT count(*) FROM events").fetchone() == (seen,), "it did not hold on"
            holder.execute("ROLLBACK")

            commits = commits_of(victim)
            time.sleep(part_s)
            would_be = 2 * (_CHECKPOINT_BYTES + _COMMIT_BYTES)  # if it went on as while it was held
            wait_until(lambda: (commits_of(victim) - commits) * each_bytes > would_be, timeout_s=60)
            written_bytes = int((commits_of(victim) - commits) * each_bytes)
            after_bytes = wal_bytes(data)
        finally:
            holder.close()
            rebuilds.stop()
            readers.stop()
            sent = load.stop()
        models_bytes = wal_bytes(data, "read_models")
        assert victim.stop() == 0
        left = wal_bytes(data) + wal_bytes(data, "read_models")
    found = assert_exact(data, sent)

    assert rebuilds.failures == []
    assert rebuilds.done > 0
    refusals = Counter(re.sub(r"\d+", "N", refusal) for status, refusal in readers.refusals if status != 404)
    assert readers.statuses.keys() <= {200, 404}, (readers.statuses, refusals.most_common(5))
    assert sent.refused() == sent.unanswered() == 0
    assert free_bytes < _WAL_BYTES
    assert held_bytes > 2 * _CHECKPOINT_BYTES  # else the reader held nothing up, and this shows nothing
    assert after_bytes < held_bytes + _CHECKPOINT_BYTES + _COMMIT_BYTES < held_bytes + written_bytes
    assert left == 0
    report(
        10,
        "receiver, rebuilds in a loop, 4 readers; a reader holding a transaction",
        f"{3 * part_s} s: {found.answered_ok} callbacks answered OK, {rebuilds.done} rebuilds,"
        f" {readers.statuses.total()} questions, none 5xx; WAL of the log {free_bytes / 2**20:.1f} MiB,"
        f" {held_bytes / 2**20:.1f} while held, {after_bytes / 2**20:.1f} after"
        f" {written_bytes / 2**20:.1f} more were written; that of the read models {models_bytes / 2**20:.1f};"
        " none when the server had ended",
        str(found.lost),
        str(sent.refused()),
    )


# ---- row 23 ----

_READERS = 50
_RATE = 40
_STEP_MS = 1000


class HotRoom:
    """A room with one event a second: MaxMemberCount counts them, so that each answer can be known."""

    def __init__(self, events: int) -> None:
        self.begin_ms = now_ms() - (events + 60) * _STEP_MS
        self.values = [(self.begin_ms + number * _STEP_MS, number) for number in range(events)]
        self._random = random.Random(23)

    def lines(self) -> bytes:
        pick = self._random
        return b"".join(
            body_of(
                "hot",
                time_ms,
                MaxMemberCount=number,
                RoomName=f"evening {pick.randint(1, 9)}",
                IsPublicVisible=number // 50 % 2 == 0,
            )
            + b"\n"
            for time_ms, number in self.values
        )

    def late(self) -> bytes:
        """The body of one more event, somewhere in the middle; from now on it is expected."""
        time_ms = self.begin_ms + self._random.randrange(len(self.values) - 1) * _STEP_MS + self._random.randint(1, 999)
        bisect.insort(self.values, (time_ms, 10**6 + time_ms % 1000))
        return body_of("hot", time_ms, MaxMemberCount=10**6 + time_ms % 1000)

    def moment(self) -> int:
        return self._random.randint(self.begin_ms, self.values[-1][0])

    def check(self, victim: Victim, as_of: int) -> None:
        """Ask as of a time and compare with what was sent."""
        status, answer = victim.get(f"/rooms/hot?as_of={as_of}", timeout_s=30)
        assert status == 200, answer
        room = json.loads(answer)
        place = bisect.bisect_right(self.values, (as_of, 10**9))
        assert (room["events"], room["room_info"]["MaxMemberCount"]) == (place, self.values[place - 1][1])


def ask_about_the_hot_room(port: int, begin_ms: int, end_ms: int, seconds: float) -> None:
    """Be fifty readers, each with a question about some time, then a second's pause; print how many answers were what.

    Run in a process of its own: here it would slow down who sends.
    """
    pick = random.Random(port)
    times = [pick.randint(begin_ms, end_ms) for _ in range(200)]
    paths = [f"/rooms/hot{what}as_of={ms}" for ms in times for what in ("?", "/change-counts?", "/history?limit=20&")]
    paths += [f"/rooms/hot/visibility?from={ms}&to={ms + 3_600_000}" for ms in times]
    readers = Readers(port, paths, _READERS, pause_s=1.0)
    time.sleep(seconds)
    readers.stop()
    print(json.dumps({str(status): count for status, count in readers.statuses.items()}))


def p99_ms(victim: Victim, seed: int, seconds: int) -> float:
    """Send at a fixed rate, like the real sender, and say within what time 99 of 100 answers came."""
    done = subprocess.run(
        [
            *(PROGRAM, "simulate", "--url", victim.url, "--sdk-app-id", APP_ID, "--json", "--rooms", "20"),
            *("--rate", str(_RATE), "--count", str(_RATE * seconds), "--seed", str(seed)),
        ],
        env=environment({"ROOMLAPSE_CALLBACK_TOKENS": TOKEN}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    sent = json.loads(done.stdout)
    assert sent["answers"] == {"200": _RATE * seconds}, done.stdout
    value: float = sent["p99_ms"]
    return value


def test_a_hot_room_answers_late_and_as_of_and_its_readers_do_not_hold_up_the_receiver(tmp_path: Path) -> None:
    events, seconds = rounds(10_000, 100_000), rounds(2, 10)
    data = tmp_path / "data"
    room = HotRoom(events)
    (tmp_path / "hot.jsonl").write_bytes(room.lines())
    assert run_program("import", str(tmp_path / "hot.jsonl"), "--data", str(data)).returncode == 0
    late = checked = 0
    alone, beside = [], []
    statuses: Counter[str] = Counter()
    with Victim(data) as victim, no_traceback(victim):
        for number in range(rounds(1, 3)):
            alone.append(p99_ms(victim, 2 * number, seconds))
            arguments = f"{victim.port}, {room.begin_ms}, {room.values[-1][0]}, {seconds + 2}"
            readers = subprocess.Popen(
                [sys.executable, "-c", f"from faults.test_busy import *\nask_about_the_hot_room({arguments})"],
                cwd=Path(__file__).parent.parent,
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                time.sleep(1)  # they come
                beside.append(p99_ms(victim, 2 * number + 1, seconds))
                answers, _ = readers.communicate(timeout=60)
            finally:
                readers.kill()
                readers.wait()
            statuses += Counter(json.loads(answers))
            for _ in range(rounds(30, 100)):
                body = room.late()
                assert victim.post(body)[0] == 200
                room.check(victim, json.loads(body)["EventTime"])
                room.check(victim, room.moment())
                late, checked = late + 1, checked + 2
        assert victim.stop() == 0
    assert_verified(data)
    assert statuses.keys() == {"200"}, statuses
    ratio = statistics.median(beside) / statistics.median(alone)
    report(
        23,
        f"a hot room of {events} events, {_READERS} readers",
        f"{late} late events, {checked} as-of answers as expected; {statuses.total()} questions answered to readers;"
        f" the receiver's p99 at {_RATE}/s: {statistics.median(alone):.1f} ms without readers,"
        f" {statistics.median(beside):.1f} ms with them",
        "0",
        "0",
    )
    if FULL:
        assert ratio <= 2, (alone, beside)
