"""The harness bites: each of these bugs, put into a copy of the program, makes the properties fail."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
HISTORIES = "800"


class Bug(NamedTuple):
    """A text to be replaced wherever it stands in a file."""

    file: str
    right: str
    wrong: str


IN_ORDER = "assert event_time_ms > last_ms or (event_time_ms == last_ms and event_id > last_id), ("
NO_TRANSACTION = "        if True:\n            return _read_on"
BUGS: dict[str, list[Bug]] = {
    "ties are broken by arrival": [
        Bug("app/store.py", "ORDER BY event_time_ms, event_id", "ORDER BY event_time_ms, position"),
        Bug("app/store.py", "_break_ties(history) if tied else history", "history"),
        Bug("app/replay.py", "fresh.sort(key=lambda record: record.key)", "fresh.sort(key=lambda r: r.event_time_ms)"),
        Bug("app/replay.py", "head.key < first", "head.key[0] <= first[0]"),
        Bug("app/fold.py", IN_ORDER, "assert event_time_ms >= last_ms, ("),
    ],
    "duplicates are stored": [
        Bug("app/store.py", "if known is not None:", "if False:"),
        Bug("app/db.py", "event_id TEXT NOT NULL UNIQUE", "event_id TEXT NOT NULL"),
        Bug("app/db.py", "OR EXISTS (SELECT 1 FROM events WHERE event_id = NEW.event_id)", ""),
        Bug("app/fold.py", IN_ORDER, "assert event_time_ms >= last_ms, ("),
    ],
    "a late event is skipped": [
        Bug(
            "app/replay.py",
            "        first = fresh[0].key\n",
            "        fresh = [r for r in fresh if r.key > head.key]\n"
            "        if not fresh:\n            continue\n        first = fresh[0].key\n",
        ),
    ],
    "a late event is folded at the end": [
        Bug("app/replay.py", "saved = head if head.key < first else ", "saved = head if True else "),
        Bug("app/fold.py", IN_ORDER, "assert True, ("),
    ],
    "the checkpoint is written before the rows": [
        Bug("app/replay.py", "        with db.transaction(models.conn):\n            return _read_on", NO_TRANSACTION),
        Bug("app/replay.py", "        with db.savepoint(models.conn):\n", "        if True:\n"),
        Bug(
            "app/replay.py",
            "    last = records[-1]\n    try:\n        for room_id, saved, run, head in plan:\n",
            "    last = records[-1]\n"
            "    version = models.projections[name].VERSION\n"
            "    models.save_checkpoint(name, Checkpoint(version, last.position, last.chain, None))\n"
            "    try:\n        for room_id, saved, run, head in plan:\n",
        ),
    ],
    "states from before a late event are kept": [
        Bug("app/read_models.py", "self.conn.execute(table.delete_states, (room_id, *saved.key))", "pass"),
    ],
    "known_at goes on from a state that knew more": [
        Bug("app/read_models.py", "event_time_ms <= ? AND max_position <= ?", "event_time_ms <= ? AND ? IS NOT NULL"),
    ],
    "as_of leaves out its own millisecond": [
        Bug(
            "app/store.py",
            'where += " AND event_time_ms <= ?"\n            args.append(as_of_ms)',
            'where += " AND event_time_ms < ?"\n            args.append(as_of_ms)',
        ),
    ],
    "the first value counts as a change": [
        Bug("projections/change_counts.py", "Field(value, 1, 0, now, None)", "Field(value, 1, 1, now, now)"),
    ],
    "a flip within a millisecond leaves an empty interval": [
        Bug("projections/visibility.py", "spells[-1].from_ms == event.event_time_ms", "False"),
    ],
    "a batch is not one transaction": [
        Bug(
            "app/store.py",
            "        with db.transaction(self.conn):\n            outcomes = self._insert",
            "        if True:\n            outcomes = self._insert",
        ),
    ],
}


def properties_on_a_copy(folder: Path, bugs: list[Bug]) -> subprocess.CompletedProcess[str]:
    """Copy the program, put the bugs in, and run the properties there."""
    for name in ("app", "projections", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for bug in bugs:
        path = folder / bug.file
        text = path.read_text()
        assert bug.right in text, f"{bug.file} no longer holds {bug.right!r}: seed this bug in another way"
        path.write_text(text.replace(bug.right, bug.wrong))
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "tests/test_properties.py"],
        cwd=folder,
        env=os.environ | {"HISTORIES": HISTORIES, "ROOMLAPSE_TEST_NO_SHRINK": "1", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_caught(name: str, tmp_path: Path) -> None:
    done = properties_on_a_copy(tmp_path, BUGS[name])
    assert done.returncode == 1, done.stdout
    assert "SyntaxError" not in done.stdout
    assert "1 failed" in done.stdout, done.stdout


def test_the_same_properties_hold_without_a_bug(tmp_path: Path) -> None:
    done = properties_on_a_copy(tmp_path, [])
    assert done.returncode == 0, done.stdout
