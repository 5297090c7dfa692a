"""Encodings, colours and widths: what is printed in any of them, and arguments that are no text."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import APP_ID, PROGRAM, T0, body_of, environment
from kit.program import run

ROOM = "emo😀"
NAME = "房间 😀 é"
LONG = "and on " * 60


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("locales") / "data"
    body = json.dumps(
        {
            "CallbackCommand": "Live.CallbackAfterUpdateRoomInfo",
            "Operator_Account": "玛雅😀",
            "RoomInfo": {"RoomId": ROOM, "RoomName": NAME, "CustomInfo": LONG, "IsPublicVisible": True},
            "EventTime": T0,
        },
        ensure_ascii=False,
    ).encode()
    bodies = body + b"\n" + body_of("other", T0) + b"\n" + "坏😀\n".encode()
    assert run("import", "-", "--data", str(data), stdin=bodies).returncode == 1
    return data


COMMANDS = [
    ["rooms"],
    ["rooms", "-q", "房"],
    ["rooms", "--json"],
    ["room", ROOM],
    ["room", ROOM, "--json"],
    ["room", "没有😀"],
    ["history", ROOM],
    ["history", ROOM, "--field", "房😀"],
    ["diff", ROOM, "--from", str(T0 - 1), "--to", str(T0)],
    ["visibility", ROOM],
    ["counts", ROOM],
    ["counts"],
    ["status"],
    ["verify"],
    ["export", "-"],
    ["rejected"],
    ["import", "/nowhere/房😀"],
    ["rooms", "--help"],
    ["--help"],
]
ENCODINGS = [
    pytest.param(["ascii:strict"], id="one"),
    pytest.param(["ascii", "gbk", "latin-1", "cp1252", "shift_jis", "utf-8"], id="others", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("args", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("encodings", ENCODINGS)
def test_no_command_fails_for_an_encoding(data: Path, args: list[str], encodings: list[str]) -> None:
    at = [] if "--help" in args else ["--data", str(data)]
    expected = run(*args, *at, env={"PYTHONIOENCODING": "utf-8"})
    for encoding in encodings:
        done = run(*args, *at, env={"PYTHONIOENCODING": encoding})
        assert done.returncode == expected.returncode, (encoding, done.stderr)
        assert b"Traceback" not in done.stderr, (encoding, done.stderr)
        if "--json" in args or args[0] == "export":
            assert [json.loads(line) for line in done.stdout.splitlines()] == [
                json.loads(line) for line in expected.stdout.splitlines()
            ]
        else:
            said = done.stdout.decode(encoding.partition(":")[0])
            assert len(said.splitlines()) == len(expected.stdout.splitlines())
    if len(encodings) == 1:
        return
    plain = run(*args, *at, env={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"})
    assert (plain.returncode, b"Traceback" in plain.stderr) == (expected.returncode, False), plain.stderr


def test_what_an_encoding_lacks_is_escaped(data: Path) -> None:
    shown = run("rooms", "--data", str(data), env={"PYTHONIOENCODING": "ascii"}).stdout
    assert rb"emo\U0001f600" in shown
    assert rb"\u623f\u95f4 \U0001f600 \xe9" in shown
    gbk = run("rooms", "--data", str(data), env={"PYTHONIOENCODING": "gbk"}).stdout
    assert "房间".encode("gbk") + rb" \U0001f600" in gbk
    answer = run("room", ROOM, "--json", "--data", str(data), env={"PYTHONIOENCODING": "gbk"}).stdout
    assert answer.isascii()
    assert json.loads(answer)["room_info"]["RoomName"] == NAME


NO_TEXT = os.fsdecode(b"a\xff")
NOT_TAKEN = [
    ["room", NO_TEXT],
    ["rooms", "-q", NO_TEXT],
    ["rooms", "--cursor", NO_TEXT],
    ["rooms", "--limit", NO_TEXT],
    ["rooms", "--as-of", NO_TEXT],
    ["history", "r", "--field", NO_TEXT],
    ["counts", NO_TEXT],
    ["diff", "r", "--from", NO_TEXT, "--to", "1"],
    ["visibility", NO_TEXT],
    ["rebuild", "--projection", NO_TEXT],
    ["doctor", "--url", f"http://{NO_TEXT}"],
    ["import", NO_TEXT],
    ["simulate", "--url", "http://127.0.0.1:9", "--sdk-app-id", NO_TEXT],
    [NO_TEXT],
    ["rooms", f"--{NO_TEXT}"],
]


@pytest.mark.parametrize("args", NOT_TAKEN, ids=ascii)
def test_arguments_that_are_no_utf_8_are_refused_by_a_sentence(data: Path, args: list[str]) -> None:
    done = run(*args, env={"ROOMLAPSE_DATA": str(data)})
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1].startswith(b"Error: ")


@pytest.mark.parametrize("name", ["HOST", "API_TOKEN", "CALLBACK_TOKENS", "SDK_APP_ID", "PORT", "ALLOWED_HOSTS"])
def test_variables_that_are_no_utf_8_are_refused_by_a_sentence(tmp_path: Path, name: str) -> None:
    env = {"ROOMLAPSE_SDK_APP_ID": APP_ID, "ROOMLAPSE_PORT": "0", f"ROOMLAPSE_{name}": os.fsdecode(b"long-enough\xff")}
    done = run("serve", "--data", str(tmp_path / "data"), env=env)
    assert done.returncode == 2, done
    assert b"Traceback" not in done.stderr
    assert f"ROOMLAPSE_{name}".encode() in done.stderr


@pytest.mark.parametrize("args", [["rooms"], ["room", ROOM], ["--help"], ["room", "-h"]])
def test_a_pipe_gets_the_same_whatever_the_terminal(data: Path, args: list[str]) -> None:
    def output(**env: str) -> tuple[bytes, bytes]:
        done = run(*args, env={"ROOMLAPSE_DATA": str(data)} | env)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    plain = output()
    assert b"\x1b" not in plain[0] + plain[1]
    for env in (
        {"NO_COLOR": "1"},
        {"COLUMNS": "20", "FORCE_COLOR": "3", "LINES": "2"},
        {"TTY_COMPATIBLE": "1", "TERM": "xterm-256color", "COLORTERM": "truecolor"},
        {"TERMINAL_WIDTH": "20"},
        {"CLICOLOR_FORCE": "1", "PY_COLORS": "1"},
    ):
        assert output(**env) == plain, env


def test_a_pipe_gets_whole_lines(data: Path) -> None:
    (line,) = [line for line in run("room", ROOM, "--data", str(data)).stdout.decode().splitlines() if "on and" in line]
    assert LONG.strip() in line
    by_line = run("rooms", "--data", str(data)).stdout.decode().splitlines()
    assert len(by_line) == 3


def test_progress_into_a_pipe_has_no_colours(tmp_path: Path) -> None:
    file = tmp_path / "bodies"
    file.write_bytes(b"".join(body_of("r", T0 + number) + b"\n" for number in range(3000)))
    done = subprocess.run(
        [PROGRAM, "import", str(file), "--data", str(tmp_path / "data")],
        capture_output=True,
        env=environment({"FORCE_COLOR": "1"}),
        check=True,
    )
    assert b"\x1b" not in done.stdout + done.stderr
