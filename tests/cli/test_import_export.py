"""import and export: what is taken, what is listed, and that the log comes through as it is."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import PROGRAM, T0, StartServer, body_of, environment
from kit.wait import wait_until

from app.ops.import_export import COMMIT_LINES
from cli.commands import ask, bring_in, children_of, command, count, fingerprints
from cli.evening import BODIES, NUMBER, QUESTIONS, lines_of, many_lines


def test_import_takes_bare_bodies_from_a_file_or_stdin(tmp_path: Path) -> None:
    file = tmp_path / "bodies.jsonl"
    file.write_bytes(lines_of([body_of("r", T0, RoomName="a"), body_of("r", T0 + 1, RoomName="b")]))
    result = command(tmp_path / "data", "import", str(file))
    assert (result.returncode, result.stdout) == (0, b"accepted 2, duplicates 0, rejected 0\n")
    last = body_of("r", T0 + 2, RoomName="c")  # no line break behind it
    result = command(tmp_path / "data", "import", "-", stdin=last)
    assert (result.returncode, result.stdout) == (0, b"accepted 1, duplicates 0, rejected 0\n")
    assert ask(tmp_path / "data", "room", "r")["room_info"] == {"RoomName": "c"}


def test_import_again_gives_duplicates_only(copied: Path) -> None:
    before = fingerprints(copied)
    result = command(copied, "import", "-", stdin=lines_of(BODIES))
    assert (result.returncode, result.stdout.decode()) == (0, f"accepted 0, duplicates {NUMBER}, rejected 0\n")
    assert fingerprints(copied) == before
    assert ask(copied, "status")["events"] == NUMBER


def test_a_line_received_in_seconds_is_not_taken(tmp_path: Path) -> None:
    line = b'{"received_at_ms":1773260042,"client_ip":null,"platform":null,"body":%s}' % body_of("r", T0)
    result = command(tmp_path / "data", "import", "-", stdin=line)
    assert result.returncode == 1
    assert "received_at_ms: 1773260042 looks like seconds" in result.stdout.decode()


def test_import_names_the_lines_that_it_did_not_take(tmp_path: Path) -> None:
    good = [body_of("r", T0 + number) for number in range(3)]
    lines = [
        good[0],
        b"",  # not a line, but counted
        b"nonsense \x1b[31m",
        good[1],
        b'{"received_at_ms":1,"client_ip":null,"platform":null,"body":"nor this"}',
        body_of("r", 7),
        b'{"received_at_ms":"x","client_ip":null,"platform":null,"body":%s}' % json.dumps(good[2].decode()).encode(),
        body_of("r", T0, CustomInfo="x" * 65_536),
        b"\xff\xfe",
        good[2],
    ]
    result = command(tmp_path / "data", "import", "-", stdin=b"\n".join(lines))
    assert result.returncode == 1
    *rejected, summary = result.stdout.decode().splitlines()
    assert summary == "accepted 3, duplicates 0, rejected 6"
    numbers = [re.match(r"rejected line (\d+): \S", line) for line in rejected]
    assert [number and int(number[1]) for number in numbers] == [3, 5, 6, 7, 8, 9]
    assert "\x1b" not in result.stdout.decode()
    assert ask(tmp_path / "data", "room", "r")["events"] == 3

    answer = command(tmp_path / "data", "import", "-", "--json", stdin=b"\n".join(lines))
    assert answer.returncode == 1
    counts = json.loads(answer.stdout)
    assert [line["line"] for line in counts.pop("rejected_lines")] == [3, 5, 6, 7, 8, 9]
    assert counts == {"accepted": 0, "duplicates": 3, "rejected": 6}


def test_import_keeps_how_a_line_reached_us_and_times_of_receipt_never_decrease(tmp_path: Path) -> None:
    def line(number: int, received_at_ms: int, client_ip: str | None, platform: str | None) -> bytes:
        body = body_of("r", T0 + number).decode()
        content = {"received_at_ms": received_at_ms, "client_ip": client_ip, "platform": platform, "body": body}
        return json.dumps(content).encode()

    lines = [line(1, 5000, "203.0.113.1", "iOS"), line(2, 4000, None, None), line(3, 6000, None, "Web")]
    bring_in(tmp_path / "data", [*lines, body_of("r", T0 + 4)])
    result = command(tmp_path / "data", "export", "-")
    assert result.returncode == 0
    exported = [json.loads(line) for line in result.stdout.splitlines()]
    now_ms = exported[3].pop("received_at_ms")
    assert exported == [
        {"received_at_ms": 5000, "client_ip": "203.0.113.1", "platform": "iOS", "body": body_of("r", T0 + 1).decode()},
        {"received_at_ms": 5000, "client_ip": None, "platform": None, "body": body_of("r", T0 + 2).decode()},
        {"received_at_ms": 6000, "client_ip": None, "platform": "Web", "body": body_of("r", T0 + 3).decode()},
        {"client_ip": None, "platform": None, "body": body_of("r", T0 + 4).decode()},
    ]
    assert abs(now_ms - time.time() * 1000) < 60_000


def test_export_into_an_empty_directory_gives_the_same_everything(
    start_server: StartServer, evening: Path, tmp_path: Path
) -> None:
    server = start_server(data=Path(shutil.copytree(evening, tmp_path / "first")))
    for number in range(5):
        more = {"ClientIP": f"203.0.113.{number}", "OptPlatform": "Web"} if number else {}
        assert (
            server.post(body_of("posted", T0 + number, RoomName='q"\\\u2028\x7f', N=number), **more).status_code == 200
        )
    assert server.stop() == 0
    first, second = tmp_path / "first", tmp_path / "second"
    exported = command(first, "export", "-")
    assert exported.returncode == 0
    assert len(exported.stdout.splitlines()) == NUMBER + 5
    result = command(second, "import", "-", stdin=exported.stdout)
    assert (result.returncode, result.stdout.decode()) == (0, f"accepted {NUMBER + 5}, duplicates 0, rejected 0\n")
    assert fingerprints(second) == fingerprints(first)
    assert command(second, "export", str(tmp_path / "again.jsonl")).returncode == 0
    assert (tmp_path / "again.jsonl").read_bytes() == exported.stdout
    status, status_again = ask(first, "status"), ask(second, "status")
    assert (status_again["chain"], status_again["head"]) == (status["chain"], status["head"])
    for question in (*QUESTIONS[::2], ["room", "posted"]):
        assert ask(second, *question) == ask(first, *question), question
    assert command(second, "verify").returncode == 0


@pytest.mark.slow
def test_an_import_that_was_killed_ends_the_same_when_run_again(tmp_path: Path) -> None:
    number = 3 * COMMIT_LINES
    file, data, whole = tmp_path / "lines.jsonl", tmp_path / "killed", tmp_path / "whole"
    file.write_bytes(b"".join(many_lines(number)))
    process = subprocess.Popen(
        [PROGRAM, "import", str(file), "--data", str(data)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment(),
    )
    wait_until(lambda: count(data / "events.db", "events") > 0, "some lines are in")
    workers = children_of(process.pid)
    process.kill()
    assert process.wait(20) == -signal.SIGKILL
    there = count(data / "events.db", "events")
    assert 0 < there < number
    assert there % COMMIT_LINES == 0  # whole commits
    wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), "its workers end with it")
    result = command(data, "import", str(file))
    assert result.returncode == 0
    assert result.stdout.decode() == f"accepted {number - there}, duplicates {there}, rejected 0\n"
    assert command(whole, "import", str(file)).returncode == 0
    assert fingerprints(data) == fingerprints(whole)
    assert command(data, "verify").returncode == 0


@pytest.mark.slow
def test_export_into_a_pipe_that_closes_ends_quietly(many: Path) -> None:
    process = subprocess.Popen(
        [PROGRAM, "export", "-", "--data", str(many)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert json.loads(process.stdout.readline())["body"]
    process.stdout.close()
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    process.wait(20)


@pytest.mark.slow
def test_memory_does_not_grow_with_what_is_imported(tmp_path: Path) -> None:
    peaks = []
    program = (
        "import sys\n"
        "import app.cli.caring, app.cli.opening\n"
        "from app.cli.main import main\n"
        # Both are bounded as well, but far above what is imported here.
        "app.cli.caring.IMPORT_CACHE_KIB, app.cli.opening.MAPPED_BYTES = 2048, 0\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "finally:\n"
        "    (peak,) = (line for line in open('/proc/self/status') if line.startswith('VmHWM:'))\n"
        "    print(peak.split()[1])\n"
    )
    for number in (3 * COMMIT_LINES, 10 * COMMIT_LINES):
        file, data = tmp_path / f"{number}.jsonl", tmp_path / str(number)
        with file.open("wb") as stream:
            stream.writelines(many_lines(number))
        args = [sys.executable, "-c", program, "import", str(file), "--data", str(data)]
        result = subprocess.run(args, capture_output=True, env=environment(), check=True)
        summary, peak = result.stdout.decode().splitlines()
        assert summary == f"accepted {number}, duplicates 0, rejected 0"
        peaks.append(int(peak))
    assert peaks[1] <= 1.15 * peaks[0]
