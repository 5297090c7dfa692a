"""Rows and saved states as columns and back, and the SQL of a projection's two tables. Needs no database."""

import zlib
from collections.abc import Iterable
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from app.infra.errors import CorruptState
from app.infra.sqlite import Connection
from app.projector.fold import Run, Saved
from projections import Projection

STATE_COLUMNS = "event_time_ms, event_id, events, max_position, min_position, state"
_COMPRESSION = 1  # states are half the size for a tenth of the time that folding them took
_SQL_TYPES = {str: "TEXT", int: "INTEGER", bool: "INTEGER", msgspec.Raw: "TEXT"}

Columns = tuple[Any, ...]
"""The values of a line's columns, or of the part of its key that tells it from the room's other lines."""


class Table:
    """The SQL of one projection's two tables, and the way of its rows and states into columns and back."""

    def __init__(self, prefix: str, projection: Projection) -> None:
        row = projection.Row
        self.row = row
        self.name = f"{prefix}{row.TABLE}"
        self.states = f"{self.name}_states"
        self.key: tuple[str, ...] = row.KEY
        self.types = {field.name: _column_of(field.type) for field in msgspec.structs.fields(row)}
        names = list(self.types)
        assert self.key[0] == "room_id", f"{row.TABLE}: a key begins with room_id"
        assert list(self.key) == names[: len(self.key)], f"{row.TABLE}: a row begins with its key"
        self.columns = ", ".join(names)
        self._raw = [i for i, name in enumerate(names) if self.types[name].base is msgspec.Raw]
        self._bool = [i for i, name in enumerate(names) if self.types[name].base is bool]
        self._state_decoder = msgspec.msgpack.Decoder(type(projection.initial))
        marks = ", ".join("?" * len(names))
        self.upsert_row = f"INSERT OR REPLACE INTO {self.name} ({self.columns}) VALUES ({marks})"
        self.delete_row = f"DELETE FROM {self.name} WHERE {' AND '.join(f'{column} = ?' for column in self.key)}"
        self.delete_states = f"DELETE FROM {self.states} WHERE room_id = ? AND (event_time_ms, event_id) > (?, ?)"
        self.insert_state = (
            f"INSERT OR REPLACE INTO {self.states} (room_id, {STATE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        )

    def create(self, conn: Connection) -> None:
        """Make both tables anew."""
        columns = ", ".join(f"{name} {column.sql}" for name, column in self.types.items())
        conn.execute(f"DROP TABLE IF EXISTS {self.name}")
        conn.execute(f"DROP TABLE IF EXISTS {self.states}")
        conn.execute(f"CREATE TABLE {self.name} ({columns}, PRIMARY KEY ({', '.join(self.key)})) STRICT, WITHOUT ROWID")
        conn.execute(
            f"CREATE TABLE {self.states} (room_id TEXT NOT NULL, event_time_ms INTEGER NOT NULL,"
            " event_id TEXT NOT NULL, events INTEGER NOT NULL, max_position INTEGER NOT NULL,"
            " min_position INTEGER NOT NULL, state BLOB NOT NULL,"
            " PRIMARY KEY (room_id, event_time_ms, event_id)) STRICT, WITHOUT ROWID"
        )

    def is_made(self, conn: Connection) -> bool:
        """Whether both tables are there, and the one of the rows has these columns and this key."""
        info = 'SELECT name, type, "notnull", pk > 0 FROM pragma_table_info(?)'
        found = conn.execute(info, (self.name,)).fetchall()
        wanted = [(name, *column.declared, name in self.key) for name, column in self.types.items()]
        (states,) = conn.execute("SELECT count(*) FROM pragma_table_info(?)", (self.states,)).fetchone()
        return found == wanted and states > 0

    def replace_with(self, conn: Connection, other: "Table") -> None:
        """Put another one's tables in the place of these."""
        for mine, theirs in ((self.name, other.name), (self.states, other.states)):
            conn.execute(f"DROP TABLE IF EXISTS {mine}")
            conn.execute(f"ALTER TABLE {theirs} RENAME TO {mine}")

    def read(self, values: Columns) -> Any:
        """Make a row of its columns."""
        if self._raw or self._bool:
            columns = list(values)
            for i in self._raw:
                columns[i] = None if columns[i] is None else msgspec.Raw(columns[i].encode())
            for i in self._bool:
                columns[i] = None if columns[i] is None else bool(columns[i])
            return self.row(*columns)
        return self.row(*values)

    def write(self, row: Any) -> Columns:
        """Make the columns of a row."""
        values = msgspec.structs.astuple(row)
        if self._raw:
            return tuple(bytes(value).decode() if isinstance(value, msgspec.Raw) else value for value in values)
        return values

    def lines(self, rows: Iterable[Any]) -> dict[Columns, Columns]:
        """The columns of a room's rows by the part of their keys that tells them apart."""
        end = len(self.key)
        return {line[1:end]: line for line in map(self.write, rows)}

    def read_state(self, values: Columns) -> Saved:
        """Make a saved state of STATE_COLUMNS. Raises CorruptState."""
        time_ms, event_id, events, max_position, min_position, state = values
        try:
            decoded = self._state_decoder.decode(zlib.decompress(state))
        except (zlib.error, msgspec.MsgspecError) as error:
            raise CorruptState(
                f"{self.states} holds a state that cannot be read ({error}): run `roomlapse rebuild`, and raise VERSION"
                " if State was changed"
            ) from None
        return Saved(events, (time_ms, event_id), max_position, min_position, decoded)

    def write_state(self, room_id: str, saved: Saved) -> Columns:
        """Make the room_id and STATE_COLUMNS of a saved state."""
        return (
            room_id,
            *saved.key,
            saved.events,
            saved.max_position,
            saved.min_position,
            zlib.compress(msgspec.msgpack.encode(saved.state), _COMPRESSION),
        )

    def flatten(self, room_id: str, run: Run) -> tuple[list[Columns], list[Columns]]:
        """The column values of a run's rows and saved states, ready to cross to another process."""
        return [self.write(row) for row in run.rows], [self.write_state(room_id, saved) for saved in run.saves]


class Column(msgspec.Struct, frozen=True):
    """A column's type in Python, and its type in SQL with whether it may be null."""

    base: type
    sql: str

    @property
    def declared(self) -> tuple[str, bool]:
        """The type alone, and whether it may not be null."""
        return self.sql.partition(" ")[0], self.sql.endswith("NOT NULL")


def _column_of(annotation: Any) -> Column:
    parts = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    (base,) = (part for part in parts if part is not type(None))
    return Column(base, _SQL_TYPES[base] + ("" if type(None) in parts else " NOT NULL"))
