"""The shape of every error: each class of the tree, each status of HTTP, and commands that fail."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import httpx
import pytest
import rich_click as click
from click.testing import CliRunner
from conftest import APP_ID, T0, Server, StartServer, body_of, environment, projectors_of, run
from kit.wait import wait_until
from litestar import Litestar, get
from litestar.testing import TestClient

from app.cli.edge import CommandLine, message_of
from app.infra import errors, sqlite
from app.infra.errors import BadInput, Broken, CorruptEvent, NotNow, NotThere, ProjectionFailed, RoomlapseError
from app.server.problems import exception_handlers

KINDS: dict[type[RoomlapseError], tuple[int, int]] = {
    BadInput: (2, 400),
    NotThere: (1, 404),
    NotNow: (1, 503),
    Broken: (1, 503),
}
"""Exit code and HTTP status of each kind."""


def below(kind: type[RoomlapseError]) -> Iterator[type[RoomlapseError]]:
    """Every class below one in the tree, that one not included."""
    for child in kind.__subclasses__():
        yield child
        yield from below(child)


CLASSES = sorted({*below(RoomlapseError)}, key=lambda kind: kind.__name__)
SYSTEM: list[Exception] = [
    sqlite.Error("disk I/O error"),
    PermissionError(13, "Permission denied", "/data"),
]


def example_of(kind: type[RoomlapseError]) -> RoomlapseError:
    if kind is ProjectionFailed:
        return ProjectionFailed("visibility", 5, "e" * 64, "why it failed")
    if kind is CorruptEvent:
        return CorruptEvent("e" * 64, ValueError("why it failed"))
    return kind("why it failed")


EXAMPLES = [(example_of(kind), *codes) for kind in CLASSES for base, codes in KINDS.items() if issubclass(kind, base)]
EXAMPLES += [(error, 1, 503) for error in SYSTEM]  # type: ignore[misc]  # these are no errors of ours


def ids(value: Any) -> str:
    return type(value).__name__ if isinstance(value, Exception) else str(value)


# ---- the tree ----


def test_each_class_is_of_one_kind() -> None:
    assert set(RoomlapseError.__subclasses__()) == set(KINDS)
    for kind in CLASSES:
        assert sum(issubclass(kind, base) for base in KINDS) == 1, kind
        assert kind.__module__ == errors.__name__, f"{kind} stands outside the tree"


def test_the_docstring_draws_the_tree() -> None:
    drawn: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│ ]*)[├└]── (\w+) +(.*)", line):
            depth, name, said = len(found[1]) // 4, found[2], found[3]
            path[depth:] = [name]
            drawn[name] = path[depth - 1] if depth else "RoomlapseError"
            if depth == 0:
                exit_code, status_code = KINDS[getattr(errors, name)]
                assert said.startswith(f"exit {exit_code}, HTTP {status_code}: ")
    bases = {kind.__name__: [base.__name__ for base in kind.__bases__ if base is not ValueError] for kind in CLASSES}
    assert {name: [base] for name, base in drawn.items()} == bases


# ---- each class at both edges ----


@pytest.mark.parametrize(("error", "exit_code", "_status_code"), EXAMPLES, ids=ids)
def test_a_command_ends_with_one_line_and_the_exit_code(error: Exception, exit_code: int, _status_code: int) -> None:
    @click.group(cls=CommandLine)
    def commands() -> None:
        pass

    @commands.command()
    def fail() -> NoReturn:
        raise error

    done = CliRunner().invoke(commands, ["fail"])
    assert (done.exit_code, done.stdout, done.stderr) == (exit_code, "", f"Error: {message_of(error)}\n")
    assert len(message_of(error)) > 10


@pytest.mark.parametrize(("error", "_exit_code", "status_code"), EXAMPLES, ids=ids)
def test_http_answers_with_the_status_and_the_message(error: Exception, _exit_code: int, status_code: int) -> None:
    @get("/fail", sync_to_thread=False)
    def fail() -> None:
        raise error

    handlers = exception_handlers(None)  # type: ignore[arg-type]  # no page is asked for
    with TestClient(Litestar([fail], exception_handlers=handlers)) as client:
        response = client.get("/fail")
    assert response.status_code == status_code
    assert response.json() == {"status_code": status_code, "detail": str(error)}


def test_a_bug_is_500_without_its_details_and_a_traceback_on_the_command_line() -> None:
    @get("/fail", sync_to_thread=False)
    def fail() -> None:
        raise KeyError("an inner detail")

    handlers = exception_handlers(None)  # type: ignore[arg-type]  # no page is asked for
    with TestClient(Litestar([fail], exception_handlers=handlers)) as client:
        response = client.get("/fail")
    assert response.status_code == 500
    assert response.json().keys() == {"status_code", "detail"}
    assert "inner detail" not in response.text

    @click.command(cls=click.RichCommand)
    def broken() -> NoReturn:
        raise KeyError("an inner detail")

    commands = CommandLine(name="commands", commands={"broken": broken})
    assert isinstance(CliRunner().invoke(commands, ["broken"]).exception, KeyError)


# ---- HTTP of a real server ----

API, ADMIN, CALLBACK = "shape-api-token", "shape-admin-token", "shape-callback-token"


@pytest.fixture(scope="module")
def open_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("open") / "data") as server:
        assert server.post(body_of("r", T0)).status_code == 200
        yield server


@pytest.fixture(scope="module")
def guarded_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    env = {"ROOMLAPSE_API_TOKEN": API, "ROOMLAPSE_ADMIN_TOKEN": ADMIN, "ROOMLAPSE_CALLBACK_TOKENS": CALLBACK}
    with Server(tmp_path_factory.mktemp("guarded") / "data", env=env) as server:
        yield server


def check_question(response: httpx.Response, status_code: int) -> None:
    assert response.status_code == status_code, response.text
    assert response.headers["content-type"] == "application/json"
    problem = response.json()
    assert problem.keys() == {"status_code", "detail"}
    assert problem["status_code"] == status_code
    assert isinstance(problem["detail"], str)
    assert len(problem["detail"]) > 5
    assert "Traceback" not in problem["detail"]


def check_callback(response: httpx.Response, status_code: int) -> None:
    assert response.status_code == status_code, response.text
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer.keys() == {"ActionStatus", "ErrorInfo", "ErrorCode"}
    assert answer["ActionStatus"] == "FAIL"
    assert isinstance(answer["ErrorCode"], int)
    assert answer["ErrorCode"] != 0
    assert len(answer["ErrorInfo"]) > 5
    assert "Traceback" not in answer["ErrorInfo"]


QUESTIONS = [
    ("GET", "/rooms?limit=0", 400),
    ("GET", "/rooms?limit=many", 400),
    ("GET", "/rooms?asof=1", 400),
    ("GET", "/rooms?cursor=!", 400),
    ("GET", "/rooms?as_of=yesterday", 400),
    ("GET", "/rooms/r/history?from=2&to=1", 400),
    ("GET", "/rooms/nobody", 404),
    ("GET", f"/events/{'0' * 64}", 404),
    ("GET", "/nothing", 404),
    ("POST", "/rooms", 405),
    ("DELETE", "/rooms/r", 405),
    ("GET", f"/rooms?q={'x' * 9000}", 414),
    ("GET", f"/rooms/{'x' * 5000}", 414),
]


@pytest.mark.parametrize(("method", "path", "status_code"), QUESTIONS)
def test_a_question_that_is_refused(open_server: Server, method: str, path: str, status_code: int) -> None:
    check_question(open_server.client.request(method, path), status_code)


def test_another_name_is_421(open_server: Server) -> None:
    check_question(open_server.client.get("/rooms", headers={"Host": "elsewhere.example"}), 421)


def test_a_missing_token_is_401_and_one_of_a_lower_role_403(guarded_server: Server) -> None:
    check_question(guarded_server.client.get("/rooms"), 401)
    check_question(guarded_server.client.get("/rejected", headers={"Authorization": f"Bearer {API}"}), 403)


def test_too_many_questions_are_429_and_so_are_refused_callbacks(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_RATE_LIMIT": "1"})
    check_question(wait_until(lambda: _answered(server.client.get("/rooms"), 429)), 429)
    wrong = {"SdkAppid": "1400000777"}
    check_callback(wait_until(lambda: _answered(server.post(body_of("r", T0), **wrong), 429)), 429)


def _answered(response: httpx.Response, status_code: int) -> httpx.Response | None:
    return response if response.status_code == status_code else None


def test_read_models_that_are_behind_are_503(start_server: StartServer) -> None:
    server = start_server()
    (projector,) = wait_until(lambda: projectors_of(server.data))
    os.kill(projector, signal.SIGSTOP)
    try:
        assert server.post(body_of("r", T0)).status_code == 200
        check_question(server.client.get("/rooms/r"), 503)
    finally:
        os.kill(projector, signal.SIGCONT)


CALLBACKS: list[tuple[bytes, dict[str, str], int]] = [
    (b"nonsense", {}, 400),
    (b'{"CallbackCommand":5}', {}, 400),
    (body_of("r", 7), {}, 400),
    (body_of("r", T0), {"SdkAppid": "1400000777"}, 403),
    (b"x" * 65_537, {}, 413),
    (body_of("r", T0), {"More": "x" * 9000}, 414),
]


@pytest.mark.parametrize(
    ("body", "query", "status_code"), CALLBACKS, ids=[f"{code} {number}" for number, (*_, code) in enumerate(CALLBACKS)]
)
def test_a_callback_that_is_refused(open_server: Server, body: bytes, query: dict[str, str], status_code: int) -> None:
    check_callback(open_server.post(body, **query), status_code)


def test_a_callback_with_another_method_is_405(open_server: Server) -> None:
    check_callback(open_server.client.get("/callbacks"), 405)


def test_an_unsigned_callback_is_401(guarded_server: Server) -> None:
    check_callback(guarded_server.post(body_of("r", T0)), 401)


def test_a_callback_that_cannot_be_stored_is_503(start_server: StartServer) -> None:
    server = start_server()
    log = server.data / "events.db"
    log.rename(log.with_suffix(".moved"))
    check_callback(server.post(body_of("r", T0)), 503)
    log.with_suffix(".moved").rename(log)


# ---- commands of the real program ----


@pytest.fixture(scope="module")
def some_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("some") / "data"
    done = run("import", "-", "--data", str(data), "--sdk-app-id", APP_ID, stdin=body_of("r", T0))
    assert done.returncode == 0
    return data


COMMANDS: list[tuple[str, int, str]] = [
    ("room", 2, "Missing argument 'ROOM'."),
    (
        "room r --as-of yesterday",
        2,
        ".*'yesterday' is not a time: give epoch milliseconds or ISO 8601 with an offset.*",
    ),
    ("nothing", 2, "No such command 'nothing'."),
    ("rooms --cursor !", 2, "cursor is not one that a page gave as next_cursor"),
    ("simulate --url ftp://x --sdk-app-id 1", 2, ".*'ftp://x' is not an http:// or https:// address"),
    ("room nobody", 1, "no room 'nobody'.*"),
    ("rooms --data /nowhere", 1, "no Roomlapse data in /nowhere: start `roomlapse serve` or run `roomlapse import`.*"),
    ("backup FILE", 1, ".* is there already: a backup replaces nothing, choose another name"),
    ("import - --sdk-app-id 1400000777", 1, f".* holds the callbacks of SDKAppID {APP_ID}, not 1400000777: .*"),
    ("export /nowhere/file", 1, "/nowhere/file: No such file or directory"),
]


@pytest.mark.parametrize(("line", "exit_code", "message"), COMMANDS, ids=[line for line, *_ in COMMANDS])
def test_a_command_that_fails(some_data: Path, line: str, exit_code: int, message: str) -> None:
    args = line.replace("FILE", str(some_data / "events.db")).split()
    done = run(*args, env={"ROOMLAPSE_DATA": str(some_data)})
    assert_one_message(done.returncode, done.stdout, done.stderr, exit_code, message)


def test_a_corrupt_log_is_exit_1(some_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(some_data, tmp_path / "data")
    (data / "events.db").write_bytes(b"no database. " * 1000)
    done = run("rooms", "--data", str(data))
    assert_one_message(done.returncode, done.stdout, done.stderr, 1, ".*events.db: file is not a database")


def assert_one_message(code: int, stdout: bytes, stderr: bytes, exit_code: int, message: str) -> None:
    """One message on stderr, behind the usage where that was wrong; nothing on stdout; no traceback, no drawing."""
    assert (code, stdout) == (exit_code, b"")
    *usage, last = stderr.decode().splitlines()
    assert re.fullmatch(f"Error: {message}", last), stderr
    assert len(usage) <= 1
    assert all(line.startswith("Usage: roomlapse") for line in usage)


def test_an_output_that_nobody_reads_any_more_ends_a_command_quietly(some_data: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "app", "export", "-", "--data", str(some_data)],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=environment(),
        check=False,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")
