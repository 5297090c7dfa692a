"""A callback's request and its answer: query, signature, refusals. Wire names of Tencent Cloud Live.

Facts come from the vendor's pages "Webhook After Room Update" and "Webhooks Overview"; docs/explanation/decisions
settles what they leave open.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from urllib.parse import unquote_plus

import msgspec

SIGNATURE_WINDOW_S = 60
_BLOCKING = re.compile(r"Callback(?:Before|Prev)(?![a-z])")  # Prev: Sns.CallbackPrevFriendAdd and its sibling
_CALLBACK_IN_QUERY = re.compile(rb"(?:^|&)(?:sdkappid|callbackcommand)(?:[=&]|$)", re.IGNORECASE)
_CALLBACK_IN_BODY = re.compile(rb'"CallbackCommand"\s*:\s*"([^"\\]{1,64})"')
MAX_QUERY_BYTES = 8192
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


def is_blocking(command: str | None) -> bool:
    """Whether the sender holds up somebody's action for the answer (vendor: `...CallbackBefore...`, in the Chat family
    also `...CallbackPrev...`)."""
    return command is not None and _BLOCKING.search(command) is not None


def carries_callback(query_string: bytes) -> bool:
    """Whether a query has SdkAppid or CallbackCommand, in any case: then a callback was sent with it."""
    return _CALLBACK_IN_QUERY.search(query_string) is not None


def sniff_command(body: bytes) -> str | None:
    """The command that a body seems to have, whatever else is wrong with it; None if none can be seen."""
    found = _CALLBACK_IN_BODY.search(body)
    return found[1].decode("latin-1") if found else None


def decode_query(query_string: bytes) -> Query:
    """Read the callback's query parameters. Raises Refused when there are too many (403), or too long ones (414)."""
    if len(query_string) > MAX_QUERY_BYTES:
        raise Refused(414, f"the query is longer than {MAX_QUERY_BYTES} bytes", "too_large")
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
