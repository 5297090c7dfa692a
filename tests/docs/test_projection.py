"""The projection that docs/how-to/write-a-projection.md shows works as it says: the module, its test, and the steps."""

import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from kit.program import environment, run

from docs.files import ROOT, code_in

pytestmark = pytest.mark.slow

GUIDE = ROOT / "docs" / "how-to" / "write-a-projection.md"


def test_the_projection_of_the_guide_works_as_it_says(tmp_path: Path) -> None:
    module, test = code_in(GUIDE.read_text(), "python")
    for name in ("app", "projections", "tests", "data"):
        ignore = shutil.ignore_patterns("__pycache__", "*.db*", ".rebuild.lock")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "projections" / "seat_modes.py").write_text(module)
    (tmp_path / "tests" / "test_seat_modes.py").write_text(test)
    init = tmp_path / "projections" / "__init__.py"
    text = init.read_text()
    text = text.replace(
        "import change_counts, current_room, visibility", "import change_counts, current_room, seat_modes, visibility"
    )
    init.write_text(
        text.replace(
            '    "visibility": visibility,\n', '    "visibility": visibility,\n    "seat_modes": seat_modes,\n'
        )
    )

    def python(*args: str) -> str:
        env = environment({"PYTHONPATH": str(tmp_path), "ROOMLAPSE_DATA": str(tmp_path / "run")})
        done = subprocess.run(
            [sys.executable, *args], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_seat_modes.py")
    # Data that the three projections have read before the fourth came: it fills itself at the next command.
    assert (
        run(
            "import", str(ROOT / "data" / "sample-callbacks.jsonl"), env={"ROOMLAPSE_DATA": str(tmp_path / "run")}
        ).returncode
        == 0
    )
    roomlapse = ("-c", "from app.cli.main import main; main()")
    status = json.loads(python(*roomlapse, "status", "--fingerprint", "--json"))
    assert status["projections"]["seat_modes"]["lag"] == 0
    before = status["projections"]["seat_modes"]["fingerprint"]
    python(*roomlapse, "rebuild", "--projection", "seat_modes")
    assert (
        json.loads(python(*roomlapse, "status", "--fingerprint", "--json"))["projections"]["seat_modes"]["fingerprint"]
        == before
    )
    assert "everything agrees" in python(*roomlapse, "verify")


def test_the_projection_of_the_guide_works_from_a_folder_of_its_own(tmp_path: Path) -> None:
    module, _ = code_in(GUIDE.read_text(), "python")
    (tmp_path / "my-projections").mkdir()
    (tmp_path / "my-projections" / "seat_modes.py").write_text(module)
    env = {"ROOMLAPSE_DATA": str(tmp_path / "run"), "ROOMLAPSE_PROJECTIONS": str(tmp_path / "my-projections")}
    assert run("import", str(ROOT / "data" / "sample-callbacks.jsonl"), env=env).returncode == 0
    with sqlite3.connect(tmp_path / "run" / "read_models.db") as conn:
        rows = conn.execute("SELECT mode, times FROM seat_modes WHERE room_id = 'late-show' ORDER BY mode").fetchall()
    assert rows == [('"ApplyToTake"', 1), ('"FreeToTake"', 1)]
    assert b"everything agrees" in run("verify", env=env).stdout
