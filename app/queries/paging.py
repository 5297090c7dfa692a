"""Limits and cursors of lists. A cursor is the place of the last item of a page, in an order that nothing moves in."""

import base64
from typing import Annotated, Any

import msgspec

from app.infra.errors import BadQuestion

MAX_LIMIT = 500
DEFAULT_LIMIT = 100
Integer = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
"""What SQLite can compare with."""


def check_limit(limit: int) -> None:
    """Raise BadQuestion if a page cannot have so many items."""
    if not 1 <= limit <= MAX_LIMIT:
        raise BadQuestion(f"limit must be from 1 to {MAX_LIMIT}")


def check_window(from_ms: int | None, to_ms: int | None) -> None:
    """Raise BadQuestion if a window ends before it begins."""
    if from_ms is not None and to_ms is not None and from_ms > to_ms:
        raise BadQuestion("from is after to")


def write_cursor(place: Any) -> str:
    """Write the place where a page ends."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode().rstrip("=")


def read_cursor(cursor: str, kind: Any) -> Any:
    """Read a place of a type. Raises BadQuestion."""
    try:
        place = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        return msgspec.json.decode(place, type=kind)
    except (ValueError, msgspec.DecodeError):
        raise BadQuestion("cursor is not one that a page gave as next_cursor") from None
