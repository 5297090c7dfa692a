"""JSON values as a person reads them."""

from typing import Any

import msgspec

from app.event import canonical_json

_MAX_TEXT = 400


def text_of(value: Any) -> str:
    """A JSON value as a person reads it: a string as it is, anything else as its JSON, digit by digit; cut if long."""
    return shortened(whole_text_of(value))


def whole_text_of(value: Any) -> str:
    """A JSON value as a person reads it, however long."""
    if isinstance(value, msgspec.Raw):
        text = bytes(value).decode()
        if text.startswith('"'):
            text = msgspec.json.decode(text, type=str)
    else:
        text = value if isinstance(value, str) else canonical_json(value)
    return text


def shortened(text: str) -> str:
    """A text cut at 400 characters, the last of them an ellipsis then."""
    return text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
