"""The only file that opens SQLite: which library, which pragmas, which migrations.

`sqlite_utils` picks the library (pysqlite3 where it is installed, the standard one elsewhere) and everybody takes it
from here: two SQLite libraries on one file in one process would break each other's locks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

from sqlite_utils import Database, Migrations
from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # the library it picked, re-exported

Connection = sqlite3.Connection
Error = sqlite3.Error
UNREADABLE = (Error, UnicodeDecodeError)
"""What reading a spoilt database raises: what SQLite says about it may quote bytes that are no text."""
UNFIT_VALUE = (OverflowError, TypeError, ValueError, sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)
"""What a write raises because of what is to be written, not because of the disk."""

LIBRARY_VERSION: str = sqlite3.sqlite_version
_FIXED_VERSION = (3, 51, 3)
LIBRARY_IS_SOUND = tuple(int(part) for part in LIBRARY_VERSION.split(".")) >= _FIXED_VERSION
"""False for a library with the WAL-reset bug, which can corrupt a database that two connections write."""

MEMORY = ":memory:"
_BUSY_TIMEOUT_MS = 10_000
_READ_MODELS_BUSY_TIMEOUT_MS = 60_000  # a rebuild and a projector in a hurry share them, and SQLite's lock is not fair
_WAL_BYTES = 16 * 2**20
CACHE_KIB = 16 * 1024  # event_ids come in no order: their index has to be at hand while it is written

_READ_MODELS_PAGE_BYTES = 8192  # a fourth of a page holds a room; what is longer takes a page of its own

_log_schema = Migrations("roomlapse.events")


class NoData(Exception):
    """There is no database where one is to be read."""


class NotADatabase(sqlite3.DatabaseError):
    """The file is there, but SQLite cannot make sense of it."""


class NewerSchema(Exception):
    """The database was made by a newer version of this program."""


@_log_schema()
def create_log(db: Database) -> None:
    """Create the log and the quarantine. Rows of `events` cannot be changed, removed, replaced or skipped."""
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
    # Ties within a millisecond are sorted by event_id on the way out, and eight digits of an event_id are enough to
    # find it: keeping twice 64 bytes out of the indexes makes the log a fifth smaller. `command` and `operator` are
    # there for those who read with SQL; the body has them already. One that was spoilt on the disk has to be readable
    # still, so that `verify` can name it.
    # The address and the platform stand in an index because neither the chain nor a body vouches for them: SQLite's
    # integrity check compares an index with its table, so a byte of them that was spoilt on the disk shows in `verify`.
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


_LOG_MIGRATIONS = {create_log.__name__}


def open_log(path: Path | str, cache_kib: int = CACHE_KIB) -> Connection:
    """Open events.db for writing, made or migrated as needed. Every commit is synced to disk before it returns."""
    conn = _connect(path)
    try:
        _set_pragmas(conn, synchronous="FULL", cache_kib=cache_kib)
        with transaction(conn):
            _migrate_log(conn, path)
    except BaseException as error:  # noqa: BLE001  raised again
        conn.close()
        _raise_with_path(error, path)
    return conn


def _migrate_log(conn: Connection, path: Path | str) -> None:
    refuse_newer_log(conn, path)
    _log_schema.apply(Database(conn, execute_plugins=False))


def refuse_newer_log(conn: Connection, path: Path | str) -> None:
    """Raise NewerSchema if a newer version of this program made the log. Writes nothing."""
    applied = _log_schema.applied(Database(conn, execute_plugins=False))
    if {migration.name for migration in applied} - _LOG_MIGRATIONS:
        raise NewerSchema(f"{path} was made by a newer Roomlapse: upgrade this one to use it")


def spoilt_schema(conn: Connection, *, missing: bool = False) -> str | None:
    """Name a table, index or trigger of a log that says something else than this version's; None if there is none.

    `missing`: also one that is not there, or one too many.
    """
    fresh = open_log(MEMORY)
    try:
        schema = "SELECT type || ' ' || name, sql FROM sqlite_schema WHERE sql IS NOT NULL"
        found, due = dict(conn.execute(schema).fetchall()), dict(fresh.execute(schema).fetchall())
        if missing and (odd := found.keys() ^ due.keys()):
            return str(min(odd))
        return next((str(name) for name, sql in due.items() if found.get(name, sql) != sql), None)
    finally:
        fresh.close()


def open_read_models(path: Path | str) -> Connection:
    """Open read_models.db for writing. Its commits are not synced: it can always be rebuilt from the log."""
    conn = _connect(path)
    try:
        conn.execute(f"PRAGMA page_size = {_READ_MODELS_PAGE_BYTES}")
        _set_pragmas(conn, synchronous="NORMAL", cache_kib=CACHE_KIB)
        conn.execute(f"PRAGMA busy_timeout = {_READ_MODELS_BUSY_TIMEOUT_MS}")
    except BaseException as error:  # noqa: BLE001  raised again
        conn.close()
        _raise_with_path(error, path)
    return conn


def open_reader(path: Path | str, mapped_bytes: int = 0) -> Connection:
    """Open a database of ours that nobody may write through this connection. Raises NoData if there is none.

    So many bytes of the file are mapped into memory, which halves the cost of reading all over it. Not for a server:
    a file that is cut short while it is mapped ends the process.
    """
    if not Path(path).is_file():
        raise NoData(f"no database at {path}")
    conn = sqlite3.connect(
        f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
    )
    conn.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    conn.execute("PRAGMA query_only = ON")
    if mapped_bytes:
        conn.execute(f"PRAGMA mmap_size = {mapped_bytes}")
    return conn


def copy(path: Path, target: Path) -> None:
    """Write a whole copy of a database, as it is at one moment, to a new file, while others write to it.

    The copy is compact and needs no other file beside it. Raises NoData and Error.
    """
    conn = open_reader(path)
    try:
        conn.execute("PRAGMA query_only = OFF")  # it would forbid to write the other file as well
        conn.execute("VACUUM INTO ?", (str(target),))
    except Error as error:
        raise type(error)(f"{target}: {error}") from None
    finally:
        conn.close()


def fault_of(conn: Connection) -> str | None:
    """What SQLite finds wrong with a file, page by page; None if nothing. Raises UNREADABLE."""
    (answer,) = conn.execute("PRAGMA quick_check(1)").fetchone()
    return None if answer == "ok" else str(answer)


def tells_of_a_fault(error: BaseException) -> bool:
    """Whether an error says that a file is spoilt, not that it cannot be used now."""
    return type(error) in (sqlite3.DatabaseError, NotADatabase, UnicodeDecodeError)


def looks_like_one(path: Path) -> bool:
    """Whether a file begins as a database does, or with nothing, as one whose beginning has never been written."""
    with path.open("rb") as file:
        return file.read(16) in (b"SQLite format 3\0", bytes(16), b"")


def remove(path: Path) -> None:
    """Remove a database. Who has it open goes on with what is no longer there."""
    for file in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        file.unlink(missing_ok=True)


@contextmanager
def transaction(conn: Connection) -> Iterator[None]:
    """Run the block in one write transaction: all of it, or none of it when anything is raised."""
    conn.execute("BEGIN IMMEDIATE")
    try:
        yield
        conn.execute("COMMIT")
    except BaseException:
        if conn.in_transaction:  # SQLite has rolled back by itself after some errors, a full disk among them
            conn.execute("ROLLBACK")
        raise


@contextmanager
def savepoint(conn: Connection) -> Iterator[None]:
    """Run the block inside the transaction that is open: all of it, or none of it when anything is raised."""
    conn.execute("SAVEPOINT part")
    try:
        yield
    except BaseException:
        if conn.in_transaction:
            conn.execute("ROLLBACK TO part")
            conn.execute("RELEASE part")
        raise
    conn.execute("RELEASE part")


@contextmanager
def snapshot(conn: Connection) -> Iterator[None]:
    """Let every read in the block see the database as the first one saw it."""
    conn.execute("BEGIN")
    try:
        yield
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")


def _raise_with_path(error: BaseException, path: Path | str) -> NoReturn:
    """SQLite does not say which file it could not open, or what is none of its own."""
    if type(error) is sqlite3.DatabaseError:
        raise NotADatabase(f"{path}: {error}") from None
    if isinstance(error, Error):
        raise type(error)(f"{path}: {error}") from None
    raise error


def sync(path: Path) -> None:
    """Sync a file that nobody has open to disk, or a folder's names: what is safe under a name that is not would be
    lost with it."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def make_private(path: Path | str) -> None:
    """Make a file that is not there yet, for its owner alone: bodies are for nobody else on this machine.

    One that is there is not even opened: closing it would let go of all locks that SQLite holds on it in this process.
    What cannot be done is told by whoever opens it then.
    """
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _connect(path: Path | str) -> Connection:
    if path != MEMORY:
        make_private(path)
    try:
        return sqlite3.connect(str(path), isolation_level=None, check_same_thread=False)
    except Error as error:
        _raise_with_path(error, path)


def _set_pragmas(conn: Connection, *, synchronous: str, cache_kib: int) -> None:
    conn.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    conn.execute("PRAGMA journal_mode = WAL")
    conn.execute(f"PRAGMA synchronous = {synchronous}")
    # A long reader lets the WAL grow; without this the file would stay as large until nobody has it open.
    conn.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    conn.execute(f"PRAGMA cache_size = -{cache_kib}")
