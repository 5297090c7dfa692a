"""The projector beside the server: it may die, and it goes when the server goes; no secret reaches it."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import T0, Server, StartServer, body_of, projectors_of, run
from kit.wait import wait_until

from app.log import schema

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds the projector's process in /proc")


def projector_of(server: Server) -> int:
    """The id of the process that projects for a server."""
    return wait_until(lambda: projectors_of(server.data))[0]


def test_a_projector_that_dies_is_started_again_and_misses_nothing(start_server: StartServer) -> None:
    server = start_server()
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.get("/rooms/r")["events"] == 1
    killed = projector_of(server)
    os.kill(killed, signal.SIGKILL)
    for number in range(1, 50):
        assert server.post(body_of("r", T0 + number)).status_code == 200
    assert server.get("/rooms/r")["events"] == 50
    assert projector_of(server) != killed
    assert server.stop() == 0
    assert "the projector ended with exit code -9: starting it again" in server.logs()
    assert run("verify", "--data", str(server.data)).returncode == 0


def test_a_server_that_dies_leaves_no_projector_behind(start_server: StartServer) -> None:
    server = start_server()
    assert projector_of(server)
    server.kill()
    wait_until(lambda: projectors_of(server.data) == [])


def test_a_server_that_stops_takes_its_projector_along(start_server: StartServer) -> None:
    server = start_server()
    assert projector_of(server)
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.stop() == 0
    assert projectors_of(server.data) == []
    assert "the projector ended" not in server.logs()


def test_the_projector_ignores_what_is_meant_for_the_server(start_server: StartServer) -> None:
    server = start_server()
    projector = projector_of(server)
    assert server.get("/rooms")["rooms"] == []  # it has begun
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.get("/rooms/r")["events"] == 1
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(projector, number)
    assert server.post(body_of("r", T0 + 1)).status_code == 200
    assert server.get("/rooms/r")["events"] == 2
    assert projector_of(server) == projector


def test_the_projector_is_given_no_secrets(start_server: StartServer) -> None:
    server = start_server(env={"ROOMLAPSE_CALLBACK_TOKENS": "canary-one", "ROOMLAPSE_API_TOKEN": "canary-two"})
    projector = projector_of(server)
    given = b"".join(Path(f"/proc/{projector}/{what}").read_bytes() for what in ("environ", "cmdline"))
    assert b"canary" not in given
    assert b"ROOMLAPSE" not in given


def test_something_called_app_in_the_servers_folder_is_not_taken_for_it(
    start_server: StartServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "__init__.py").write_text("raise SystemExit('not this one')")
    monkeypatch.chdir(tmp_path)
    server = start_server()
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.get("/rooms/r")["events"] == 1


@pytest.mark.slow
def test_a_log_that_cannot_be_read_is_told_by_whoever_is_asked_and_callbacks_are_taken(
    start_server: StartServer,
) -> None:
    server = start_server()
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.post(body_of("other", T0)).status_code == 200
    assert server.stop() == 0
    conn = schema.open_log(server.data / "events.db")
    (guard,) = conn.execute("SELECT sql FROM sqlite_schema WHERE name = 'events_no_update'").fetchone()
    conn.execute("DROP TRIGGER events_no_update")
    conn.execute("UPDATE events SET body = '{' WHERE position = 1")
    conn.execute(guard)
    (corrupt,) = conn.execute("SELECT event_id FROM events WHERE position = 1").fetchone()
    conn.close()
    for file in server.data.glob("read_models.db*"):
        file.unlink()

    server = start_server(data=server.data)
    wait_until(lambda: "projections wait" in server.logs())
    told = f"event {corrupt} in the log cannot be read"
    for path in ("/readyz", "/rooms/r", "/rooms/other", "/events"):
        answer = server.client.get(path, timeout=20)
        assert answer.status_code == 503, path
        assert told in answer.text, path
        assert "run `roomlapse verify`" in answer.text, path
    assert (
        "The pages are out of date because the projections are waiting" in server.client.get("/health", timeout=20).text
    )
    assert server.post(body_of("r", T0 + 1)).status_code == 200
    assert server.logs().count("projections wait") <= 3, "one in ten seconds"
    assert "Traceback" not in server.logs()
    assert server.stop() == 0
    done = run("verify", "--data", str(server.data))
    assert done.returncode == 1
    assert b"position 1" in done.stdout


@pytest.mark.slow
def test_a_projector_that_says_nothing_is_told_of_by_readiness_metrics_and_doctor(start_server: StartServer) -> None:
    server = start_server()
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.get("/rooms/r")["events"] == 1
    projector = projector_of(server)
    os.kill(projector, signal.SIGSTOP)
    try:
        for number in range(1, 6):
            assert server.post(body_of("r", T0 + number)).status_code == 200
        text = server.client.get("/metrics").text
        assert "roomlapse_log_head 6.0" in text
        assert 'roomlapse_projection_lag{projection="visibility"} 5.0' in text
        time.sleep(10.1)
        answer = server.client.get("/readyz")
        assert answer.status_code == 503
        assert "has said nothing for 1" in answer.json()["waiting"]
        assert "has said nothing for 1" in server.client.get("/rooms/r").json()["detail"]
        told = run("doctor", "--url", server.url, "--data", str(server.data))
        assert told.returncode == 1
        assert b"it takes callbacks but is not ready: the projector" in told.stdout
    finally:
        os.kill(projector, signal.SIGCONT)
    assert server.get("/rooms/r")["events"] == 6
    assert server.client.get("/readyz").json()["waiting"] is None
    assert 'roomlapse_projection_lag{projection="visibility"} 0.0' in server.client.get("/metrics").text
    assert server.stop() == 0


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before it starts", "while it runs"])
def test_what_stands_in_the_place_of_the_read_models_and_is_no_database_is_moved_aside(
    start_server: StartServer, when: str
) -> None:
    server = start_server()
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.get("/rooms/r")["events"] == 1
    if when == "before it starts":
        assert server.stop() == 0
    for file in server.data.glob("read_models.db*"):
        file.unlink()
    (server.data / "read_models.db").write_bytes(b"somebody's notes\n" * 1000)
    if when == "before it starts":
        server = start_server(data=server.data)
    assert server.post(body_of("r", T0 + 1)).status_code == 200
    wait_until(lambda: server.client.get("/rooms/r").status_code == 200)
    assert server.get("/rooms/r")["events"] == 2
    assert (server.data / "read_models.unreadable").read_bytes().startswith(b"somebody's notes\n")
    assert "what was there is now" in server.logs()
    assert server.stop() == 0
    assert run("verify", "--data", str(server.data)).returncode == 0


def test_a_projection_that_raises_is_named_with_its_event_by_all_who_are_asked_and_goes_on_when_mended(
    start_server: StartServer, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "sitecustomize.py").write_text(
        "import projections.change_counts as counts\n"
        "apply = counts.apply\n"
        "def fail(state, event):\n"
        "    if event.room_id == 'poison':\n"
        "        raise ValueError('odd one')\n"
        "    return apply(state, event)\n"
        "counts.apply = fail\n"
    )
    server = start_server(env={"PYTHONPATH": str(broken)})
    assert server.post(body_of("r", T0)).status_code == 200
    assert server.post(body_of("poison", T0)).status_code == 200
    event_id = server.get("/events")["events"][1]["event_id"]
    told = f"change_counts stopped at position 2, event {event_id}: ValueError: odd one"
    wait_until(lambda: told in server.client.get("/readyz").text)
    assert server.client.get("/readyz").status_code == 503
    assert server.post(body_of("r", T0 + 1)).status_code == 200
    counts = server.get("/status")["projections"]["change_counts"]
    assert (counts["position"], counts["error"]) == (1, told)
    metrics = server.client.get("/metrics").text
    assert f'roomlapse_projection_error{{error="{told}",projection="change_counts"}} 1.0' in metrics
    assert 'roomlapse_projection_stopped{projection="change_counts"} 1.0' in metrics
    assert 'roomlapse_projection_stopped{projection="current_room"} 0.0' in metrics
    assert server.get("/rooms/r")["events"] == 2, "the others go on"
    assert server.get("/rooms/poison")["events"] == 1
    assert server.client.get("/rooms/r/change-counts").status_code == 503
    assert server.stop() == 0

    server = start_server(data=server.data)
    wait_until(lambda: server.client.get("/readyz").status_code == 200)
    assert server.client.get("/rooms/poison/change-counts").status_code == 200
    metrics = server.client.get("/metrics").text
    assert "roomlapse_projection_error{" not in metrics
    assert server.stop() == 0
    assert run("verify", "--data", str(server.data)).returncode == 0
