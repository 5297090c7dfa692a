"""The only file that opens SQLite: which library, which pragmas, which transactions.

`sqlite_utils` picks the library (pysqlite3 where it is installed, the standard one elsewhere) and everybody takes it
from here: two SQLite libraries on one file in one process would break each other's locks.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import sqlite_utils
from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # the library it picked, re-exported

from app.infra.errors import Corrupt, CorruptFile, NoData

Connection = sqlite3.Connection
Database = sqlite_utils.Database
Migrations = sqlite_utils.Migrations
Error = sqlite3.Error
UNREADABLE = (Error, Corrupt, UnicodeDecodeError)
"""What reading a corrupt database raises: what SQLite says about it may quote bytes that are no text."""
UNFIT_VALUE = (OverflowError, TypeError, ValueError, sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)
"""What a write raises because of what is to be written, not because of the disk."""

LIBRARY_VERSION: str = sqlite3.sqlite_version
_FIXED_VERSION = (3, 51, 3)
LIBRARY_IS_SOUND = tuple(int(part) for part in LIBRARY_VERSION.split(".")) >= _FIXED_VERSION
"""False for a library with the WAL-reset bug, which can corrupt a database that two connections write."""

MEMORY = ":memory:"
_BUSY_TIMEOUT_MS = 10_000
_WAL_BYTES = 16 * 2**20
CACHE_KIB = 16 * 1024  # event_ids come in no order: their index has to be at hand while it is written


def open_writer(
    path: Path | str,
    *,
    synchronous: str,
    cache_kib: int = CACHE_KIB,
    page_bytes: int = 4096,
    busy_timeout_ms: int = _BUSY_TIMEOUT_MS,
) -> Connection:
    """Open a database in WAL mode for writing, made if it is missing. Raises CorruptFile and Error, with its path.

    `synchronous`: FULL syncs every commit to disk before it returns, NORMAL leaves that to the checkpoints.
    """
    conn = _connect(path)
    with closed_on_error(conn), named_in_errors(path):
        conn.execute(f"PRAGMA page_size = {page_bytes}")
        conn.execute(f"PRAGMA busy_timeout = {busy_timeout_ms}")
        conn.execute("PRAGMA journal_mode = WAL")
        conn.execute(f"PRAGMA synchronous = {synchronous}")
        # A long reader lets the WAL grow; without this the file would stay as large until nobody has it open.
        conn.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        conn.execute(f"PRAGMA cache_size = -{cache_kib}")
    return conn


@contextmanager
def closed_on_error(conn: Connection) -> Iterator[None]:
    """Close a connection when the block raises."""
    try:
        yield
    except BaseException:
        conn.close()
        raise


@contextmanager
def named_in_errors(path: Path | str) -> Iterator[None]:
    """Name the file in errors of SQLite, which does not; raise CorruptFile where it is no database."""
    try:
        yield
    except Error as error:
        if type(error) is sqlite3.DatabaseError:
            raise CorruptFile(f"{path}: {error}") from None
        raise type(error)(f"{path}: {error}") from None


def open_reader(path: Path | str, mapped_bytes: int = 0) -> Connection:
    """Open a database read-only. Raises NoData if there is none.

    `mapped_bytes` of the file are mapped into memory, which halves the cost of random reads. Not for a server: a file
    that is truncated while it is mapped ends the process.
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
    with closing(open_reader(path)) as conn:
        try:
            conn.execute("PRAGMA query_only = OFF")  # it would forbid to write the other file as well
            conn.execute("VACUUM INTO ?", (str(target),))
        except Error as error:
            raise type(error)(f"{target}: {error}") from None


def find_fault(conn: Connection) -> str | None:
    """The first thing that SQLite finds wrong with a file, page by page; None if there is none. Raises UNREADABLE."""
    (answer,) = conn.execute("PRAGMA quick_check(1)").fetchone()
    return None if answer == "ok" else str(answer)


def is_of_corrupt_file(error: BaseException) -> bool:
    """Whether an error says that a file is corrupt, not that it cannot be used now."""
    return type(error) in (sqlite3.DatabaseError, CorruptFile, UnicodeDecodeError)


def looks_like_database(path: Path) -> bool:
    """Whether a file begins as a database does, or is empty or zeros, as one whose first page was never written."""
    with path.open("rb") as file:
        return file.read(16) in (b"SQLite format 3\0", bytes(16), b"")


def remove(path: Path) -> None:
    """Remove a database and its WAL. Connections that are open keep the removed files."""
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
    """Run the block in one read transaction: all reads see the same state."""
    conn.execute("BEGIN")
    try:
        yield
    finally:
        if conn.in_transaction:
            conn.execute("ROLLBACK")


def sync(path: Path) -> None:
    """Sync a closed file, or a folder, whose names are lost in a power cut until they are synced too."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def make_private(path: Path | str) -> None:
    """Make a file that is not there yet, for its owner alone: bodies are for nobody else on this machine.

    One that is there is not even opened: closing it would release all locks that SQLite holds on it in this process.
    Errors are left to the opening that follows.
    """
    with suppress(OSError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _connect(path: Path | str) -> Connection:
    if path != MEMORY:
        make_private(path)
    with named_in_errors(path):
        return sqlite3.connect(str(path), isolation_level=None, check_same_thread=False)
