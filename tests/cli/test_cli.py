"""Every command as a process of its own: what it prints, how it exits, and what it leaves in the data directory."""

import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import APP_ID, PROGRAM, T0, UPDATE, Server, StartServer, body_of, environment, run
from kit.wait import wait_until

from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.infra.errors import NoData
from app.log.files import open_log
from app.log.records import Rejection
from app.ops.import_export import COMMIT_LINES
from app.projector.fold import STEP

COMMANDS = [
    *("serve", "demo", "room", "rooms", "history", "diff", "counts", "visibility", "rebuild", "verify", "status"),
    *("import", "export", "rejected", "simulate"),
]
READING = ["room x", "rooms", "history x", "diff x --from 0 --to 1", "counts", "counts x", "visibility x", "status"]
PROJECTIONS = ("current_room", "change_counts", "visibility")
TRICKY = "tricky\x1b[31m\u202e \u200b\x07房"

Result = subprocess.CompletedProcess[bytes]


# Starting Python and importing everything takes ten times as long as most commands. A server that has imported it
# forks a process for each command: its own arguments, environment, standard streams and exit code, as from a shell.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["app.cli.main"])


def _run_forked(args: list[str], folder: str, env: dict[str, str]) -> None:
    from app.cli.main import main

    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(f"{folder}/{number}", flags, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
    os.environ.clear()
    os.environ.update(env)
    main(args, prog_name="roomlapse")


def roomlapse(*args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Result:
    """As `run` of the shared helpers, in a tenth of the time. `run` is for what starts processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "0").write_bytes(stdin)
        process = _FORKS.Process(target=_run_forked, args=(list(args), folder, environment(env)))
        process.start()
        process.join(120)
        code = process.exitcode
        assert code is not None, f"{args} goes on and on"
        process.close()
        return subprocess.CompletedProcess(args, code, *[(Path(folder) / name).read_bytes() for name in "12"])


def command(data: Path, *args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Result:
    """Run a command on a data directory."""
    return roomlapse(*args, "--data", str(data), stdin=stdin, env=env)


def ask(data: Path, *args: str) -> Any:
    """What a command prints with --json; it has to succeed."""
    result = command(data, *args, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def said(result: Result) -> str:
    """What a failed command says, as one line; never a traceback, and nothing on stdout."""
    assert result.stdout == b""
    text = result.stderr.decode()
    assert "Traceback" not in text
    return re.sub(r"[\s│]+", " ", text)


def lines_of(bodies: list[bytes]) -> bytes:
    return b"".join(body + b"\n" for body in bodies)


def bring_in(data: Path, bodies: list[bytes]) -> None:
    """Import bodies, which are good ones."""
    result = command(data, "import", "-", stdin=lines_of(bodies))
    assert result.returncode == 0, result.stdout


def fingerprints(data: Path) -> dict[str, str]:
    """The fingerprint of each projection, all of which have read the log to its end."""
    status = ask(data, "status", "--fingerprint")
    assert set(status["projections"]) == set(PROJECTIONS)
    assert [projection["lag"] for projection in status["projections"].values()] == [0, 0, 0]
    return {name: projection["fingerprint"] for name, projection in status["projections"].items()}


def sql(path: Path, *statements: str) -> Result:
    """Run SQL in another process with Python's own SQLite, as from a shell; the last statement has to change rows."""
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "changed = [c.execute(statement).rowcount for statement in sys.argv[2:]]\n"
        "c.commit()\n"
        "assert changed[-1], 'nothing was changed'\n"
    )
    return subprocess.run([sys.executable, "-c", script, str(path), *statements], capture_output=True, check=False)


def history_of_an_evening() -> list[bytes]:
    """Bodies in order of arrival: 260 updates of a busy room, some late, a few of others, and other commands."""
    dice = random.Random(5)
    bodies = []
    for number in range(260):
        late = dice.randrange(5000) if number % 9 == 0 else 0
        fields = {
            "RoomName": f"n{number % 7}",
            "IsPublicVisible": number % 3 != 0,
            "ActivityStatus": dice.choice([0, 1, 1.0, True, "1", None]),
        }
        patch = dict(dice.sample(list(fields.items()), dice.randint(1, 3)))
        bodies.append(body_of("busy", T0 + number * 1000 - late, operator=f"host-{number % 3}", **patch))
        if number % 40 == 0:
            bodies.append(body_of("quiet ?#%", T0 + number, operator=2**60, RoomName=f"q{number}", CustomInfo=""))
            bodies.append(b'{"CallbackCommand":"Live.CallbackAfterDestroyRoom","RoomId":"busy","n":%d}' % number)
    bodies.append(body_of(TRICKY, T0, operator=TRICKY, RoomName=TRICKY, IsPublicVisible=True))
    bodies.append(b' {"EventTime":%d , "CallbackCommand":"%s","RoomInfo":{"RoomId":"spaced"}} ' % (T0, UPDATE.encode()))
    return bodies


BODIES = history_of_an_evening()
NUMBER = len(BODIES)


@pytest.fixture(scope="module")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the evening. Only for reading."""
    data = tmp_path_factory.mktemp("evening") / "data"
    bring_in(data, BODIES)
    return data


@pytest.fixture
def copied(evening: Path, tmp_path: Path) -> Path:
    """A copy of the evening, to do things to."""
    return Path(shutil.copytree(evening, tmp_path / "copied"))


MANY = 46_000


def many_lines(number: int) -> Iterator[bytes]:
    for i in range(number):
        yield (
            b'{"CallbackCommand":"Live.CallbackAfterUpdateRoomInfo","EventTime":%d,'
            b'"RoomInfo":{"RoomId":"room-%d","RoomName":"n%d","IsPublicVisible":%s}}\n'
            % (T0 + i, i % 499, i % 7, b"true" if i % 3 else b"false")
        )


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with so many events that a rebuild cuts them into tasks. Only for reading."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "many.jsonl").write_bytes(b"".join(many_lines(MANY)))
    result = command(folder / "data", "import", str(folder / "many.jsonl"))
    assert result.returncode == 0
    assert f"accepted {MANY}, duplicates 0, rejected 0" in result.stdout.decode()
    return folder / "data"


@pytest.fixture
def copied_many(many: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(many, tmp_path / "many"))


# ---- import and export ----


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


QUESTIONS = [
    ["rooms"],
    ["rooms", "--public"],
    ["rooms", "--as-of", str(T0 + 5), "-q", "Q"],
    ["room", "busy"],
    ["room", TRICKY],
    ["room", "quiet ?#%", "--as-of", str(T0 + 100)],
    ["history", "busy", "--limit", "500"],
    ["history", "busy", "--field", "ActivityStatus", "--from", str(T0 + 9000)],
    ["diff", "busy", "--from", str(T0 + 20_000), "--to", str(T0 + 200_000)],
    ["counts"],
    ["counts", "busy"],
    ["visibility", "busy", "--to", str(T0 + 10**6)],
]


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


def count(path: Path, table: str) -> int:
    """How many rows there are, 0 while there is no such table or file."""
    try:
        conn = sqlite.open_reader(path)
    except (NoData, sqlite.Error):
        return 0
    try:
        (rows,) = conn.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(rows)
    except sqlite.Error:
        return 0
    finally:
        conn.close()


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


# ---- the questions ----


@pytest.fixture(scope="module")
def served(evening: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on a copy of the evening, with something in quarantine."""
    folder = tmp_path_factory.mktemp("served")
    shutil.copytree(evening, folder / "data")
    with Server(folder / "data") as server:
        for number in range(3):
            assert server.post(b"bad %d \x1b\xff" % number).status_code == 400
            assert server.post(BODIES[number]).status_code == 200
        yield server


AS_HTTP: list[tuple[list[str], str]] = [
    (["rooms"], "/rooms"),
    (["rooms", "--public"], "/rooms?public=true"),
    (["rooms", "--hidden", "--as-of", "2022-12-09T08:27:00Z"], "/rooms?public=false&as_of=2022-12-09T08:27:00Z"),
    (["rooms", "--q", "Q", "--limit", "1"], "/rooms?q=Q&limit=1"),
    (["rooms", "--limit", "1", "--cursor", "ImJ1c3ki"], "/rooms?limit=1&cursor=ImJ1c3ki"),
    (["room", "busy"], "/rooms/busy"),
    (["room", "quiet ?#%"], f"/rooms/{quote('quiet ?#%')}"),
    (["room", TRICKY], f"/rooms/{quote(TRICKY)}"),
    (["room", "busy", "--as-of", str(T0 + 99_999)], f"/rooms/busy?as_of={T0 + 99_999}"),
    (["room", "busy", "--known-at", "2099-01-01T00:00:00Z"], "/rooms/busy?known_at=2099-01-01T00:00:00Z"),
    (["history", "busy"], "/rooms/busy/history"),
    (
        ["history", "busy", "--from", str(T0 + 9000), "--to", str(T0 + 99_000), "--field", "RoomName", "--limit", "7"],
        f"/rooms/busy/history?from={T0 + 9000}&to={T0 + 99_000}&field=RoomName&limit=7",
    ),
    (["diff", "busy", "--from", str(T0), "--to", str(T0 + 99_000)], f"/rooms/busy/diff?from={T0}&to={T0 + 99_000}"),
    (["counts"], "/change-counts"),
    (["counts", "--limit", "1"], "/change-counts?limit=1"),
    (["counts", "busy", "--as-of", str(T0 + 99_000)], f"/rooms/busy/change-counts?as_of={T0 + 99_000}"),
    (["visibility", "busy", "--as-of", str(T0 + 99_000)], f"/rooms/busy/visibility?as_of={T0 + 99_000}"),
    (
        ["visibility", "busy", "--from", str(T0 + 9000), "--to", str(T0 + 99_000)],
        f"/rooms/busy/visibility?from={T0 + 9000}&to={T0 + 99_000}",
    ),
    (["status"], "/status"),
    (["rejected"], "/rejected"),
    (["rejected", "--limit", "2"], "/rejected?limit=2"),
]


@pytest.mark.parametrize(("args", "path"), AS_HTTP, ids=[path for _, path in AS_HTTP])
def test_json_is_what_http_answers(served: Server, args: list[str], path: str) -> None:
    response = served.client.get(path)
    assert response.status_code == 200
    result = command(served.data, *args, "--json")
    assert result.returncode == 0, result.stderr
    assert result.stdout.decode() == response.text + "\n"


HUMAN: list[tuple[list[str], list[str]]] = [
    (["rooms"], ["busy", "quiet ?#%", "\\u202e", "房"]),
    (["room", TRICKY], ["\\u001b[31m\\u202e", "IsPublicVisible", "true", "2022-12-09T08:26:54.123Z"]),
    (["room", "quiet ?#%"], ["RoomName", "q240", str(2**60)]),
    (["history", TRICKY], ["\\u001b[31m\\u202e", "RoomName", "2022-12-09T08:26:54.123Z"]),
    (["history", "busy"], ["late", "host-1", "ActivityStatus"]),
    (["diff", TRICKY, "--from", "0", "--to", str(T0)], ["RoomName", "\\u202e"]),
    (["diff", "busy", "--from", str(T0), "--to", str(T0)], ["no difference"]),
    (["counts"], ["RoomName", "busy", "\\u202e"]),
    (["counts", TRICKY], ["RoomName", "1", "0", "never"]),
    (["visibility", TRICKY, "--to", str(T0 + 5000)], ["public 5 s", "hidden 0 ms"]),
    (["visibility", TRICKY], ["open"]),
    (["status"], [f"head {NUMBER}", "current_room", "duplicates 3", "rejected 3"]),
    (["status", "--fingerprint"], ["fingerprint"]),
    (["rejected"], ["bad 2 \\u001b", "not UTF-8"]),
    (["verify"], ["everything agrees"]),
]


@pytest.mark.parametrize(
    ("args", "expected"), HUMAN, ids=[" ".join(args[:1]) + f" {i}" for i, (args, _) in enumerate(HUMAN)]
)
def test_what_people_read_is_readable_and_does_nothing_to_their_terminal(
    served: Server, args: list[str], expected: list[str]
) -> None:
    result = command(served.data, *args)
    assert result.returncode == 0, result.stderr
    text = result.stdout.decode()
    for part in expected:
        assert part in text
    assert [char for char in text if char != "\n" and unicodedata.category(char) in {"Cc", "Cf"}] == []
    assert not text.startswith("{")


def test_a_known_at_before_the_first_receipt_knows_nothing(evening: Path) -> None:
    result = command(evening, "room", "busy", "--known-at", "2020-01-01T00:00:00Z")
    assert result.returncode == 1
    assert "at that time" in said(result)


# ---- exit codes ----


@pytest.mark.parametrize("question", ["room", "history", "counts", "visibility", "diff --from 0 --to 1"])
def test_an_unknown_room_is_exit_1(evening: Path, question: str) -> None:
    name, *options = question.split()
    result = command(evening, name, "no\x1b[31m\u202ebody", *options)
    assert result.returncode == 1
    assert "no room" in said(result)
    assert "\x1b" not in result.stderr.decode()
    assert "\u202e" not in result.stderr.decode()


@pytest.mark.parametrize("question", [*READING, "verify", "rebuild", "export -", "rejected", "rejected retry"])
def test_a_missing_data_directory_is_exit_1_and_is_not_made(tmp_path: Path, question: str) -> None:
    result = command(tmp_path / "none", *question.split())
    assert result.returncode == 1
    assert "no Roomlapse data in" in said(result)
    assert not (tmp_path / "none").exists()


def test_the_data_directory_comes_from_the_environment(evening: Path, tmp_path: Path) -> None:
    result = run("status", "--json", env={"ROOMLAPSE_DATA": str(evening)})
    assert result.returncode == 0
    assert json.loads(result.stdout)["events"] == NUMBER
    assert run("status", env={"ROOMLAPSE_DATA": str(tmp_path / "none")}).returncode == 1


WRONG = [
    "room busy --as-of yesterday",
    "room busy --as-of 2026-03-11T14:28:44",
    "room busy --known-at x",
    "visibility busy --from 2026-03-11",
    "diff busy --from x --to 1",
    "diff busy --from 1",
    "room",
    "room busy other",
    "room busy --nothing",
    "rooms --limit 0",
    "rooms --limit 501",
    "counts --as-of 1",
    "rebuild --projection nothing",
    "rebuild --jobs 0",
    "import /nowhere/file.jsonl",
    "serve --sdk-app-id my-app",
    "serve --sdk-app-id ١٤٠٠",
    "import - --sdk-app-id -1",
    "simulate --url http://127.0.0.1:9 --sdk-app-id 14e8",
    "nothing",
    "rejected nothing",
]


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage_is_exit_2_and_says_why(evening: Path, line: str) -> None:
    result = roomlapse(*line.split(), env={"ROOMLAPSE_DATA": str(evening)})
    assert result.returncode == 2
    assert "Usage" in said(result)
    assert "Error" in said(result)


SENSELESS = [
    "rooms --cursor !",
    "history busy --cursor AAAA",
    "history busy --from 2 --to 1",
    "visibility busy --from 2 --to 1",
]


@pytest.mark.parametrize("line", SENSELESS)
def test_a_question_that_makes_no_sense_is_exit_2_and_says_why(evening: Path, line: str) -> None:
    result = roomlapse(*line.split(), env={"ROOMLAPSE_DATA": str(evening)})
    assert result.returncode == 2
    assert re.fullmatch("Error: (cursor is not one that|from is after to).*", said(result).strip())


@pytest.mark.parametrize("content", [b"this is not a database, " * 500, b""])
@pytest.mark.parametrize("args", [["status"], ["verify"]])
def test_a_file_that_is_no_log_is_exit_1_with_a_sentence(tmp_path: Path, content: bytes, args: list[str]) -> None:
    (tmp_path / "events.db").write_bytes(content)
    result = command(tmp_path, *args)
    assert result.returncode == 1
    assert len(said(result)) > 20


def test_help_of_every_command_is_exit_0() -> None:
    overview = run("--help")
    assert overview.returncode == 0
    for line in [*COMMANDS, "rejected retry"]:
        result = roomlapse(*line.split(), "--help")
        assert result.returncode == 0, line
        assert b"Usage" in result.stdout
        assert re.search(rf"^\W*{line.split()[0]}\b", overview.stdout.decode(), re.MULTILINE), line
        assert re.search(rb"--[a-z-]*(token|secret|password)", result.stdout) is None, "no secret is an option"
    assert run("-h").returncode == run("--version").returncode == 0


# ---- serve ----


@pytest.mark.parametrize(
    "env", [{}, {"ROOMLAPSE_CALLBACK_TOKENS": "callback-secret"}, {"ROOMLAPSE_API_TOKEN": "api-secret"}]
)
def test_serving_other_machines_without_both_tokens_is_exit_2(tmp_path: Path, env: dict[str, str]) -> None:
    args = ["serve", "--sdk-app-id", APP_ID, "--host", "0.0.0.0", "--port", "0"]
    result = command(tmp_path / "data", *args, env=env)
    assert result.returncode == 2
    text = said(result)
    for name in ("ROOMLAPSE_CALLBACK_TOKENS", "ROOMLAPSE_API_TOKEN"):
        assert (name in text) == (name not in env)
    assert "secret" not in text
    assert not (tmp_path / "data").exists()


def test_serving_the_data_of_another_application_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "data"
    assert command(data, "import", "-", "--sdk-app-id", "1400000777", stdin=lines_of(BODIES[:3])).returncode == 0
    for args, env in (
        (["serve", "--sdk-app-id", APP_ID, "--port", "0"], {}),
        (["import", "-", "--sdk-app-id", APP_ID], {}),
        (["rooms"], {"ROOMLAPSE_SDK_APP_ID": APP_ID}),
        (["rebuild"], {"ROOMLAPSE_SDK_APP_ID": APP_ID}),
    ):
        result = command(data, *args, env=env)
        assert result.returncode == 1, args
        text = said(result)
        assert "1400000777" in text
        assert APP_ID in text
    assert ask(data, "status")["events"] == 3


def test_a_server_claims_the_data_for_its_application(start_server: StartServer) -> None:
    server = start_server()
    assert server.post(BODIES[0]).status_code == 200
    assert server.stop() == 0
    result = command(server.data, "import", "-", "--sdk-app-id", "1400000777", stdin=lines_of(BODIES[:3]))
    assert result.returncode == 1
    assert APP_ID in said(result)
    assert start_server().get("/status")["events"] == 1


def test_a_port_that_is_taken_is_exit_1_with_a_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = command(tmp_path / "data", "serve", "--sdk-app-id", APP_ID, "--port", port)
    assert result.returncode == 1
    assert "in use" in said(result)


def test_what_is_imported_beside_a_server_is_seen_by_it(start_server: StartServer) -> None:
    server = start_server()
    server.post(body_of("r", T0, RoomName="posted"))
    bring_in(server.data, [body_of("r", T0 + 1, RoomName="imported")])
    assert server.get("/rooms/r")["room_info"] == {"RoomName": "imported"}
    server.post(body_of("r", T0 + 2, RoomName="posted again"))
    assert ask(server.data, "room", "r")["room_info"] == {"RoomName": "posted again"}
    assert server.get("/events")["head"] == 3


# ---- read models ----


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


SPOIL = {
    "current_room": "UPDATE rooms SET events = events + 1 WHERE room_id = 'room-7'",
    "change_counts": "UPDATE change_counts SET changes = 0 WHERE room_id = 'room-7'",
    "visibility": "DELETE FROM visibility WHERE room_id = 'room-7'",
}


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_rebuild_makes_all_read_models_from_the_log(many: Path, copied_many: Path, jobs: str) -> None:
    right = fingerprints(many)
    assert fingerprints(copied_many) == right
    assert sql(copied_many / "read_models.db", *SPOIL.values()).returncode == 0
    spoiled = fingerprints(copied_many)
    assert [name for name in PROJECTIONS if spoiled[name] == right[name]] == []
    result = run("rebuild", "--jobs", jobs, "--data", str(copied_many))
    assert result.returncode == 0
    assert f"{MANY} events" in result.stdout.decode()
    assert fingerprints(copied_many) == right
    assert command(copied_many, "verify").returncode == 0


@pytest.mark.parametrize("name", PROJECTIONS)
def test_rebuild_of_one_projection_leaves_the_others_alone(evening: Path, copied: Path, name: str) -> None:
    right = fingerprints(evening)
    statements = [statement.replace("room-7", "busy") for statement in SPOIL.values()]
    assert sql(copied / "read_models.db", *statements).returncode == 0
    spoiled = fingerprints(copied)
    assert command(copied, "rebuild", "--projection", name).returncode == 0
    assert fingerprints(copied) == {**spoiled, name: right[name]}


def children_of(pid: int) -> set[int]:
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()


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


# ---- verify ----

LOG_CASES = {
    "a changed body": ("UPDATE events SET body = replace(body, 'host-', 'hast-') WHERE position = 5", 5),
    "white space in a body": ("UPDATE events SET body = body || ' ' WHERE position = 5", 5),
    "a body that is none": ("UPDATE events SET body = '{}' WHERE position = 5", 5),
    "a body that is no object": ("UPDATE events SET body = '5' WHERE position = 5", 5),
    "a wrong event_id": (f"UPDATE events SET event_id = '{'ab' * 32}' WHERE position = 5", 5),
    "another time of receipt": ("UPDATE events SET received_at_ms = received_at_ms - 1 WHERE position = 5", 5),
    "a broken chain": (f"UPDATE events SET chain = '{'ab' * 32}' WHERE position = 5", 5),
    "a broken chain at the end": (f"UPDATE events SET chain = '{'ab' * 32}' WHERE position = {NUMBER}", NUMBER),
    "another room": ("UPDATE events SET room_id = 'quiet ?#%' WHERE position = 5", 5),
    "another time": ("UPDATE events SET event_time_ms = event_time_ms + 1 WHERE position = 5", 5),
    "another operator in the body": ("UPDATE events SET body = replace(body, 'host-', 'eve-') WHERE position = 5", 5),
    "another command in the body": ("UPDATE events SET body = replace(body, 'AfterUpdate', 'X') WHERE position = 5", 5),
    "no room": ("UPDATE events SET room_id = NULL WHERE position = 5", 5),
    "a removed row": ("DELETE FROM events WHERE position = 5", 6),
    "the first row removed": ("DELETE FROM events WHERE position = 1", 2),
    "the last row removed": (f"DELETE FROM events WHERE position = {NUMBER}", None),
    "a row put behind itself": ("UPDATE events SET position = 100000 WHERE position = 5", 6),
}
MODEL_CASES = {
    "a changed room": ("UPDATE rooms SET room_info = '{}' WHERE room_id = 'busy'", "rooms", "busy"),
    "a removed room": ("DELETE FROM rooms WHERE room_id = 'quiet ?#%'", "rooms", "quiet ?#%"),
    "an added room": (
        "INSERT INTO rooms SELECT 'ghost', room_info, fields, event_id, event_time_ms, events FROM rooms LIMIT 1",
        "rooms",
        "ghost",
    ),
    "a changed count": (
        "UPDATE change_counts SET changes = changes + 1 WHERE room_id = 'busy' AND field = 'RoomName'",
        "change_counts",
        "busy",
    ),
    "a removed count": ("DELETE FROM change_counts WHERE field = 'CustomInfo'", "change_counts", "quiet ?#%"),
    "an added count": ("INSERT INTO change_counts VALUES ('busy', 'Ghost', 1, 0, 5, NULL)", "change_counts", "busy"),
    "a count of no room": ("INSERT INTO change_counts VALUES ('zzz', 'X', 1, 0, 5, NULL)", "change_counts", "zzz"),
    "a changed interval": (
        "UPDATE visibility SET to_ms = to_ms + 1 WHERE to_ms = (SELECT min(to_ms) FROM visibility)",
        "visibility",
        "busy",
    ),
    "a removed interval": (
        "DELETE FROM visibility WHERE room_id = 'busy' AND to_ms IS NULL",
        "visibility",
        "busy",
    ),
    "an added interval": ("INSERT INTO visibility VALUES ('quiet ?#%', 5, 6, 1)", "visibility", "quiet ?#%"),
    "a changed saved state": (
        f"UPDATE rooms_states SET state = (SELECT state FROM rooms_states WHERE events > {STEP}) WHERE events = {STEP}",
        "rooms",
        "busy",
    ),
    "a saved state for another cut": (
        f"UPDATE visibility_states SET max_position = 1 WHERE room_id = 'busy' AND events = {2 * STEP}",
        "visibility",
        "busy",
    ),
    "a removed saved state": (
        f"DELETE FROM change_counts_states WHERE room_id = 'busy' AND events = {STEP}",
        "change_counts",
        "busy",
    ),
    "the last saved state removed": (
        "DELETE FROM visibility_states WHERE events = (SELECT max(events) FROM visibility_states)",
        "visibility",
        "busy",
    ),
    "a saved state too many": (
        "INSERT INTO rooms_states SELECT room_id, event_time_ms + 1, event_id, events, 1, 1, state FROM rooms_states",
        "rooms",
        "busy",
    ),
    "a saved state of a room that is too short for one": (
        (
            "INSERT INTO rooms_states SELECT 'quiet ?#%', event_time_ms, event_id, 7, 1, 1, state"
            " FROM rooms_states LIMIT 1"
        ),
        "rooms",
        "quiet ?#%",
    ),
    "a saved state that is cut short": (
        f"UPDATE rooms_states SET state = substr(state, 1, length(state) - 9) WHERE events = {STEP}",
        "rooms",
        "busy",
    ),
    "a saved state that is none": (
        f"UPDATE rooms_states SET state = x'00' WHERE events = {STEP}",
        "rooms",
        "busy",
    ),
    "a saved state of no room": (
        "INSERT INTO rooms_states SELECT 'ghost', event_time_ms, event_id, 1, 1, 1, state FROM rooms_states LIMIT 1",
        "rooms",
        "ghost",
    ),
}


def test_verify_of_what_nobody_touched_is_clean(evening: Path) -> None:
    answer = ask(evening, "verify")
    assert (answer["ok"], answer["difference"], answer["head"]) == (True, None, NUMBER)
    assert answer["chain"] == ask(evening, "status")["chain"]


@pytest.mark.parametrize("case", list(LOG_CASES))
def test_verify_names_the_first_difference_in_the_log(copied: Path, case: str) -> None:
    statement, position = LOG_CASES[case]
    triggers = [f"DROP TRIGGER events_no_{verb}" for verb in ("update", "delete", "replace")]
    done = sql(copied / "events.db", *triggers, statement)
    assert done.returncode == 0, done.stderr
    result = command(copied, "verify", "--json")
    assert result.returncode == 1, result.stdout
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert answer["difference"]["what"]
    if position is not None:
        assert answer["difference"]["where"] == f"events, position {position}"


@pytest.mark.parametrize("damage", [b"x", b"\0", b"["])
def test_verify_names_a_body_that_went_bad_on_the_disk(copied: Path, damage: bytes) -> None:
    assert sql(copied / "events.db", "PRAGMA wal_checkpoint(TRUNCATE)").returncode == 0
    whole = (copied / "events.db").read_bytes()
    (copied / "events.db").write_bytes(whole.replace(BODIES[4], damage + BODIES[4][1:]))
    result = command(copied, "verify", "--json")
    assert result.returncode == 1, result.stderr
    assert json.loads(result.stdout)["difference"]["where"] == "events, position 5"


def test_verify_names_the_log_whose_end_cannot_be_read(copied: Path) -> None:
    assert sql(copied / "events.db", "PRAGMA wal_checkpoint(TRUNCATE)").returncode == 0
    content = bytearray((copied / "events.db").read_bytes())
    size = int.from_bytes(content[16:18])
    page = content.index(ask(copied, "status")["chain"].encode()) // size * size  # where the last event is
    content[page : page + size] = b"\xff" * size
    (copied / "events.db").write_bytes(content)
    result = command(copied, "verify", "--json")
    assert result.returncode == 1, result.stderr
    answer = json.loads(result.stdout)
    assert (answer["ok"], answer["difference"]["file"], answer["head"]) == (False, "events.db", None)


@pytest.mark.parametrize("case", list(MODEL_CASES))
def test_verify_names_the_first_difference_in_the_read_models(copied: Path, case: str) -> None:
    statement, table, room_id = MODEL_CASES[case]
    done = sql(copied / "read_models.db", statement)
    assert done.returncode == 0, done.stderr
    result = command(copied, "verify", "--json")
    assert result.returncode == 1, result.stdout + result.stderr
    answer = json.loads(result.stdout)
    assert answer["ok"] is False
    assert answer["difference"]["where"] == f"{table}, room {room_id!r}"
    assert answer["difference"]["what"]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [("notes", "the log agrees: "), ("a newer layout", "the log agrees: "), ("both", "events, position 5")],
)
def test_verify_checks_the_log_whatever_is_in_the_place_of_the_read_models(
    copied: Path, spoil: str, words: str
) -> None:
    for file in copied.glob("read_models.db-*"):
        file.unlink()
    if spoil == "a newer layout":
        assert sql(copied / "read_models.db", "PRAGMA user_version = 99").returncode == 0
    else:
        (copied / "read_models.db").write_bytes(b"somebody's notes\n" * 1000)
    if spoil == "both":
        changes = ["DROP TRIGGER events_no_update", "UPDATE events SET body = '{' WHERE position = 5"]
        assert sql(copied / "events.db", *changes).returncode == 0
    result = command(copied, "verify")
    assert result.returncode == 1, result
    assert words in result.stdout.decode()
    answer = json.loads(command(copied, "verify", "--json").stdout)
    assert answer["difference"]["file"] == ("events.db" if spoil == "both" else "read_models.db")
    assert answer["head"] == NUMBER


def test_verify_tells_people_too_without_touching_their_terminal(copied: Path) -> None:
    assert sql(copied / "read_models.db", "UPDATE rooms SET events = 9 WHERE room_id LIKE 'tricky%'").returncode == 0
    result = command(copied, "verify")
    assert result.returncode == 1
    assert "tricky" in result.stdout.decode()
    assert [
        char for char in result.stdout.decode() if char != "\n" and unicodedata.category(char) in {"Cc", "Cf"}
    ] == []
    assert command(copied, "rebuild").returncode == 0
    assert command(copied, "verify").returncode == 0


OTHER_COLUMNS = "room_id, event_time_ms, received_at_ms, client_ip, platform, chain, body"


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE events SET body = '{}' WHERE position = 5",
        "UPDATE events SET client_ip = '198.51.100.1'",
        "DELETE FROM events WHERE position = 5",
        "DELETE FROM events",
        f"INSERT OR REPLACE INTO events SELECT position, event_id, {OTHER_COLUMNS} FROM events WHERE position = 5",
        f"INSERT INTO events SELECT {NUMBER + 1}, event_id, {OTHER_COLUMNS} FROM events WHERE position = 5",
        f"INSERT OR REPLACE INTO events SELECT 5, 'other', {OTHER_COLUMNS} FROM events WHERE position = 6",
        f"INSERT OR IGNORE INTO events SELECT 100000, 'other', {OTHER_COLUMNS} FROM events WHERE position = 6",
        f"REPLACE INTO events SELECT position, event_id, {OTHER_COLUMNS} FROM events",
    ],
)
def test_a_plain_sqlite_shell_cannot_change_the_log(copied: Path, statement: str) -> None:
    result = sql(copied / "events.db", statement)
    assert result.returncode != 0
    assert b"only grows" in result.stderr
    assert ask(copied, "status")["events"] == NUMBER


@pytest.mark.parametrize("column", ["command", "operator"])
def test_what_the_body_says_cannot_be_written_beside_it(copied: Path, column: str) -> None:
    assert sql(copied / "events.db", "DROP TRIGGER events_no_update", "PRAGMA user_version = 0").returncode == 0
    for value in ("'x'", "NULL", column):
        result = sql(copied / "events.db", f"UPDATE events SET {column} = {value} WHERE position = 5")
        assert result.returncode != 0
        assert b"generated column" in result.stderr
    verified = command(copied, "verify")
    assert verified.returncode == 1  # the guard that had to go first is missed
    assert b"its trigger events_no_update is not as it was made" in verified.stdout


# ---- quarantine ----


@pytest.mark.parametrize("data_first", [False, True])
def test_retry_moves_what_is_valid_now_into_the_log(tmp_path: Path, data_first: bool) -> None:
    data = tmp_path / "data"
    bring_in(data, [body_of("r", T0, RoomName="known")])
    bodies = [body_of("r", T0 + 1, RoomName="released"), b"still bad \xff", body_of("r", T0, RoomName="known")]
    log = open_log(DataDir(data))  # as an older version would have left them, which knew fewer commands
    log.append(
        [], [Rejection(body, "an old rule", T0 + number, "203.0.113.8", "Web") for number, body in enumerate(bodies)]
    )
    log.close()
    listed = ask(data, "rejected")["rejected"]
    assert [rejected["body"] for rejected in listed] == [body.decode(errors="replace") for body in reversed(bodies)]

    args = ["rejected", "--data", str(data), "retry"] if data_first else ["rejected", "retry", "--data", str(data)]
    result = roomlapse(*args, env={"ROOMLAPSE_DATA": str(tmp_path / "elsewhere")})
    assert (result.returncode, result.stdout) == (1, b"accepted 1, duplicates 1, rejected 1\n")
    assert [rejected["reason"] for rejected in ask(data, "rejected")["rejected"]] == ["an old rule"]
    room = ask(data, "room", "r")
    assert (room["room_info"], room["events"]) == ({"RoomName": "released"}, 2)
    (newest,) = ask(data, "history", "r", "--limit", "1")["changes"]
    assert newest["platform"] == "Web"
    assert command(data, "verify").returncode == 0


def test_retry_of_an_empty_quarantine_is_exit_0(copied: Path) -> None:
    result = command(copied, "rejected", "retry")
    assert (result.returncode, result.stdout) == (0, b"accepted 0, duplicates 0, rejected 0\n")


# ---- simulate ----


def simulate(url: str, *args: str, env: dict[str, str] | None = None) -> Result:
    return roomlapse("simulate", "--url", url, "--sdk-app-id", APP_ID, "--rate", "500", *args, env=env)


def test_simulate_sends_signed_callbacks_with_duplicates_and_late_ones(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_CALLBACK_TOKENS": "receivers-own, senders-first"})
    tokens = {"ROOMLAPSE_CALLBACK_TOKENS": "senders-first,senders-second"}
    options = ["--count", "200", "--rooms", "3", "--seed", "7", "--duplicates", "0.3", "--late", "0.3"]
    result = simulate(server.url, *options, "--json", env=tokens)
    assert result.returncode == 0, (result.stdout, result.stderr)
    sent = json.loads(result.stdout)
    assert (sent["sent"], sent["ok"], sent["answers"]) == (200, 200, {"200": 200})
    status = server.get("/status")
    assert status["events"] + status["duplicates"] == 200
    assert 20 < status["duplicates"] < 100
    assert len(server.get("/events", limit=500)["events"]) == status["events"]
    assert len(server.get("/rooms")["rooms"]) == 3
    late = [
        change["late"]
        for room in server.get("/rooms")["rooms"]
        for change in server.get(f"/rooms/{room['room_id']}/history", limit=500)["changes"]
    ]
    assert 10 < sum(late) < len(late)
    for token in ("senders-first", "senders-second"):
        assert token.encode() not in result.stdout + result.stderr


def test_simulate_tells_when_callbacks_were_not_taken(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_CALLBACK_TOKENS": "right"})
    result = simulate(server.url, "--count", "3", env={"ROOMLAPSE_CALLBACK_TOKENS": "wrong"})
    assert result.returncode == 1
    assert b"3 x 401" in result.stdout
    assert server.get("/status")["events"] == 0
    assert server.stop() == 0
    gone = simulate(server.url, "--count", "3", env={"ROOMLAPSE_CALLBACK_TOKENS": "right"})
    assert gone.returncode == 1
    assert b"3 x no answer" in gone.stdout


@pytest.mark.parametrize("options", [["--duplicates", "2"], ["--count", "0"], ["--rate", "0"], ["--url", "ftp://x"]])
def test_simulate_with_options_that_make_no_sense_is_exit_2(options: list[str]) -> None:
    assert simulate("http://127.0.0.1:9", *options).returncode == 2
