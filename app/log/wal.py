"""The log's write-ahead log (WAL): how long it is, and when it is moved into the database."""

from app.infra import sqlite
from app.infra.sqlite import Connection


def keep_wal(conn: Connection) -> None:
    """Leave what is committed in the WAL until `move_wal`: SQLite would move it at the end of some commit.

    Not with an SQLite that cannot be trusted with it (or cannot say how long the WAL is); that one goes on.
    """
    if sqlite.LIBRARY_IS_SOUND:
        conn.execute("PRAGMA wal_autocheckpoint = 0")


def wal_pages(conn: Connection) -> int:
    """How long the WAL is, in pages, if any of them is not in the database yet; 0 where `keep_wal` does nothing."""
    if not sqlite.LIBRARY_IS_SOUND:
        return 0
    _, pages, moved = conn.execute("PRAGMA wal_checkpoint(NOOP)").fetchone()
    return max(0, pages) if moved < pages else 0


def wal_bytes(conn: Connection) -> int:
    """The same in bytes."""
    page_bytes: int = conn.execute("PRAGMA page_size").fetchone()[0]
    return wal_pages(conn) * page_bytes


def move_wal(conn: Connection) -> None:
    """Move what no reader needs in the WAL into the database, synced; the next commit begins the WAL anew."""
    conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
