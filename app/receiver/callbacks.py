"""The hot path: a request comes in, is checked by contract §2, committed with its neighbours, and answered."""

import asyncio
import logging
import time
from collections import deque

from app.infra.asgi import Receive, Scope, Send
from app.infra.errors import NotStored
from app.infra.metrics import Metrics
from app.infra.rate_limit import RateLimit
from app.infra.times import now_ms
from app.log.records import Appended, Arrival, Rejection
from app.receiver.body import HungUp, read_body
from app.receiver.group_commit import GroupCommit
from app.receiver.misdirected import OTHER_METHOD
from app.receiver.refusals import RefusalLog
from app.tencent.body import Invalid, decode
from app.tencent.request import (
    ClockOff,
    Query,
    Refused,
    answer_fail,
    answer_ok,
    carries_callback,
    check_app,
    check_signature,
    decode_query,
    is_blocking,
    sniff_command,
)

_log = logging.getLogger(__name__)
_RECENT = 200
_UNAVAILABLE = "not stored: the log cannot be written now, send it again"
_LIMITED = ("forbidden", "unsigned", "misdirected")
"""Outcomes that anybody can bring about: an address that does so too often gets 429."""


class Receiver:
    """Answers `POST /callbacks`: OK once a callback is synced to disk.

    Blocking callbacks hold up a user's action: they are answered OK at once, and stored afterwards if that is possible.
    """

    def __init__(
        self,
        sdk_app_id: str,
        callback_tokens: tuple[str, ...],
        commits: GroupCommit,
        metrics: Metrics,
        refusals: RateLimit | None = None,
    ) -> None:
        """`refusals` limits the refused callbacks of an address; signed ones are never counted."""
        self._sdk_app_id = sdk_app_id
        self._tokens = callback_tokens
        self._commits = commits
        self._metrics = metrics
        self._limit = refusals
        self.refusals = RefusalLog()
        self.skews_s: deque[float] = deque(maxlen=_RECENT)
        """By how much our clock was ahead of the RequestTime of the latest callbacks that were signed."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. Raw ASGI: parsing a body into a handler's arguments costs more than all of the rest."""
        if scope["method"] != "POST":
            if carries_callback(scope["query_string"]):
                await self.refuse(OTHER_METHOD, scope, send)
            else:  # no callback: somebody opened this address in a browser
                await _send(send, 405, answer_fail(405, OTHER_METHOD.reason))
            return
        try:
            body = await read_body(scope, receive)
            begin = time.perf_counter()
            outcome = await self.take(scope["query_string"], body, scope)
            status_code, answer = 200, answer_ok()
            self._metrics.answer_seconds.observe(time.perf_counter() - begin)
        except Refused as refused:
            if refused.status_code == 413 and self._holds_up_action(scope):
                self._note_unstored(refused, scope)
                status_code, outcome, answer = 200, "blocking", answer_ok()
            else:
                status_code, outcome, answer = self._refuse(refused, scope)
        except HungUp:
            self.note_broken(
                scope, "its sender closed the connection, or was cut off, before it was whole", "incomplete"
            )
            return
        except Exception:  # noqa: BLE001  every sender gets an answer
            _log.exception("a callback could not be taken")
            status_code, outcome = 503, "unavailable"
            answer = answer_fail(status_code, _UNAVAILABLE)
        self._metrics.outcomes[outcome].inc()
        await _send(send, status_code, answer)

    async def take(self, query_string: bytes, body: bytes, scope: Scope | None = None) -> str:
        """Check and store a callback; return `accepted`, `duplicate` or `blocking`. Raises Refused."""
        received_at_ms = now_ms()
        query = self._admit(query_string, received_at_ms, scope)
        item: Arrival | Rejection
        try:
            callback = decode(body, received_at_ms)
            item, blocking = Arrival(callback, received_at_ms, query.client_ip, query.platform), callback.blocking
        except Invalid as invalid:
            item = Rejection(body, str(invalid), received_at_ms, query.client_ip, query.platform)
            blocking = is_blocking(query.command) or is_blocking(sniff_command(body))
        if blocking:
            self._metrics.see_received(received_at_ms)
            self._store_meanwhile(item, scope)
            return "blocking"
        try:
            appended = await self._commits.submit(item)
        except NotStored as refusal:
            raise Refused(503, f"not stored: {refusal}, send it again", "unavailable") from None
        except Exception:  # noqa: BLE001  the writer has logged it: this callback is not known to be on disk
            raise Refused(503, _UNAVAILABLE, "unavailable") from None
        if isinstance(item, Rejection):
            self._metrics.quarantined.inc()
            raise Refused(400, item.reason, "quarantined")
        assert appended is not None
        self._metrics.see_received(received_at_ms)
        if appended.duplicate:
            self._metrics.duplicates.inc()
            return "duplicate"
        return "accepted"

    def _check_signature(self, query: Query, now_s: float) -> None:
        try:
            self.skews_s.append(check_signature(query, self._tokens, now_s))
        except ClockOff as off:
            self.skews_s.append(off.skew_s)
            raise

    def _admit(self, query_string: bytes, received_at_ms: int, scope: Scope | None) -> Query:
        """Read a callback's query. Raises Refused unless our application sent it."""
        query = decode_query(query_string)
        check_app(query, self._sdk_app_id)
        if self._tokens:
            self._check_signature(query, received_at_ms / 1000)
        elif scope is not None:
            _refuse_browsers(scope)
        return query

    def _holds_up_action(self, scope: Scope) -> bool:
        """Whether a callback whose body is not read is, by its URL, one of ours that blocks."""
        try:
            return is_blocking(self._admit(scope["query_string"], now_ms(), scope).command)
        except Refused:
            return False

    def _store_meanwhile(self, item: Arrival | Rejection, scope: Scope | None) -> None:
        """Store a callback that is answered OK at once."""

        def note(stored: "asyncio.Future[Appended | None]") -> None:
            error = stored.exception()
            if error is not None:
                self._note_unstored(error, scope)
            elif stored.result() is None:
                self._metrics.quarantined.inc()

        try:
            self._commits.submit(item, patient=True).add_done_callback(note)
        except NotStored as refusal:
            self._note_unstored(refusal, scope)

    def _note_unstored(self, error: BaseException, scope: Scope | None) -> None:
        self._metrics.unstored.inc()
        reason = f"a blocking callback was answered OK and not stored: {error}"
        self.refusals.note(Refused(200, reason, "unstored"), scope)

    def _refuse(self, refused: Refused, scope: Scope) -> tuple[int, str, bytes]:
        """Status code, outcome and answer; an address that is refused too often gets 429 instead of the reason."""
        if self._limit is not None and refused.outcome in _LIMITED and not self._limit.allows(scope):
            refused = Refused(429, "too many refused callbacks from this address", "too_many")
        self.refusals.note(refused, scope)
        return refused.status_code, refused.outcome, answer_fail(refused.status_code, refused.reason)

    async def refuse(self, refused: Refused, scope: Scope, send: Send) -> None:
        """Answer a request that no callback can be taken from."""
        status_code, outcome, answer = self._refuse(refused, scope)
        self._metrics.outcomes[outcome].inc()
        await _send(send, status_code, answer)

    def note_broken(self, scope: Scope, reason: str, outcome: str = "misdirected") -> None:
        """Count a callback whose request broke off, or is none that HTTP allows."""
        self._metrics.outcomes[outcome].inc()
        self.refusals.note(Refused(400, reason, outcome), scope)


def _refuse_browsers(scope: Scope) -> None:
    """Without a token, a web page in a browser on this machine could send callbacks; the real sender is no page."""
    if any(name == b"origin" for name, _ in scope["headers"]):
        raise Refused(403, "callbacks do not come from web pages: set a callback token", "forbidden")


async def _send(send: Send, status_code: int, answer: bytes) -> None:
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
    if status_code == 405:
        headers.append((b"allow", b"POST"))
    await send({"type": "http.response.start", "status": status_code, "headers": headers})
    await send({"type": "http.response.body", "body": answer, "more_body": False})
