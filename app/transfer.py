"""Import and export: the log as JSON lines, streamed, so that memory stays flat whatever its size."""

from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any

import msgspec

from app.store import Arrival, EventStore
from app.tencent import MAX_AHEAD_MS, MAX_BODY_BYTES, Invalid, decode

BATCH = 2000
MAX_LINE_BYTES = 8 * MAX_BODY_BYTES  # a body of control characters grows sixfold when it is written as a JSON string

Report = Callable[[int], None]


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line as export writes it: a body, exactly as received, and how it reached us.

    Import takes it with the body as a JSON string or as the object itself; anything else is a bare body.
    """

    body: Any
    received_at_ms: Any = None
    client_ip: Any = None
    platform: Any = None


class _ReadLine(Line, frozen=True, forbid_unknown_fields=True):
    body: msgspec.Raw


_DECODER = msgspec.json.Decoder(_ReadLine)


class Imported(msgspec.Struct):
    """What became of the lines."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0


class RejectedLine(msgspec.Struct, frozen=True):
    """A line that was not taken, and why."""

    line: int
    reason: str


def export_lines(log: EventStore) -> Iterator[bytes]:
    """Write the log, up to where it ends now, as JSON lines in log order."""
    position, head = 0, log.head().position
    while position < head:
        records = log.tail(position, min(BATCH, head - position))
        for record in records:
            yield (
                msgspec.json.encode(Line(record.body, record.received_at_ms, record.client_ip, record.platform)) + b"\n"
            )
        position = records[-1].position


def import_lines(
    log: EventStore,
    lines: Iterable[bytes],
    now_ms: Callable[[], int],
    on_rejected: Callable[[RejectedLine], None],
    on_batch: Report = lambda done: None,
) -> Imported:
    """Append callbacks from JSON lines, a synced commit for each few thousand; tell about every line not taken.

    What was committed stays when it is interrupted; run again, it finds those as duplicates and ends the same.
    """
    total = Imported()
    batch: list[Arrival] = []

    def commit() -> None:
        for appended in log.append(batch):
            if appended.duplicate:
                total.duplicates += 1
            else:
                total.accepted += 1
        batch.clear()

    number = 0
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            batch.append(_arrival(line, now_ms()))
        except Invalid as invalid:
            total.rejected += 1
            on_rejected(RejectedLine(number, str(invalid)))
        if len(batch) == BATCH:
            commit()
            on_batch(number)
    if batch:
        commit()
    on_batch(number)
    return total


def read_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Read lines, each cut off soon behind the longest that can be taken."""
    while line := file.readline(MAX_LINE_BYTES + 1):
        rest = line
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        yield line


def release_rejected(log: EventStore, now_ms: Callable[[], int]) -> Imported:
    """Try every quarantined body again; those that are valid now move into the log."""
    result = Imported()
    before: int | None = None
    while rows := log.rejected(before, BATCH):
        for row in rows:
            try:
                callback = decode(row.body, now_ms())
            except Invalid:
                result.rejected += 1
                continue
            appended = log.release(Arrival(callback, now_ms(), row.client_ip, row.platform), row.id)
            if appended.duplicate:
                result.duplicates += 1
            else:
                result.accepted += 1
        before = rows[-1].id
    return result


def _arrival(line: bytes, now_ms: int) -> Arrival:
    """Read one line. Raises Invalid."""
    if len(line) > MAX_LINE_BYTES:
        raise Invalid(f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        wrapped = _DECODER.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return Arrival(decode(_bounded(line.strip()), now_ms), now_ms)  # which says what is wrong with it, if anything
    body = bytes(wrapped.body)
    if body.startswith(b'"'):
        try:
            body = msgspec.json.decode(body, type=str).encode()
        except (msgspec.MsgspecError, UnicodeError):
            raise Invalid("body is not a JSON string") from None
    received_at_ms = now_ms if wrapped.received_at_ms is None else wrapped.received_at_ms
    if not isinstance(received_at_ms, int) or isinstance(received_at_ms, bool) or received_at_ms < 0:
        raise Invalid("received_at_ms is not a number of milliseconds")
    if received_at_ms > now_ms + MAX_AHEAD_MS:
        # Times of receipt never decrease along the log: one from the future would hold all later ones there.
        raise Invalid("received_at_ms is more than 10 min ahead of our clock")
    for name, value in (("client_ip", wrapped.client_ip), ("platform", wrapped.platform)):
        if not (value is None or isinstance(value, str)):
            raise Invalid(f"{name} is not a string")
    return Arrival(decode(_bounded(body), now_ms), received_at_ms, wrapped.client_ip, wrapped.platform)


def _bounded(body: bytes) -> bytes:
    if len(body) > MAX_BODY_BYTES:
        raise Invalid(f"the body is larger than {MAX_BODY_BYTES} bytes")
    return body
