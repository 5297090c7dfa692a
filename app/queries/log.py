"""Questions about the log: its events, the quarantine, and how far the projections have read it."""

import base64

import msgspec

from app.infra import sqlite
from app.infra.errors import NotFound
from app.log import quarantine
from app.log.records import Record, Rejected
from app.queries.answers import Events, LogEvent, LogEventWithBody, ProjectionStatus, Quarantine, Quarantined, Status
from app.queries.paging import DEFAULT_LIMIT, Integer, check_limit, read_cursor, write_cursor
from app.queries.reader import Moment


def events(moment: Moment, after: int = 0, limit: int = DEFAULT_LIMIT) -> Events:
    """The log in log order, after a position."""
    check_limit(limit)
    with sqlite.snapshot(moment.log.conn):
        records = moment.log.tail(after, limit)
        return Events([_log_event(record) for record in records], moment.log.head().position)


def event(moment: Moment, event_id: str) -> LogEventWithBody:
    """One event of the log with its body. Raises NotFound."""
    record = moment.log.get(event_id)
    if record is None:
        raise NotFound(f"no event {event_id[:80]!r}")
    return LogEventWithBody(**msgspec.structs.asdict(_log_event(record)), body=record.body)


def rejected(moment: Moment, limit: int = DEFAULT_LIMIT, cursor: str | None = None) -> Quarantine:
    """The quarantine, newest first."""
    check_limit(limit)
    before = read_cursor(cursor, Integer) if cursor else None
    rows = quarantine.page(moment.log.conn, before, limit + 1)
    page = rows[:limit]
    return Quarantine([_quarantined(row) for row in page], write_cursor(page[-1].id) if len(rows) > limit else None)


def status(moment: Moment, *, fingerprint: bool = False) -> Status:
    """The log's head and how far each projection is behind it, also those that stopped."""
    log, models = moment.log, moment.models
    # The checkpoints first: a log read after them is never behind them.
    checkpoints = {name: models.checkpoint(name) for name in models.projections}
    with sqlite.snapshot(log.conn):
        head = log.head()
        projections = {
            name: ProjectionStatus(
                checkpoint.version,
                checkpoint.position,
                max(0, head.position - checkpoint.position),
                checkpoint.error,
                models.fingerprint(name) if fingerprint else None,
            )
            for name, checkpoint in checkpoints.items()
        }
        return Status(
            head.position,
            head.position,
            log.duplicates(),
            quarantine.count(log.conn),
            head.chain,
            head.received_at_ms if head.position else None,
            projections,
        )


def _log_event(record: Record) -> LogEvent:
    return LogEvent(
        record.position,
        record.event_id,
        record.room_id,
        record.command,
        record.event_time_ms,
        record.received_at_ms,
        msgspec.Raw(record.operator.encode()),
        record.client_ip,
        record.platform,
        record.chain,
    )


def _quarantined(row: Rejected) -> Quarantined:
    return Quarantined(
        row.id,
        row.received_at_ms,
        row.reason,
        row.client_ip,
        row.platform,
        row.body.decode(errors="replace"),
        base64.b64encode(row.body).decode(),
    )
