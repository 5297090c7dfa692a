"""Which projections there are: the built-in ones, and those of the folder that ROOMLAPSE_PROJECTIONS names."""

import importlib.util
import inspect
import re
import sys
from contextlib import closing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec

from app.infra import sqlite
from app.infra.errors import BadProjection, BadSettings, reason_of
from app.infra.settings import PROJECTIONS, read_projections_folder
from app.projector.columns import Table
from projections import ALL, Projection

REBUILD_PREFIX = "rebuild_"
"""What the names of a rebuild's tables begin with."""
CHECKPOINTS = "projections"
"""The table of the checkpoints."""
_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FIVE_NAMES = ("VERSION", "Row", "initial", "apply", "rows")


def known_projections() -> dict[str, Projection]:
    """The projections of this process by name, the built-in ones first. Raises BadProjection and BadSettings.

    Files are imported once: a process goes on with what it began with, whatever becomes of the folder.
    """
    folder = read_projections_folder()
    return dict(ALL) if folder is None else dict(_load(folder))


@cache
def _load(folder: Path) -> dict[str, Projection]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix == ".py" and not path.name.startswith("_"))
    except (FileNotFoundError, NotADirectoryError):
        raise BadSettings(f"{PROJECTIONS} names {folder}, which is no folder: make it, or unset it") from None
    except OSError as error:
        raise BadSettings(f"{PROJECTIONS} names {folder}, which cannot be read: {error}") from None
    projections = dict(ALL)
    for path in paths:
        if path.stem in projections:
            raise BadProjection(f"{path}: the name {path.stem} is taken by a built-in projection: rename the file")
        projection = _import(path)
        if (problem := _problem_of(projection, path.stem, projections)) is not None:
            raise BadProjection(f"{path}: {problem}")
        projections[path.stem] = projection
    return projections


def _import(path: Path) -> Any:
    """Import a file under a name that hides no other module, and write nothing beside it."""
    name = f"roomlapse_projections.{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    wrote_bytecode, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # noqa: BLE001  whatever somebody's code raises is why it is refused
        del sys.modules[name]
        reason = " ".join(reason_of(error).split())
        raise BadProjection(f"{path} cannot be imported: {reason}") from None
    finally:
        sys.dont_write_bytecode = wrote_bytecode
    return module


def _problem_of(module: Any, name: str, others: dict[str, Projection]) -> str | None:
    """Why a module is no projection, None if it is one."""
    if not _NAME.fullmatch(name):
        return f"{name!r} is no name of a projection: lower-case letters, digits and _ make one"
    missing = [each for each in _FIVE_NAMES if not hasattr(module, each)]
    if missing:
        return f"{missing[0]} is missing: a projection has {', '.join(_FIVE_NAMES)}"
    if type(module.VERSION) is not int or module.VERSION < 1:
        return "VERSION is not a whole number from 1 on"
    if not isinstance(module.initial, msgspec.Struct):
        return "initial is not an instance of a msgspec Struct"
    try:
        msgspec.msgpack.decode(msgspec.msgpack.encode(module.initial), type=type(module.initial))
    except (TypeError, ValueError, msgspec.MsgspecError) as error:
        return f"initial cannot be saved and read again ({reason_of(error)})"
    for each in ("apply", "rows"):
        if not callable(getattr(module, each)):
            return f"{each} is not a function"
    return _problem_of_row(module, others)


def _problem_of_row(module: Any, others: dict[str, Projection]) -> str | None:
    row: Any = module.Row
    is_frozen = isinstance(row, type) and issubclass(row, msgspec.Struct) and row.__struct_config__.frozen
    if not is_frozen:
        return "Row is not a frozen msgspec Struct"
    missing = [each for each in ("TABLE", "KEY", "GROWS") if not hasattr(row, each)]
    if missing:
        return f"Row.{missing[0]} is missing"
    try:
        fields = msgspec.structs.fields(row)
    except NameError as error:
        return f"the types of Row's fields cannot be looked up: {error}"
    names = tuple(field.name for field in fields)
    key = row.KEY
    if not isinstance(key, tuple) or key[:1] != ("room_id",) or names[: len(key)] != key or fields[0].type is not str:
        return "Row.KEY is not a tuple of Row's first fields, of which the first is room_id, a str"
    if type(row.GROWS) is not bool or (row.GROWS and len(key) == 1):
        return "Row.GROWS is neither True nor False, or is True while KEY has nothing after room_id"
    if any(field.kind is inspect.Parameter.KEYWORD_ONLY for field in inspect.signature(row).parameters.values()):
        return "Row has fields that are given by name only"
    return _problem_of_table(module, others)


def _problem_of_table(module: Any, others: dict[str, Projection]) -> str | None:
    table = module.Row.TABLE
    if not isinstance(table, str) or not _NAME.fullmatch(table):
        return f"Row.TABLE is {table!r}: lower-case letters, digits and _ make a table's name"
    if table == CHECKPOINTS or table.endswith("_states") or table.startswith((REBUILD_PREFIX, "sqlite_")):
        return f"the table {table} is kept for Roomlapse itself: choose another Row.TABLE"
    for other, projection in others.items():
        if table == projection.Row.TABLE:
            return f"the table {table} is taken by {other}: choose another Row.TABLE"
    try:
        with closing(sqlite.open_writer(sqlite.MEMORY, synchronous="OFF")) as conn:
            Table("", module).create(conn)
    except (KeyError, TypeError, ValueError, sqlite.Error) as error:
        return f"no table can be made of Row ({reason_of(error)}): its fields are str, int, bool, msgspec.Raw or None"
    return None
