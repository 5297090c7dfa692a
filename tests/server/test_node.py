"""A server keeps its promises when the read models are taken away, corrupt, or held by somebody else."""

import time
from pathlib import Path

import pytest
from conftest import T0, StartServer, body_of, run
from kit.wait import wait_until

from app.projector.read_models import connect_read_models


def remove_read_models(data: Path) -> None:
    for path in data.glob("read_models.db*"):
        path.unlink()


@pytest.mark.parametrize("asked_before", [False, True])
def test_read_models_deleted_under_a_running_server_come_back(start_server: StartServer, asked_before: bool) -> None:
    server = start_server()
    for i in range(5):
        assert server.post(body_of("r", T0 + i, A=i)).status_code == 200
    if asked_before:
        assert server.get("/rooms/r")["events"] == 5
    remove_read_models(server.data)

    def answered() -> int | None:
        response = server.client.get("/rooms/r")
        assert response.status_code in (200, 503), response.text  # refused for a moment, never wrong
        return int(response.json()["events"]) if response.status_code == 200 else None

    assert wait_until(answered) == 5
    assert server.post(body_of("r", T0 + 9, A=9)).status_code == 200
    assert server.get("/rooms/r")["events"] == 6
    assert run("verify", "--data", str(server.data)).returncode == 0


def test_read_models_that_are_none_are_named(tmp_path: Path) -> None:
    """A command says what to do about them; a server moves them aside, since callbacks must not wait for anybody."""
    data = tmp_path / "data"
    assert run("import", "-", "--data", str(data), stdin=body_of("r", T0)).returncode == 0
    (data / "read_models.db").write_bytes(b"no database at all" * 100)
    done = run("rooms", "--data", str(data), env={"TERMINAL_WIDTH": "400"})
    assert done.returncode == 1
    assert b"read_models.db" in done.stderr
    assert b"delete it" in done.stderr.replace(b"\n", b" ")
    assert b"Traceback" not in done.stderr


def test_questions_about_the_log_do_not_wait_for_those_about_rooms(start_server: StartServer) -> None:
    server = start_server()
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.get("/rooms/r")["events"] == 1
    holder = connect_read_models(server.data / "read_models.db")
    holder.execute("BEGIN IMMEDIATE")  # as a long swap would
    try:
        assert server.post(body_of("r", T0 + 1)).status_code == 200
        assert server.get("/status")["head"] == 2
        assert len(server.get("/events")["events"]) == 2
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    assert server.get("/rooms/r")["events"] == 2


def test_refused_callbacks_leave_a_line_in_the_log(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_CALLBACK_TOKENS": "canary-token"})
    for i in range(20):
        assert server.post(body_of("r", T0 + i), Sign="f" * 64, RequestTime=str(int(time.time()))).status_code == 401
    server.stop()
    lines = [line for line in server.logs().splitlines() if "callbacks refused" in line]
    assert 1 <= len(lines) <= 3
    assert "Sign does not match" in lines[0]
    assert "canary-token" not in server.logs()
    assert "f" * 64 not in server.logs()
