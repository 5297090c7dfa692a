"""Data that an earlier version made answers the same after an upgrade, however often that is interrupted."""

import gzip
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from click.testing import CliRunner, Result
from kit.program import environment

from app.cli.main import main
from app.infra.data_dir import DataDir
from app.projector.upkeep import open_read_models
from projections import ALL

FIXTURE = Path(__file__).parent.parent / "fixtures" / "data-0.1.0"
ANSWERS = json.loads(gzip.decompress((FIXTURE / "answers.json.gz").read_bytes()))
HEAD = 275
CHAIN = "0f05731e48193a810d357fac9806eb9a108a56a620bf4bad3ced34cace12271a"
COLUMNS = {
    "events": "position event_id room_id command event_time_ms received_at_ms operator client_ip platform chain body",
    "rejected": "id received_at_ms reason client_ip platform body",
}
KILLED_BY = """
import os, signal, sys
from app.cli.main import main
from app.infra.data_dir import DataDir
from app.projector.upkeep import open_read_models

statements = 0
def count(frame, event, called):
    global statements
    if event == "c_call" and called.__name__ in ("execute", "executemany", "commit"):
        statements += 1
        if statements == limit:
            os.kill(os.getpid(), signal.SIGKILL)

limit = int(sys.argv.pop(1))
sys.setprofile(count)
try:
    main()
finally:
    print(statements, file=sys.stderr)
"""
"""Runs a command, and kills it before it sends SQLite the statement of the given number."""


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the earlier version's data directory."""
    for name in os.environ:
        if name.startswith("ROOMLAPSE_"):
            monkeypatch.delenv(name)
    return copy_to(tmp_path / "data")


def copy_to(folder: Path) -> Path:
    folder.mkdir()
    for name in ("events.db", "read_models.db"):
        shutil.copy(FIXTURE / name, folder)
    return folder


def run(data: Path, *args: str) -> Result:
    return CliRunner().invoke(main, [*args, "--data", str(data)])


def upgraded(answer: Any, args: list[str]) -> Any:
    """An answer of the earlier version, with what has come since: versions of projections, the last time of receipt."""
    if isinstance(answer, dict) and "projections" in answer:
        projections = {name: it | {"version": ALL[name].VERSION} for name, it in answer["projections"].items()}
        return answer | {"projections": projections, "last_received_at_ms": 1795598142267}
    if isinstance(answer, dict) and "window" in answer and "--as-of" in args and "--to" in args:
        return without_what_had_not_happened(answer, int(args[args.index("--as-of") + 1]))
    return answer


def without_what_had_not_happened(answer: Any, as_of_ms: int) -> Any:
    """A timeline whose window ends at as_of: the earlier version went on to what was asked for."""
    to_ms = min(as_of_ms, answer["window"]["to_ms"])
    intervals = [it | {"to_ms": min(it["to_ms"], to_ms)} for it in answer["intervals"] if it["from_ms"] < to_ms]
    sums = {
        name: sum(it["to_ms"] - it["from_ms"] for it in intervals if it["public"] is public)
        for name, public in (("public_ms", True), ("hidden_ms", False))
    }
    return answer | sums | {"intervals": intervals, "window": answer["window"] | {"to_ms": to_ms}}


def assert_answers_the_same(data: Path) -> None:
    """All questions, fingerprints among them, and every event is there."""
    for known in ANSWERS:
        said = run(data, *known["args"], "--json")
        answer = json.loads(said.stdout) if said.stdout else None
        assert said.exit_code == known["exit"], (known["args"], said.stderr)
        assert answer == upgraded(known["answer"], known["args"]), known["args"]
    verified = run(data, "verify")
    assert (verified.exit_code, verified.stdout) == (0, f"everything agrees: {HEAD} events, chain {CHAIN}\n")


def lower_versions(data: Path, *names: str) -> None:
    """Make read models look like those of an older version, with other rows: of some projections, or of all."""
    with closing(sqlite3.connect(data / "read_models.db")) as conn, conn:  # nobody else has it open
        for name in names or ALL:
            assert conn.execute("UPDATE projections SET version = version - 1 WHERE name = ?", [name]).rowcount == 1
            assert conn.execute(f"DELETE FROM {ALL[name].Row.TABLE} WHERE room_id > 'n'").rowcount > 0


def tables_of(data: Path) -> set[str]:
    """The read models' tables, seen in a copy: opening the files would mend what a killed process left."""
    with TemporaryDirectory() as folder:
        for path in data.glob("read_models.db*"):
            shutil.copy(path, folder)
        with closing(sqlite3.connect(Path(folder) / "read_models.db")) as conn:
            return {name for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def test_there_are_131_answers() -> None:
    assert len(ANSWERS) == 131
    assert {known["exit"] for known in ANSWERS} == {0, 1}


def test_it_answers_the_same(data: Path) -> None:
    assert_answers_the_same(data)


def test_its_tables_are_taken_as_they_are(data: Path) -> None:
    with open_read_models(DataDir(data)) as models:
        assert {models.checkpoint(name).position for name in ALL} == {HEAD}
        assert all(table.is_made(models.conn) for table in models.tables.values())


def test_it_answers_the_same_when_the_read_models_are_gone(data: Path) -> None:
    (data / "read_models.db").unlink()
    assert_answers_the_same(data)


@pytest.mark.parametrize("names", [("current_room",), ("change_counts",), ("visibility",), ()])
def test_it_answers_the_same_when_projections_are_rebuilt(data: Path, names: tuple[str, ...]) -> None:
    lower_versions(data, *names)
    assert_answers_the_same(data)


def upgrade(data: Path, limit: int, *args: str) -> subprocess.CompletedProcess[str]:
    """Let a command upgrade the read models; killed before a statement, if it gets that far."""
    return subprocess.run(
        [sys.executable, "-c", KILLED_BY, str(limit), *args, "--data", str(data)],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def interrupted(tmp_path: Path, limit: int, *args: str) -> Path:
    data = copy_to(tmp_path / f"killed-{limit}")
    lower_versions(data)
    assert upgrade(data, limit, *args).returncode == -signal.SIGKILL
    return data


@pytest.mark.slow
@pytest.mark.parametrize("args", [("status",), ("rebuild", "--jobs", "2")], ids=" ".join)
def test_an_upgrade_that_is_killed_loses_nothing(tmp_path: Path, args: tuple[str, ...]) -> None:
    whole = copy_to(tmp_path / "whole")
    lower_versions(whole)
    done = upgrade(whole, 0, *args)
    assert done.returncode == 0, done.stderr
    statements = int(done.stderr.splitlines()[-1])
    after, left = tables_of(whole), set()
    for percent in range(30, 90, 7):  # before that it only opens and looks, behind it only asks
        data = interrupted(tmp_path, statements * percent // 100, *args)
        left |= tables_of(data) - after
        assert_answers_the_same(data)
        assert tables_of(data) == after, "an interrupted rebuild's tables are still there"
    assert left, "none was killed in the middle of its rebuild"


@pytest.mark.slow
def test_an_upgrade_that_is_killed_again_and_again_ends_the_same(data: Path) -> None:
    lower_versions(data)
    killed, limit = 0, 20
    while upgrade(data, limit, "status").returncode == -signal.SIGKILL:
        killed, limit = killed + 1, limit * 3 // 2
    assert killed > 1
    assert_answers_the_same(data)


@pytest.mark.parametrize("table", COLUMNS)
def test_plain_sqlite_finds_the_columns_that_were_there(data: Path, table: str) -> None:
    assert run(data, "status").exit_code == 0
    with closing(sqlite3.connect(f"file:{data / 'events.db'}?mode=ro", uri=True)) as conn:  # nobody else has it open
        columns = conn.execute(f"SELECT * FROM {table}").description
    assert " ".join(name for name, *_ in columns) == COLUMNS[table]
