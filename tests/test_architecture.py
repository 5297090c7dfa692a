"""The rooms of the house: who may import whom, who may open SQLite, who may speak SQL or Tencent."""

import ast
import re
import sys
from pathlib import Path

import pytest

from app.replay import REBUILD_PREFIX
from projections import ALL

ROOT = Path(__file__).parent.parent
MODULES = {
    f"{folder}.{path.stem}".removesuffix(".__init__"): path
    for folder in ("app", "projections")
    for path in (ROOT / folder).glob("*.py")
}
# Each module and what of ours it may import. Directions only: whoever stands below may be imported by those above.
LAYERS = [
    {"app.entry"},
    {"app.cli"},
    {"app.demo"},
    {"app.server"},
    {"app.web"},
    {"app.pages", "app.shortcut"},
    {"app.service", "app.gate", "app.sessions", "app.text", "app.views"},
    {"app.projector_process", "app.receiver", "app.backup", "app.doctor"},
    {"app.projector", "app.verify"},
    {"app.commit", "app.data_dir", "app.transfer"},
    {"app.queries"},
    {"app.replay"},
    {"app.read_models"},
    {"app.fold", "app.store"},
    {"projections"},
    {"projections.current_room", "projections.change_counts", "projections.visibility", "app.simulator"},
    {"app.tencent"},
    {"app.db", "app.event", "app.logs", "app.metrics", "app.progress", "app.settings", "app.times", "app.workers"},
    {"app.connections", "app.limits"},
    {"app.memory"},
    {"app"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, `from app import db` counted as app.db."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: say which module"
            assert node.module is not None
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= inside & MODULES.keys() or {node.module}
    return found


def ours(path: Path) -> set[str]:
    return imports_of(path) & MODULES.keys()


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_point_one_way(name: str) -> None:
    assert name in RANK, f"{name} has no place in the house yet: give it one in LAYERS"
    upwards = {other for other in ours(MODULES[name]) if RANK[other] <= RANK[name] and other != "app"}
    assert not upwards, f"{name} may not import {upwards}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("projections.")))
def test_a_projection_imports_the_standard_library_msgspec_and_the_event(name: str) -> None:
    others = {module for module in imports_of(MODULES[name]) if module.split(".")[0] not in sys.stdlib_module_names}
    assert others <= {"msgspec", "app.event"}


def test_event_imports_nothing_of_ours_and_fold_no_io() -> None:
    assert ours(MODULES["app.event"]) == set()
    assert ours(MODULES["app.fold"]) == {"app.event", "projections"}
    assert imports_of(MODULES["app.fold"]) <= {
        "app.event",
        "projections",
        "operator",
        "typing",
        "msgspec",
    }


def test_only_db_opens_sqlite() -> None:
    for name, path in MODULES.items():
        sqlite = {module for module in imports_of(path) if "sqlite" in module}
        assert not sqlite or name == "app.db", f"{name} imports {sqlite}"


SQL = re.compile(r"\b(SELECT\b.*\bFROM|INSERT (OR \w+ )?INTO|DELETE FROM|UPDATE \w+ SET|CREATE TABLE|PRAGMA)\b")


def test_sql_stands_in_three_files() -> None:
    speakers = {name for name, path in MODULES.items() if SQL.search(path.read_text())}
    assert speakers == {"app.db", "app.store", "app.read_models", "app.verify"}
    assert SQL.findall(MODULES["app.verify"].read_text()) == [("PRAGMA", "")]  # its integrity check, nothing else


WIRE_NAMES = ("CallbackCommand", "RoomInfo", "EventTime", "Operator_Account", "SdkAppid", "OptPlatform", "ActionStatus")


def test_only_tencent_knows_the_wire() -> None:
    for name, path in MODULES.items():
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        known = {wire for wire in WIRE_NAMES if wire in strings}
        assert not known or name == "app.tencent", f"{name} knows {known}"


def test_the_top_level_holds_what_it_should() -> None:
    allowed = {
        "pyproject.toml",
        "README.md",
        "CHANGELOG.md",
        "LICENSE",
        "SECURITY.md",
        "Makefile",
        "app",
        "projections",
        "tests",
        "data",
    }
    here = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert here <= allowed | {"htmlcov"}, here - allowed
    assert allowed <= here


def test_tables_do_not_meet() -> None:
    tables = [projection.Row.TABLE for projection in ALL.values()]
    assert len(set(tables)) == len(tables)
    assert not any(table.startswith(REBUILD_PREFIX) or table.endswith("_states") for table in tables)
