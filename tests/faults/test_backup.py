"""Row 22: backups under load, what is restored from them, and databases that a newer version made."""

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import PROGRAM, body_of, environment
from kit.wait import wait_until

from app.infra import sqlite
from app.infra.data_dir import LOG_FILE, READ_MODELS_FILE, DataDir
from app.infra.sqlite import open_reader
from app.log import schema
from app.log.files import open_log, open_log_reader
from app.projector.read_models import ReadModels, connect_read_models
from app.projector.upkeep import open_read_models
from faults.lib import (
    FULL,
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
from projections import ALL


def said(done: subprocess.CompletedProcess[str]) -> str:
    """What a command said, as one line."""
    assert "Traceback" not in done.stderr, done.stderr
    return " ".join(f"{done.stdout} {done.stderr}".split())


def fingerprints(data: Path) -> dict[str, str]:
    done = run_program("status", "--fingerprint", "--json", "--data", str(data))
    assert done.returncode == 0, done.stderr
    projections = json.loads(done.stdout)["projections"]
    return {name: it["fingerprint"] for name, it in projections.items()}


def restored(file: Path, folder: Path) -> Path:
    """Restore as the help says: copy the file to events.db in an empty directory."""
    folder.mkdir()
    shutil.copy(file, folder / LOG_FILE)
    return folder


def cut_at(data: Path, events: int, folder: Path) -> Path:
    """Another data directory with the first events of a log, through export and import."""
    done = run_program("export", "-", "--data", str(data))
    lines = done.stdout.splitlines(keepends=True)[:events]
    assert len(lines) == events
    file = folder.parent / f"{folder.name}.jsonl"
    file.write_text("".join(lines))
    assert run_program("import", str(file), "--data", str(folder)).returncode == 0
    return folder


@pytest.fixture(scope="module")
def twenty_events(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return imported(tmp_path_factory.mktemp("twenty") / "data", 20)


@pytest.fixture
def twenty(twenty_events: Path, tmp_path: Path) -> Path:
    """A data directory with twenty events in it."""
    return shutil.copytree(twenty_events, tmp_path / "data")


def imported(folder: Path, events: int) -> Path:
    """A new data directory with some events in it."""
    file = folder.parent / f"{folder.name}.jsonl"
    begin_ms = now_ms() - 10**7
    pick = random.Random(22)
    file.write_bytes(
        b"".join(
            body_of(f"room-{n % 40}", begin_ms + n, RoomName=f"{pick.getrandbits(900):x}", MaxMemberCount=n) + b"\n"
            for n in range(events)
        )
    )
    assert run_program("import", str(file), "--data", str(folder)).returncode == 0
    return folder


def test_backups_under_load_are_each_a_whole_log_up_to_a_moment(tmp_path: Path) -> None:
    data = tmp_path / "data"
    count = rounds(2, 20)
    backups = []
    with Victim(data) as victim, no_traceback(victim):
        with Load(victim.port, threads=4, pause_s=0.01) as load:
            for number in range(count):
                load.wait_for_answers(100)
                before = load.snapshot().ok()
                done = run_program("backup", str(tmp_path / f"{number}.db"), "--json", "--data", str(data))
                assert done.returncode == 0, done.stderr
                backups.append((json.loads(done.stdout), before))
            load.wait_for_answers(50)
        assert load.sent.refused() == load.sent.unanswered() == 0
        victim.stop()
    found = assert_exact(data, load.sent)
    heads = [backup["events"] for backup, _ in backups]
    assert heads == sorted(set(heads)), "each is of a later moment"
    assert heads[-1] < found.events
    log = open_reader(data / LOG_FILE)
    missing = 0
    for number, (backup, before) in enumerate(backups):
        copy = open_reader(tmp_path / f"{number}.db")
        there = {event_id for (event_id,) in copy.execute("SELECT event_id FROM events")}
        last = copy.execute("SELECT max(position), chain FROM events").fetchone()
        copy.close()
        assert last == (backup["events"], backup["chain"])
        assert log.execute("SELECT chain FROM events WHERE position = ?", last[:1]).fetchone() == last[1:]
        missing += len(before - there)  # answered OK before it began
    log.close()
    assert missing == 0
    for number in sorted({count - 1, 0})[-rounds(1, 2) :]:
        copy_of = restored(tmp_path / f"{number}.db", tmp_path / f"restored-{number}")
        assert_verified(copy_of)
        events = heads[number]
        assert fingerprints(copy_of) == fingerprints(cut_at(data, events, tmp_path / f"cut-{number}"))
        if FULL:
            assert fingerprints(copy_of) != fingerprints(cut_at(data, events - 20, tmp_path / f"less-{number}"))
        with Victim(copy_of) as again:  # and a server takes it from there
            assert again.post(body_of("new", now_ms()))[0] == 200
            assert again.get("/rooms/new")[0] == 200
        assert_verified(copy_of)
    report(
        22,
        "backup under load, restored",
        f"{count} backups of {heads[0]} to {heads[-1]} events while {found.answered_ok} callbacks were answered OK;"
        f" {'first and last' if FULL else 'last'} restored: verified, fingerprints equal those of the log cut there",
        str(found.lost + missing),
        "0",
    )


def test_a_backup_that_is_killed_leaves_no_file_of_its_name_and_the_next_one_is_whole(tmp_path: Path) -> None:
    data = imported(tmp_path / "data", rounds(10_000, 40_000))
    file = tmp_path / "backups" / "copy.db"
    file.parent.mkdir()
    command = [PROGRAM, "backup", str(file), "--data", str(data)]

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )

    def wait_for_copy(process: subprocess.Popen[bytes]) -> None:
        wait_until(lambda: os.listdir(file.parent) or process.poll() is not None, "a copy begins", every_s=0.001)

    whole = start()
    wait_for_copy(whole)
    begin = time.monotonic()
    assert whole.wait(60) == 0
    takes_s = time.monotonic() - begin  # without the start of Python
    expected = file.read_bytes()
    file.unlink()
    pick = random.Random(22)
    count = rounds(5, 60)
    killed = partial = 0
    for number in range(count):
        process = start()
        wait_for_copy(process)
        time.sleep(0.8 * takes_s * (number + pick.random()) / count)
        process.send_signal(signal.SIGKILL)
        killed += process.wait(30) != 0
        if file.exists():  # it was through
            assert file.read_bytes() == expected
            file.unlink()
        partial += len(os.listdir(file.parent)) > 0
        for path in file.parent.iterdir():
            assert path.name.startswith(".")
            if number % 2:  # else the next one finds it
                path.unlink()
            elif number < count - 1:
                path.replace(file.parent.parent / "begun")
    assert partial >= count // 4, "hardly ever in the middle: this shows little"
    (file.parent.parent / "begun").replace(file.parent / f".{file.name}.partial")
    done = run_program(*command[1:])
    assert done.returncode == 0, done.stderr
    assert os.listdir(file.parent) == [file.name]
    assert file.read_bytes() == expected
    report(
        22,
        "kill -9 during a backup",
        f"{killed} killed, {partial} of them with the copy begun: none left a file of the final name that was not"
        " whole, and the next backup was whole",
        "0",
        "0",
    )


def test_a_backup_replaces_nothing(twenty: Path, tmp_path: Path) -> None:
    data = twenty
    file = tmp_path / "copy.db"
    file.write_bytes(b"precious")
    for target in (file, data / LOG_FILE):
        before = target.read_bytes()
        done = run_program("backup", str(target), "--data", str(data))
        assert done.returncode == 1
        assert "is there already" in said(done)
        assert target.read_bytes() == before
    assert run_program("backup", str(tmp_path / "nowhere" / "copy.db"), "--data", str(data)).returncode == 1
    assert not (tmp_path / "nowhere").exists()
    done = run_program("backup", str(tmp_path / "other.db"), "--data", str(tmp_path / "none"))
    assert (done.returncode, "no Roomlapse data" in said(done)) == (1, True)


def edit_log(data: Path, sql: str) -> None:
    """Edit a log as somebody could who has its file, and who leaves its triggers as they were."""
    log = open_log(DataDir(data))
    with sqlite.transaction(log.conn):
        triggers = log.conn.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            log.conn.execute(f"DROP TRIGGER {name}")
        log.conn.execute(sql)
        for _, trigger in triggers:
            log.conn.execute(trigger)
    log.close()


_EDITS = {
    "a body edited": (
        "UPDATE events SET body = replace(body, 'Max', 'Min') WHERE position = 7",
        7,
    ),
    "a row removed": ("DELETE FROM events WHERE position = 5", 6),
    "a time of receipt edited": ("UPDATE events SET received_at_ms = received_at_ms + 1 WHERE position = 9", 9),
}


@pytest.mark.parametrize("edit", _EDITS)
def test_a_log_that_was_edited_is_not_backed_up_and_the_position_is_named(
    edit: str, twenty: Path, tmp_path: Path
) -> None:
    data = twenty
    sql, position = _EDITS[edit]
    edit_log(data, sql)
    folder = tmp_path / "backups"
    folder.mkdir()
    done = run_program("backup", str(folder / "copy.db"), "--data", str(data))
    assert done.returncode == 1
    assert f"events, position {position}:" in said(done)
    assert os.listdir(folder) == []


_NAMED = ("events, position ", "integrity check", "malformed", "not a database", "cannot be read", "disk image")


def test_a_log_with_a_corrupt_page_is_not_backed_up_or_the_backup_is_whole(tmp_path: Path) -> None:
    data = imported(tmp_path / "data", 2000)
    sound = (data / LOG_FILE).read_bytes()
    folder = tmp_path / "backups"
    folder.mkdir()
    pick = random.Random(22)
    refused = taken = 0
    count = rounds(4, 60)
    for number in range(count):
        bad = bytearray(sound)
        place = pick.randrange(100, len(bad))
        bad[place] ^= 1 << pick.randrange(8)
        (data / LOG_FILE).write_bytes(bad)
        file = folder / f"{number}.db"
        done = run_program("backup", str(file), "--data", str(data))
        words = said(done)
        if done.returncode == 0:  # it was slack, or in an index that the copy has made anew
            taken += 1
            copy = restored(file, tmp_path / f"restored-{number}")
            assert_verified(copy)
            assert open_log_reader(DataDir(copy)).head().position == 2000
        else:
            refused += 1
            assert not file.exists()
            assert any(text in words for text in _NAMED), words
    assert refused > 0
    assert not list(folder.glob(".*"))
    report(
        22,
        "backup of a log with a flipped bit",
        f"{count} places: {refused} refused by name, {taken} backed up whole (slack, or an index that is made anew)",
        "0",
        str(refused),
    )


def test_a_newer_log_is_refused_by_every_command_and_stays_as_it_is(twenty: Path, tmp_path: Path) -> None:
    data = twenty
    log = schema.open_log(data / LOG_FILE)
    log.execute("INSERT INTO _sqlite_migrations (migration_set, name, applied_at) VALUES (?, ?, ?)", _NEWER)
    log.close()
    before = (data / LOG_FILE).read_bytes()
    done = run_program("serve", "--sdk-app-id", "1400000001", "--port", "0", "--data", str(data))
    assert (done.returncode, "newer Roomlapse" in said(done)) == (1, True), done.stderr
    line = body_of("r", now_ms()) + b"\n"
    (tmp_path / "one.jsonl").write_bytes(line)
    refused = ["serve"]
    commands = [
        ("import", str(tmp_path / "one.jsonl")),
        ("backup", str(tmp_path / "copy.db")),
        ("status",),
        ("rejected", "retry"),
        ("export", str(tmp_path / "all.jsonl")),
        *((name,) for name in ("rooms", "verify", "rebuild")),
    ]
    for command in commands[: rounds(3, len(commands))]:
        done = run_program(*command, "--data", str(data))
        assert (done.returncode, "newer Roomlapse: upgrade" in said(done)) == (1, True), done.stderr
        refused.append(command[0])
    assert (data / LOG_FILE).read_bytes() == before
    report(22, "a log made by a newer version", f"{', '.join(refused)}: exit 1, nothing written", "0", "all")


_NEWER = ("roomlapse.events", "create_something_new", "2030-01-01")


def test_newer_read_models_are_refused_and_made_again_when_they_are_deleted(twenty: Path, tmp_path: Path) -> None:
    data = twenty
    newer = {
        "is of version 2, this": "UPDATE projections SET version = version + 1 WHERE name = 'visibility'",
        "are of layout 2, this": "PRAGMA user_version = 2",
    }
    for number, (what, sql) in enumerate(newer.items()):
        models = open_read_models(DataDir(data))
        models.conn.execute(sql)
        models.close()
        for command in (("rooms",), ("status",), ("verify",), ("import", os.devnull)):
            done = run_program(*command, "--data", str(data))
            assert done.returncode == 1, (command, done.stdout)
            assert f"{what} Roomlapse knows 1: upgrade it" in said(done), command
        with Victim(data) as victim, no_traceback(victim):  # callbacks are taken all the same, the operator is told
            wait_until(lambda what=what: f"{what} Roomlapse knows 1: upgrade it" in victim.logs())  # type: ignore[misc]
            assert victim.post(body_of("r", now_ms() + number))[0] == 200
            assert victim.get("/rooms/r")[0] == 503
            assert victim.get("/readyz")[0] == 503
            victim.stop()
        models = ReadModels(connect_read_models(data / READ_MODELS_FILE), ALL)
        models.conn.execute("UPDATE projections SET version = 1")
        models.conn.execute("PRAGMA user_version = 1")
        models.close()
    for path in data.glob(f"{READ_MODELS_FILE}*"):
        path.unlink()
    assert fingerprints(data) == fingerprints(cut_at(data, 22, tmp_path / "again"))
    report(
        22,
        "read models made by a newer version",
        "rooms, status, verify, import: exit 1; a server takes callbacks and says so; deleted, they came back equal",
        "0",
        "all",
    )


def test_what_is_made_is_for_its_owner_alone(twenty: Path, tmp_path: Path) -> None:
    assert run_program("backup", str(tmp_path / "copy.db"), "--data", str(twenty)).returncode == 0
    shared = tmp_path / "shared"  # as a package or an administrator makes it
    shared.mkdir(mode=0o755)
    with Victim(shared) as victim:
        assert victim.post(body_of("r", now_ms()))[0] == 200
        found = {path.name: path.stat().st_mode & 0o777 for path in [*shared.iterdir(), tmp_path / "copy.db"]}
        assert victim.stop() == 0
    assert {name for name in found if ".db" in name} > {"copy.db", LOG_FILE, READ_MODELS_FILE, f"{LOG_FILE}-wal"}
    assert {name: mode for name, mode in found.items() if ".db" in name and mode != 0o600} == {}


def test_a_backup_into_a_place_that_is_not_there_says_so(twenty: Path, tmp_path: Path) -> None:
    done = run_program("backup", str(tmp_path / "none" / "copy.db"), "--data", str(twenty))
    assert (done.returncode, "there is no directory" in said(done)) == (1, True)
