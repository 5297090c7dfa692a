"""A callback's body: what the log keeps of it, and the event that projections see. Wire names of Tencent Cloud Live."""

import json
import re
from collections.abc import Callable
from typing import Any

import msgspec

from app.event import Event, canonical_json, event_id_of
from app.tencent.request import is_blocking
from app.tencent.strict_json import BadJSON, parse_json

UPDATE_ROOM_INFO = "Live.CallbackAfterUpdateRoomInfo"
MAX_BODY_BYTES = 64 * 1024
MAX_ROOM_ID_BYTES = 128
MIN_EVENT_TIME_MS = 10**11  # 1973 in milliseconds; today's date in seconds lies far below
MAX_AHEAD_MS = 10 * 60 * 1000
_DIGITS = re.compile(r"[1-9][0-9]{0,18}")  # no sign, space, point, zero in front or digit of another script


class Invalid(ValueError):
    """A body that breaks the rules of contract §2; the message says which. Such a body is quarantined."""


class Callback(msgspec.Struct, frozen=True):
    """A callback that passed the checks: what the log keeps of it."""

    event_id: str
    room_id: str | None
    event_time_ms: int | None
    """None where the callback has no usable EventTime: the log then takes the time of receipt."""
    body: str
    blocking: bool = False
    """Whether the sender holds up somebody's action until it has an answer."""


def decode(body: bytes, now_ms: int) -> Callback:
    """Check a callback's body by contract §2 and take from it what the log keeps. Raises Invalid."""
    try:
        content, canonical = parse_json(body)
    except BadJSON as error:
        raise Invalid(str(error)) from None
    if not isinstance(content, dict):
        raise Invalid("the body is not a JSON object")
    command = content.get("CallbackCommand")
    if not isinstance(command, str):
        raise Invalid("CallbackCommand is not a string")
    if command == UPDATE_ROOM_INFO:
        room_id: str | None = _room_id_of_update(content)
        event_time_ms: int | None = _event_time_of_update(content, now_ms)
    else:
        room_id = _room_id_of_sibling(content)
        event_time_ms = _event_time_of_sibling(content, now_ms)
    return Callback(event_id_of(canonical), room_id, event_time_ms, body.decode(), is_blocking(command))


def _room_id_of_update(content: dict[str, Any]) -> str:
    room_info = content.get("RoomInfo")
    if not isinstance(room_info, dict):
        raise Invalid("RoomInfo is not an object")
    room_id = room_info.get("RoomId")
    if not isinstance(room_id, str) or not room_id:
        raise Invalid("RoomInfo.RoomId is not a non-empty string")
    if (problem := _room_id_problem(room_id)) is not None:
        raise Invalid(f"RoomInfo.RoomId {problem}")
    return room_id


def _event_time_of_update(content: dict[str, Any], now_ms: int) -> int:
    event_time_ms = content.get("EventTime")
    if isinstance(event_time_ms, str) and _DIGITS.fullmatch(event_time_ms):
        event_time_ms = int(event_time_ms)
    if not isinstance(event_time_ms, int) or isinstance(event_time_ms, bool):
        raise Invalid("EventTime is not an integer, nor the digits of one in quotes")
    if event_time_ms < MIN_EVENT_TIME_MS:
        raise Invalid(f"EventTime is below {MIN_EVENT_TIME_MS}: milliseconds are expected, this looks like seconds")
    if event_time_ms > now_ms + MAX_AHEAD_MS:
        raise Invalid("EventTime is more than 10 min ahead of our clock")
    return event_time_ms


def _room_id_of_sibling(content: dict[str, Any]) -> str | None:
    room_info = content.get("RoomInfo")
    inner = room_info.get("RoomId") if isinstance(room_info, dict) else None
    for room_id in (content.get("RoomId"), inner):
        if isinstance(room_id, str) and room_id and _room_id_problem(room_id) is None:
            return room_id
    return None


def _event_time_of_sibling(content: dict[str, Any], now_ms: int) -> int | None:
    try:
        return _event_time_of_update(content, now_ms)
    except Invalid:
        return None


def _room_id_problem(room_id: str) -> str | None:
    if len(room_id.encode()) > MAX_ROOM_ID_BYTES:
        return f"is longer than {MAX_ROOM_ID_BYTES} bytes"
    if "\0" in room_id or "/" in room_id:
        return "holds U+0000 or a slash"
    return None


class _Stored(msgspec.Struct):
    command: str = msgspec.field(name="CallbackCommand")
    operator: msgspec.Raw = msgspec.field(name="Operator_Account", default=msgspec.Raw(b"null"))


class _StoredUpdate(_Stored):
    room_info: dict[str, msgspec.Raw] = msgspec.field(name="RoomInfo", default_factory=dict)


_decode_stored = msgspec.json.Decoder(_Stored).decode
_decode_update = msgspec.json.Decoder(_StoredUpdate).decode
# Texts that are their own canonical form: plain strings, integers, true, false, null.
_CANONICAL = re.compile(rb'"[^"\\]*"|[1-9][0-9]*|-[1-9][0-9]*|0|true|false|null')
_MAX_REMEMBERED_BYTES = 256
_MAX_REMEMBERED_TEXTS = 20_000


class _Texts(dict[bytes, str]):
    """Cache of texts by the bytes as received. Values recur: a room's name, its cover, true, false, its moderators."""

    def __init__(self, text_of: Callable[[bytes], str]) -> None:
        super().__init__()
        self._text_of = text_of

    def __missing__(self, raw: bytes) -> str:
        text = raw.decode() if _CANONICAL.fullmatch(raw) else self._text_of(raw)
        if len(raw) <= _MAX_REMEMBERED_BYTES:
            if len(self) >= _MAX_REMEMBERED_TEXTS:
                self.clear()
            self[raw] = text
        return text


def _canonical_text(raw: bytes) -> str:
    return canonical_json(json.loads(raw))


def _operator_text(raw: bytes) -> str:
    operator = json.loads(raw)
    if operator is None or isinstance(operator, (str, int)):
        return canonical_json(operator)
    return raw.decode()  # as it came: a float would be rounded


_canonical_texts = _Texts(_canonical_text)
_operator_texts = _Texts(_operator_text)


def read_event(event_id: str, event_time_ms: int, room_id: str, body: str) -> Event:
    """Make the Event of a stored row. The body passed `decode` when it was stored and is trusted here."""
    room_info = None
    try:
        stored: _Stored = (update := _decode_update(body))
    except msgspec.ValidationError:
        stored = _decode_stored(body)  # another callback, whose RoomInfo is no object
    else:
        if stored.command == UPDATE_ROOM_INFO:
            texts = _canonical_texts
            room_info = {name: texts[bytes(raw)] for name, raw in update.room_info.items()}
            del room_info["RoomId"]
    operator = _operator_texts[bytes(stored.operator)]
    return Event(event_id, event_time_ms, room_id, stored.command, operator, room_info, body)


def command_of(body: str) -> str:
    """Read the command from a stored body."""
    return _decode_stored(body).command


def operator_of(body: str) -> str:
    """Read Operator_Account from a stored body, as JSON text: canonical, but for a float, which stays as it came.

    `null` if the callback does not say.
    """
    return _operator_texts[bytes(_decode_stored(body).operator)]
