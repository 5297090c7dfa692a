"""The read models on disk: their rows, the saved states of their folds, and how far each has read the log.

The only SQL on read_models.db. Tables are made from each projection's `Row`; beside a table NAME stands NAME_states.
A rebuild uses the same code with a prefix before every table's name, and swaps at the end.
"""

import hashlib
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self, get_args

import msgspec

from app.event import Key
from app.infra import sqlite
from app.infra.errors import CorruptState, NewerSchema, NoData
from app.log.records import GENESIS
from app.projector.fold import Run, Saved, row_key, start
from projections import Projection

_CHECKPOINTS = "projections"
_LAYOUT = 1
"""Raise it when the columns beside those of the rows change; a file of a lower one is begun anew."""
_STATE_COLUMNS = "event_time_ms, event_id, events, max_position, min_position, state"
_MAX_INTEGER = 2**63 - 1
_PAGE_BYTES = 8192  # a fourth of a page holds a room; what is longer takes a page of its own
_BUSY_TIMEOUT_MS = 60_000  # a rebuild and a busy projector share them, and SQLite's lock is not fair
_COMPRESSION = 1  # states are half the size for a tenth of the time that folding them took
_MAX_HEADS = 4096  # rooms that are remembered, of each projection: those last written


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a projection has read the log. `chain` is the log's there, `error` why it stopped (None: it did not)."""

    version: int
    position: int
    chain: str
    error: str | None


class _Head(msgspec.Struct, frozen=True):
    """A room after its last event: its state, and the lines of those of its rows that the next event may touch."""

    saved: Saved
    lines: dict[tuple[Any, ...], tuple[Any, ...]]


def connect_read_models(path: Path | str) -> sqlite.Connection:
    """Open read_models.db for writing. Its commits are not synced: it can always be rebuilt from the log."""
    return sqlite.open_writer(path, synchronous="NORMAL", page_bytes=_PAGE_BYTES, busy_timeout_ms=_BUSY_TIMEOUT_MS)


class ReadModels:
    """The read models behind one connection. Not for use by two threads at a time."""

    def __init__(self, conn: sqlite.Connection, projections: Mapping[str, Projection], prefix: str = "") -> None:
        self.conn = conn
        self.projections = dict(projections)
        self.prefix = prefix
        self._tables = {name: _Table(prefix, projection) for name, projection in self.projections.items()}
        self._heads: dict[str, dict[str, _Head]] = {name: {} for name in self.projections}
        self._heads_position: dict[str, int] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.conn.close()

    def create(self) -> None:
        """Make what is missing. A projection that is new here starts at position 0. Raises NewerSchema."""
        with sqlite.transaction(self.conn):
            self._begin_layout()
            self.conn.execute(
                f"CREATE TABLE IF NOT EXISTS {self.prefix}{_CHECKPOINTS} (name TEXT PRIMARY KEY,"
                " version INTEGER NOT NULL, position INTEGER NOT NULL, chain TEXT NOT NULL, error TEXT)"
                " STRICT, WITHOUT ROWID"
            )
            for name, projection in self.projections.items():
                if self.find_checkpoint(name) is None:
                    self._tables[name].create(self.conn)
                    self.save_checkpoint(name, Checkpoint(projection.VERSION, 0, GENESIS, None))

    def _begin_layout(self) -> None:
        if self._layout() < _LAYOUT:
            # Our own: whoever works with the file may have put something beside them.
            self.conn.execute(f"DROP TABLE IF EXISTS {self.prefix}{_CHECKPOINTS}")
            self.conn.execute(f"PRAGMA user_version = {_LAYOUT}")

    def check_layout(self) -> None:
        """Raise NewerSchema if a newer version made the file, NoData if it has to be made again."""
        if self._layout() < _LAYOUT:
            raise NoData("the read models are of an older layout: `roomlapse rebuild` makes them again")

    def _layout(self) -> int:
        layout: int = self.conn.execute("PRAGMA user_version").fetchone()[0]
        if layout > _LAYOUT:
            raise NewerSchema(f"the read models are of layout {layout}, this Roomlapse knows {_LAYOUT}: upgrade it")
        return layout

    def drop(self) -> None:
        """Remove every table with this prefix, those of projections that are no more included."""
        assert self.prefix, "the live read models are never dropped"
        for name in self.table_names():
            self.conn.execute(f'DROP TABLE "{name}"')

    def table_names(self) -> list[str]:
        """Every table with this prefix."""
        rows = self.conn.execute(
            "SELECT name FROM sqlite_schema WHERE type = 'table' AND substr(name, 1, ?) = ?",
            (len(self.prefix), self.prefix),
        )
        return [name for (name,) in rows]

    def take_over(self, shadow: "ReadModels") -> None:
        """Put the shadow's tables in the place of these. Call it inside a transaction."""
        for name in shadow.projections:
            self._tables[name].replace_with(self.conn, shadow._tables[name])
            self._heads[name].clear()
            self.save_checkpoint(name, shadow.checkpoint(name))

    # ---- checkpoints ----

    def checkpoint(self, name: str) -> Checkpoint:
        """How far a projection has read."""
        found = self.find_checkpoint(name)
        assert found is not None, f"no checkpoint of {name}"
        return found

    def find_checkpoint(self, name: str) -> Checkpoint | None:
        """How far a projection has read, None if it is not known here."""
        row = self.conn.execute(
            f"SELECT version, position, chain, error FROM {self.prefix}{_CHECKPOINTS} WHERE name = ?", (name,)
        ).fetchone()
        return Checkpoint(*row) if row else None

    def save_checkpoint(self, name: str, checkpoint: Checkpoint) -> None:
        """Set how far a projection has read. Belongs into the transaction that writes its rows."""
        self.conn.execute(
            f"INSERT INTO {self.prefix}{_CHECKPOINTS} VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
            " version = excluded.version, position = excluded.position, chain = excluded.chain, error = excluded.error",
            (name, checkpoint.version, checkpoint.position, checkpoint.chain, checkpoint.error),
        )

    def move_checkpoint(self, name: str, checkpoint: Checkpoint) -> None:
        """Save a projection's checkpoint behind what has just been written: what is remembered is of there."""
        self.save_checkpoint(name, checkpoint)
        self._heads_position[name] = checkpoint.position

    # ---- saved states ----

    def head(self, name: str, room_id: str) -> Saved | None:
        """A room's state after its last event, None unless it is remembered from a write of ours.

        It is nowhere on disk: what a fold went on from is the last saved state, at most STEP events back.
        """
        head = self._heads[name].get(room_id)
        return None if head is None else head.saved

    def keep_heads(self, name: str, position: int) -> None:
        """Forget the remembered states of a projection unless its checkpoint is still where we put it."""
        if self._heads_position.get(name) != position:
            self._heads[name].clear()

    def forget_heads(self) -> None:
        """Forget all remembered states: what they were remembered from was rolled back."""
        for heads in self._heads.values():
            heads.clear()

    def saved_before(
        self, name: str, room_id: str, key: Key, as_of_ms: int = _MAX_INTEGER, upto: int = _MAX_INTEGER
    ) -> Saved:
        """The last saved state of a room that sorts before a place, holds at a time and for a log cut at a position."""
        where = "(event_time_ms, event_id) < (?, ?) AND event_time_ms <= ? AND max_position <= ?"
        return self._saved(name, where, room_id, *key, as_of_ms, upto)

    def saved_at(self, name: str, room_id: str, as_of_ms: int, upto: int) -> Saved:
        """The last saved state of a room that holds at a time, and for a log cut at a position."""
        return self._saved(name, "event_time_ms <= ? AND max_position <= ?", room_id, as_of_ms, upto)

    def _saved(self, name: str, where: str, *args: Any) -> Saved:
        row = self.conn.execute(
            f"SELECT {_STATE_COLUMNS} FROM {self._tables[name].states} WHERE room_id = ? AND {where}"
            " ORDER BY event_time_ms DESC, event_id DESC LIMIT 1",
            args,
        ).fetchone()
        if row is None:
            return start(self.projections[name])
        return self._tables[name].read_state(row)

    def states(self, name: str, room_id: str) -> list[Saved]:
        """All saved states of a room, in event order."""
        rows = self.conn.execute(
            f"SELECT {_STATE_COLUMNS} FROM {self._tables[name].states}"
            " WHERE room_id = ? ORDER BY event_time_ms, event_id",
            (room_id,),
        )
        return [self._tables[name].read_state(row) for row in rows]

    # ---- rows ----

    def rows(self, name: str, room_id: str, *, first: tuple[Any, ...] | None = None) -> list[Any]:
        """A room's rows in the order of their keys, from `first` on."""
        return self._select(name, room_id, ">=", first)

    def rows_before(self, name: str, room_id: str, first: tuple[Any, ...] | None) -> list[Any]:
        """A room's rows before `first`; none if that is None."""
        return self._select(name, room_id, "<", first) if first is not None else []

    def _select(self, name: str, room_id: str, comparison: str, first: tuple[Any, ...] | None) -> list[Any]:
        table = self._tables[name]
        where, args = "", ()
        if first:
            where = f" AND ({', '.join(table.key[1:])}) {comparison} ({', '.join('?' * len(first))})"
            args = first
        rows = self.conn.execute(
            f"SELECT {table.columns} FROM {table.name} WHERE room_id = ?{where} ORDER BY {', '.join(table.key)}",
            (room_id, *args),
        )
        return [table.read(row) for row in rows]

    def all_rows(self, name: str) -> Iterator[Any]:
        """Every row of a read model in the order of its keys."""
        table = self._tables[name]
        for row in self.conn.execute(f"SELECT {table.columns} FROM {table.name} ORDER BY {', '.join(table.key)}"):
            yield table.read(row)

    def room_ids(self, name: str, after: str = "") -> Iterator[str]:
        """The rooms that have rows in a read model, by room_id, behind `after`."""
        table = self._tables[name].name
        for (room_id,) in self.conn.execute(
            f"SELECT DISTINCT room_id FROM {table} WHERE room_id > ? ORDER BY room_id", (after,)
        ):
            yield room_id

    def known_room_ids(self, name: str) -> Iterator[str]:
        """The rooms that have rows or saved states, by room_id."""
        table = self._tables[name]
        for (room_id,) in self.conn.execute(
            f"SELECT room_id FROM {table.name} UNION SELECT room_id FROM {table.states} ORDER BY room_id"
        ):
            yield room_id

    def fingerprint(self, name: str) -> str:
        """Hash every row: equal sets of events give equal fingerprints, whatever their order of arrival."""
        digest = hashlib.sha256()
        for row in self.all_rows(name):
            digest.update(msgspec.json.encode(row))
            digest.update(b"\n")
        return digest.hexdigest()

    # ---- writing ----

    def write(self, name: str, runs: Iterable[tuple[str, Saved, Run]]) -> None:
        """Store what the folds of some rooms gave, each with the saved state that it went on from.

        Only rows that differ are written. Call it inside the transaction that moves the checkpoint.
        """
        table, heads = self._tables[name], self._heads[name]
        gone_rows: list[tuple[Any, ...]] = []
        new_rows: list[tuple[Any, ...]] = []
        gone_states: list[tuple[Any, ...]] = []
        new_states: list[tuple[Any, ...]] = []
        for room_id, saved, run in runs:
            head = heads.pop(room_id, None)
            if head is not None and head.saved is saved:  # in order: what may change are the last rows
                old = head.lines
            else:  # whatever stands behind the saved state may have been folded without one of these events
                head = None
                old = table.lines(self.rows(name, room_id, first=run.first))
                gone_states.append((room_id, *saved.key))
            if head is not None and run.last.state is head.saved.state:
                lines = old
            else:
                lines = table.lines(run.rows)
                gone_rows += [(room_id, *key) for key in old if key not in lines]
                new_rows += [line for key, line in lines.items() if old.get(key) != line]
                if table.row.GROWS:
                    touchable = self.projections[name].rows(room_id, run.last.state)
                    lines = {key: lines[key] for key in map(row_key, touchable)}
            new_states += [table.write_state(room_id, save) for save in run.saves]
            heads[room_id] = _Head(run.last, lines)
        while len(heads) > _MAX_HEADS:
            del heads[next(iter(heads))]
        self.conn.executemany(table.delete_row, gone_rows)
        self.conn.executemany(table.upsert_row, new_rows)
        self.conn.executemany(table.delete_states, gone_states)
        self.conn.executemany(table.insert_state, new_states)

    def insert(self, name: str, rows: list[tuple[Any, ...]], states: list[tuple[Any, ...]]) -> None:
        """Store rows and states as `flatten` gave them, of rooms that have none yet."""
        table = self._tables[name]
        self.conn.executemany(table.upsert_row, rows)
        self.conn.executemany(table.insert_state, states)

    def flatten(self, name: str, room_id: str, run: Run) -> tuple[list[tuple[Any, ...]], list[tuple[Any, ...]]]:
        """Make the column values of a run's rows and states, ready to cross to another process."""
        table = self._tables[name]
        return [table.write(row) for row in run.rows], [table.write_state(room_id, save) for save in run.saves]


class _Table:
    """The SQL of one projection's two tables, and the way of its rows and states into columns and back."""

    def __init__(self, prefix: str, projection: Projection) -> None:
        row = projection.Row
        self.row = row
        self.name = f"{prefix}{row.TABLE}"
        self.states = f"{self.name}_states"
        self.key: tuple[str, ...] = row.KEY
        self.types = {field.name: _column_type(field.type) for field in msgspec.structs.fields(row)}
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
            f"INSERT OR REPLACE INTO {self.states} (room_id, {_STATE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?)"
        )

    def create(self, conn: sqlite.Connection) -> None:
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

    def replace_with(self, conn: sqlite.Connection, other: "_Table") -> None:
        for mine, theirs in ((self.name, other.name), (self.states, other.states)):
            conn.execute(f"DROP TABLE IF EXISTS {mine}")
            conn.execute(f"ALTER TABLE {theirs} RENAME TO {mine}")

    def read(self, values: tuple[Any, ...]) -> Any:
        if self._raw or self._bool:
            columns = list(values)
            for i in self._raw:
                columns[i] = msgspec.Raw(columns[i].encode())
            for i in self._bool:
                columns[i] = None if columns[i] is None else bool(columns[i])
            return self.row(*columns)
        return self.row(*values)

    def write(self, row: Any) -> tuple[Any, ...]:
        values = msgspec.structs.astuple(row)
        if self._raw:
            return tuple(bytes(value).decode() if isinstance(value, msgspec.Raw) else value for value in values)
        return values

    def lines(self, rows: Iterable[Any]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
        end = len(self.key)
        return {line[1:end]: line for line in map(self.write, rows)}

    def read_state(self, values: tuple[Any, ...]) -> Saved:
        time_ms, event_id, events, max_position, min_position, state = values
        try:
            decoded = self._state_decoder.decode(zlib.decompress(state))
        except (zlib.error, msgspec.MsgspecError) as error:
            raise CorruptState(f"{self.states} holds a state that cannot be read ({error}): rebuild it") from None
        return Saved(events, (time_ms, event_id), max_position, min_position, decoded)

    def write_state(self, room_id: str, saved: Saved) -> tuple[Any, ...]:
        return (
            room_id,
            *saved.key,
            saved.events,
            saved.max_position,
            saved.min_position,
            zlib.compress(msgspec.msgpack.encode(saved.state), _COMPRESSION),
        )


class _Column(msgspec.Struct, frozen=True):
    base: type
    sql: str


_SQL_TYPES = {str: "TEXT", int: "INTEGER", bool: "INTEGER", msgspec.Raw: "TEXT"}


def _column_type(annotation: Any) -> _Column:
    parts = get_args(annotation) or (annotation,)
    (base,) = (part for part in parts if part is not type(None))
    return _Column(base, _SQL_TYPES[base] + ("" if type(None) in parts else " NOT NULL"))
