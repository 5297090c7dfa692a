"""The log's tables, indexes and triggers: how events.db is made, opened and compared with what it should be."""

from contextlib import closing
from pathlib import Path

from app.infra import sqlite
from app.infra.errors import NewerSchema
from app.infra.files import name_of
from app.infra.sqlite import Connection, Database, Migrations

_schema = Migrations("roomlapse.events")


@_schema()
def create_log(db: Database) -> None:
    """Create the log and the quarantine. Rows of `events` cannot be changed, removed, replaced or skipped.

    In one function because it is one schema: to read it is to know what is on disk.
    """
    db.conn.execute(
        """
        CREATE TABLE events (
            position INTEGER PRIMARY KEY,
            event_id TEXT NOT NULL,
            room_id TEXT,
            command TEXT AS (CASE WHEN json_valid(body) THEN body ->> '$.CallbackCommand' END) VIRTUAL,
            event_time_ms INTEGER NOT NULL,
            received_at_ms INTEGER NOT NULL,
            operator TEXT AS (CASE WHEN json_valid(body) THEN body -> '$.Operator_Account' END) VIRTUAL,
            client_ip TEXT,
            platform TEXT,
            chain TEXT NOT NULL,
            body TEXT NOT NULL
        ) STRICT
        """
    )
    # Ties within a millisecond are sorted by event_id after reading, and eight digits of an event_id are enough to
    # find it: two indexes with whole ids would make the log a fifth larger. `command` and `operator` are
    # there for those who read with SQL; the body has them already. One that the disk has corrupted has to be readable
    # still, so that `verify` can name it.
    # The address and the platform stand in an index because neither the chain nor a body vouches for them: SQLite's
    # integrity check compares an index with its table, so a byte of them that the disk corrupts shows in `verify`.
    db.conn.execute("CREATE INDEX events_by_room ON events (room_id, event_time_ms, platform, client_ip)")
    db.conn.execute("CREATE INDEX events_by_id ON events (substr(event_id, 1, 8))")
    for verb in ("UPDATE", "DELETE"):
        db.conn.execute(
            f"CREATE TRIGGER events_no_{verb.lower()} BEFORE {verb} ON events"
            " BEGIN SELECT RAISE(ABORT, 'events only grows: rows are never changed or removed'); END"
        )
    # INSERT OR REPLACE removes rows without firing a DELETE trigger, so the guard is on INSERT.
    db.conn.execute(
        """
        CREATE TRIGGER events_no_replace BEFORE INSERT ON events
        WHEN NEW.position IS NOT (SELECT coalesce(max(position), 0) + 1 FROM events)
            OR EXISTS (
                SELECT 1 FROM events
                WHERE substr(event_id, 1, 8) = substr(NEW.event_id, 1, 8) AND event_id = NEW.event_id
            )
        BEGIN SELECT RAISE(ABORT, 'events only grows: a row takes the next position and a new event_id'); END
        """
    )
    db.conn.execute(
        """
        CREATE TABLE rejected (
            id INTEGER PRIMARY KEY AUTOINCREMENT,
            received_at_ms INTEGER NOT NULL,
            reason TEXT NOT NULL,
            client_ip TEXT,
            platform TEXT,
            body BLOB NOT NULL
        ) STRICT
        """
    )
    db.conn.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value ANY NOT NULL) STRICT, WITHOUT ROWID")
    db.conn.execute("CREATE INDEX rejected_by_id ON rejected (id)")  # to count them without walking over their bodies
    # As above: what no hash vouches for stands in an index as well.
    db.conn.execute("CREATE INDEX rejected_as_sent ON rejected (received_at_ms, reason, client_ip, platform, body)")
    db.conn.execute("CREATE INDEX meta_values ON meta (value)")


_MIGRATIONS = {create_log.__name__}


def open_log(path: Path | str, cache_kib: int = sqlite.CACHE_KIB) -> Connection:
    """Open events.db for writing, made or migrated as needed. Every commit is synced to disk before it returns."""
    conn = sqlite.open_writer(path, synchronous="FULL", cache_kib=cache_kib)
    with sqlite.closed_on_error(conn), sqlite.named_in_errors(path), sqlite.transaction(conn):
        refuse_newer_log(conn, path)
        _schema.apply(Database(conn, execute_plugins=False))
    return conn


def refuse_newer_log(conn: Connection, path: Path | str) -> None:
    """Raise NewerSchema if a newer version of this program made the log. Writes nothing."""
    applied = _schema.applied(Database(conn, execute_plugins=False))
    if {migration.name for migration in applied} - _MIGRATIONS:
        raise NewerSchema(f"{name_of(path)} was made by a newer Roomlapse: upgrade this one to use it")


def corrupt_schema(conn: Connection, *, missing: bool = False) -> str | None:
    """Name a table, index or trigger of a log that says something else than this version's; None if there is none.

    `missing`: also one that is not there, or one too many.
    """
    with closing(open_log(sqlite.MEMORY)) as fresh:
        schema = "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
        found, due = dict(conn.execute(schema).fetchall()), dict(fresh.execute(schema).fetchall())
        if missing and (odd := found.keys() ^ due.keys()):
            return str(min(odd))
        return next((str(name) for name, sql in due.items() if found.get(name, sql) != sql), None)
