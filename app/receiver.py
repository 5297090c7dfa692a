"""The hot path: a request comes in, is checked by contract §2, committed with its neighbours, and answered."""

import logging
import time

from litestar.enums import ScopeType
from litestar.types import Receive, Scope, Send

from app import tencent
from app.commit import Full, GroupCommit
from app.metrics import Metrics
from app.store import Arrival, Rejection

_log = logging.getLogger(__name__)
_SAY_EVERY_S = 10.0
_UNAVAILABLE = "not stored: the log cannot be written now, send it again"


class Receiver:
    """Answers `POST /callbacks`. OK goes out only for what is on disk."""

    def __init__(
        self, sdk_app_id: str, callback_tokens: tuple[str, ...], commits: GroupCommit, metrics: Metrics
    ) -> None:
        self._sdk_app_id = sdk_app_id
        self._tokens = callback_tokens
        self._commits = commits
        self._metrics = metrics
        self._refusals = _Refusals()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raw ASGI: parsing a body into a handler's arguments costs more than all of the rest."""
        if scope["type"] == ScopeType.WEBSOCKET or scope["method"] != "POST":
            await _send(send, 405, tencent.answer_fail(405, "send callbacks with POST"), (b"allow", b"POST"))
            return
        try:
            body = await _read_body(scope, receive)
            outcome = await self.take(scope["query_string"], body)
            status_code, answer = 200, tencent.answer_ok()
        except tencent.Refused as refused:
            status_code, outcome = refused.status_code, refused.outcome
            self._refusals.note(outcome, refused.reason)
            answer = tencent.answer_fail(status_code, refused.reason)
        except HungUp:
            return
        except Exception:  # noqa: BLE001  the sender gets an answer whatever happens
            _log.exception("a callback could not be taken")
            status_code, outcome = 503, "unavailable"
            answer = tencent.answer_fail(status_code, _UNAVAILABLE)
        self._metrics.outcomes[outcome].inc()
        await _send(send, status_code, answer)

    async def take(self, query_string: bytes, body: bytes) -> str:
        """Check and store a callback; return `accepted` or `duplicate`. Raises tencent.Refused."""
        query = tencent.decode_query(query_string)
        tencent.check_app(query, self._sdk_app_id)
        now_ms = time.time_ns() // 1_000_000
        if self._tokens:
            tencent.check_signature(query, self._tokens, now_ms / 1000)
        item: Arrival | Rejection
        try:
            item = Arrival(tencent.decode(body, now_ms), now_ms, query.client_ip, query.platform)
        except tencent.Invalid as invalid:
            item = Rejection(body, str(invalid), now_ms, query.client_ip, query.platform)
        try:
            appended = await self._commits.submit(item)
        except Full:
            raise tencent.Refused(503, "not stored: too many callbacks wait, send it again", "unavailable") from None
        except Exception:  # noqa: BLE001  the writer has logged it: this callback is not known to be on disk
            raise tencent.Refused(503, _UNAVAILABLE, "unavailable") from None
        if isinstance(item, Rejection):
            self._metrics.quarantined.inc()
            raise tencent.Refused(400, item.reason, "quarantined")
        assert appended is not None
        if appended.duplicate:
            self._metrics.duplicates.inc()
            return "duplicate"
        return "accepted"


class _Refusals:
    """Logs why callbacks are refused: they are lost for good. A line per kind and ten seconds, however many come."""

    def __init__(self) -> None:
        self._said_at: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def note(self, outcome: str, reason: str) -> None:
        now = time.monotonic()
        self._unsaid[outcome] = self._unsaid.get(outcome, 0) + 1
        if now - self._said_at.get(outcome, -_SAY_EVERY_S) >= _SAY_EVERY_S:
            count = self._unsaid.pop(outcome)
            _log.warning("callbacks refused", extra={"outcome": outcome, "count": count, "reason": reason[:200]})
            self._said_at[outcome] = now


class HungUp(Exception):
    """The sender hung up before its request was whole."""


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """Read the body, no more of it than may be. Raises Refused(413) and HungUp."""
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit() and int(value[:20]) > tencent.MAX_BODY_BYTES:
            raise _too_large()  # before it comes
    chunks: list[bytes] = []
    size = 0
    while (message := await receive())["type"] == "http.request":
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > tencent.MAX_BODY_BYTES:
            raise _too_large()
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)
    raise HungUp


def _too_large() -> tencent.Refused:
    return tencent.Refused(413, f"the body is larger than {tencent.MAX_BODY_BYTES} bytes", "too_large")


async def _send(send: Send, status_code: int, answer: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = str(len(answer)).encode()
    await send(
        {
            "type": "http.response.start",
            "status": status_code,
            "headers": [(b"content-type", b"application/json"), (b"content-length", length), *headers],
        }
    )
    await send({"type": "http.response.body", "body": answer, "more_body": False})
