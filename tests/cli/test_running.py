"""serve and simulate: what they refuse, and what they do beside other commands."""

import json
import socket
from pathlib import Path

import pytest
from conftest import APP_ID, T0, StartServer, body_of

from cli.commands import Result, ask, bring_in, command, roomlapse, said
from cli.evening import BODIES, lines_of


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
