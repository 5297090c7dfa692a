"""Row 11: the server's clock is moved back and forth by an hour while callbacks come."""

import json
import os
import random
import shutil
import struct
import subprocess
import threading
import time
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import APP_ID
from kit.wait import wait_until

from app.event import canonical_json
from app.infra.data_dir import DataDir
from app.log.files import open_log_reader
from app.log.records import Record
from app.tencent.body import decode
from app.tencent.sender import compose_update, signed_query
from faults.lib import TOKEN, Sent, Victim, assert_exact, no_traceback, report, rounds

_HOUR_S = 3600
_ROOMS = ("one", "two", "three")
_NEAR_S = 30  # a clock is read, then the answer comes

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

# Moves the clock that an operator sets, and no other. (libfaketime 0.9.10 also moves the wake-up times of sleeps by the
# monotonic clock, which then fail: Python's time.sleep raises OSError. A clock that is set does nothing of the kind.)
_SHIM = """
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile long *offset_s;

__attribute__((constructor)) static void map_offset(void) {
    int file = open(getenv("CLOCK_OFFSET_FILE"), O_RDONLY);
    void *page = mmap(0, sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (page == MAP_FAILED) abort();
    offset_s = page;
    close(file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && offset_s && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += *offset_s;
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    now->tv_sec = exact.tv_sec;
    now->tv_usec = exact.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *out) {
    struct timespec exact;
    clock_gettime(CLOCK_REALTIME, &exact);
    if (out) *out = exact.tv_sec;
    return exact.tv_sec;
}
"""


class Clock:
    """What the server takes for the time: ours, and a number of seconds that can be changed while it runs."""

    def __init__(self, folder: Path) -> None:
        source, self._library = folder / "clock.c", folder / "clock.so"
        source.write_text(_SHIM)
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", str(self._library), str(source)], check=True)
        self._path = folder / "clock-offset"
        self.offset_s = 0
        self.move(0)

    def move(self, offset_s: int) -> None:
        number = os.open(self._path, os.O_WRONLY | os.O_CREAT)
        try:
            os.pwrite(number, struct.pack("l", offset_s), 0)  # in place: the server has the file mapped
        finally:
            os.close(number)
        self.offset_s = offset_s

    def now_s(self) -> float:
        return time.time() + self.offset_s

    def env(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "CLOCK_OFFSET_FILE": str(self._path)}


class Senders:
    """Threads that send callbacks as a sender whose clock agrees with the server's would; a fifth of them are late."""

    def __init__(self, victim: Victim, clock: Clock, threads: int = 4) -> None:
        self.sent = Sent()
        self._victim, self._clock = victim, clock
        self._random = random.Random(11)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send_all, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _send_all(self) -> None:
        while not self._stopping.is_set():
            now_s = self._clock.now_s()
            with self._lock:
                pick = self._random
                late_s = pick.choice((0, 0, 0, 0, pick.randint(1, 2 * _HOUR_S)))
                body = compose_update(
                    pick.choice(_ROOMS), "host", int((now_s - late_s) * 1000), {"Note": pick.getrandbits(64)}
                )
            query = signed_query(APP_ID, TOKEN, now_s, "203.0.113.7", "Web")
            status, _ = self._victim.post(body, query=query)
            event_id = decode(body, 2**60).event_id
            with self._lock:
                self.sent.answers.setdefault(event_id, []).append(status)
            time.sleep(0.002)

    def count(self) -> int:
        return len(self.sent.answers)

    def stop(self) -> Sent:
        self._stopping.set()
        for thread in self._threads:
            thread.join(20)
        return self.sent


def server_clock_s(victim: Victim) -> float:
    """The server's own clock: without an end, a timeline's window ends now."""
    status, answer = victim.get(f"/rooms/{_ROOMS[0]}/visibility")
    assert status == 200, answer
    to_ms: int = json.loads(answer)["window"]["to_ms"]
    return to_ms / 1000


def records_of(data: Path) -> list[Record]:
    log = open_log_reader(DataDir(data))
    try:
        return log.tail(0, 10**9)
    finally:
        log.close()


def assert_histories_go_by_event_time(victim: Victim, records: list[Record]) -> int:
    """Each room's changes come in the order of (EventTime, event_id), all of them; how many were late."""
    late = 0
    for room_id in _ROOMS:
        expected = sorted((record.event_time_ms, record.event_id) for record in records if record.room_id == room_id)
        found: list[tuple[int, str]] = []
        cursor = ""
        while cursor is not None:
            status, answer = victim.get(f"/rooms/{room_id}/history?limit=500{cursor and f'&cursor={cursor}'}")
            assert status == 200, answer
            page = json.loads(answer)
            found += [(change["event_time_ms"], change["event_id"]) for change in page["changes"]]
            late += sum(change["late"] for change in page["changes"])
            cursor = page["next_cursor"]
        assert found[::-1] == expected
        last = max((record for record in records if record.room_id == room_id), key=lambda record: record.key)
        _, answer = victim.get(f"/rooms/{room_id}")
        note = json.loads(last.body)["RoomInfo"]["Note"]
        assert canonical_json(json.loads(answer)["room_info"]["Note"]) == canonical_json(note)
    return late


def test_a_clock_that_jumps_leaves_the_order_of_receipt_and_of_events_as_they_are(tmp_path: Path) -> None:
    jumps = rounds(6, 100)
    data = tmp_path / "data"
    clock = Clock(tmp_path)
    with Victim(data, env=clock.env()) as victim, no_traceback(victim):
        senders = Senders(victim, clock)
        offsets_s = [0]
        try:
            for number in range(jumps):
                target = senders.count() + 40
                wait_until(lambda target=target: senders.count() >= target, "callbacks are answered")  # type: ignore[misc]
                if number:  # otherwise this would show nothing
                    assert abs(server_clock_s(victim) - clock.now_s()) < _NEAR_S
                offsets_s.append((_HOUR_S, -_HOUR_S, 0)[number % 3])
                clock.move(offsets_s[-1])
        finally:
            sent = senders.stop()
        assert victim.stop() == 0
    # And once more over a start of the server: what it knows of the time of receipt is in the log alone.
    clock.move(-_HOUR_S)
    with Victim(data, env=clock.env()) as victim, no_traceback(victim):
        body = compose_update(_ROOMS[0], "host", int(clock.now_s() * 1000), {"Note": 1})
        status, _ = victim.post(body, query=signed_query(APP_ID, TOKEN, clock.now_s(), "203.0.113.7", "Web"))
        assert status == 200
        sent.answers[decode(body, 2**60).event_id] = [status]
        records = records_of(data)
        late = assert_histories_go_by_event_time(victim, records)
        assert victim.stop() == 0
    found = assert_exact(data, sent)

    received_ms = [record.received_at_ms for record in records]
    assert all(before <= after for before, after in pairwise(received_ms)), "received_at_ms decreased"
    # The clock was an hour ahead and then two hours less: the log has stood still meanwhile, and gone on behind it.
    assert received_ms[-1] > (time.time() + _HOUR_S - 600) * 1000
    held = sum(1 for before, after in pairwise(received_ms) if before == after)
    assert held > len(records) // 3
    back = sum(1 for before, after in pairwise(offsets_s) if after < before)
    refused = sent.refused()
    assert sent.unanswered() == 0
    assert refused < 20 * jumps  # only what was signed before a jump and came behind it
    assert late > 0
    report(
        11,
        "the clock jumps by one or two hours, back and forth",
        f"{jumps} jumps, {back} of them back, {found.answered_ok} callbacks answered OK, {late} late;"
        " received_at_ms never decreased, histories in event order",
        str(found.lost),
        f"{refused} signed before a jump",
    )


def test_what_is_signed_by_another_clock_than_the_servers_is_refused_and_a_clock_set_right_takes_it(
    tmp_path: Path,
) -> None:
    data = tmp_path / "data"
    clock = Clock(tmp_path)
    sent = Sent()
    refused = 0
    with Victim(data, env=clock.env()) as victim, no_traceback(victim):
        for offset_s in (_HOUR_S, -_HOUR_S):
            for number in range(5):
                body = compose_update("r", "host", int(time.time() * 1000), {"Note": offset_s + number})
                query = signed_query(APP_ID, TOKEN, time.time(), "203.0.113.7", "Web")
                answers = []
                for moved_s in (offset_s, 0):
                    clock.move(moved_s)
                    answers.append(victim.post(body, query=query)[0])
                assert answers == [401, 200]
                refused += 1
                sent.answers[decode(body, 2**60).event_id] = list(answers)
        # Signed for a clock that is behind, but with the true EventTime: more than 10 min ahead of that clock.
        clock.move(-_HOUR_S)
        body = compose_update("r", "host", int(time.time() * 1000), {"Note": 0})
        status, answer = victim.post(body, query=signed_query(APP_ID, TOKEN, clock.now_s(), "203.0.113.7", "Web"))
        assert (status, "ahead of our clock" in answer.decode()) == (400, True)
        clock.move(0)
        assert victim.stop() == 0
    found = assert_exact(data, sent)
    assert found.events == found.answered_ok == refused
    report(
        11,
        "the server's clock is an hour off the sender's",
        f"{refused} callbacks refused, then answered OK once the clock was right",
        str(found.lost),
        f"{refused} with 401 while it was off, 1 with EventTime an hour ahead quarantined",
    )
