"""Row 5: the disk is full: filled by the callbacks themselves, by somebody else, or at the start."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kit.wait import wait_until

from app.infra.data_dir import RESERVE_BYTES
from faults.batches import (
    Batches,
    assert_blocking_is_answered_at_once,
    assert_full_log_is_not_flooded,
    ends_with_a_sentence,
    metric,
    need,
    readiness,
    reads_of_rooms,
    run_tool,
    skipping_where_it_cannot_be,
    unmount,
    wait_until_ready,
)
from faults.lib import Victim, assert_exact, kept, no_traceback, report, rounds

_MEGABYTE = 2**20
_RESERVE = RESERVE_BYTES // _MEGABYTE
_BYTES_EACH = 20_000

_NO_RESERVE = """
from app.infra import data_dir

data_dir.RESERVE_BYTES = -(1 << 60)
"""
"""Python runs it before the program: without what it keeps free, SQLite itself meets the full disk."""


class Disk:
    """A file system in memory, so small that it is soon full, that can be made larger while it is used."""

    def __init__(self, folder: Path, megabytes: int) -> None:
        self.path = folder / "disk"
        self.data = self.path  # not below it: the log of a server is kept beside its data
        self._megabytes = megabytes
        self.path.mkdir()
        run_tool("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(self.path))

    def enlarge(self, megabytes: int) -> None:
        self._megabytes += megabytes
        run_tool("mount", "-o", f"remount,size={self._megabytes}m", str(self.path))

    def fill(self, but_megabytes: int = 0) -> None:
        """Take all that is left, to the last byte, but for some."""
        with (self.path / "filler").open("ab", buffering=0) as filler:
            for size in (_MEGABYTE, 4096):
                with suppress(OSError):
                    while filler.write(b"f" * size):
                        pass
            filler.truncate(filler.tell() - but_megabytes * _MEGABYTE)

    def make_room(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    need("mount", "umount", root=True)
    try:
        with skipping_where_it_cannot_be("no file system can be mounted"):
            made = Disk(tmp_path, _RESERVE + 16)
        yield made
    finally:
        unmount(tmp_path / "disk")


def fill_with_callbacks(batches: Batches) -> Counter[int | None]:
    """Send callbacks until the disk takes none of a whole batch twice running; what the answers were.

    Large ones, then small ones: where there is no room for the former, there may be some for the latter.
    """
    answers: Counter[int | None] = Counter()
    full = 0
    for _ in range(400):
        some = Counter(batches.send(60, _BYTES_EACH if full < 2 else 0))
        answers += some
        full = full + 1 if some == {503: 60} else full // 2 * 2
        if full == 4:
            return answers
    raise AssertionError(f"the disk does not fill: {answers}")


def assert_says_that_it_is_full(victim: Victim) -> None:
    status, failure = readiness(victim)
    assert status == 503
    assert "full" in failure
    assert metric(victim, "roomlapse_log_writable") == 0
    status, answer = victim.post(b'{"CallbackCommand":"Live.Any"}')
    assert status == 503
    assert json.loads(answer)["ActionStatus"] == "FAIL"


def test_callbacks_that_fill_the_disk_are_refused_and_reads_go_on(disk: Disk) -> None:
    count = rounds(1, 10)
    answers: Counter[int | None] = Counter()
    slowest_s = 0.0
    with Victim(disk.data) as victim, no_traceback(victim):
        victim_begin = time.monotonic()
        batches = Batches(victim)
        assert set(batches.send(100)) == {200}
        for _ in range(count):
            answers += fill_with_callbacks(batches)
            begin, refilled = time.monotonic(), 0
            # It goes on trying, and nothing of that may show. Once the WAL is moved, there may be room for some more.
            while time.monotonic() - begin < rounds(1, 4):
                time.sleep(0.3)
                if set(batches.send(5)) != {503}:
                    answers += fill_with_callbacks(batches)
                    refilled += 1
                assert set(reads_of_rooms(victim, batches)) == {200}
                assert_blocking_is_answered_at_once(victim)
            assert refilled <= 2
            assert_says_that_it_is_full(victim)
            found = kept(disk.data, batches.sent)
            assert (found.lost, found.twice, found.unknown) == (0, 0, 0), "a part of a refused batch was stored"
            disk.enlarge(24)
            slowest_s = max(slowest_s, wait_until_ready(victim, batches))
            assert metric(victim, "roomlapse_log_writable") == 1
            disk.enlarge(48)
            assert set(batches.redeliver()) == {200}
            assert set(reads_of_rooms(victim, batches)) == {200}
        assert_full_log_is_not_flooded(victim, victim_begin, count)
        assert victim.stop() == 0
    found = assert_exact(disk.data, batches.sent)
    assert found.answered_ok == len(batches)
    report(
        5,
        "callbacks fill the disk, later it is larger",
        f"{count} times, {found.answered_ok} callbacks answered OK in the end, every read answered meanwhile, blocking"
        f" callbacks at once; taken again within {slowest_s:.1f} s without a restart",
        str(found.lost),
        f"{answers[503]}, none of them stored; sent again each is there once",
    )


def test_sqlite_itself_meets_the_full_disk_and_still_no_part_of_a_batch_is_stored(disk: Disk, tmp_path: Path) -> None:
    """Somebody else may fill a disk between the look at what is left and the write; here nobody looks."""
    folder = tmp_path / "no-reserve"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_NO_RESERVE)
    count = rounds(1, 10)
    answers: Counter[int | None] = Counter()
    reads: Counter[int] = Counter()
    slowest_s = 0.0
    with Victim(disk.data, env={"PYTHONPATH": str(folder)}) as victim, no_traceback(victim):
        begin = time.monotonic()
        batches = Batches(victim)
        assert set(batches.send(100)) == {200}
        for number in range(count):
            assert set(reads_of_rooms(victim, batches)) == {200}
            disk.fill(but_megabytes=number % 2 * 6)
            answers += fill_with_callbacks(batches)
            reads += reads_of_rooms(victim, batches)  # right, or 503 when they could not be brought up to now
            assert "full" in victim.logs()
            assert_blocking_is_answered_at_once(victim)
            found = kept(disk.data, batches.sent)
            assert (found.lost, found.twice, found.unknown) == (0, 0, 0), "a part of a refused batch was stored"
            disk.make_room()
            slowest_s = max(slowest_s, wait_until_ready(victim, batches))
            disk.enlarge(24)
            assert set(batches.redeliver()) == {200}
            assert set(reads_of_rooms(victim, batches)) == {200}
        assert "reserved" not in victim.logs()
        assert_full_log_is_not_flooded(victim, begin, count)
        assert victim.stop() == 0
    found = assert_exact(disk.data, batches.sent)
    report(
        5,
        "SQLite itself meets the full disk (without the reserve)",
        f"{count} times, {found.answered_ok} callbacks answered OK in the end; of {reads.total()} reads meanwhile"
        f" {reads[200]} right and {reads[503]} answered 503; taken again within {slowest_s:.1f} s",
        str(found.lost),
        f"{answers[503]}, none of them stored; sent again each is there once",
    )


def test_somebody_else_fills_the_disk_under_load(disk: Disk) -> None:
    count = rounds(1, 10)
    refused = 0
    reads: Counter[int] = Counter()
    slowest_s = 0.0
    with Victim(disk.data) as victim, no_traceback(victim):
        batches = Batches(victim)
        for number in range(count):
            assert set(batches.send(100)) == {200}
            caught_up = number % 2 == 0
            if caught_up:
                assert set(reads_of_rooms(victim, batches)) == {200}
            disk.fill()
            answers = batches.send(100)
            assert set(answers) == {503}
            refused += len(answers)
            assert_says_that_it_is_full(victim)
            assert_blocking_is_answered_at_once(victim)
            found = reads_of_rooms(victim, batches)
            # Where the read models had no time to get to the log's end, and have no room now, 503 is the answer.
            assert set(found) == {200} or not caught_up
            reads += found
            disk.make_room()
            slowest_s = max(slowest_s, wait_until_ready(victim, batches))
            assert set(batches.redeliver()) == {200}
        assert victim.stop() == 0
    stored = assert_exact(disk.data, batches.sent)
    assert stored.answered_ok == len(batches)
    report(
        5,
        "somebody else fills the disk to the last byte",
        f"{count} times, {stored.answered_ok} callbacks answered OK in the end; of {reads.total()} reads meanwhile"
        f" {reads[200]} right and {reads[503]} answered 503; taken again within {slowest_s:.1f} s",
        str(stored.lost),
        f"{refused}, every one that came while it was full",
    )


def test_a_disk_that_is_full_at_the_start(disk: Disk) -> None:
    disk.fill()
    assert_does_not_start(disk.data)  # there is no data yet
    disk.make_room()
    with Victim(disk.data) as victim:
        batches = Batches(victim)
        assert set(batches.send(100)) == {200}
        assert fill_with_callbacks(batches)[200] > 0
        assert victim.stop() == 0
    # Full by its own doing, it has kept what it needs to start, to read and to go on.
    with Victim(disk.data) as victim, no_traceback(victim):
        batches.victim = victim
        wait_until(lambda: readiness(victim)[1] != "" or set(batches.send(60, _BYTES_EACH)) == {503})
        assert set(reads_of_rooms(victim, batches)) == {200}
        assert_blocking_is_answered_at_once(victim)
        disk.enlarge(40)
        seconds = wait_until_ready(victim, batches)
        assert set(batches.redeliver()) == {200}
        assert victim.stop() == 0
    disk.fill()
    assert_does_not_start(disk.data)  # not a byte is left, and SQLite needs some to begin
    disk.make_room()
    found = assert_exact(disk.data, batches.sent)
    report(
        5,
        "the disk is full at the start",
        "by callbacks: it starts, reads are answered, callbacks taken again"
        f" within {seconds:.1f} s once there is room; to the last byte, with and without data: a sentence, exit code 1",
        str(found.lost),
        f"{batches.sent.refused()}",
    )


def assert_does_not_start(data: Path) -> None:
    """SQLite calls it an I/O error where it cannot make the memory that it shares."""
    said = ends_with_a_sentence(data)
    assert any(what in said for what in ("disk is full", "No space left", "events.db: disk I/O error")), said
