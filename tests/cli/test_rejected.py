"""rejected and retry: the quarantine."""

from pathlib import Path

import pytest
from conftest import T0, body_of

from app.infra.data_dir import DataDir
from app.log.files import open_log
from app.log.records import Rejection
from cli.commands import ask, bring_in, command, roomlapse


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


def test_retry_takes_event_times_in_quotes_which_were_refused_before(tmp_path: Path) -> None:
    data = tmp_path / "data"
    bring_in(data, [body_of("r", T0, RoomName="before")])
    quoted = body_of("r", T0 + 5, RoomName="after").replace(str(T0 + 5).encode(), f'"{T0 + 5}"'.encode())
    with open_log(DataDir(data)) as log:
        log.append([], [Rejection(quoted, "EventTime is not an integer", T0 + 9)])
    result = roomlapse("rejected", "retry", "--data", str(data))
    assert (result.returncode, result.stdout) == (0, b"accepted 1, duplicates 0, rejected 0\n")
    room = ask(data, "room", "r")
    assert (room["room_info"], room["event_time_ms"]) == ({"RoomName": "after"}, T0 + 5)
    assert ask(data, "room", "r", "--as-of", str(T0 + 4))["room_info"] == {"RoomName": "before"}
    assert command(data, "verify").returncode == 0
