"""The read models: the same from any order of arrival, and made again from the log."""

import json
import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import PROGRAM, T0, UPDATE, StartServer, body_of, environment, run
from kit.wait import wait_until

from cli.commands import ask, bring_in, children_of, command, count, fingerprints, said, sql
from cli.evening import BODIES, MANY, PROJECTIONS, QUESTIONS


def test_any_order_of_arrival_gives_the_same_fingerprints(evening: Path, tmp_path: Path) -> None:
    expected = fingerprints(evening)
    updates = [body for body in BODIES if UPDATE.encode() in body]
    for seed in (1, 2):
        dice = random.Random(seed)
        shuffled = [*BODIES, *dice.sample(BODIES, 60)]
        dice.shuffle(shuffled)
        cut = dice.randrange(len(shuffled))
        data = tmp_path / str(seed)
        bring_in(data, shuffled[:cut])
        bring_in(data, shuffled[cut:])
        assert fingerprints(data) == expected
    bring_in(tmp_path / "less", updates[:-1])
    assert fingerprints(tmp_path / "less")["current_room"] != expected["current_room"]


def test_read_models_that_were_deleted_come_back_the_same(copied: Path) -> None:
    before = [ask(copied, *question) for question in QUESTIONS]
    fingerprints_before = fingerprints(copied)
    for file in copied.glob("read_models.db*"):
        file.unlink()
    assert [ask(copied, *question) for question in QUESTIONS[:3]] == before[:3]
    assert fingerprints(copied) == fingerprints_before
    assert [ask(copied, *question) for question in QUESTIONS[3:]] == before[3:]


CORRUPT = {
    "current_room": "UPDATE rooms SET events = events + 1 WHERE room_id = 'room-7'",
    "change_counts": "UPDATE change_counts SET changes = 0 WHERE room_id = 'room-7'",
    "visibility": "DELETE FROM visibility WHERE room_id = 'room-7'",
}


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_rebuild_makes_all_read_models_from_the_log(many: Path, copied_many: Path, jobs: str) -> None:
    right = fingerprints(many)
    assert fingerprints(copied_many) == right
    assert sql(copied_many / "read_models.db", *CORRUPT.values()).returncode == 0
    corrupt = fingerprints(copied_many)
    assert [name for name in PROJECTIONS if corrupt[name] == right[name]] == []
    result = run("rebuild", "--jobs", jobs, "--data", str(copied_many))
    assert result.returncode == 0
    assert f"{MANY} events" in result.stdout.decode()
    assert fingerprints(copied_many) == right
    assert command(copied_many, "verify").returncode == 0


@pytest.mark.parametrize("name", PROJECTIONS)
def test_rebuild_of_one_projection_leaves_the_others_alone(evening: Path, copied: Path, name: str) -> None:
    right = fingerprints(evening)
    statements = [statement.replace("room-7", "busy") for statement in CORRUPT.values()]
    assert sql(copied / "read_models.db", *statements).returncode == 0
    corrupt = fingerprints(copied)
    assert command(copied, "rebuild", "--projection", name).returncode == 0
    assert fingerprints(copied) == {**corrupt, name: right[name]}


StartRebuild = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start_rebuild() -> Iterator[StartRebuild]:
    """Starts a rebuild, and gives it when it is well on its way: the first of its new rows are written."""
    started: list[subprocess.Popen[bytes]] = []

    def start(data: Path, *args: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [PROGRAM, "rebuild", *args, "--data", str(data)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(),
        )
        started.append(process)
        new_rows = data / "read_models.db", "rebuild_rooms"
        wait_until(lambda: count(*new_rows) > 0 or process.poll() is not None, "new rows")
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate(timeout=20)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_rebuild_that_is_killed_leaves_the_old_read_models(
    start_rebuild: StartRebuild, many: Path, copied_many: Path, jobs: str
) -> None:
    right = fingerprints(many)
    rebuild = start_rebuild(copied_many, "--jobs", jobs)
    workers = children_of(rebuild.pid)
    rebuild.kill()
    rebuild.communicate(timeout=20)
    assert rebuild.returncode == -signal.SIGKILL, "it was over before it could be killed"
    assert bool(workers) == (jobs == "2")
    assert count(copied_many / "read_models.db", "rebuild_rooms") > 0, "it was killed in the middle"
    assert count(copied_many / "read_models.db", "rooms") == 499
    assert fingerprints(copied_many) == right
    assert command(copied_many, "verify").returncode == 0
    again = run("rebuild", "--jobs", jobs, "--data", str(copied_many))
    assert again.returncode == 0, again.stderr
    assert fingerprints(copied_many) == right
    assert count(copied_many / "read_models.db", "sqlite_schema WHERE name LIKE 'rebuild%'") == 0
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "its workers end with it")


@pytest.mark.slow
def test_one_rebuild_at_a_time_and_reads_answer_meanwhile(
    start_rebuild: StartRebuild, many: Path, copied_many: Path
) -> None:
    expected = ask(many, "room", "room-7")
    rebuild = start_rebuild(copied_many)
    stop_between_transactions(rebuild, copied_many / "read_models.db")
    try:
        second = command(copied_many, "rebuild")
        read = command(copied_many, "room", "room-7", "--json")
    finally:
        os.kill(rebuild.pid, signal.SIGCONT)
    output, _ = rebuild.communicate(timeout=60)
    assert rebuild.returncode == 0, output
    assert second.returncode == 1
    assert "rebuild" in said(second)
    assert read.returncode == 0, read.stderr
    assert json.loads(read.stdout) == expected


def stop_between_transactions(process: subprocess.Popen[bytes], path: Path) -> None:
    """Stop a process where it keeps nobody from writing."""

    def stopped() -> bool:
        assert process.poll() is None, "it was over before it could be stopped"
        os.kill(process.pid, signal.SIGSTOP)
        if sql(path, "PRAGMA busy_timeout = 0", "BEGIN IMMEDIATE").returncode == 0:
            return True
        os.kill(process.pid, signal.SIGCONT)
        return False

    wait_until(stopped, "the end of a transaction")


@pytest.mark.slow
def test_a_server_takes_callbacks_and_reads_are_whole_while_it_rebuilds(
    start_server: StartServer, start_rebuild: StartRebuild, copied_many: Path
) -> None:
    server = start_server(data=copied_many)
    before = server.get("/status")["events"]
    rooms = {room["room_id"]: room["events"] for room in server.get("/rooms", limit=500)["rooms"]}
    rebuild = start_rebuild(copied_many, "--jobs", "1")
    posted = 0
    while rebuild.poll() is None or posted < 20:
        room_id = f"room-{posted % 5}"
        assert server.post(body_of(room_id, T0 + MANY + posted, RoomName=f"meanwhile {posted}")).status_code == 200
        posted += 1
        rooms[room_id] += 1
        room = server.get(f"/rooms/{room_id}")
        assert room["events"] == rooms[room_id]
        assert room["room_info"]["RoomName"] == f"meanwhile {posted - 1}"
        if posted % 5 == 0:
            whole = server.get("/rooms", limit=500)["rooms"]
            assert {room["room_id"]: room["events"] for room in whole} == rooms
            intervals = server.get("/rooms/room-9/visibility")["intervals"]
            assert len(intervals) > 10
            ends = [interval["to_ms"] for interval in intervals]
            assert [interval["from_ms"] for interval in intervals[1:]] == ends[:-1]
    output, _ = rebuild.communicate(timeout=60)
    assert rebuild.returncode == 0, output
    assert server.get("/status")["events"] == before + posted
    assert server.get("/readyz")["ready"] is True
    assert server.stop() == 0
    assert command(copied_many, "verify").returncode == 0
