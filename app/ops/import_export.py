"""Import and export: the log as JSON lines, streamed: memory does not grow with the number of lines."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from itertools import chain, islice
from typing import Any

import msgspec

from app.infra.errors import BadTime
from app.infra.processes import workers
from app.infra.times import refuse_seconds
from app.log import quarantine
from app.log.records import Arrival
from app.log.store import EventStore
from app.ops.import_files import MAX_LINE_BYTES
from app.tencent.body import MAX_AHEAD_MS, MAX_BODY_BYTES, Invalid, decode

BATCH = 2000
COMMIT_LINES, COMMIT_BYTES = 40_000, 32 * 2**20
"""An import commits after about so many lines or bytes. Large commits are cheaper: event ids are in no order, and each
commit writes every page of the indexes that it touched."""
IMPORT_CACHE_KIB = 64 * 1024
_READ_LINES, _READ_BYTES = 2000, 4 * 2**20
_AHEAD = 12  # batches decoded ahead of those that are stored: neither side waits for long

Report = Callable[[int, int], None]
"""Called now and then with the numbers of lines and bytes that are done."""


class Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A line as `export` writes it: a body, exactly as received, and how it was received.

    `import` takes the body as a JSON string or as a JSON object. A line of another shape is a bare body.
    """

    body: Any
    received_at_ms: Any = None
    client_ip: Any = None
    platform: Any = None


class _ReadLine(Line, frozen=True, forbid_unknown_fields=True):
    body: msgspec.Raw


_DECODER = msgspec.json.Decoder(_ReadLine)


class Imported(msgspec.Struct):
    """How many lines were accepted, duplicates, and rejected."""

    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0


class RejectedLine(msgspec.Struct, frozen=True):
    """A rejected line: its number, from 1, and the reason."""

    line: int
    reason: str


def export_lines(log: EventStore) -> Iterator[bytes]:
    """JSON lines of the log in log order, up to where it ends now."""
    position, head = 0, log.head().position
    while position < head:
        records = log.tail(position, min(BATCH, head - position))
        for record in records:
            yield (
                msgspec.json.encode(Line(record.body, record.received_at_ms, record.client_ip, record.platform)) + b"\n"
            )
        position = records[-1].position


class _Lines(msgspec.Struct):
    """Lines of a file; `first` is the number of the first one, `size` their bytes."""

    first: int
    lines: list[bytes]
    size: int


class _Read(msgspec.Struct):
    """Lines, decoded and checked."""

    arrivals: list[Arrival]
    rejected: list[RejectedLine]


def import_lines(
    log: EventStore,
    lines: Iterable[bytes],
    now_ms: Callable[[], int],
    on_rejected: Callable[[RejectedLine], None],
    on_batch: Report = lambda lines, size: None,
) -> Imported:
    """Append callbacks from JSON lines, in synced commits of some ten thousand; call `on_rejected` for each bad line.

    What was committed stays when an import is interrupted: run again, it counts those as duplicates and ends the same.
    """
    total = Imported()
    arrivals: list[Arrival] = []
    last = size = stored = 0

    def commit() -> None:
        duplicates = sum(appended.duplicate for appended in log.append(arrivals))
        total.duplicates += duplicates
        total.accepted += len(arrivals) - duplicates
        arrivals.clear()
        on_batch(last, size)

    for batch, read in _read_all(_batches(lines), now_ms):
        for rejected in read.rejected:
            on_rejected(rejected)
        total.rejected += len(read.rejected)
        arrivals += read.arrivals
        last, size = batch.first + len(batch.lines) - 1, size + batch.size
        if len(arrivals) >= COMMIT_LINES or size - stored >= COMMIT_BYTES:
            commit()
            stored = size
    commit()
    return total


def _batches(lines: Iterable[bytes]) -> Iterator[_Lines]:
    batch = _Lines(1, [], 0)
    for line in lines:
        batch.lines.append(line)
        batch.size += len(line)
        if len(batch.lines) == _READ_LINES or batch.size >= _READ_BYTES:
            yield batch
            batch = _Lines(batch.first + len(batch.lines), [], 0)
    if batch.lines:
        yield batch


def _read_all(batches: Iterator[_Lines], now_ms: Callable[[], int]) -> Iterator[tuple[_Lines, _Read]]:
    """Decode batch after batch, in a process of its own if there is more than one."""
    some = list(islice(batches, 2))
    if len(some) < 2:
        for batch in some:
            yield batch, _read(batch, now_ms())
        return
    with workers(1) as pool:
        waiting: deque[tuple[_Lines, Future[bytes]]] = deque()

        def next_read() -> tuple[_Lines, _Read]:
            batch, future = waiting.popleft()
            return batch, _READ.decode(future.result())

        for batch in chain(some, batches):
            waiting.append((batch, pool.submit(_read_packed, batch, now_ms())))
            if len(waiting) > _AHEAD:
                yield next_read()
        while waiting:
            yield next_read()


_READ = msgspec.msgpack.Decoder(_Read)  # pickling each Arrival costs as much as making it


def _read_packed(batch: _Lines, now_ms: int) -> bytes:
    return msgspec.msgpack.encode(_read(batch, now_ms))


def _read(batch: _Lines, now_ms: int) -> _Read:
    read = _Read([], [])
    for number, line in enumerate(batch.lines, start=batch.first):
        if line.strip():
            try:
                read.arrivals.append(_arrival(line, now_ms))
            except Invalid as invalid:
                read.rejected.append(RejectedLine(number, str(invalid)))
    return read


def release_rejected(log: EventStore, now_ms: Callable[[], int]) -> Imported:
    """Check every quarantined body again; move those that are valid now into the log."""
    result = Imported()
    before: int | None = None
    while rows := quarantine.page(log.conn, before, BATCH):
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
        return Arrival(decode(_bounded(line.strip()), now_ms), now_ms)  # raises what is wrong with it
    body = bytes(wrapped.body)
    if body.startswith(b'"'):
        try:
            body = msgspec.json.decode(body, type=str).encode()
        except (msgspec.MsgspecError, UnicodeError):
            raise Invalid("body is not a JSON string") from None
    received_at_ms = now_ms if wrapped.received_at_ms is None else wrapped.received_at_ms
    if not isinstance(received_at_ms, int) or isinstance(received_at_ms, bool) or received_at_ms < 0:
        raise Invalid("received_at_ms is not a number of milliseconds")
    try:
        refuse_seconds(str(received_at_ms))
    except BadTime as error:
        raise Invalid(f"received_at_ms: {error}") from None
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
