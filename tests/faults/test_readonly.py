"""Row 6: a data directory that cannot be used, and a file system that turns read-only while the server runs."""

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import APP_ID

from faults.batches import (
    Batches,
    LoopDisk,
    ends_with_a_sentence,
    need,
    run_tool,
    skipping_where_it_cannot_be,
    unmount,
)
from faults.disk_fault import DiskFault
from faults.lib import Victim, no_traceback, report, rounds

_OTHER_APP_ID = "1400000002"


def assert_says(data: Path, *words: str, app_id: str = APP_ID, command: str = "serve") -> None:
    """The command ends with exit code 1 and one sentence that has these words in it."""
    said = ends_with_a_sentence(data, command, app_id)
    for word in words:
        assert word in said, said


# ---- at the start ----


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with some events, that nobody has open."""
    data = tmp_path_factory.mktemp("read-only") / "data"
    with Victim(data) as victim:
        assert set(Batches(victim).send(50)) == {200}
        assert victim.stop() == 0
    return data


def no_database(data: Path) -> None:
    (data / "events.db").write_bytes(b"this is no database, though it is long enough to be one. " * 100)


def a_newer_schema(data: Path) -> None:
    conn = sqlite3.connect(data / "events.db")  # nobody else has it open
    with conn:
        conn.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('roomlapse.events', 'of_a_version_to_come', '2030-01-01')"
        )
    conn.close()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (no_database, ["events.db", "not a database"]),
        (a_newer_schema, ["events.db", "newer Roomlapse"]),
    ],
)
def test_a_data_directory_that_cannot_be_used_is_named_in_a_sentence(
    data: Path, tmp_path: Path, spoil: Callable[[Path], None], words: list[str]
) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    spoil(copy)
    for command in ("serve", "status", "verify"):
        assert_says(copy, *words, command=command)
    report(
        6, f"the data directory is unusable: {spoil.__name__.replace('_', ' ')}", "a sentence, exit code 1", "0", "-"
    )


def test_a_file_in_its_place_is_wrong_usage(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.write_text("not a directory")
    for command in ("serve", "status", "verify"):
        assert "is a file" in ends_with_a_sentence(file, command, exit_code=2)
    report(6, "the data directory is a file", "a sentence, exit code 2", "0", "-")


def test_the_data_of_another_application_is_refused(data: Path) -> None:
    assert_says(data, APP_ID, _OTHER_APP_ID, app_id=_OTHER_APP_ID)
    report(6, "the data directory is of another SDKAppID", "a sentence, exit code 1", "0", "-")


def test_a_data_directory_that_is_missing_is_made_by_the_server_and_named_by_the_others(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    for command in ("status", "verify", "rooms"):
        assert_says(missing, "no Roomlapse data in", command=command)
        assert not missing.exists()
    with Victim(missing) as victim:
        assert Batches(victim).send_one() == 200
        assert victim.stop() == 0
    report(6, "the data directory is missing", "serve makes it; other commands: a sentence, exit code 1", "0", "-")


@pytest.fixture
def read_only(data: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the data directory where nothing can be written, not even by root."""
    need("mount", "umount", root=True)
    source, place = tmp_path / "source", tmp_path / "read-only"
    shutil.copytree(data, source / "data")
    place.mkdir()
    try:
        with skipping_where_it_cannot_be("nothing can be mounted read-only"):
            run_tool("mount", "--bind", str(source), str(place))
            run_tool("mount", "-o", "remount,bind,ro", str(place))
        yield place
    finally:
        unmount(place)


def test_a_data_directory_that_cannot_be_written_is_named_in_a_sentence(read_only: Path) -> None:
    assert_says(read_only / "data", "data", "cannot be written")
    assert_says(read_only / "new", "Read-only file system")
    report(6, "the data directory is read-only at the start", "a sentence, exit code 1", "0", "-")


# ---- while the server runs ----


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[LoopDisk]:
    need("mkfs.ext4", "e2fsck", "losetup", "mount", "umount", root=True)
    made = None
    try:
        with skipping_where_it_cannot_be("no disk can be made in a file"):
            made = LoopDisk(tmp_path)
        yield made
    finally:
        if made is not None:
            made.remove()
        else:
            unmount(tmp_path / "disk")


READ_ONLY = ("readonly", "read-only", "I/O error", "cannot be written")


def test_a_file_system_turns_read_only_and_is_repaired_while_the_server_runs(disk: LoopDisk) -> None:
    """As ext4 does it when its device fails: it stays read-only until it is unmounted, checked and mounted again."""
    with Victim(disk.path) as victim, no_traceback(victim):
        fault = DiskFault(victim, *READ_ONLY)
        for _ in range(rounds(1, 5)):
            with fault.broken(disk.turn_read_only, disk.repair):
                fault.assert_refuses()
                fault.ask()
            assert json.loads(victim.get("/status")[1])["head"] >= len(fault.batches)
        found = fault.end()
    report(
        6,
        "the file system turns read-only (ext4 aborts), is checked and mounted again",
        f"{fault.times} times, readiness red, reads go on; callbacks taken again within {fault.slowest_s:.1f} s without"
        " a restart",
        str(found.lost),
        f"{fault.refused}, every one meanwhile; sent again each is there once",
    )


def test_files_that_may_not_be_written_any_more_and_may_again(disk: LoopDisk) -> None:
    """`chattr +i` works on files that are open, which `mount -o remount,ro` refuses to."""
    need("chattr")
    files: list[str] = []

    def forbid_writing() -> None:
        files[:] = [str(file) for file in disk.path.glob("events.db*")]
        run_tool("chattr", "+i", *files)

    with Victim(disk.path) as victim, no_traceback(victim):
        fault = DiskFault(victim, *READ_ONLY)
        for _ in range(rounds(2, 20)):
            with fault.broken(forbid_writing, lambda: run_tool("chattr", "-i", *files)):
                fault.assert_refuses()
                fault.ask()
        found = fault.end()
    report(
        6,
        "the log's files may not be written for a while (chattr +i)",
        f"{fault.times} times, readiness red, reads go on; callbacks taken again within {fault.slowest_s:.1f} s without"
        " a restart",
        str(found.lost),
        f"{fault.refused}, every one meanwhile; sent again each is there once",
    )
