"""Compresses answers with gzip: whole texts of some size, never a stream.

Litestar's own would do so on the event loop, which takes callbacks: a list of 4 MiB would hold it up for 50 ms.
"""

import gzip
import re

from litestar.concurrency import sync_to_thread

from app.infra.asgi import Message, Scope, Send

_MIN_BYTES = 1024
_LEVEL = 5
_AT_ONCE_BYTES = 8 * 1024
"""What takes less time than handing it to a thread."""
_TEXT = re.compile(rb"text/(?!event-stream)|application/(?:\S+\+)?json|application/openapi|image/svg\+xml")


def compressed(scope: Scope, send: Send) -> Send:
    """Send answers compressed to a client that takes gzip."""
    if not _takes_gzip(scope):
        return send
    start: Message | None = None

    async def send_compressed(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            start = message
            return
        if start is not None:
            begun, start = start, None
            body = message.get("body", b"")
            if not message.get("more_body", False) and _is_worth_it(begun, body):
                body = await compress(body)
                message = {**message, "body": body}
                begun["headers"] = [*_without_length(begun), *encoding_headers(body)]
            await send(begun)
        await send(message)

    return send_compressed


async def compress(body: bytes) -> bytes:
    """A body as gzip, made in a thread if it is long."""
    if len(body) <= _AT_ONCE_BYTES:
        return gzip.compress(body, _LEVEL, mtime=0)
    return await sync_to_thread(gzip.compress, body, _LEVEL, mtime=0)


def encoding_headers(body: bytes) -> list[tuple[bytes, bytes]]:
    """The headers that say of a body that it is compressed."""
    return [(b"content-length", b"%d" % len(body)), (b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]


def _takes_gzip(scope: Scope) -> bool:
    given = b",".join(value for name, value in scope.get("headers", ()) if name == b"accept-encoding").lower()
    for choice in given.split(b","):
        coding, _, weight = choice.replace(b" ", b"").partition(b";")
        if coding in (b"gzip", b"*"):
            return not re.fullmatch(rb"q=0(\.0*)?", weight)
    return False


def _is_worth_it(start: Message, body: bytes) -> bool:
    headers = {name.lower(): value for name, value in start["headers"]}
    plain = b"content-encoding" not in headers and start["status"] not in (204, 206, 304)
    return plain and len(body) >= _MIN_BYTES and _TEXT.match(headers.get(b"content-type", b"")) is not None


def _without_length(start: Message) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
