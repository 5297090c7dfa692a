"""The only file that opens SQLite: which library, which pragmas, which transactions.

`sqlite_utils` picks the library (pysqlite3 where it is installed, the standard one elsewhere) and everybody takes it
from here: two SQLite libraries on one file in one process would break each other's locks.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import sqlite_utils
from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]  # the library it picked, re-exported

from app.infra.errors import Corrupt, CorruptFile, NoData
from app.infra.files import find_problem, make_private, name_of

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

_UNABLE = "unable to open database file"
_UNUSABLE = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_AUTH,
    sqlite3.SQLITE_IOERR,
}

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
    if path != MEMORY:
        make_private(path)
        if (problem := find_problem(Path(path), write=True)) is not None:  # SQLite would open it, and fail to write
            raise sqlite3.OperationalError(problem)
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
def named_in_errors(path: Path | str, *, write: bool = True) -> Iterator[None]:
    """Name the file in errors of SQLite, which does not, and say why it cannot be used, which SQLite does not know.

    Raises CorruptFile where it is no database.
    """
    try:
        yield
    except Error as error:
        if type(error) is sqlite3.DatabaseError:
            raise CorruptFile(f"{name_of(path)}: {error}") from None
        problem = find_problem(Path(path), write=write) if means_unusable(error) and path != MEMORY else None
        raise type(error)(problem or f"{name_of(path)}: {text_of(error)}") from None


def means_unusable(error: BaseException) -> bool:
    """Whether an error says that a file cannot be opened or written, whatever the reason."""
    # An error that was raised again by its name has lost its code.
    return isinstance(error, Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _UNUSABLE


def text_of(error: BaseException) -> str:
    """What an error says; in words for people where SQLite says that it is unable to open a file, and not which."""
    text = str(error) or type(error).__name__
    return text.replace(_UNABLE, "the database, or a file beside it, cannot be opened: run `roomlapse doctor`")


def open_reader(path: Path | str, mapped_bytes: int = 0) -> Connection:
    """Open a database read-only. Raises NoData if there is none, and Error, with its path, if it cannot be opened.

    `mapped_bytes` of the file are mapped into memory, which halves the cost of random reads. Not for a server: a file
    that is truncated while it is mapped ends the process.
    """
    try:
        is_there = stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        is_there = False
    except OSError as error:
        raise type(error)(find_problem(Path(path), write=False) or f"{name_of(path)}: {error.strerror}") from None
    if not is_there:
        raise NoData(find_problem(Path(path), write=False) or f"no database at {name_of(path)}")
    conn = _connect(path, "ro")
    with closed_on_error(conn):
        conn.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
        conn.execute("PRAGMA query_only = ON")
        if mapped_bytes:
            conn.execute(f"PRAGMA mmap_size = {mapped_bytes}")
        try:
            conn.execute("PRAGMA schema_version").fetchone()  # only a read opens the files of the WAL
        except Error as error:
            if means_unusable(error):  # what else is wrong with it is found by those who read on
                with named_in_errors(path, write=False):
                    raise
    return conn


def copy(path: Path, target: Path, name: Path) -> None:
    """Write a whole copy of a database, as it is at one moment, to a new file, while others write to it.

    The copy is compact and needs no other file beside it. `name`: what it will be called. Raises NoData and Error.
    """
    with closing(open_reader(path)) as conn, named_in_errors(name):
        conn.execute("PRAGMA query_only = OFF")  # it would forbid to write the other file as well
        uri = f"{target.absolute().as_uri()}?mode=rwc"
        try:
            conn.execute("VACUUM INTO ?", (uri,))
        finally:
            target.with_name(f"{target.name}-journal").unlink(missing_ok=True)  # left where the disk is full


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


def _connect(path: Path | str, mode: str = "rwc") -> Connection:
    if path == MEMORY:
        return sqlite3.connect(MEMORY, isolation_level=None, check_same_thread=False)
    # As a URI, in which each byte of a name stands for itself: the library would take `file:x` for one as well.
    uri = f"{Path(path).absolute().as_uri()}?mode={mode}"
    with named_in_errors(path, write=mode != "ro"):
        return sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
