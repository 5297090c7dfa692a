"""The questions: JSON as HTTP answers it, text for people, and what there is no answer to."""

import json
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import T0, Server, run

from cli.commands import command, said
from cli.evening import BODIES, NUMBER, TRICKY


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


READING = ["room x", "rooms", "history x", "diff x --from 0 --to 1", "counts", "counts x", "visibility x", "status"]


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


@pytest.mark.parametrize("content", [b"this is not a database, " * 500, b""])
@pytest.mark.parametrize("args", [["status"], ["verify"]])
def test_a_file_that_is_no_log_is_exit_1_with_a_sentence(tmp_path: Path, content: bytes, args: list[str]) -> None:
    (tmp_path / "events.db").write_bytes(content)
    result = command(tmp_path, *args)
    assert result.returncode == 1
    assert len(said(result)) > 20
