"""The log's write-ahead log (WAL): how long it is, and when it is moved into the database."""

from app.infra import sqlite
from app.infra.sqlite import Connection


def keep_wal(conn: Connection) -> None:
    """Leave commits in the WAL until `move_wal`; SQLite by itself would move it at the end of some commit.

    Does nothing where SQLite has the WAL-reset bug or cannot say how long the WAL is.
    """
    if sqlite.LIBRARY_IS_SOUND:
        conn.execute("PRAGMA wal_autocheckpoint = 0")


def wal_pages(conn: Connection) -> int:
    """Length of the WAL in pages, 0 if all of them are in the database already or where `keep_wal` does nothing."""
    if not sqlite.LIBRARY_IS_SOUND:
        return 0
    _, pages, moved = conn.execute("PRAGMA wal_checkpoint(NOOP)").fetchone()
    return max(0, pages) if moved < pages else 0


def wal_bytes(conn: Connection) -> int:
    """Length of the WAL in bytes; see `wal_pages`."""
    page_bytes: int = conn.execute("PRAGMA page_size").fetchone()[0]
    return wal_pages(conn) * page_bytes


def move_wal(conn: Connection) -> None:
    """Checkpoint: move the pages that no reader needs from the WAL into the database, synced."""
    conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
