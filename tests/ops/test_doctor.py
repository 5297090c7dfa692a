"""`roomlapse doctor`: each finding has its real cause here, and says what to do about it. And the SQLite that has a
known fault, which it warns of: what the program does with that one."""

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cli.commands import roomlapse
from conftest import APP_ID, PROGRAM, StartServer, body_of, environment, run
from faults.lib import FULL, TOKEN, Victim, now_ms, run_program
from kit.wait import wait_until

from app.event import event_id_of
from app.infra import sqlite
from app.infra.data_dir import DataDir
from app.log.files import create_log, open_log, open_log_reader
from app.log.records import Arrival, next_chain
from app.tencent.body import decode
from app.tencent.sender import signed_query
from app.tencent.strict_json import parse_json

API, ADMIN = "canary-api-token", "canary-admin-token"
NOWHERE = "http://127.0.0.1:9"  # the discard port: nobody listens
CHECKS = {"SQLite", "signature", "tokens", "server", "free disk", "disk sync", "chain", "quarantine", "projections"} | {
    "clock",
    "silence",
    "answers",
    "refused",
}


class Diagnosed:
    """What one run of the command said, as JSON."""

    def __init__(self, data: Path, url: str = NOWHERE, env: dict[str, str] | None = None) -> None:
        # A library, ours or Python's, is changed for a whole process.
        run_it = run if {"PYTHONPATH", "LD_PRELOAD"} & (env or {}).keys() else roomlapse
        done = run_it("doctor", "--json", "--data", str(data), "--url", url, env=env)
        assert b"Traceback" not in done.stderr, done.stderr
        self.code, self.text = done.returncode, (done.stdout + done.stderr).decode()
        self.answer = json.loads(done.stdout)
        self.findings: dict[str, dict[str, str]] = {it["check"]: it for it in self.answer["findings"]}
        assert len(self.findings) == len(self.answer["findings"])
        for finding in self.findings.values():  # whatever is not well comes with what to do, and nothing else does
            assert finding["state"] in ("ok", "warning", "bad")
            assert bool(finding["advice"]) == (finding["state"] != "ok"), finding
        assert self.code == (0 if self.answer["ok"] else 1)
        assert self.answer["ok"] == all(it["state"] != "bad" for it in self.findings.values())

    def state(self, check: str) -> str:
        return self.findings[check]["state"]

    def found(self, check: str) -> str:
        return self.findings[check]["found"]

    def advice(self, check: str) -> str:
        return self.findings[check]["advice"]


def lines(count: int, *, begin_ms: int | None = None, received: bool = True) -> bytes:
    """As many callbacks, a second apart, each received 100 ms after it happened."""
    first_ms = now_ms() - count * 1000 - 1000 if begin_ms is None else begin_ms
    made = []
    for number in range(count):
        body = json.loads(body_of("r", first_ms + number * 1000, MaxMemberCount=number))
        line: Any = {"body": body, "received_at_ms": first_ms + number * 1000 + 100} if received else body
        made.append(json.dumps(line).encode() + b"\n")
    return b"".join(made)


def load(data: Path, content: bytes, env: dict[str, str] | None = None) -> Path:
    done = (roomlapse if env is None else run)("import", "-", "--data", str(data), stdin=content, env=env)
    assert done.returncode == 0, done.stderr
    return data


@pytest.fixture(scope="module")
def some_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return load(tmp_path_factory.mktemp("doctor") / "data", lines(1200))


@pytest.fixture
def data(some_data: Path, tmp_path: Path) -> Path:
    """A data directory with 1,200 events, nothing wrong with it."""
    return shutil.copytree(some_data, tmp_path / "data")


def send(victim: Victim, skew_s: float, room: str = "r") -> int:
    """Send a callback that was signed when the server's clock was ahead by so much; its status."""
    query = signed_query(APP_ID, TOKEN, time.time() - skew_s, "203.0.113.7", "Web")
    status, _ = victim.post(body_of(room, now_ms()), query=query)
    return status


# ---- all well, and nothing there ----


@pytest.mark.serial  # a disk that is busy with other tests is a finding
def test_a_healthy_server_has_nothing_to_be_told(tmp_path: Path) -> None:
    secrets = {"ROOMLAPSE_API_TOKEN": API, "ROOMLAPSE_ADMIN_TOKEN": ADMIN, "ROOMLAPSE_CALLBACK_TOKENS": TOKEN}
    with Victim(tmp_path / "data", env=secrets) as victim:
        for number in range(20):
            assert send(victim, 0.0, f"r{number}") == 200
        wait_until(lambda: b"roomlapse_log_head 20" in victim.get("/metrics", headers=bearer(ADMIN))[1])
        told = Diagnosed(tmp_path / "data", victim.url, secrets)
        text = run_program("doctor", "--data", str(tmp_path / "data"), "--url", victim.url, env=secrets)
    assert told.findings.keys() == CHECKS
    slow = {"disk sync", "answers"}  # are what the machine is
    assert [check for check in CHECKS - slow if told.state(check) != "ok"] == [], told.findings
    assert "20" in told.found("chain")
    assert "20 recent callbacks" in told.found("clock")
    assert told.found("server") == f"{victim.url}, log head 20"
    assert told.found("tokens").startswith("1 for callbacks, one to read")
    # As text it is a table, a line a finding.
    assert text.returncode == told.code
    assert [line.split("  ")[0] for line in text.stdout.splitlines()[1:]] == [
        finding["check"] for finding in told.answer["findings"]
    ]
    for said in (told.text, text.stdout, text.stderr):
        for secret in (API, ADMIN, TOKEN):
            assert secret not in said


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_without_data_and_without_a_server_it_says_both_and_fails(tmp_path: Path) -> None:
    told = Diagnosed(tmp_path / "none")
    assert (told.code, told.state("data"), told.state("server")) == (1, "bad", "warning")
    assert "no Roomlapse data" in told.found("data")
    assert NOWHERE in told.found("server")
    assert not (tmp_path / "none").exists()  # looking makes nothing


def test_a_stopped_server_alone_is_no_failure(data: Path) -> None:
    before = {path.name: path.read_bytes() for path in data.iterdir()}
    told = Diagnosed(data)
    assert (told.code, told.state("server")) == (0, "warning")
    assert told.state("chain") == told.state("projections") == told.state("clock") == "ok"
    assert {path.name: path.read_bytes() for path in data.iterdir() if path.suffix == ".db"} == {
        name: content for name, content in before.items() if name.endswith(".db")
    }


def test_a_server_that_writes_another_log_than_the_one_here_is_found(data: Path, tmp_path: Path) -> None:
    with Victim(tmp_path / "other") as victim:
        assert send(victim, 0.0) == 200
        right = Diagnosed(tmp_path / "other", victim.url)
        wrong = Diagnosed(data, victim.url)
    assert "data" not in right.findings
    assert (wrong.code, wrong.state("data")) == (1, "bad")
    assert wrong.found("data") == f"the log here is not the one that {victim.url} writes, which ends at position 1"
    assert "--data" in wrong.advice("data")


def test_the_data_of_another_application_is_found(data: Path) -> None:
    edit(data, "INSERT INTO meta VALUES ('sdk_app_id', ?)", APP_ID)
    assert "data" not in Diagnosed(data, env={"ROOMLAPSE_SDK_APP_ID": APP_ID}).findings
    told = Diagnosed(data, env={"ROOMLAPSE_SDK_APP_ID": "1400000777"})
    assert (told.code, told.state("data")) == (1, "bad")
    assert "1400000777" in told.found("data")


def test_a_port_that_is_none_is_wrong_usage(data: Path) -> None:
    done = run_program("doctor", "--data", str(data), env={"ROOMLAPSE_PORT": "abc"})
    assert (done.returncode, "ROOMLAPSE_PORT is 'abc'" in done.stderr) == (2, True)


def test_with_a_wrong_token_it_says_which_one_to_give(tmp_path: Path) -> None:
    with Victim(tmp_path / "data", env={"ROOMLAPSE_API_TOKEN": API, "ROOMLAPSE_CALLBACK_TOKENS": TOKEN}) as victim:
        told = Diagnosed(tmp_path / "data", victim.url, {"ROOMLAPSE_API_TOKEN": "another one"})
    assert told.state("server") == "warning"
    assert "401" in told.found("server")
    assert "ROOMLAPSE_API_TOKEN" in told.advice("server")


def test_what_is_no_url_is_wrong_usage(data: Path) -> None:
    done = run_program("doctor", "--url", "127.0.0.1:8000", "--data", str(data))
    assert done.returncode == 2
    assert "--url" in done.stderr


def test_it_asks_where_the_environment_says_the_server_is(data: Path) -> None:
    done = run_program(
        "doctor", "--json", "--data", str(data), env={"ROOMLAPSE_HOST": "127.0.0.1", "ROOMLAPSE_PORT": "9"}
    )
    assert NOWHERE in done.stdout


# ---- the server ----


def test_a_server_that_wants_a_token_is_one_that_cannot_be_asked(tmp_path: Path) -> None:
    secrets = {"ROOMLAPSE_API_TOKEN": API, "ROOMLAPSE_ADMIN_TOKEN": ADMIN, "ROOMLAPSE_CALLBACK_TOKENS": TOKEN}
    with Victim(tmp_path / "data", env=secrets) as victim:
        none = Diagnosed(tmp_path / "data", victim.url)
        wrong = Diagnosed(tmp_path / "data", victim.url, {"ROOMLAPSE_API_TOKEN": "canary-wrong"})
        api_alone = Diagnosed(tmp_path / "data", victim.url, {"ROOMLAPSE_API_TOKEN": API})
        right = Diagnosed(tmp_path / "data", victim.url, secrets)
    assert (none.state("server"), none.found("server")) == ("warning", f"{victim.url}/metrics answers 401")
    assert (wrong.state("server"), wrong.found("server")) == ("warning", f"{victim.url}/metrics answers 401")
    assert "canary-wrong" not in wrong.text
    assert (api_alone.state("server"), api_alone.found("server")) == ("warning", f"{victim.url}/metrics answers 403")
    assert "tokens" in none.advice("server")
    assert right.state("server") == "ok"


@contextmanager
def speaking(answer: bytes) -> Iterator[str]:
    """Something that answers each connection with the same bytes; its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(answer)

        heard: list[bytes] = []
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


HTML = b"<html><body>hello</body></html>"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n\xff\xfe\x00\x01",
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(HTML), HTML),
        b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nother 1\n",
        b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["nothing", "no HTTP", "cut short", "no UTF-8", "a page", "another's metrics", "an error"],
)
def test_whatever_answers_there_and_is_no_roomlapse_is_a_finding(answer: bytes, data: Path) -> None:
    with speaking(answer) as url:
        told = Diagnosed(data, url)
    assert (told.code, told.state("server")) == (0, "warning"), told.findings["server"]
    assert url in told.found("server")


def test_its_token_goes_to_the_server_and_nowhere_else(data: Path) -> None:
    with speaking(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as other:
        redirect = f"HTTP/1.1 302 Found\r\nLocation: {other}/metrics\r\nContent-Length: 0\r\n\r\n"
        with speaking(redirect.encode()) as url:
            told = Diagnosed(data, url, {"ROOMLAPSE_API_TOKEN": API})
            assert told.found("server") == f"{url}/metrics answers 302"
            proxied = Diagnosed(data, NOWHERE, {"ROOMLAPSE_API_TOKEN": API, "http_proxy": other, "no_proxy": ""})
            assert NOWHERE in proxied.found("server")
            assert "no answer" in proxied.found("server")


# ---- the clock ----


@pytest.mark.parametrize(
    ("skew_s", "status", "state"),
    [
        (0, 200, "ok"),
        (25, 200, "warning"),
        (-25, 200, "warning"),
        (52, 200, "bad"),
        (-90, 401, "bad"),
        (90, 401, "bad"),
    ],
)
def test_the_clock_is_held_against_the_request_time_of_signed_callbacks(
    skew_s: int, status: int, state: str, tmp_path: Path
) -> None:
    with Victim(tmp_path / "data") as victim:
        assert {send(victim, skew_s) for _ in range(5)} == {status}
        told = Diagnosed(tmp_path / "data", victim.url, {"ROOMLAPSE_CALLBACK_TOKENS": TOKEN})
    assert told.state("clock") == state
    assert abs(float(told.found("clock").split(" s ")[0]) - skew_s) < 5
    assert told.found("clock").endswith("RequestTime of 5 recent callbacks")
    assert told.code == (1 if state == "bad" else 0)
    if status == 401:
        assert told.found("refused") == "5 unsigned since the server started"
        assert "clock" in told.advice("refused")
    if state != "ok":
        assert "set it" in told.advice("clock")


def test_without_signed_callbacks_a_clock_that_is_behind_shows_in_the_event_times(tmp_path: Path) -> None:
    behind = load(tmp_path / "behind", lines(30, begin_ms=now_ms() + 60_000, received=False))
    told = Diagnosed(behind)
    assert (told.code, told.state("clock")) == (1, "bad")
    assert told.found("clock").endswith("against EventTime of the last 30 events")


def test_with_nothing_to_compare_the_clock_with_it_says_so(tmp_path: Path) -> None:
    with Victim(tmp_path / "data") as victim:
        told = Diagnosed(tmp_path / "data", victim.url)
    assert (told.state("clock"), told.state("answers")) == ("warning", "warning")
    assert "after some callbacks" in told.advice("clock")


# ---- tokens ----


@pytest.mark.parametrize(
    ("env", "state", "named"),
    [
        ({}, "warning", "ROOMLAPSE_CALLBACK_TOKENS and ROOMLAPSE_API_TOKEN"),
        ({"ROOMLAPSE_API_TOKEN": API}, "warning", "ROOMLAPSE_CALLBACK_TOKENS"),
        ({"ROOMLAPSE_CALLBACK_TOKENS": "canary-one,canary-two"}, "warning", "ROOMLAPSE_API_TOKEN"),
        ({"ROOMLAPSE_CALLBACK_TOKENS": "canary-one,canary-two", "ROOMLAPSE_API_TOKEN": API}, "ok", "2 for callbacks"),
        ({"ROOMLAPSE_HOST": "0.0.0.0"}, "bad", "would not start: 0.0.0.0 can be reached from other machines"),
        ({"ROOMLAPSE_HOST": "0.0.0.0", "ROOMLAPSE_API_TOKEN": API}, "bad", "set ROOMLAPSE_CALLBACK_TOKENS"),
        (
            {"ROOMLAPSE_HOST": "0.0.0.0", "ROOMLAPSE_API_TOKEN": API, "ROOMLAPSE_CALLBACK_TOKENS": "canary-one"},
            "ok",
            "address for 0.0.0.0",
        ),
    ],
)
def test_tokens_that_are_missing_are_named(env: dict[str, str], state: str, named: str, data: Path) -> None:
    told = Diagnosed(data, env=env)
    assert (told.state("tokens"), told.code) == (state, 1 if state == "bad" else 0)
    assert named in told.found("tokens")
    assert "canary" not in told.text


def test_a_sha_256_that_is_none_shows_in_the_signature(data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text("import hashlib\nhashlib.sha256 = hashlib.sha3_256\n")
    told = Diagnosed(data, env={"PYTHONPATH": str(broken)})
    assert (told.code, told.state("signature")) == (1, "bad")
    assert Diagnosed(data).state("signature") == "ok"


# ---- the disk ----

_SLOW_SYNC = """
#define _GNU_SOURCE
#include <unistd.h>
#include <sys/syscall.h>
int fsync(int file) { usleep(MICROSECONDS); return syscall(SYS_fsync, file); }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
@pytest.mark.parametrize(("milliseconds", "state"), [(120, "warning"), *([(1050, "bad")] if FULL else [])])
def test_a_slow_disk_is_measured(milliseconds: int, state: str, data: Path, tmp_path: Path) -> None:
    source, shim = tmp_path / "slow.c", tmp_path / "slow.so"
    source.write_text(_SLOW_SYNC.replace("MICROSECONDS", str(milliseconds * 1000)))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(shim), str(source)], check=True)
    told = Diagnosed(data, env={"LD_PRELOAD": str(shim)})
    assert (told.state("disk sync"), told.code) == (state, 1 if state == "bad" else 0)
    assert float(told.found("disk sync").split()[1]) >= milliseconds
    assert "faster disk" in told.advice("disk sync")


@contextmanager
def small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    mounted = subprocess.run(command, capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted: {mounted.stderr.decode().strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(path: Path) -> None:
    """Write to a file until the disk is full."""
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"." * 4096)


def test_a_disk_that_is_nearly_full_and_then_full(some_data: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "1g") as disk:
        data = shutil.copytree(some_data, disk / "data")
        told = Diagnosed(data)
        assert (told.code, told.state("free disk")) == (0, "warning")
        assert "make room" in told.advice("free disk")
    with small_disk(tmp_path / "full", "64m") as disk:
        data = shutil.copytree(some_data, disk / "data")
        with Victim(data, token="") as victim:
            fill(disk / "filler")
            answers = {victim.post(body_of("r", now_ms(), Text="." * 30_000))[0] for _ in range(10)}
            assert 503 in answers
            told = Diagnosed(data, victim.url)
            assert (told.code, told.state("free disk"), told.state("server")) == (1, "bad", "bad")
            assert told.state("disk sync") == "bad"
            assert "No space" in told.found("disk sync")
            assert "503" in told.found("server")
            assert "unavailable" in told.found("refused")
            (disk / "filler").unlink()
            wait_until(lambda: b"roomlapse_log_writable 1" in victim.get("/metrics")[1])
            wait_until(lambda: victim.get("/readyz")[0] == 200, "the projector writes again")
            assert Diagnosed(data, victim.url).state("server") == "ok"


def test_a_directory_that_takes_no_file_is_found(some_data: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64m") as disk:
        data = shutil.copytree(some_data, disk / "data")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True, capture_output=True)
        told = Diagnosed(data)
        assert told.code == 1
        bad = told.findings.get("disk sync") or told.findings["data"]
        assert bad["state"] == "bad"
        assert "written" in bad["found"], told.findings


# ---- the data ----


def edit(data: Path, sql: str, *args: Any) -> None:
    """Change the log as somebody could who has its file, and who leaves its triggers as they were."""
    log = open_log(DataDir(data))
    with sqlite.transaction(log.conn):
        triggers = log.conn.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'").fetchall()
        for name, _ in triggers:
            log.conn.execute(f"DROP TRIGGER {name}")
        log.conn.execute(sql, args)
        for _, trigger in triggers:
            log.conn.execute(trigger)
    log.close()


@pytest.mark.parametrize("position", [201, 700, 1200])
def test_a_log_changed_within_its_last_thousand_events_is_found(position: int, data: Path) -> None:
    edit(data, "UPDATE events SET body = replace(body, 'bob', 'eve') WHERE position = ?", position)
    told = Diagnosed(data)
    assert (told.code, told.state("chain")) == (1, "bad")
    assert f"position {position}:" in told.found("chain")
    assert "roomlapse verify" in told.advice("chain")


def test_a_log_changed_before_them_is_left_to_verify_and_doctor_says_how_far_it_looked(data: Path) -> None:
    edit(data, "UPDATE events SET body = replace(body, 'bob', 'eve') WHERE position = 150")
    told = Diagnosed(data)
    assert told.state("chain") == "ok"
    assert told.found("chain").startswith("the last 1000 of 1200 events hold")
    done = run_program("verify", "--data", str(data))
    assert (done.returncode, "position 150:" in done.stdout) == (1, True)


def test_a_row_that_is_missing_among_them_is_found_and_so_is_a_rewrite_against_the_chain_it_prints(data: Path) -> None:
    head = Diagnosed(data).found("chain").split()[-1]
    whole = DataDir(data).path / "events.db"
    before = whole.read_bytes()
    edit(data, "DELETE FROM events WHERE position = 1100")
    assert "1100" in Diagnosed(data).found("chain")
    whole.write_bytes(before)
    rewrite_last_event(data)
    told = Diagnosed(data)
    assert told.state("chain") == "ok"  # every hash is right: only the head that was printed before tells
    assert told.found("chain").split()[-1] != head


def rewrite_last_event(data: Path) -> None:
    """Change the last event and compute its id and chain anew, as somebody who knows the rules would."""
    log = open_log_reader(DataDir(data))
    before, last = log.tail(1198, 2)
    log.close()
    body = last.body.replace("bob", "eve")
    event_id = event_id_of(parse_json(body.encode())[1])
    chain = next_chain(before.chain, event_id, last.received_at_ms, body)
    edit(data, "UPDATE events SET body = ?, event_id = ?, chain = ? WHERE position = 1200", body, event_id, chain)


def test_a_file_that_is_no_database_is_bad_data(data: Path) -> None:
    for path in data.iterdir():
        path.unlink()
    (data / "events.db").write_bytes(b"this is no database\n" * 1000)
    told = Diagnosed(data)
    assert (told.code, told.state("data")) == (1, "bad")


def test_bodies_in_quarantine_within_a_day_are_pointed_out_and_older_ones_are_not(
    start_server: StartServer, data: Path
) -> None:
    server = start_server(data=data)
    assert server.post(body_of("r", 1_670_574_414)).status_code == 400
    told = Diagnosed(data, server.url)
    assert server.stop() == 0
    assert told.state("quarantine") == "warning"
    assert told.found("quarantine").startswith("1 bodies, the latest within a day: EventTime is below")
    assert "rejected retry" in told.advice("quarantine")
    edit(data, "UPDATE rejected SET received_at_ms = received_at_ms - 25 * 3600 * 1000")
    assert Diagnosed(data).state("quarantine") == "ok"


def test_a_projection_that_stopped_is_named_with_its_event(data: Path, tmp_path: Path) -> None:
    program = tmp_path / "program"
    root = Path(__file__).parent.parent.parent
    for name in ("app", "projections"):
        shutil.copytree(root / name, program / name, ignore=shutil.ignore_patterns("__pycache__"))
    counts = program / "projections" / "change_counts.py"
    text = counts.read_text()
    begin = text.index("def apply(")
    end = text.index("\n", text.index('"""', begin))
    counts.write_text(f"{text[:end]}\n    if event.room_id == 'poison':\n        raise ValueError('odd')\n{text[end:]}")
    env = {"PYTHONPATH": str(program)}
    with Victim(data, token="", env=env) as victim:
        assert victim.post(body_of("poison", now_ms()))[0] == 200
        wait_until(lambda: victim.get("/readyz")[0] == 503)
        told = Diagnosed(data, victim.url)
    assert (told.code, told.state("projections")) == (1, "bad")
    assert "position 1201" in told.found("projections")
    assert "odd" in told.found("projections")
    assert "start the server again" in told.advice("projections")


# ---- the SQLite that has the WAL-reset fault ----


@pytest.fixture
def faulty(tmp_path: Path) -> dict[str, str]:
    """An environment in which pysqlite3 cannot be imported, so that the standard library's SQLite is taken."""
    stub = tmp_path / "stub"
    stub.mkdir()
    (stub / "pysqlite3.py").write_text("raise ImportError('as if it were not installed')\n")
    env = {"PYTHONPATH": str(stub)}
    version = subprocess.run(
        [sys.executable, "-c", "from app.infra import sqlite; print(sqlite.LIBRARY_IS_SOUND)"],
        env=environment(env),
        capture_output=True,
        text=True,
        check=True,
    )
    if version.stdout.strip() == "True":
        pytest.skip("the SQLite of the standard library is a sound one here")
    return env


def test_a_library_that_is_not_sound_is_a_warning_and_the_sound_one_is_none(faulty: dict[str, str], data: Path) -> None:
    told = Diagnosed(data, env=faulty)
    assert (told.code, told.state("SQLite")) == (0, "warning")
    assert "pysqlite3" in told.advice("SQLite")
    assert "3.51.3" in told.found("SQLite")
    assert Diagnosed(data).state("SQLite") == ("ok" if sqlite.LIBRARY_IS_SOUND else "warning")


@pytest.mark.slow
def test_with_it_the_server_says_so_one_process_writes_and_all_may_read(
    faulty: dict[str, str], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "more.jsonl").write_bytes(lines(5))
    more = ("import", str(tmp_path / "more.jsonl"), "--data", str(data))
    with Victim(data, token="", env=faulty) as victim:
        first = next(line for line in victim.records() if "SQLite" in str(line["message"]))
        assert first["level"] == "warning"
        assert "install the package pysqlite3" in str(first["message"])
        assert victim.post(body_of("new", now_ms()))[0] == 200
        for command in (more, ("rejected", "retry", "--data", str(data))):
            done = run_program(*command, env=faulty)
            assert done.returncode == 1, command
            assert "another process writes" in done.stderr
            assert "stop the other one first, or install the package pysqlite3" in done.stderr
            assert "Traceback" not in done.stderr
        for reading in (("room", "new"), ("rooms",), ("status",), ("verify",), ("export", "-"), ("rebuild",)):
            done = run_program(*reading, "--data", str(data), env=faulty)
            assert done.returncode == 0, (reading, done.stderr)
        done = run_program("backup", str(tmp_path / "copy.db"), "--data", str(data), env=faulty)
        assert done.returncode == 0, done.stderr
        assert victim.post(body_of("newer", now_ms()))[0] == 200
        assert victim.get("/rooms/newer")[0] == 200
        second = subprocess.run(
            [PROGRAM, "serve", "--sdk-app-id", APP_ID, "--port", "0", "--data", str(data)],
            env=environment(faulty),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (second.returncode, "another process writes" in second.stderr) == (1, True)
        assert victim.stop() == 0
    assert run_program(*more, env=faulty).returncode == 0  # it was the only one
    assert run_program("verify", "--data", str(data), env=faulty).returncode == 0


def test_with_it_a_writer_that_was_killed_leaves_the_right_to_the_next_one(
    faulty: dict[str, str], data: Path, tmp_path: Path
) -> None:
    (tmp_path / "more.jsonl").write_bytes(lines(5))
    with Victim(data, token="", env=faulty) as victim:
        assert victim.post(body_of("new", now_ms()))[0] == 200
        victim.kill()
    done = run_program("import", str(tmp_path / "more.jsonl"), "--data", str(data), env=faulty)
    assert done.returncode == 0, done.stderr


def test_projections_of_a_folder_that_are_new_or_none_are_named(data: Path, tmp_path: Path) -> None:
    built_in = (Path(__file__).parent.parent.parent / "projections" / "change_counts.py").read_text()
    for name, text in (("new", built_in.replace('"change_counts"', '"my_counts"')), ("bad", "VERSION = 1\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "my_counts.py").write_text(text)
    new = Diagnosed(data, env={"ROOMLAPSE_PROJECTIONS": str(tmp_path / "new")}).findings["projections"]
    assert (new["state"], new["found"]) == ("warning", "my_counts: not made yet")
    bad = Diagnosed(data, env={"ROOMLAPSE_PROJECTIONS": str(tmp_path / "bad")})
    assert bad.code == 1
    assert bad.state("projections") == "bad"
    assert "my_counts.py: Row is missing" in bad.findings["projections"]["found"]


def test_silence_is_named_when_it_is_longer_than_the_pauses_before(tmp_path: Path) -> None:
    empty = Diagnosed(tmp_path / "nothing").findings["silence"]
    assert (empty["state"], empty["found"]) == ("warning", "no callback has come yet")

    def found(name: str, ages_s: list[float]) -> dict[str, str]:
        data = tmp_path / name
        create_log(DataDir(data))
        with open_log(DataDir(data)) as log:
            for number, age_s in enumerate(ages_s):
                at_ms = now_ms() - round(age_s * 1000)
                log.append([Arrival(decode(body_of("r", at_ms - number), at_ms), at_ms)])
        return Diagnosed(data).findings["silence"]

    assert found("busy", [30.0, 20.0, 10.0])["state"] == "ok"
    assert found("short", [700.0, 650.0, 600.0])["state"] == "ok"  # less than a quarter of an hour is no news
    assert found("nightly", [90_000.0, 50_000.0, 10_000.0])["state"] == "ok"  # it has been as quiet before
    silent = found("silent", [7400.0, 7300.0, 7200.0])
    assert silent["state"] == "warning"
    assert silent["found"].startswith("the last callback came 2 h")
    assert "longest pause among the 3 before was 1 min 40 s" in silent["found"]
    assert "console" in silent["advice"]
