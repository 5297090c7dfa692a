"""The quarantine: bodies that broke a rule, each with the reason. Bounded: the newest 10,000 stay."""

from collections.abc import Sequence

from app.infra.sqlite import Connection
from app.log.records import Rejected, Rejection

MAX_REJECTED = 10_000


def add(conn: Connection, rejections: Sequence[Rejection]) -> None:
    """Keep some bodies and remove the oldest beyond the bound. Belongs into the transaction that appends to the log."""
    conn.executemany(
        "INSERT INTO rejected (received_at_ms, reason, client_ip, platform, body) VALUES (?, ?, ?, ?, ?)",
        [(r.received_at_ms, r.reason, r.client_ip, r.platform, r.body) for r in rejections],
    )
    conn.execute(
        "DELETE FROM rejected WHERE id <="
        " (SELECT id FROM rejected INDEXED BY rejected_by_id ORDER BY id DESC LIMIT 1 OFFSET ?)",
        (MAX_REJECTED,),
    )


def remove(conn: Connection, rejected_id: int) -> None:
    """Remove one body, because it is in the log now."""
    conn.execute("DELETE FROM rejected WHERE id = ?", (rejected_id,))


def count(conn: Connection) -> int:
    """Number of bodies in quarantine."""
    number: int = conn.execute("SELECT count(*) FROM rejected").fetchone()[0]
    return number


def page(conn: Connection, before: int | None, limit: int) -> list[Rejected]:
    """Quarantined bodies, newest first, older than an id."""
    rows = conn.execute(
        "SELECT id, received_at_ms, reason, client_ip, platform, body FROM rejected"
        " WHERE ? IS NULL OR id < ? ORDER BY id DESC LIMIT ?",
        (before, before, limit),
    )
    return [Rejected(*row) for row in rows]
