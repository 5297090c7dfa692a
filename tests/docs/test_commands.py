"""The documentation does what it says: the commands of each file run in their order and print what it shows.

Each file is a session of its own, in a folder that holds the sample evening as a checkout does. README and tutorial
begin with no data; for the others the evening has been imported and a server runs on it, as the tutorial leaves them.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import StartServer
from kit.program import PROGRAM, Server, environment

from app.infra import sqlite
from docs.files import FILES, ROOT, code_in, name_of

pytestmark = pytest.mark.slow

DEMO_APP_ID = "1400000000"
ADDRESS = "http://127.0.0.1:8000"
SAMPLE = "data/sample-callbacks.jsonl"
BEGIN_WITH_NOTHING = {"README.md", "docs/tutorial.md"}
NOT_RUN = {
    "make ": "CI runs the gate, tests/cli the demo",
    "export PATH=": "the tests' PATH has the program of this checkout",
    "sudo ": "changes the machine",
    "docker ": "needs a daemon of its own; tests/deploy holds what it starts",
    "datasette ": "is not installed by `make setup`",
    "duckdb ": "is not installed by `make setup`",
}
"""Commands that the documentation shows and no test runs, by what they begin with, and why."""
WRITE_DOCS = bool(os.environ.get("WRITE_DOCS"))


class Session:
    """A shell as a reader of one file has it: a folder, what was exported, and the server that was started."""

    def __init__(self, folder: Path, start_server: StartServer) -> None:
        self.folder = folder
        self.data = folder / "roomlapse-data"
        path = f"{Path(PROGRAM).parent}{os.pathsep}{os.environ['PATH']}"
        self.env = {"PATH": path, "ROOMLAPSE_DATA": str(self.data), "ROOMLAPSE_SDK_APP_ID": DEMO_APP_ID}
        self.server: Server | None = None
        self._start_server = start_server

    def run(self, command: str) -> str:
        """What a command prints on stdout. It has to succeed."""
        if command.startswith(tuple(NOT_RUN)):
            return ""
        if command.startswith("export "):
            self.env |= dict(re.findall(r"(\w+)='?([^\s']*)'?", command.removeprefix("export ")))
            return ""
        if command.startswith("roomlapse serve") and command.endswith(" &"):
            self.server = self._start_server("--sdk-app-id", DEMO_APP_ID, data=self.data, env=self.env)
            return ""
        if command == "kill %1":
            assert self.server is not None
            assert self.server.stop() == 0
            self.server = None
            return ""
        url = self.server.url if self.server is not None else ADDRESS
        # What ends because `head` has seen enough has not failed.
        options = [] if "| head" in command else ["-o", "pipefail"]
        done = subprocess.run(
            ["bash", *options, "-c", command.replace(ADDRESS, url)],
            cwd=self.folder,
            env=environment(self.env),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return trimmed(done.stdout.replace(url, ADDRESS))


def trimmed(text: str) -> str:
    return "".join(line.rstrip() + "\n" for line in text.splitlines())


def commands_of(block: str) -> list[str]:
    """The commands of a console block; the lines between them are what they print."""
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


@pytest.mark.parametrize("path", [path for path in FILES if code_in(path.read_text(), "console")], ids=name_of)
def test_the_commands_print_what_the_file_shows(path: Path, tmp_path: Path, start_server: StartServer) -> None:
    assert shutil.which("curl"), "the documented requests need curl"
    session = Session(tmp_path, start_server)
    (tmp_path / SAMPLE).parent.mkdir()
    shutil.copy(ROOT / SAMPLE, tmp_path / SAMPLE)
    if name_of(path) not in BEGIN_WITH_NOTHING:
        session.run(f"roomlapse import {SAMPLE}")
        session.run("roomlapse serve &")
    text = path.read_text()
    for block in code_in(text, "console"):
        shown = "".join(f"$ {command}\n{session.run(command)}" for command in commands_of(block))
        if WRITE_DOCS:
            text = text.replace(f"```console\n{block}```", f"```console\n{shown}```")
        else:
            assert shown == trimmed(block), f"{name_of(path)}: `make docs` writes it anew"
    if WRITE_DOCS:
        path.write_text(text)


def test_what_is_not_run_is_shown_somewhere() -> None:
    shown = [line for path in FILES for block in code_in(path.read_text(), "console") for line in commands_of(block)]
    for begins in NOT_RUN:
        assert any(line.startswith(begins) for line in shown), f"nothing begins with {begins!r} any more"


def test_the_sql_gives_what_the_file_shows(tmp_path: Path, start_server: StartServer) -> None:
    """Each block of SQL, on the sample evening, gives the text block below it."""
    path = ROOT / "docs" / "how-to" / "analyse.md"
    session = Session(tmp_path, start_server)
    (tmp_path / SAMPLE).parent.mkdir()
    shutil.copy(ROOT / SAMPLE, tmp_path / SAMPLE)
    session.run(f"roomlapse import {SAMPLE}")
    text = path.read_text()
    pairs = re.findall(r"```sql\n(.*?)```\n\n```text\n(.*?)```\n", text, re.DOTALL)
    assert len(pairs) == len(code_in(text, "sql")) > 0
    conn = sqlite.open_reader(session.data / "read_models.db")
    try:
        conn.execute("ATTACH ? AS log", (str(session.data / "events.db"),))
        for sql, shown in pairs:
            cursor = conn.execute(sql)
            rows = [[column[0] for column in cursor.description], *cursor.fetchall()]
            given = "".join("|".join("" if value is None else str(value) for value in row) + "\n" for row in rows)
            if WRITE_DOCS:
                text = text.replace(f"{sql}```\n\n```text\n{shown}```", f"{sql}```\n\n```text\n{given}```")
            else:
                assert given == shown, f"{sql}: `make docs` writes it anew"
    finally:
        conn.close()
    if WRITE_DOCS:
        path.write_text(text)


def test_the_simulated_sender_of_the_tutorial_gets_an_ok_for_everything(
    tmp_path: Path, start_server: StartServer
) -> None:
    session = Session(tmp_path, start_server)
    session.run("roomlapse serve &")
    text = (ROOT / "docs" / "tutorial.md").read_text()
    command = next(line for line in text.splitlines() if line.startswith("$ roomlapse simulate"))
    session.run(command.removeprefix("$ "))
    assert json.loads((tmp_path / "sent.json").read_text())["answers"] == {"200": 40}
