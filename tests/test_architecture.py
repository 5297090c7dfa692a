"""The rooms of the house: who may import whom, and what stands in one room only."""

import ast
import re
import sys
from pathlib import Path

import pytest

from app.projector.registry import REBUILD_PREFIX
from projections import ALL

ROOT = Path(__file__).parent.parent
FLOORS: list[set[str]] = [
    {"app.event", "app.infra"},
    {"app.tencent", "projections"},
    {"app.log"},
    {"app.receiver", "app.projector"},
    {"app.queries", "app.ops"},
    {"app.server"},
    {"app.cli"},
    {"app.__main__"},
]
"""From the ground up. A room imports rooms of lower floors, and modules of its own."""
FORBIDDEN = {
    ("app.receiver", "app.queries"),
    ("app.log", "projections"),
}
"""What the floors alone would allow."""

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("app", "projections")
    for path in (ROOT / folder).rglob("*.py")
}


def room_of(module: str) -> str:
    """`app.log.store` stands in `app.log`, every projection in `projections`."""
    parts = module.split(".")
    return parts[0] if parts[0] == "projections" else ".".join(parts[:2])


FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, `from app.infra import sqlite` counted as app.infra.sqlite."""
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


@pytest.mark.parametrize("name", sorted(MODULES.keys() - {"app"}))
def test_a_room_imports_lower_floors_only(name: str) -> None:
    here = room_of(name)
    assert here in FLOOR, f"{name} has no place in the house yet: give its room one in FLOORS"
    for other in sorted(ours(MODULES[name])):
        there = room_of(other)
        if there == here:
            continue
        assert FLOOR[there] < FLOOR[here], f"{name} may not import {other}"
        assert (here, there) not in FORBIDDEN, f"{name} may not import {other}"


def test_no_circle_of_modules() -> None:
    left = {name: ours(path) - {name} for name, path in MODULES.items()}
    while free := {name for name, imports in left.items() if not imports & left.keys()}:
        left = {name: imports for name, imports in left.items() if name not in free}
    assert not left, f"these import one another: {sorted(left)}"


@pytest.mark.parametrize("name", sorted(name for name in MODULES if name.startswith("projections.")))
def test_a_projection_imports_the_standard_library_msgspec_and_the_event(name: str) -> None:
    others = {module for module in imports_of(MODULES[name]) if module.split(".")[0] not in sys.stdlib_module_names}
    assert others <= {"msgspec", "app.event"}


def test_event_imports_nothing_of_ours_and_fold_no_io() -> None:
    assert ours(MODULES["app.event"]) == set()
    assert imports_of(MODULES["app.projector.fold"]) <= {
        "app.event",
        "app.infra.errors",
        "projections",
        "operator",
        "typing",
        "msgspec",
    }


ONLY_IN: dict[str, set[str]] = {
    "sqlite3": {"app.infra.sqlite"},
    "pysqlite3": {"app.infra.sqlite"},
    "sqlite_utils": {"app.infra.sqlite"},
    "litestar": {"app.server"},
    "uvicorn": {"app.server"},
    "jinja2": {"app.server"},
    "click": {"app.cli"},
    "rich_click": {"app.cli"},
    "rich": {"app.cli"},
    "nats": {"app.cluster"},
    "httpx": {"app.relay"},
}
"""A library and the rooms or modules that alone may import it."""


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_imported_in_its_room_only(library: str) -> None:
    for name, path in MODULES.items():
        if any(module.split(".")[0] == library for module in imports_of(path)):
            assert {name, room_of(name)} & ONLY_IN[library], f"{name} imports {library}"


SQL = re.compile(r"\b(SELECT\b.*\bFROM|INSERT (OR \w+ )?INTO|DELETE FROM|UPDATE \w+ SET|CREATE TABLE|PRAGMA)\b")


def test_sql_stands_in_its_rooms() -> None:
    speakers = {room_of(name) for name, path in MODULES.items() if SQL.search(path.read_text())}
    assert speakers <= {"app.infra", "app.log", "app.projector", "app.queries"}
    events = {
        room_of(name)
        for name, path in MODULES.items()
        if re.search(r"(FROM|INTO) (events|rejected)\b", path.read_text())
    }
    assert events <= {"app.log"}


WIRE_NAMES = ("CallbackCommand", "RoomInfo", "EventTime", "Operator_Account", "SdkAppid", "OptPlatform", "ActionStatus")


def test_only_tencent_knows_the_wire() -> None:
    for name, path in MODULES.items():
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        known = {wire for wire in WIRE_NAMES if wire in strings}
        assert not known or room_of(name) == "app.tencent", f"{name} knows {known}"


MAX_LINES = {"module": 300, "class": 150, "function": 60}
READS_BETTER_WHOLE = {
    "app.log.schema.create_log": "the whole schema of the log, as it is on disk",
    "app.infra.metrics.__init__": "a list of metrics, one after the other",
}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_nothing_is_so_long_that_it_holds_two_ideas(name: str) -> None:
    text = MODULES[name].read_text()
    assert len(text.splitlines()) <= MAX_LINES["module"]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            kind = "class" if isinstance(node, ast.ClassDef) else "function"
            whole = f"{name}.{node.name}" in READS_BETTER_WHOLE
            assert lines <= MAX_LINES[kind] or whole, f"{name}: {kind} {node.name} has {lines} lines"


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
    new = {"docs", "deploy", "CONTRIBUTING.md"}
    here = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    assert here <= allowed | new | {"dist", "htmlcov", "roomlapse-data"}, here - allowed
    assert allowed <= here


def test_tables_do_not_meet() -> None:
    tables = [projection.Row.TABLE for projection in ALL.values()]
    assert len(set(tables)) == len(tables)
    assert not any(table.startswith(REBUILD_PREFIX) or table.endswith("_states") for table in tables)
