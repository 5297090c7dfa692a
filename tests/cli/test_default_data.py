"""The data directory that nobody names: ./roomlapse-data, or ./data where an earlier version left a log."""

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from kit.callbacks import APP_ID, T0, body_of
from kit.program import PROGRAM, Launched

from app.cli.main import main

SAID = "using data/, the default of earlier versions"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a callback to import."""
    for name in os.environ:
        if name.startswith("ROOMLAPSE_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.jsonl").write_bytes(body_of("r", T0, RoomName="here") + b"\n")
    return tmp_path


def run(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, args, env=env)


def bring_in(*args: str) -> None:
    done = run("import", "one.jsonl", *args)
    assert done.exit_code == 0, done.stderr


def test_it_is_made_and_found_without_a_word(here: Path) -> None:
    bring_in()
    assert sorted(path.name for path in here.iterdir()) == ["one.jsonl", "roomlapse-data"]
    asked = run("room", "r", "--json")
    assert (asked.exit_code, asked.stderr) == (0, "")


def test_the_former_one_is_used_and_said(here: Path) -> None:
    bring_in("--data", "data")
    for command in ("room r", "status", "verify", "rejected", "rejected retry", "import one.jsonl"):
        done = run(*command.split())
        assert (done.exit_code, done.stderr.count(SAID)) == (0, 1), command
        assert not (here / "roomlapse-data").exists()
    asked = run("room", "r", "--json")
    assert json.loads(asked.stdout)["room_info"] == {"RoomName": "here"}
    assert asked.stderr.startswith(SAID)
    assert len(asked.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "env"),
    [
        (["rejected", "--data", "data"], {}),
        (["rejected", "retry", "--data", "data"], {}),
        (["rejected", "--data", "data", "retry"], {}),
        (["status", "--data", "./data"], {}),
        (["status"], {"ROOMLAPSE_DATA": "data"}),
        (["rejected", "retry"], {"ROOMLAPSE_DATA": "data"}),
    ],
)
def test_one_that_is_named_is_not_spoken_of(here: Path, args: list[str], env: dict[str, str]) -> None:
    bring_in("--data", "data")
    done = run(*args, env=env)
    assert (done.exit_code, done.stderr) == (0, "")


def test_the_new_one_goes_first(here: Path) -> None:
    bring_in("--data", "data")
    (here / "one.jsonl").write_bytes(body_of("other", T0))
    bring_in("--data", "roomlapse-data")
    asked = run("rooms", "--json")
    assert [room["room_id"] for room in json.loads(asked.stdout)["rooms"]] == ["other"]
    assert asked.stderr == ""


def test_a_folder_called_data_without_a_log_is_somebody_elses(here: Path) -> None:
    (here / "data").mkdir()
    (here / "data" / "mine.txt").write_text("mine")
    asked = run("status")
    assert asked.exit_code == 1
    assert "no Roomlapse data in roomlapse-data" in asked.stderr
    bring_in()
    assert [path.name for path in (here / "data").iterdir()] == ["mine.txt"]


def test_the_server_says_it_in_its_log(here: Path) -> None:
    bring_in("--data", "data")
    server = Launched([PROGRAM, "serve", "--sdk-app-id", APP_ID, "--port", "0"], here / "server.log")
    server.stop()
    said = [record for record in server.records() if record["message"].startswith(SAID)]
    assert [record["level"] for record in said] == ["warning"]
    assert not (here / "roomlapse-data").exists()
