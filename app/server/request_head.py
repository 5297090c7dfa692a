"""Heads of requests, mended before they are parsed (bytes that are not escaped, offers to upgrade), or refused."""

import re
from collections.abc import Sequence

import msgspec

from app.tencent.request import answer_fail, carries_callback

_NOT_ASCII = re.compile(rb"[\x80-\xff]")
_OFFER = (b"upgrade", b"http2-settings")


def escape_line(data: bytes) -> tuple[bytes, bool]:
    """Escape the bytes of a request line that are not ASCII, as curl and old libraries send them: the parser would
    refuse them. Says also whether the line ends in this data."""
    begin = len(data) - len(data.lstrip(b"\r\n"))
    end = data.find(b"\n", begin)
    line = data[begin:] if end < 0 else data[begin:end]
    if not line.isascii():
        data = _NOT_ASCII.sub(lambda found: b"%%%02X" % found[0][0], line) + data[begin + len(line) :]
    return data, end >= 0


def head_without_offer(method: bytes, url: bytes, version: str, headers: Sequence[tuple[bytes, bytes]]) -> bytes:
    """Write a head without the upgrade that it offers (RFC 9110, 7.8: it may be ignored)."""
    lines = [b"%s %s HTTP/%s" % (method, url, version.encode())]
    for name, value in headers:
        if name in _OFFER:
            continue
        if name != b"connection":
            lines.append(name + b": " + value)
        elif kept := [token for token in value.split(b",") if token.strip().lower() not in _OFFER]:
            lines.append(b"connection: " + b",".join(kept))
    return b"\r\n".join([*lines, b"", b""])


def find_other_protocol(data: bytes) -> str | None:
    """Say what the beginning of a connection is, if it is TLS or HTTP/2: a callback URL may have the wrong scheme."""
    if data.startswith(b"\x16\x03"):
        return "this port speaks plain HTTP, and what came is TLS: let a proxy in front end it, or use http://"
    if data.startswith(b"PRI * HTTP/2"):
        return "this server speaks HTTP/1.1, and what came is HTTP/2"
    return None


def write_refusal(url: bytes, reason: str) -> bytes:
    """Write the whole answer to a request that is none, in the words of who sent it."""
    is_callback = carries_callback(url.partition(b"?")[2])
    body = answer_fail(400, reason) if is_callback else msgspec.json.encode({"status_code": 400, "detail": reason})
    head = (
        "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body
