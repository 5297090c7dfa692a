"""Row 2: the power of the disk is cut while callbacks come. kill -9 says nothing about fsync: the page cache outlives a
process. Here the file system is shut down below the page cache, so that only what was synced is there afterwards."""

import fcntl
import os
import random
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import pytest
from conftest import body_of
from kit.wait import wait_until

from app.infra.data_dir import DataDir
from app.log.audit import Difference
from app.ops.verify import verify
from app.queries.reader import open_reader
from faults.lib import Load, Sent, Victim, assert_verified, kept, no_traceback, now_ms, report, rounds

_SHUT_DOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN: _IOR('X', 125, __u32)
_NO_LOG_FLUSH = struct.pack("I", 2)  # the file system's own journal is lost too, as far as it was not synced
_MEGABYTES = 128

_LESS_SYNCED = """
from app.infra import sqlite

_as_it_is = sqlite.open_writer


def open_writer(path, *, synchronous, **more):
    return _as_it_is(path, synchronous="NORMAL", **more)


sqlite.open_writer = open_writer
"""
"""Python runs it before the program: the program has no such setting."""


class Disk:
    """An ext4 disk in a file, mounted through a loop device, whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "disk"
        self._image = folder / "disk.img"
        self.path.mkdir()
        with self._image.open("wb") as image:
            image.truncate(_MEGABYTES << 20)
        _run("mkfs.ext4", "-q", "-F", str(self._image))
        self._mount()

    def cut(self) -> None:
        """From here on nothing reaches the disk."""
        folder = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(folder, _SHUT_DOWN, _NO_LOG_FLUSH)
        finally:
            os.close(folder)

    def restore(self) -> None:
        """Find what a machine would find that starts again. Waits until nobody has a file open: a projector, which is
        in no group but its own, ends a moment after its server."""
        wait_until(self._unmounted, timeout_s=60)
        self._mount()

    def remove(self) -> None:
        """Unmount it, whatever still uses it, and let go of the loop device."""
        if self.path.is_mount():
            _run("umount", "--lazy", str(self.path))

    def _unmounted(self) -> bool:
        try:
            _run("umount", str(self.path))
        except OSError as error:
            if "busy" not in str(error):
                raise
            return False
        return True

    def _mount(self) -> None:
        _run("mount", "-o", "loop", str(self._image), str(self.path))


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise OSError(f"{command[0]}: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of our own; skips the test where there can be none."""
    if os.geteuid() != 0:
        pytest.skip("a disk can be mounted by root alone")
    for tool in ("mkfs.ext4", "mount", "umount"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    try:
        made = Disk(tmp_path)
    except OSError as error:
        pytest.skip(f"no disk can be made in a file here: {error}")
    try:
        try:
            made.cut()
            made.restore()
        except OSError as error:
            pytest.skip(f"the file system cannot be shut down here: {error}")
        yield made
    finally:
        made.remove()


class Seen(msgspec.Struct):
    """What the cuts led to."""

    sent: Sent
    lost: int
    """The most that was found lost after a cut."""
    behind: int
    """After how many cuts the read models had to read on, or to be made again."""


def cut_under_load(disk: Disk, count: int, env: Mapping[str, str] | None = None) -> Seen:
    """Cut the power at random moments of a load, each time under another server.

    After each cut, before any program writes to the disk, what is on it is checked as it is.
    """
    pick = random.Random(2)
    lost = behind = 0
    victim = Victim(disk.path, env=env)
    load = Load(victim.port)
    load.__enter__()
    try:
        for number in range(count):
            load.wait_for_answers(pick.randint(50, 300))
            _halt(victim)
            disk.cut()
            victim.kill()
            disk.restore()
            found = kept(disk.path, load.snapshot())
            lost = max(lost, found.lost)
            assert found.twice == 0, f"after cut {number + 1}: {found}"
            difference, position = _verify(disk.path)
            if position < found.events:
                behind += 1
            if env is None:  # the log is synced first, so the read models are never ahead of it
                assert difference is None, f"after cut {number + 1}: {difference}"
            victim = Victim(disk.path, env=env)
            load.port = victim.port
        wait_until(lambda: victim.get("/readyz")[0] == 200)
    finally:
        sent = load.stop()
        victim.stop()
    assert_verified(disk.path)
    return Seen(sent, lost, behind)


def _halt(victim: Victim) -> None:
    """Let the server do no more, as without power, whatever it is waiting for.

    A sync under way at the moment of the ioctl may return as if it had been done, with the data lost. Nobody hears of
    that when the power is cut, and so nobody may here. Once the first thread has stopped, none of the others gets back
    from the kernel.
    """
    victim.process.send_signal(signal.SIGSTOP)
    state = Path(f"/proc/{victim.process.pid}/stat")
    wait_until(lambda: state.read_text().rpartition(")")[2].split()[0] == "T")


def _verify(data: Path) -> tuple[Difference | None, int]:
    """What differs in a data directory as it is, and how far its read models have read the log."""
    with open_reader(DataDir(data)) as reader:
        position = min(reader.models.checkpoint(name).position for name in reader.models.projections)
        return verify(reader.log, reader.models), position


def test_a_power_cut_under_load_loses_nothing(disk: Disk) -> None:
    count = rounds(3, 50)
    seen = cut_under_load(disk, count)
    found = kept(disk.path, seen.sent)
    assert (seen.lost, found.lost, found.twice) == (0, 0, 0)
    assert found.answered_ok > 10 * count
    report(
        2,
        "power cut under load (ext4 shut down below the page cache)",
        f"{count} cuts, {found.answered_ok} callbacks answered OK, read models {seen.behind} times behind the log and"
        " never ahead of it",
        str(found.lost),
        f"{seen.sent.refused()}; {seen.sent.unanswered()} unanswered, {found.unknown} of them stored",
    )


def test_the_same_power_cut_with_less_syncing_does_lose_callbacks(disk: Disk, tmp_path: Path) -> None:
    """The negative control: it has to find a loss where there is one."""
    folder = tmp_path / "less-synced"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_LESS_SYNCED)
    count = rounds(1, 5)
    seen = cut_under_load(disk, count, {"PYTHONPATH": str(folder)})
    assert seen.lost > 0
    report(
        2,
        "the same with synchronous=NORMAL (the control: it has to lose some)",
        f"{count} cuts, {len(seen.sent.ok())} callbacks answered OK",
        f"{seen.lost}, as it has to",
        f"{seen.sent.refused()}",
    )


# ---- a disk that keeps less than it has promised ----


def _header_gone(file: Path) -> None:
    _overwrite(file, 0, 8192)


def _tail_gone(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2 + 100)


def _tail_never_written(file: Path) -> None:
    _overwrite(file, 3 * 8192, file.stat().st_size - 3 * 8192)


def _all_gone(file: Path) -> None:
    os.truncate(file, 0)


def _overwrite(file: Path, offset: int, size: int) -> None:
    with file.open("r+b") as opened:
        opened.seek(offset)
        opened.write(bytes(size))


TEARS = [_header_gone, _tail_never_written, _tail_gone, _all_gone]


def test_torn_read_models_are_made_again_and_callbacks_do_not_wait_for_it(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with Victim(whole) as victim:
        with Load(victim.port) as load:
            load.wait_for_answers(400)
        rooms = msgspec.json.decode(victim.get("/rooms?limit=500")[1])["rooms"]
        expected = {room["room_id"]: victim.get(f"/rooms/{room['room_id']}")[1] for room in rooms}
        assert victim.stop() == 0
    unanswered = 0
    tears = TEARS[: rounds(2, len(TEARS))]
    for number, tear in enumerate(tears):
        data = tmp_path / tear.__name__
        data.mkdir()
        for file in ("events.db", "read_models.db"):
            shutil.copyfile(whole / file, data / file)
        tear(data / "read_models.db")
        with Victim(data) as victim, no_traceback(victim):
            status, _ = victim.post(body_of(f"new-{number}", now_ms()))
            assert status == 200
            for room_id, answer in expected.items():
                while (got := victim.get(f"/rooms/{room_id}"))[0] == 503:
                    unanswered += 1
                    assert unanswered < 100
                assert _without_clock(got[1]) == _without_clock(answer), f"{tear.__name__}: {room_id}"
            assert victim.stop() == 0
            if tear is not _all_gone:  # which is as good as no file at all
                assert "the read models are corrupt" in victim.logs()
        assert_verified(data)
    report(
        2,
        "read models torn, as by a disk that lies about its syncs",
        f"{len(tears)} ways: made again at the start; {len(tears) * len(expected)} questions, no wrong answer",
        "0",
        f"{unanswered} questions, no callback",
    )


def _without_clock(answer: bytes) -> dict[str, object]:
    room: dict[str, object] = msgspec.json.decode(answer)
    room.pop("as_of_ms")
    room.pop("known_at_ms")
    return room
