"""A start that fails: one plain line on stderr, and for `serve` the same as a line of JSON in the log. No drawings."""

import json
import os
import shutil
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kit.callbacks import APP_ID
from kit.program import PROGRAM, Launched, environment, run, serve_command

OTHER_APP_ID = "1400000777"


def assert_one_line(command: list[str], message: str, *, exit_code: int = 1, env: dict[str, str] | None = None) -> None:
    """The command ends with this message; so it does with a terminal for its stderr."""
    done = subprocess.run(command, capture_output=True, env=environment(env), timeout=60, check=False)
    assert (done.returncode, done.stdout) == (exit_code, b"")
    assert_says(done.stderr.decode(), message)
    code, shown = on_terminal(command, env)
    assert code == exit_code
    assert_says(shown, message)


def assert_says(stderr: str, message: str) -> None:
    *log, last = stderr.splitlines()
    assert last == f"Error: {message}"
    records = [json.loads(line) for line in log if not line.startswith("Usage: roomlapse serve")]
    assert [record["message"] for record in records if record["level"] == "error"] == [message]
    assert all(record["level"] == "warning" for record in records[:-1])


def on_terminal(command: list[str], env: dict[str, str] | None) -> tuple[int, str]:
    """Run a command whose stderr is a terminal; its exit code, and what the terminal got."""
    ours, theirs = os.openpty()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=theirs, env=environment(env)) as process:
        os.close(theirs)
        shown = b"".join(_read(ours))
        code = process.wait(60)
    os.close(ours)
    return code, shown.decode().replace("\r\n", "\n")


def _read(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(terminal, 65_536)
        except OSError:  # how Linux says that nobody has the other end any more
            return
        yield chunk


@pytest.fixture(scope="module")
def some_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory of OTHER_APP_ID. Only for reading."""
    data = tmp_path_factory.mktemp("some") / "data"
    assert run("import", os.devnull, "--data", str(data), "--sdk-app-id", OTHER_APP_ID).returncode == 0
    return data


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = f"cannot listen on 127.0.0.1:{port} (Address already in use): try another --port"
        assert_one_line([*serve_command(tmp_path / "data"), "--port", port], message)
        assert_one_line([PROGRAM, "demo", "--port", port], message)


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    assert shutil.which("setpriv"), "install util-linux: root may write anywhere unless it gives that up"
    data = tmp_path / "data"
    data.mkdir(mode=0o500)
    unprivileged = ["setpriv", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
    message = f"{data} cannot be written: its mode forbids it: `chmod u+w {data}`"
    assert_one_line([*unprivileged, *serve_command(data)], message)
    message = f"{data / 'inner'} cannot be made (Permission denied): name another --data"
    assert_one_line([*unprivileged, *serve_command(data / "inner")], message)


def test_a_data_directory_of_another_application(some_data: Path) -> None:
    assert_one_line(
        serve_command(some_data),
        f"{some_data} holds the callbacks of SDKAppID {OTHER_APP_ID}, not {APP_ID}: give each application its own"
        " --data",
    )


def test_a_data_directory_of_a_newer_version(some_data: Path, tmp_path: Path) -> None:
    data = shutil.copytree(some_data, tmp_path / "data")
    with closing(sqlite3.connect(data / "events.db")) as conn, conn:
        conn.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
            " VALUES ('roomlapse.events', 'of_a_version_to_come', '2030-01-01')"
        )
    assert_one_line(
        serve_command(data),
        f"{data / 'events.db'} was made by a newer Roomlapse: upgrade this one to use it",
    )


BAD_TOKENS = {
    "ROOMLAPSE_API_TOKEN has less than 8 characters: take one that nobody guesses": {"ROOMLAPSE_API_TOKEN": "short"},
    "ROOMLAPSE_CALLBACK_TOKENS is set but holds no token: unset it to take unsigned callbacks": {
        "ROOMLAPSE_CALLBACK_TOKENS": ","
    },
    "ROOMLAPSE_ADMIN_TOKEN without ROOMLAPSE_API_TOKEN would leave the other questions open: set both": {
        "ROOMLAPSE_ADMIN_TOKEN": "an-admin-token"
    },
    "ROOMLAPSE_API_TOKEN and ROOMLAPSE_API_TOKEN_FILE are both set: keep one": {
        "ROOMLAPSE_API_TOKEN": "an-api-token",
        "ROOMLAPSE_API_TOKEN_FILE": "/dev/null",
    },
}


@pytest.mark.parametrize("message", BAD_TOKENS)
def test_token_settings_that_do_not_fit(tmp_path: Path, message: str) -> None:
    assert_one_line(serve_command(tmp_path / "data"), message, exit_code=2, env=BAD_TOKENS[message])
    assert not (tmp_path / "data").exists()


def test_another_address_without_tokens(tmp_path: Path) -> None:
    message = (
        "0.0.0.0 can be reached from other machines: set ROOMLAPSE_CALLBACK_TOKENS and ROOMLAPSE_API_TOKEN,"
        " or say --insecure if something in front of this server checks who calls"
    )
    assert_one_line([*serve_command(tmp_path / "data"), "--host", "0.0.0.0"], message, exit_code=2)


def test_no_sdk_app_id(tmp_path: Path) -> None:
    message = (
        "Missing option '--sdk-app-id' (env var: 'ROOMLAPSE_SDK_APP_ID'). Give the number that the console shows for"
        " your application, as 1400000000."
    )
    assert_one_line([PROGRAM, "serve", "--data", str(tmp_path / "data")], message, exit_code=2)
    assert not (tmp_path / "data").exists()


def test_another_command_says_it_on_one_line_too(tmp_path: Path) -> None:
    code, shown = on_terminal([PROGRAM, "rooms", "--data", str(tmp_path)], None)
    message = f"no Roomlapse data in {tmp_path}: start `roomlapse serve` or run `roomlapse import` with this --data"
    assert (code, shown) == (1, f"Error: {message}\n")


KUBERNETES = {
    "ROOMLAPSE_PORT": "tcp://10.96.0.12:8000",
    "ROOMLAPSE_SERVICE_HOST": "10.96.0.12",
    "ROOMLAPSE_SERVICE_PORT": "8000",
    "ROOMLAPSE_PORT_8000_TCP": "tcp://10.96.0.12:8000",
    "ROOMLAPSE_PORT_8000_TCP_PROTO": "tcp",
    "ROOMLAPSE_PORT_8000_TCP_PORT": "8000",
    "ROOMLAPSE_PORT_8000_TCP_ADDR": "10.96.0.12",
}


def test_the_variables_of_a_service_in_kubernetes_stop_nothing(tmp_path: Path) -> None:
    command = [PROGRAM, "serve", "--sdk-app-id", APP_ID, "--data", str(tmp_path / "data")]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    with Launched([*command, "--port", port], tmp_path / "given.log", KUBERNETES) as server:
        assert server.port == int(port)
    # Without --port it takes the default, which somebody else may have: then it says that it is taken, and exit 1.
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8000))
            taken.listen()
        except OSError:
            pass  # it is taken already
        done = subprocess.run(command, capture_output=True, env=environment(KUBERNETES), timeout=60, check=False)
    *log, last = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert "cannot listen on 127.0.0.1:8000" in last
    (said,) = [json.loads(line)["message"] for line in log if "tcp://" in line]
    assert said.startswith("ROOMLAPSE_PORT is 'tcp://10.96.0.12:8000'")
    told = run("doctor", "--json", "--data", str(tmp_path / "data"), env=KUBERNETES)
    assert told.returncode in (0, 1)
    assert b"127.0.0.1:8000" in told.stdout
    (line,) = told.stderr.decode().splitlines()
    assert line == said
