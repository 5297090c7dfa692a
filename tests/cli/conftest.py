"""Data directories to ask and to do things to."""

import shutil
from pathlib import Path

import pytest

from cli.commands import bring_in, command
from cli.evening import BODIES, MANY, many_lines


@pytest.fixture(scope="session")
def evening(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the evening. Only for reading."""
    data = tmp_path_factory.mktemp("evening") / "data"
    bring_in(data, BODIES)
    return data


@pytest.fixture
def copied(evening: Path, tmp_path: Path) -> Path:
    """A copy of the evening, to do things to."""
    return Path(shutil.copytree(evening, tmp_path / "copied"))


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with so many events that a rebuild cuts them into tasks. Only for reading."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "many.jsonl").write_bytes(b"".join(many_lines(MANY)))
    result = command(folder / "data", "import", str(folder / "many.jsonl"))
    assert result.returncode == 0
    assert f"accepted {MANY}, duplicates 0, rejected 0" in result.stdout.decode()
    return folder / "data"


@pytest.fixture
def copied_many(many: Path, tmp_path: Path) -> Path:
    """A copy of it, to do things to."""
    return Path(shutil.copytree(many, tmp_path / "many"))
