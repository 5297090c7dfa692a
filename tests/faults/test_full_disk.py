"""Row 5: the disk is full: filled by the callbacks themselves, by somebody else, or at the start."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from kit.wait import wait_until

from app.log.files import RESERVE_BYTES
from faults.batches import (
    Batches,
    assert_blocking_is_answered_at_once,
    assert_full_log_is_not_flooded,
    ends_with_a_sentence,
    need,
    readiness,
    reads_of_rooms,
    run_tool,
    skipping_where_it_cannot_be,
    unmount,
    wait_until_ready,
)
from faults.disk_fault import DiskFault
from faults.lib import Victim, assert_exact, no_traceback, report, rounds

_MEGABYTE = 2**20
_RESERVE = RESERVE_BYTES // _MEGABYTE
_BYTES_EACH = 20_000

_NO_RESERVE = """
from app.log import files

files.RESERVE_BYTES = -(1 << 60)
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


def test_callbacks_that_fill_the_disk_are_refused_and_reads_go_on(disk: Disk) -> None:
    count = rounds(1, 10)
    answers: Counter[int | None] = Counter()
    with Victim(disk.data) as victim, no_traceback(victim):
        victim_begin = time.monotonic()
        fault = DiskFault(victim, "full")
        batches = fault.batches
        for _ in range(count):
            with fault.broken(
                lambda: None,  # the callbacks do it
                lambda: disk.enlarge(24),
                before_redelivery=lambda: disk.enlarge(48),
            ):
                answers += fill_with_callbacks(batches)
                begin, refilled = time.monotonic(), 0
                # It goes on trying, and nothing of that may show. Once the WAL is moved, there may be room for more.
                while time.monotonic() - begin < rounds(1, 4):
                    time.sleep(0.3)
                    if set(batches.send(5)) != {503}:
                        answers += fill_with_callbacks(batches)
                        refilled += 1
                    fault.ask()
                    assert_blocking_is_answered_at_once(victim)
                assert refilled <= 2
                fault.assert_says_why()
        assert_full_log_is_not_flooded(victim, victim_begin, count)
        found = fault.end()
    report(
        5,
        "callbacks fill the disk, later it is larger",
        f"{count} times, {found.answered_ok} callbacks answered OK in the end, every read answered meanwhile, blocking"
        f" callbacks at once; taken again within {fault.slowest_s:.1f} s without a restart",
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
    with Victim(disk.data, env={"PYTHONPATH": str(folder)}) as victim, no_traceback(victim):
        begin = time.monotonic()
        fault = DiskFault(victim, "full")
        for number in range(count):
            with fault.broken(
                lambda number=number: disk.fill(but_megabytes=number % 2 * 6),  # type: ignore[misc]
                disk.make_room,
                before_redelivery=lambda: disk.enlarge(24),
            ):
                answers += fill_with_callbacks(fault.batches)
                fault.ask(may_be_unavailable=True)  # where they could not be brought up to now
                assert "full" in victim.logs()
                assert_blocking_is_answered_at_once(victim)
        assert "reserved" not in victim.logs()
        assert_full_log_is_not_flooded(victim, begin, count)
        found = fault.end()
    report(
        5,
        "SQLite itself meets the full disk (without the reserve)",
        f"{count} times, {found.answered_ok} callbacks answered OK in the end; of {fault.reads.total()} reads"
        f" meanwhile {fault.reads[200]} right and {fault.reads[503]} answered 503; taken again within"
        f" {fault.slowest_s:.1f} s",
        str(found.lost),
        f"{answers[503]}, none of them stored; sent again each is there once",
    )


def test_somebody_else_fills_the_disk_under_load(disk: Disk) -> None:
    count = rounds(1, 10)
    with Victim(disk.data) as victim, no_traceback(victim):
        fault = DiskFault(victim, "full")
        for number in range(count):
            projected = number % 2 == 0
            with fault.broken(disk.fill, disk.make_room, projected=projected):
                fault.assert_refuses()
                # Where the read models had no time to get to the log's end, and have no room now, 503 is the answer.
                fault.ask(may_be_unavailable=not projected)
        stored = fault.end()
    report(
        5,
        "somebody else fills the disk to the last byte",
        f"{count} times, {stored.answered_ok} callbacks answered OK in the end; of {fault.reads.total()} reads"
        f" meanwhile {fault.reads[200]} right and {fault.reads[503]} answered 503; taken again within"
        f" {fault.slowest_s:.1f} s",
        str(stored.lost),
        f"{fault.refused}, every one that came while it was full",
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
