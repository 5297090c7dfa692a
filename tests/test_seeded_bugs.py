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


NO_ORDER = [
    Bug("app/event.py", "assert event_time_ms > last_ms or (", "assert True or ("),
    Bug("app/projector/fold.py", "assert not events or events[0].key > saved.key", "assert True"),
]
BUGS: dict[str, list[Bug]] = {
    "ties are broken by arrival": [
        *NO_ORDER,
        Bug("app/log/store.py", "ORDER BY event_time_ms, event_id", "ORDER BY event_time_ms, position"),
        Bug(
            "app/log/store.py",
            "rows.sort(key=lambda row: (row[1], row[0]))",
            "rows.sort(key=lambda row: (row[1], row[4]))",
        ),
        Bug(
            "app/projector/catch_up.py",
            "key=lambda arrival: arrival[1].key",
            "key=lambda arrival: arrival[1].event_time_ms",
        ),
        Bug("app/projector/catch_up.py", "saved.key < first", "saved.key[0] <= first[0]"),
    ],
    "duplicates are stored": [
        *NO_ORDER,
        Bug("app/log/store.py", "if known is not None:", "if False:"),
        Bug("app/infra/sqlite.py", "AND event_id = NEW.event_id", "AND event_id = NEW.event_id AND 0"),
    ],
    "a late event is skipped": [
        *NO_ORDER,
        Bug(
            "app/projector/catch_up.py",
            "            history = batch.history(room_id, saved.key)\n",
            "            history = batch.history(room_id, saved.key)\n"
            "            gone = min(fresh.positions) if models.head(name, room_id) is not None else 2**62\n"
            "            kept = [i for i, at in enumerate(history.positions) if at < gone]\n"
            "            history = History([history.positions[i] for i in kept], [history.events[i] for i in kept])\n",
        ),
    ],
    "a late event is folded at the end": [
        *NO_ORDER,
        Bug("app/projector/catch_up.py", "if saved is not None and saved.key < first:", "if saved is not None:"),
    ],
    "the checkpoint is written before the rows": [
        Bug(
            "app/projector/catch_up.py",
            "        with sqlite.transaction(models.conn):\n            if going",
            "        if True:\n            if going",
        ),
        Bug("app/projector/catch_up.py", "        with sqlite.savepoint(models.conn):\n", "        if True:\n"),
        Bug(
            "app/projector/catch_up.py",
            "    try:\n        models.write(name, folded.runs)\n",
            "    _move_checkpoint(models, name, batch)\n    try:\n        models.write(name, folded.runs)\n",
        ),
    ],
    "states from before a late event are kept": [
        Bug("app/projector/read_models.py", "self.conn.executemany(table.delete_states, gone_states)", "pass"),
    ],
    "a room is gone on with from a state that it has left behind": [
        Bug(
            "app/projector/read_models.py",
            "heads[room_id] = _Head(run.last, lines)",
            "heads.setdefault(room_id, _Head(run.last, lines))",
        ),
        Bug("app/projector/read_models.py", "head = heads.pop(room_id, None)", "head = heads.get(room_id)"),
    ],
    "what was remembered outlives another writer": [
        Bug("app/projector/read_models.py", "if self._heads_position.get(name) != position:", "if False:"),
    ],
    "known_at goes on from a state that knew more": [
        Bug(
            "app/projector/read_models.py",
            "event_time_ms <= ? AND max_position <= ?",
            "event_time_ms <= ? AND ? IS NOT NULL",
        ),
    ],
    "a part of the past in which something came earlier is passed over": [
        Bug("app/projector/fold.py", "*folded), min(folded)", "*folded), max(folded)"),
    ],
    "an event that came later is taken for one that overtook": [
        Bug("app/queries/rooms.py", "behind=behind, before=late.position", "behind=behind, before=2**62"),
        Bug("app/queries/rooms.py", "late.key, late.position):", "late.key, 2**62):"),
    ],
    "as_of leaves out its own millisecond": [
        Bug(
            "app/log/store.py",
            "AND event_time_ms <= ? AND position <= ? ORDER BY event_time_ms",
            "AND event_time_ms < ? AND position <= ? ORDER BY event_time_ms",
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
            "app/log/store.py",
            "        with sqlite.transaction(self.conn):\n            outcomes = self._insert",
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


@pytest.mark.slow
@pytest.mark.parametrize("name", BUGS)
def test_a_seeded_bug_is_caught(name: str, tmp_path: Path) -> None:
    done = properties_on_a_copy(tmp_path, BUGS[name])
    assert done.returncode == 1, done.stdout
    assert "SyntaxError" not in done.stdout
    assert "1 failed" in done.stdout, done.stdout


@pytest.mark.slow
def test_the_same_properties_hold_without_a_bug(tmp_path: Path) -> None:
    done = properties_on_a_copy(tmp_path, [])
    assert done.returncode == 0, done.stdout
