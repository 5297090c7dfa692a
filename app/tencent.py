"""The sender's side of the wire: the only file that speaks Tencent Cloud Live.

Facts come from the vendor's pages "Webhook After Room Update" and "Webhooks Overview"; what they leave open
is settled in the README under "Decisions".
"""

import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec

from app.event import BadJSON, Event, canonical_json, event_id_of, parse_json

UPDATE_ROOM_INFO = "Live.CallbackAfterUpdateRoomInfo"
MAX_BODY_BYTES = 64 * 1024
MAX_ROOM_ID_BYTES = 128
MIN_EVENT_TIME_MS = 10**11  # 1973 in milliseconds; today's date in seconds lies far below
MAX_AHEAD_MS = 10 * 60 * 1000
SIGNATURE_WINDOW_S = 60

_MAX_QUERY_FIELDS = 64
_MAX_QUERY_VALUE = 64
_REQUEST_TIME = re.compile(r"[0-9]{10}")  # fullmatch, ASCII: anything looser allows a length extension of Sign


class Refused(Exception):
    """A callback that is not taken: the HTTP status and what is said to the sender."""

    def __init__(self, status_code: int, reason: str, outcome: str) -> None:
        super().__init__(reason)
        self.status_code = status_code
        self.reason = reason
        self.outcome = outcome


class Invalid(ValueError):
    """A body that breaks the rules of contract §2; the message says which. Such a body is quarantined."""


class Query(msgspec.Struct, frozen=True):
    """The query parameters of a callback, read without regard to case.

    None: absent; for the first three, which are checked, also given more than once.
    """

    sdk_app_id: str | None
    sign: str | None
    request_time: str | None
    client_ip: str | None
    platform: str | None


class Callback(msgspec.Struct, frozen=True):
    """A callback that passed the checks: what the log keeps of it."""

    event_id: str
    room_id: str | None
    command: str
    event_time_ms: int | None
    """None where the callback has none that can be used: the log then takes the time of receipt."""
    operator: str | None
    """Operator_Account as JSON text: canonical, but for a float, which stays as it came. None if absent."""
    body: str


def decode_query(query_string: bytes) -> Query:
    """Read the callback's query parameters. Raises Refused(403) when there are too many to be a callback's."""
    try:
        pairs = parse_qsl(query_string.decode("latin-1"), keep_blank_values=True, max_num_fields=_MAX_QUERY_FIELDS)
    except ValueError:
        raise Refused(403, "too many query parameters", "forbidden") from None
    values: dict[str, list[str]] = {}
    for name, value in pairs:
        values.setdefault(name.lower(), []).append(value)

    def only(name: str) -> str | None:
        found = values.get(name, ())
        return found[0] if len(found) == 1 else None

    def text(name: str) -> str | None:
        found = values.get(name, [""])[0][:_MAX_QUERY_VALUE]
        return found or None

    return Query(only("sdkappid"), only("sign"), only("requesttime"), text("clientip"), text("optplatform"))


def check_app(query: Query, sdk_app_id: str) -> None:
    """Raise Refused(403) unless the callback was sent by our own application."""
    if query.sdk_app_id is None or not hmac.compare_digest(query.sdk_app_id.encode(), sdk_app_id.encode()):
        raise Refused(403, "SdkAppid is missing or not the one of this receiver", "forbidden")


def sign(token: str, request_time: str) -> str:
    """Sign = lower-case hex SHA-256 of token and RequestTime, concatenated (vendor: "Webhooks Overview")."""
    return hashlib.sha256((token + request_time).encode()).hexdigest()


def check_signature(query: Query, tokens: Sequence[str], now_s: float) -> None:
    """Raise Refused(401) unless one of the tokens made this Sign within the last (or next) 60 seconds."""
    if query.sign is None or query.request_time is None:
        raise Refused(401, "Sign and RequestTime are needed, once each", "unsigned")
    if not _REQUEST_TIME.fullmatch(query.request_time):
        raise Refused(401, "RequestTime must be ten digits: epoch seconds", "unsigned")
    if abs(now_s - int(query.request_time)) > SIGNATURE_WINDOW_S:
        raise Refused(401, f"RequestTime is more than {SIGNATURE_WINDOW_S} s off our clock", "unsigned")
    given = query.sign.encode()
    # Every token is compared, so that the time taken does not tell which one nearly matched.
    if sum(hmac.compare_digest(given, sign(token, query.request_time).encode()) for token in tokens) == 0:
        raise Refused(401, "Sign does not match any callback token", "unsigned")


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
    operator = _operator_of(content, body) if "Operator_Account" in content else None
    return Callback(event_id_of(canonical), room_id, command, event_time_ms, operator, body.decode())


def _operator_of(content: dict[str, Any], body: bytes) -> str:
    operator = content["Operator_Account"]
    if operator is None or isinstance(operator, (str, int)):
        return canonical_json(operator)
    return bytes(_OPERATOR.decode(body).operator).decode()  # as it came: a float would be rounded


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
    if not isinstance(event_time_ms, int) or isinstance(event_time_ms, bool):
        raise Invalid("EventTime is not an integer")
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


class _Operator(msgspec.Struct):
    operator: msgspec.Raw = msgspec.field(name="Operator_Account")


_OPERATOR = msgspec.json.Decoder(_Operator)


class _Update(msgspec.Struct):
    room_info: dict[str, msgspec.Raw] = msgspec.field(name="RoomInfo")


_UPDATE = msgspec.json.Decoder(_Update)
# Texts that are their own canonical form: plain strings, integers, true, false, null.
_CANONICAL = re.compile(rb'"[^"\\]*"|[1-9][0-9]*|-[1-9][0-9]*|0|true|false|null')
_MAX_REMEMBERED_BYTES = 256
_MAX_REMEMBERED_TEXTS = 20_000


class _CanonicalTexts(dict[bytes, str]):
    """The canonical text of a value as received. Values recur: a room's name, its cover, true, false."""

    def __missing__(self, raw: bytes) -> str:
        text = raw.decode() if _CANONICAL.fullmatch(raw) else canonical_json(json.loads(raw))
        if len(raw) <= _MAX_REMEMBERED_BYTES:
            if len(self) >= _MAX_REMEMBERED_TEXTS:
                self.clear()
            self[raw] = text
        return text


_canonical_texts = _CanonicalTexts()


def read_event(event_id: str, event_time_ms: int, room_id: str, command: str, operator: str | None, body: str) -> Event:
    """Make the Event of a stored row. The body passed `decode` when it was stored and is trusted here."""
    room_info = None
    if command == UPDATE_ROOM_INFO:
        room_info = {name: _canonical_texts[bytes(raw)] for name, raw in _UPDATE.decode(body).room_info.items()}
        del room_info["RoomId"]
    return Event(event_id, event_time_ms, room_id, command, operator or "null", room_info, body)


QUERY_FIELDS: dict[str, str] = {
    "SdkAppid": "The application that sends; it has to be ours.",
    "CallbackCommand": "What happened; the body's own decides.",
    "contenttype": "json",
    "ClientIP": "Whose action it was.",
    "OptPlatform": "Where from: RESTAPI, Web, Android, iOS, Windows, Mac, iPad, Unknown.",
    "Sign": "SHA-256 of token and RequestTime, when a token is set in the console.",
    "RequestTime": "Epoch seconds, ten digits.",
}
"""What a callback's URL holds (vendor: "Webhook After Room Update", request); only the first is always there."""
ANSWER_FIELDS: dict[str, type] = {"ActionStatus": str, "ErrorInfo": str, "ErrorCode": int}
"""What an answer to a callback holds (vendor: "Webhook After Room Update", response)."""


def answer_ok() -> bytes:
    """Write the answer that tells the sender its callback is delivered."""
    return b'{"ActionStatus":"OK","ErrorInfo":"","ErrorCode":0}'


def answer_fail(status_code: int, reason: str) -> bytes:
    """Write a refusal: what is wrong and why."""
    return msgspec.json.encode({"ActionStatus": "FAIL", "ErrorInfo": reason, "ErrorCode": status_code})


def compose_update(room_id: str, operator: str, event_time_ms: int, patch: dict[str, Any]) -> bytes:
    """Write the body of a room update, as the sender does."""
    content = {
        "CallbackCommand": UPDATE_ROOM_INFO,
        "Operator_Account": operator,
        "RoomInfo": {"RoomId": room_id, **patch},
        "EventTime": event_time_ms,
    }
    return json.dumps(content, ensure_ascii=False).encode()


def signed_query(sdk_app_id: str, token: str | None, now_s: float, client_ip: str, platform: str) -> str:
    """Write a callback's query string, as the sender does; signed when there is a token."""
    fields = {
        "SdkAppid": sdk_app_id,
        "CallbackCommand": UPDATE_ROOM_INFO,
        "contenttype": "json",
        "ClientIP": client_ip,
        "OptPlatform": platform,
    }
    if token is not None:
        request_time = str(int(now_s))
        fields |= {"RequestTime": request_time, "Sign": sign(token, request_time)}
    return urlencode(fields)
