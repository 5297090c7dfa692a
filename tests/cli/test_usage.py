"""Wrong usage, and help."""

import re
import shutil
from pathlib import Path

import pytest
from conftest import run

from app.cli.caring import rejected
from app.cli.demo import SAMPLE
from app.cli.main import PANELS, main
from app.infra.settings import DEFAULT_DATA
from cli.commands import roomlapse, said

COMMANDS = [
    *("serve", "demo", "room", "rooms", "history", "diff", "counts", "visibility", "rebuild", "verify", "status"),
    *("import", "export", "rejected", "simulate"),
]


WRONG = [
    "room busy --as-of yesterday",
    "room busy --as-of 2026-03-11T14:28:44",
    "room busy --known-at x",
    "visibility busy --from 2026-03-11",
    "diff busy --from x --to 1",
    "diff busy --from 1",
    "room",
    "room busy other",
    "room busy --nothing",
    "rooms --limit 0",
    "rooms --limit 501",
    "counts --as-of 1",
    "rebuild --projection nothing",
    "rebuild --jobs 0",
    "import /nowhere/file.jsonl",
    "serve --sdk-app-id my-app",
    "serve --sdk-app-id ١٤٠٠",
    "import - --sdk-app-id -1",
    "simulate --url http://127.0.0.1:9 --sdk-app-id 14e8",
    "simulate --url http://127.0.0.1:99999 --sdk-app-id 1",
    "simulate --url http://h:abc --sdk-app-id 1",
    "simulate --url http://[::1 --sdk-app-id 1",
    "doctor --url http://h:-1",
    "backup -",
    "nothing",
    "rejected nothing",
]


@pytest.mark.parametrize("line", WRONG)
def test_wrong_usage_is_exit_2_and_says_why(evening: Path, line: str) -> None:
    result = roomlapse(*line.split(), env={"ROOMLAPSE_DATA": str(evening)})
    assert result.returncode == 2
    assert "Usage" in said(result)
    assert "Error" in said(result)


SECONDS = [
    *[
        f"{command} {cut}"
        for command in ("room busy", "rooms", "history busy", "counts busy", "visibility busy")
        for cut in ("--as-of 1773260042", "--known-at 1773260042")
    ],
    *[f"{command} busy {end} 1773260042" for command in ("history", "visibility") for end in ("--from", "--to")],
    "diff busy --from 1773260042 --to 1773260042000",
    "diff busy --from 0 --to 1773260042",
]


@pytest.mark.parametrize("line", SECONDS)
def test_a_time_in_seconds_is_exit_2_on_every_command(evening: Path, line: str) -> None:
    result = roomlapse(*line.split(), env={"ROOMLAPSE_DATA": str(evening)})
    assert result.returncode == 2
    assert "1773260042 looks like seconds: epoch milliseconds are needed, 1773260042000" in said(result)


SENSELESS = [
    "rooms --cursor !",
    "history busy --cursor AAAA",
    "history busy --from 2 --to 1",
    "visibility busy --from 2 --to 1",
]


@pytest.mark.parametrize("line", SENSELESS)
def test_a_question_that_makes_no_sense_is_exit_2_and_says_why(evening: Path, line: str) -> None:
    result = roomlapse(*line.split(), env={"ROOMLAPSE_DATA": str(evening)})
    assert result.returncode == 2
    assert re.fullmatch("Error: (cursor is not one that|from is after to).*", said(result).strip())


def examples() -> list[str]:
    """The example of each command, and of each of the quarantine's."""
    commands = [*main.commands.values(), *rejected.commands.values()]
    found = [re.fullmatch("Example: `roomlapse (.+)`", command.epilog or "") for command in commands]
    assert all(found), "each command has an example"
    return [example[1] for example in found if example]


@pytest.mark.parametrize("example", examples())
def test_the_example_of_a_command_works(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = example.split()
    if args[0] in ("serve", "demo", "simulate", "doctor"):  # run until they are stopped, or need a server
        context = main.commands[args[0]].make_context(args[0], args[1:])
        assert context.params
        return
    shutil.copy(SAMPLE, "callbacks.jsonl")
    assert roomlapse("import", "callbacks.jsonl", "--data", str(DEFAULT_DATA)).returncode == 0
    result = roomlapse(*args)
    assert result.returncode == 0, result.stdout + result.stderr


def test_help_of_every_command_is_exit_0() -> None:
    overview = run("--help")
    assert overview.returncode == 0
    for line in [*COMMANDS, "rejected retry"]:
        result = roomlapse(*line.split(), "--help")
        assert result.returncode == 0, line
        assert b"Usage" in result.stdout
        assert re.search(rf"^\W*{line.split()[0]}\b", overview.stdout.decode(), re.MULTILINE), line
        assert re.search(rb"--[a-z-]*(token|secret|password)", result.stdout) is None, "no secret is an option"
    assert run("-h").returncode == run("--version").returncode == 0


def test_help_groups_the_commands() -> None:
    overview = run("--help").stdout.decode()
    places = [overview.index(f"─ {group} ─") for group in ("Serve", "Ask", "Care")]
    assert places == sorted(places)
    for group, commands in PANELS.items():
        begin = overview.index(f"─ {group} ─")
        panel = overview[begin : overview.index("╰", begin)]
        names = re.findall(r"^│ ([a-z]+) ", panel, re.MULTILINE)
        assert names == [command.name for command in commands]
        assert "Example: `roomlapse " in panel
    assert {command.name for commands in PANELS.values() for command in commands} == {*COMMANDS, "backup", "doctor"}


def test_an_empty_data_directory_is_none() -> None:
    result = roomlapse("status", "--data", "")
    assert result.returncode == 2
    assert "it is empty: name a directory" in said(result)
