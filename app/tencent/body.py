"""The sender's side of the wire: the only file that speaks Tencent Cloud Live.

Facts come from the vendor's pages "Webhook After Room Update" and "Webhooks Overview"; what they leave open
is settled in docs/explanation/decisions.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote_plus, urlencode

import msgspec

from app.event import BadJSON, Event, canonical_json, event_id_of, parse_json

UPDATE_ROOM_INFO = "Live.CallbackAfterUpdateRoomInfo"
MAX_BODY_BYTES = 64 * 1024
MAX_ROOM_ID_BYTES = 128
MIN_EVENT_TIME_MS = 10**11  # 1973 in milliseconds; today's date in seconds lies far below
MAX_AHEAD_MS = 10 * 60 * 1000
SIGNATURE_WINDOW_S = 60

_BLOCKING = ".CallbackBefore"
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


class ClockOff(Refused):
    """A callback that one of our tokens signed, too long ago or too far ahead: one of the two clocks is wrong.

    Or somebody sends again what he saw: `skew_s` is how far our clock is ahead of RequestTime.
    """

    def __init__(self, skew_s: float) -> None:
        super().__init__(
            401,
            f"RequestTime is more than {SIGNATURE_WINDOW_S} s off our clock ({skew_s:+.0f} s): if it was sent just now,"
            " set the clock",
            "unsigned",
        )
        self.skew_s = skew_s


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
    command: str | None = None
    """What the URL says; the body's own decides, where it has one."""


class Callback(msgspec.Struct, frozen=True):
    """A callback that passed the checks: what the log keeps of it."""

    event_id: str
    room_id: str | None
    event_time_ms: int | None
    """None where the callback has none that can be used: the log then takes the time of receipt."""
    body: str
    blocking: bool = False
    """Whether the sender holds up somebody's action until it has an answer."""


def is_blocking(command: str | None) -> bool:
    """Whether the sender holds up somebody's action for the answer (vendor: `...CallbackBefore...` commands)."""
    return command is not None and _BLOCKING in command


def decode_query(query_string: bytes) -> Query:
    """Read the callback's query parameters. Raises Refused(403) when there are too many to be a callback's."""
    pairs = query_string.decode("latin-1").split("&")
    if len(pairs) > _MAX_QUERY_FIELDS:
        raise Refused(403, "too many query parameters", "forbidden")
    first: dict[str, str] = {}
    repeated = set()
    for pair in pairs:
        name, _, value = pair.partition("=")
        if "%" in pair or "+" in pair:
            name, value = unquote_plus(name, errors="replace"), unquote_plus(value, errors="replace")
        name = name.lower()
        if name in first:
            repeated.add(name)
        else:
            first[name] = value
    client_ip, platform, command = first.get("clientip"), first.get("optplatform"), first.get("callbackcommand")
    for name in repeated:
        del first[name]
    return Query(
        first.get("sdkappid"),
        first.get("sign"),
        first.get("requesttime"),
        client_ip[:_MAX_QUERY_VALUE] if client_ip else None,
        platform[:_MAX_QUERY_VALUE] if platform else None,
        command[:_MAX_QUERY_VALUE] if command else None,
    )


def check_app(query: Query, sdk_app_id: str) -> None:
    """Raise Refused(403) unless the callback was sent by our own application."""
    if query.sdk_app_id is None or not hmac.compare_digest(query.sdk_app_id.encode(), sdk_app_id.encode()):
        raise Refused(403, "SdkAppid is missing or not the one of this receiver", "forbidden")


def sign(token: str, request_time: str) -> str:
    """Sign = lower-case hex SHA-256 of token and RequestTime, concatenated (vendor: "Webhooks Overview")."""
    return hashlib.sha256((token + request_time).encode()).hexdigest()


def check_signature(query: Query, tokens: Sequence[str], now_s: float) -> float:
    """Raise Refused(401) unless one of the tokens made this Sign within the last (or next) 60 seconds.

    Returns by how many seconds our clock is ahead of RequestTime.
    """
    if query.sign is None or query.request_time is None:
        raise Refused(401, "Sign and RequestTime are needed, once each", "unsigned")
    if not _REQUEST_TIME.fullmatch(query.request_time):
        raise Refused(401, "RequestTime must be ten digits: epoch seconds", "unsigned")
    given = query.sign.encode()
    # Every token is compared, so that the time taken does not tell which one nearly matched.
    if sum(hmac.compare_digest(given, sign(token, query.request_time).encode()) for token in tokens) == 0:
        raise Refused(401, "Sign does not match any callback token", "unsigned")
    skew_s = now_s - int(query.request_time)
    if abs(skew_s) > SIGNATURE_WINDOW_S:
        raise ClockOff(skew_s)
    return skew_s


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
    """What becomes of values as received. They recur: a room's name, its cover, true, false, who moderates."""

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
