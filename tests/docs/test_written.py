"""The parts of the documentation that the program writes are what it writes today.

`make docs` writes them anew, and the output of every documented command; read the difference before committing it.
"""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import StartServer
from test_architecture import FLOORS

from app.cli.main import main
from app.infra import settings
from docs import tables
from docs.files import FILES, ROOT, block_in, blocks_in, name_of, with_block

REWRITE = "`make docs` writes it anew"
WRITTEN: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/reference/cli.md", "commands"): tables.commands,
    ("docs/reference/cli.md", "options"): tables.command_options,
    ("docs/reference/settings.md", "variables"): tables.variables,
    ("docs/reference/metrics.md", "metrics"): tables.metrics,
    ("docs/explanation/architecture.md", "modules"): tables.modules,
}
OF_SCHEMA: dict[tuple[str, str], Callable[[dict[str, Any]], str]] = {
    ("docs/reference/http.md", "routes"): tables.routes,
    ("docs/reference/http.md", "parameters"): tables.route_parameters,
    ("docs/reference/http.md", "answers"): tables.answers,
    ("docs/reference/http.md", "statuses"): tables.statuses,
}
OF_OTHER_TOOLS = {("docs/faults.md", "faults"), ("docs/speed.md", "speed")}
"""`make test-faults` and `make bench` write these from what they have measured."""


def check(where: tuple[str, str], content: str) -> None:
    """Hold a block against what it should be, or write it where that is asked for."""
    path, name = ROOT / where[0], where[1]
    text = path.read_text()
    if os.environ.get("WRITE_DOCS"):
        path.write_text(with_block(text, name, content))
    else:
        assert block_in(text, name) == content.strip(), f"{where[0]}, block {name}: {REWRITE}"


@pytest.mark.parametrize("where", WRITTEN, ids="-".join)
def test_a_table_is_what_the_program_writes(where: tuple[str, str]) -> None:
    check(where, WRITTEN[where]())


def test_the_routes_are_those_of_the_schema(start_server: StartServer) -> None:
    server = start_server()
    schema = httpx.get(f"{server.url}/schema/").json()
    for where, write in OF_SCHEMA.items():
        check(where, write(schema))


def test_every_block_has_what_writes_it() -> None:
    found = {(name_of(path), name) for path in FILES for name in blocks_in(path.read_text())}
    assert found == {*WRITTEN, *OF_SCHEMA, *OF_OTHER_TOOLS}


def test_the_variables_are_those_that_are_read() -> None:
    source = Path(settings.__file__).read_text()
    secrets = re.findall(r'_secret\(env, "(\w+)"\)', source)
    read = {f"{settings.PREFIX}{name}" for name in (*secrets, *re.findall(r"\{PREFIX\}([A-Z_]+)", source))}
    read |= {f"{settings.PREFIX}{name}_FILE" for name in secrets}
    for command in main.commands.values():
        read |= {str(option.envvar) for option in command.params if option.envvar is not None}
    assert {*settings.VARIABLES} == read


def test_variables_and_make_targets_in_the_docs_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in FILES:
        text = path.read_text()
        assert set(re.findall(r"\bROOMLAPSE_[A-Z_]*[A-Z]", text)) <= {*settings.VARIABLES}, name_of(path)
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets, name_of(path)


def test_the_rooms_of_the_architecture_are_those_of_the_house() -> None:
    text = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    rooms = {room.removeprefix("app.") for floor in FLOORS for room in floor} - {"__main__"}
    table_ = text[text.index("| room | lives there |") : text.index("| what | only in |")]
    named = {
        name.removeprefix("app/").removesuffix(".py")
        for name in re.findall(r"^\| `([\w./]+)` \|", table_, re.MULTILINE)
    }
    assert named == rooms
    drawing = text[text.index("```text") : text.index("Besides the floors")]
    assert all(re.search(rf"\b{room}\b", drawing) for room in rooms)


def test_metrics_in_the_docs_exist() -> None:
    names = set(re.findall(r"`(roomlapse_\w+)`", tables.metrics()))
    for path in FILES:
        for name in re.findall(r"\broomlapse_[a-z_]+[a-z]\b", path.read_text()):
            assert re.sub(r"_(bucket|count|sum)$", "", name) in names, f"{name_of(path)} names {name}"
