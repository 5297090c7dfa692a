"""The read models on disk: their tables, their checkpoints, and reading their rows.

Tables are made from each projection's `Row`; beside a table NAME stands NAME_states. A rebuild uses the same code with
a prefix before every table's name.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import msgspec

from app.infra import sqlite
from app.infra.errors import NewerSchema, NoData
from app.log.records import GENESIS
from app.projector.columns import Columns, Table
from app.projector.registry import CHECKPOINTS
from app.projector.remembered import Remembered
from projections import Projection

_LAYOUT = 1
"""Raise it when the columns beside those of the rows change; a file of a lower one is begun anew."""
_PAGE_BYTES = 8192  # a fourth of a page holds a room; what is longer takes a page of its own
_BUSY_TIMEOUT_MS = 60_000  # a rebuild and a busy projector share them, and SQLite's lock is not fair


class Checkpoint(msgspec.Struct, frozen=True):
    """How far a projection has read the log. `chain` is the log's there, `error` why it stopped (None: it did not)."""

    version: int
    position: int
    chain: str
    error: str | None


def connect_read_models(path: Path | str) -> sqlite.Connection:
    """Open read_models.db for writing. Its commits are not synced: it can always be rebuilt from the log."""
    return sqlite.open_writer(path, synchronous="NORMAL", page_bytes=_PAGE_BYTES, busy_timeout_ms=_BUSY_TIMEOUT_MS)


class ReadModels:
    """The read models behind one connection. Not for use by two threads at a time."""

    def __init__(self, conn: sqlite.Connection, projections: Mapping[str, Projection], prefix: str = "") -> None:
        self.conn = conn
        self.projections = dict(projections)
        self.prefix = prefix
        self.tables = {name: Table(prefix, projection) for name, projection in self.projections.items()}
        self.remembered = Remembered(self.projections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.conn.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in one write transaction; when it is rolled back, what was remembered in it is forgotten."""
        with self._forgetting_on_error(), sqlite.transaction(self.conn):
            yield

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Run the block inside the transaction that is open; see `transaction`."""
        with self._forgetting_on_error(), sqlite.savepoint(self.conn):
            yield

    @contextmanager
    def _forgetting_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self.remembered.forget()
            raise

    def create(self) -> None:
        """Make what is missing: new projections, and those whose columns changed, start at 0. Raises NewerSchema."""
        with self.transaction():
            self._begin_layout()
            self.conn.execute(
                f"CREATE TABLE IF NOT EXISTS {self.prefix}{CHECKPOINTS} (name TEXT PRIMARY KEY,"
                " version INTEGER NOT NULL, position INTEGER NOT NULL, chain TEXT NOT NULL, error TEXT)"
                " STRICT, WITHOUT ROWID"
            )
            for name, table in self.tables.items():
                version, found = self.projections[name].VERSION, self.find_checkpoint(name)
                if found is None or (found.version == version and not table.is_made(self.conn)):
                    table.create(self.conn)
                    self.save_checkpoint(name, Checkpoint(version, 0, GENESIS, None))

    def _begin_layout(self) -> None:
        if self._layout() < _LAYOUT:
            # Only this table: users of the file may have tables of their own in it.
            self.conn.execute(f"DROP TABLE IF EXISTS {self.prefix}{CHECKPOINTS}")
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

    # ---- checkpoints ----

    def checkpoint(self, name: str) -> Checkpoint:
        """How far a projection has read."""
        found = self.find_checkpoint(name)
        assert found is not None, f"no checkpoint of {name}"
        return found

    def find_checkpoint(self, name: str) -> Checkpoint | None:
        """How far a projection has read, None if it is not known here."""
        row = self.conn.execute(
            f"SELECT version, position, chain, error FROM {self.prefix}{CHECKPOINTS} WHERE name = ?", (name,)
        ).fetchone()
        return Checkpoint(*row) if row else None

    def save_checkpoint(self, name: str, checkpoint: Checkpoint) -> None:
        """Set how far a projection has read. Belongs into the transaction that writes its rows."""
        self.conn.execute(
            f"INSERT INTO {self.prefix}{CHECKPOINTS} VALUES (?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET"
            " version = excluded.version, position = excluded.position, chain = excluded.chain, error = excluded.error",
            (name, checkpoint.version, checkpoint.position, checkpoint.chain, checkpoint.error),
        )

    def move_checkpoint(self, name: str, checkpoint: Checkpoint) -> None:
        """Save a projection's checkpoint with what was just written: remembered states hold for this position."""
        self.save_checkpoint(name, checkpoint)
        self.remembered.move(name, checkpoint.position)

    # ---- rows ----

    def rows(self, name: str, room_id: str, *, first: Columns | None = None) -> list[Any]:
        """A room's rows in the order of their keys, from `first` on."""
        return self._select(name, room_id, ">=", first)

    def rows_before(self, name: str, room_id: str, first: Columns | None) -> list[Any]:
        """A room's rows before `first`; none if that is None."""
        return self._select(name, room_id, "<", first) if first is not None else []

    def _select(self, name: str, room_id: str, comparison: str, first: Columns | None) -> list[Any]:
        table = self.tables[name]
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
        table = self.tables[name]
        for row in self.conn.execute(f"SELECT {table.columns} FROM {table.name} ORDER BY {', '.join(table.key)}"):
            yield table.read(row)

    def room_ids(self, name: str, after: str = "") -> Iterator[str]:
        """The rooms that have rows in a read model, by room_id, after `after`."""
        table = self.tables[name].name
        rows = self.conn.execute(f"SELECT DISTINCT room_id FROM {table} WHERE room_id > ? ORDER BY room_id", (after,))
        yield from (room_id for (room_id,) in rows)

    def known_room_ids(self, name: str) -> Iterator[str]:
        """The rooms that have rows or saved states, by room_id."""
        table = self.tables[name]
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
