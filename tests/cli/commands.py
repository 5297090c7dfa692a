"""Runs commands of Roomlapse, and looks at what they leave in a data directory."""

import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from conftest import environment

from app.cli.main import main
from app.infra import sqlite
from app.infra.errors import NoData
from cli.evening import PROJECTIONS, lines_of

Result = subprocess.CompletedProcess[bytes]


_CHANGE_THEIR_PROCESS = {"serve", "demo", "rebuild", "simulate"}
"""Commands that set up signals, logging or priority: they run in a process of their own."""
# A server forks it that has imported everything already: that takes ten times as long as most commands.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["app.cli.main"])


def _run_forked(args: list[str], folder: str, env: dict[str, str]) -> None:
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY | os.O_CREAT, os.O_WRONLY | os.O_CREAT)):
        os.dup2(os.open(f"{folder}/{number}", flags, 0o600), number)
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(number, mode) for number, mode in enumerate("rww"))
    os.environ.clear()
    os.environ.update(env)
    main(args, prog_name="roomlapse")


def roomlapse(*args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Result:
    """Run the command line with these arguments, standard input and variables of Roomlapse, without a new Python.

    `kit.program.run` is for what starts a program from a shell.
    """
    if args and args[0] in _CHANGE_THEIR_PROCESS:
        return _fork(args, stdin, env)
    without: dict[str, str | None] = {name: None for name in os.environ if name.startswith("ROOMLAPSE_")}
    done = CliRunner().invoke(main, args, input=stdin, env=without | (env or {}), prog_name="roomlapse")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return subprocess.CompletedProcess(args, done.exit_code, done.stdout_bytes, done.stderr_bytes)


def _fork(args: tuple[str, ...], stdin: bytes, env: dict[str, str] | None) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "0").write_bytes(stdin)
        process = _FORKS.Process(target=_run_forked, args=(list(args), folder, environment(env)))
        process.start()
        process.join(120)
        code = process.exitcode
        assert code is not None, f"{args} goes on and on"
        process.close()
        return subprocess.CompletedProcess(args, code, *[(Path(folder) / name).read_bytes() for name in "12"])


def command(data: Path, *args: str, stdin: bytes = b"", env: dict[str, str] | None = None) -> Result:
    """Run a command on a data directory."""
    return roomlapse(*args, "--data", str(data), stdin=stdin, env=env)


def ask(data: Path, *args: str) -> Any:
    """What a command prints with --json; it has to succeed."""
    result = command(data, *args, "--json")
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def said(result: Result) -> str:
    """What a failed command says, as one line; never a traceback, and nothing on stdout."""
    assert result.stdout == b""
    text = result.stderr.decode()
    assert "Traceback" not in text
    return re.sub(r"\s+", " ", text)


def bring_in(data: Path, bodies: list[bytes]) -> None:
    """Import bodies, which are good ones."""
    result = command(data, "import", "-", stdin=lines_of(bodies))
    assert result.returncode == 0, result.stdout


def fingerprints(data: Path) -> dict[str, str]:
    """The fingerprint of each projection, all of which have read the log to its end."""
    status = ask(data, "status", "--fingerprint")
    assert set(status["projections"]) == set(PROJECTIONS)
    assert [projection["lag"] for projection in status["projections"].values()] == [0, 0, 0]
    return {name: projection["fingerprint"] for name, projection in status["projections"].items()}


def sql(path: Path, *statements: str) -> Result:
    """Run SQL in another process with Python's own SQLite, as from a shell; the last statement has to change rows."""
    script = (
        "import sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1])\n"
        "changed = [c.execute(statement).rowcount for statement in sys.argv[2:]]\n"
        "c.commit()\n"
        "assert changed[-1], 'nothing was changed'\n"
    )
    return subprocess.run([sys.executable, "-c", script, str(path), *statements], capture_output=True, check=False)


def count(path: Path, table: str) -> int:
    """How many rows there are, 0 while there is no such table or file."""
    try:
        conn = sqlite.open_reader(path)
    except (NoData, sqlite.Error):
        return 0
    try:
        (rows,) = conn.execute(f"SELECT count(*) FROM {table}").fetchone()
        return int(rows)
    except sqlite.Error:
        return 0
    finally:
        conn.close()


def children_of(pid: int) -> set[int]:
    """The ids of a process's children; none when it has ended."""
    try:
        return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except FileNotFoundError:
        return set()
