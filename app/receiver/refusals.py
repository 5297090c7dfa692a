"""Callbacks that were refused: counted by reason, logged within ten seconds, and kept for the health page."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import msgspec

from app.infra.asgi import Scope
from app.infra.times import now_ms
from app.tencent.request import Query, Refused, decode_query

_LOG_EVERY_S = 10.0
_MAX_KINDS = 50
"""How many kinds are logged in ten seconds: a flood must not fill a disk with lines."""
_MAX_KEPT = 100
_MAX_TEXT, _MAX_APP_ID = 200, 64
_OTHERS = "other reasons"
_NOTHING = Query(None, None, None, None, None)

_log = logging.getLogger(__name__)
Kind = tuple[str, str, str]
"""Outcome, reason and path."""


class Refusals(msgspec.Struct):
    """Refused callbacks of one kind; the last three are of the latest of them."""

    outcome: str
    reason: str
    path: str
    count: int = 0
    last_ms: int = 0
    client_ip: str | None = None
    """What the callback's URL says."""
    peer: str | None = None
    """The address that it came from: the sender's, or a proxy's."""
    sdk_app_id: str | None = None


class RefusalLog:
    """Logs a refusal at once after quiet, and those that follow every ten seconds, a line a kind. For an event loop."""

    def __init__(self) -> None:
        self._unlogged: dict[Kind, Refusals] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._kept: OrderedDict[Kind, Refusals] = OrderedDict()

    def note(self, refused: Refused, scope: Scope | None = None) -> None:
        """Count a refusal; `scope`: the request that was refused."""
        path = "" if scope is None else str(scope["path"])[:_MAX_TEXT]
        kind = (refused.outcome, refused.reason[:_MAX_TEXT], path)
        query, peer = _query_of(scope), _peer_of(scope)
        for refusals in (self._in_log(kind), self._in_memory(kind)):
            refusals.count += 1
            refusals.last_ms = now_ms()
            refusals.client_ip, refusals.peer = query.client_ip, peer
            refusals.sdk_app_id = query.sdk_app_id[:_MAX_APP_ID] if query.sdk_app_id else None
        if self._timer is None:
            self._write()
            self._timer = asyncio.get_running_loop().call_later(_LOG_EVERY_S, self._write_later)

    def latest(self) -> list[Refusals]:
        """What was refused since the server started, the latest kinds first, a hundred at most."""
        return list(reversed(self._kept.values()))

    def close(self) -> None:
        """Log what has not been logged yet."""
        if self._timer is not None:
            self._timer.cancel()
        self._write()

    def _in_log(self, kind: Kind) -> Refusals:
        if kind not in self._unlogged and len(self._unlogged) >= _MAX_KINDS:
            kind = (kind[0], _OTHERS, "")
        return self._unlogged.setdefault(kind, Refusals(*kind))

    def _in_memory(self, kind: Kind) -> Refusals:
        refusals = self._kept.setdefault(kind, Refusals(*kind))
        self._kept.move_to_end(kind)
        if len(self._kept) > _MAX_KEPT:
            self._kept.popitem(last=False)
        return refusals

    def _write_later(self) -> None:
        self._timer = None
        if self._unlogged:
            self._write()
            self._timer = asyncio.get_running_loop().call_later(_LOG_EVERY_S, self._write_later)

    def _write(self) -> None:
        for refusals in self._unlogged.values():
            _log.warning("callbacks refused", extra=_said_of(refusals))
        self._unlogged.clear()


def _said_of(refusals: Refusals) -> Mapping[str, Any]:
    said = msgspec.structs.asdict(refusals)
    del said["last_ms"]
    return {name: value for name, value in said.items() if value not in (None, "")}


def _query_of(scope: Scope | None) -> Query:
    try:
        return _NOTHING if scope is None else decode_query(scope["query_string"])
    except Refused:
        return _NOTHING


def _peer_of(scope: Scope | None) -> str | None:
    client = None if scope is None else scope.get("client")
    return None if client is None else str(client[0])
