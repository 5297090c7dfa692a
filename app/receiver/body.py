"""Reads the body of a callback's request, within its limit."""

from app.infra.asgi import Receive, Scope
from app.tencent.body import MAX_BODY_BYTES
from app.tencent.request import Refused


class HungUp(Exception):
    """The sender closed the connection before its request was complete."""


async def read_body(scope: Scope, receive: Receive) -> bytes:
    """Read the body, at most MAX_BODY_BYTES. Raises Refused(413) and HungUp."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > MAX_BODY_BYTES:
            raise _too_large()  # before it comes
    chunks: list[bytes] = []
    size = 0
    while (message := await receive())["type"] == "http.request":
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise _too_large()
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
    raise HungUp


def _too_large() -> Refused:
    return Refused(413, f"the body is larger than {MAX_BODY_BYTES} bytes", "too_large")
