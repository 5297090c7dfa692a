"""JSON read strictly: bodies that two readers could understand differently are refused.

The value comes with its canonical text, in which equal values have equal texts.
"""

import json
import math
import re
from typing import Any

import msgspec

from app.event import canonical_json

MAX_NESTING = 64
_SAFE_DIGITS = 308  # whatever is shorter is within a double's range; also bounds the cost of reading a number

# A string, or the rest of the text if it has no end (possessive, so that no text is read twice), or a bracket.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


_LONG_NUMBER = re.compile(rb"[0-9]{309}")


class _HasFloat(Exception):
    """A float: `json` writes some of them in another way than msgspec."""


def _refuse_float(_: str) -> Any:
    raise _HasFloat


_plain_decoder = msgspec.json.Decoder(float_hook=_refuse_float)
_plain_encoder = msgspec.json.Encoder(order="sorted")


class BadJSON(ValueError):
    """The bytes are not JSON that we can keep the meaning of; the message says why."""


def parse_json(body: bytes) -> tuple[Any, str]:
    """Parse a body strictly; return its value and its canonical JSON text.

    Refused with BadJSON, because two readers would not agree on what they mean: bytes that are not UTF-8,
    a byte order mark, repeated keys, lone surrogates, NaN and infinities, numbers beyond a double's range,
    nesting deeper than 64, anything after the value.
    """
    return _parse_plain(body) or _parse_any(body)


def _parse_plain(body: bytes) -> tuple[Any, str] | None:
    """Parse a body that is as plain as nearly all are; None if it is not, or is wrong. Five times as fast.

    Plain: no escapes, no floats, no number of hundreds of digits, hardly any nesting. For these msgspec writes the
    same canonical text as `json`, and without escapes an object that names a key twice loses quotes on the way.
    """
    if b"\\" in body or body.count(b"[") + body.count(b"{") > MAX_NESTING:
        return None
    if len(body) > _SAFE_DIGITS and _LONG_NUMBER.search(body):
        return None
    try:
        value = _plain_decoder.decode(body)
        canonical = _plain_encoder.encode(value)
    except (msgspec.MsgspecError, UnicodeDecodeError, _HasFloat):
        return None
    if canonical.count(b'"') != body.count(b'"'):
        return None
    return value, canonical.decode()


def _parse_any(body: bytes) -> tuple[Any, str]:
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise BadJSON(f"not UTF-8: byte {error.start} is {body[error.start]:#04x}") from None
    if _nesting(text) > MAX_NESTING:
        raise BadJSON(f"nested deeper than {MAX_NESTING}")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_of,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
            parse_int=_bounded_integer,
        )
        canonical = canonical_json(value)
        canonical.encode()
    except json.JSONDecodeError as error:
        raise BadJSON(f"not JSON: {error.msg} at character {error.pos}") from None
    except UnicodeEncodeError:
        raise BadJSON("a string holds a lone surrogate") from None
    return value, canonical


def _nesting(text: str) -> int:
    if text.count("[") + text.count("{") <= MAX_NESTING:
        return 0  # cannot be deeper than it has brackets
    depth = deepest = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        if match[0] in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif match[0] in "]}":
            depth -= 1
    return deepest


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise BadJSON(f"key {key[:64]!r} is repeated in one object")
            seen.add(key)
    return value


def _refuse_constant(name: str) -> Any:
    raise BadJSON(f"{name} is not JSON")


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise BadJSON("a number is out of range")
    return value


def _bounded_integer(digits: str) -> int:
    if len(digits) > _SAFE_DIGITS and not math.isfinite(float(digits)):
        raise BadJSON("a number is out of range")
    return int(digits)
