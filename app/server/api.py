"""The routes of questions: each reads its parameters, asks, and answers in JSON."""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar

from litestar import MediaType, Request, Response, get
from litestar.concurrency import sync_to_thread
from litestar.handlers import HTTPRouteHandler
from litestar.openapi import ResponseSpec
from litestar.params import FromPath, PathParameter, QueryParameter

from app.event import Cut
from app.infra.errors import Unavailable
from app.infra.times import parse_time
from app.queries import answers, counts
from app.queries import health as health_queries
from app.queries import history as history_queries
from app.queries import log as log_queries
from app.queries import rooms as room_queries
from app.queries import visibility as visibility_queries
from app.queries.paging import DEFAULT_LIMIT, MAX_LIMIT
from app.queries.reader import Moment
from app.server.authentication import Authentication
from app.server.guards import HeadCheck
from app.server.node import Service
from app.server.problems import PROBLEMS
from app.server.room_names import room_id_of

P = ParamSpec("P")
T = TypeVar("T")

_TIME_HELP = "epoch milliseconds, or ISO 8601 with an offset: 2026-03-11T14:28:44Z"
RoomId = Annotated[
    str,
    PathParameter(description="Percent-encoded; `.` and `..` are written `~.` and `~..`, because clients drop them."),
]
AsOf = Annotated[str | None, QueryParameter(description=f"Only what had happened by this time counts: {_TIME_HELP}")]
KnownAt = Annotated[str | None, QueryParameter(description=f"Only what we had received by this time: {_TIME_HELP}")]
From = Annotated[str | None, QueryParameter(name="from", description=f"Start, included: {_TIME_HELP}")]
To = Annotated[str | None, QueryParameter(name="to", description=f"End, not included: {_TIME_HELP}")]
DiffFrom = Annotated[str, QueryParameter(name="from", description=f"From the state as of this time: {_TIME_HELP}")]
DiffTo = Annotated[str, QueryParameter(name="to", description=f"To the state as of this time: {_TIME_HELP}")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description="At most so many.")]
Cursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before.")]
After = Annotated[int, QueryParameter(ge=0, le=2**63 - 1, description="Only events after this position.")]
Public = Annotated[bool | None, QueryParameter(description="true: rooms that are (were) public; false: hidden ones.")]


class _Ask:
    """Asks on a thread of its own: reading databases takes too long for an event loop."""

    def __init__(self, service: Service, *, wait: bool) -> None:
        """`wait`: until the projections have read every event now in the log."""
        self._service = service
        self._wait = wait

    async def __call__(self, question: Callable[Concatenate[Moment, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        asked_s = time.monotonic()  # a question that has to queue for a thread waits no longer than the others
        return await sync_to_thread(
            lambda: self._service.readers.read(
                lambda moment: question(moment, *args, **kwargs), wait=self._wait, asked_s=asked_s
            )
        )


def room_routes(service: Service) -> list[HTTPRouteHandler]:
    """The routes of questions about rooms."""
    ask = _Ask(service, wait=True)
    return [*_list_routes(ask), *_one_room_routes(ask)]


def _list_routes(ask: _Ask) -> list[HTTPRouteHandler]:
    @get("/rooms", responses=PROBLEMS, summary="Rooms, by room_id")
    async def rooms(
        as_of: AsOf = None,
        known_at: KnownAt = None,
        public: Public = None,
        q: Annotated[str | None, QueryParameter(description="Part of a room's id or name, in any case.")] = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> answers.Rooms:
        return await ask(room_queries.rooms, _cut(as_of, known_at), public=public, q=q, limit=limit, cursor=cursor)

    @get("/change-counts", responses=PROBLEMS, summary="Changes per field over all rooms, and the rooms with the most")
    async def change_totals(limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> answers.ChangeTotals:
        return await ask(counts.change_totals, limit, cursor)

    return [rooms, change_totals]


def _one_room_routes(ask: _Ask) -> list[HTTPRouteHandler]:
    @get("/rooms/{room_id:str}", responses=PROBLEMS, summary="A room, as of a time, as known at another")
    async def room(room_id: RoomId, as_of: AsOf = None, known_at: KnownAt = None) -> answers.Room:
        return await ask(room_queries.room, room_id_of(room_id), _cut(as_of, known_at))

    @get("/rooms/{room_id:str}/history", responses=PROBLEMS, summary="A room's changes, newest first")
    async def history(
        room_id: RoomId,
        as_of: AsOf = None,
        known_at: KnownAt = None,
        from_: From = None,
        to: To = None,
        field: Annotated[str | None, QueryParameter(description="Only changes of this field.")] = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> answers.History:
        cut = _cut(as_of, known_at)
        from_ms, to_ms = _time(from_), _time(to)
        return await ask(
            history_queries.history,
            room_id_of(room_id),
            cut,
            from_ms=from_ms,
            to_ms=to_ms,
            field=field,
            limit=limit,
            cursor=cursor,
        )

    @get("/rooms/{room_id:str}/diff", responses=PROBLEMS, summary="What differs between two times of a room")
    async def diff(
        room_id: RoomId, from_: DiffFrom, to: DiffTo, as_of: AsOf = None, known_at: KnownAt = None
    ) -> answers.Diff:
        return await ask(
            room_queries.diff, room_id_of(room_id), parse_time(from_), parse_time(to), _cut(as_of, known_at)
        )

    @get("/rooms/{room_id:str}/change-counts", responses=PROBLEMS, summary="How often each field of a room changed")
    async def change_counts(room_id: RoomId, as_of: AsOf = None, known_at: KnownAt = None) -> answers.ChangeCounts:
        return await ask(counts.change_counts, room_id_of(room_id), _cut(as_of, known_at))

    @get("/rooms/{room_id:str}/visibility", responses=PROBLEMS, summary="When a room was public and when hidden")
    async def visibility(
        room_id: RoomId, as_of: AsOf = None, known_at: KnownAt = None, from_: From = None, to: To = None
    ) -> answers.Visibility:
        window = {"from_ms": _time(from_), "to_ms": _time(to)}
        return await ask(visibility_queries.visibility, room_id_of(room_id), _cut(as_of, known_at), **window)

    return [room, history, diff, change_counts, visibility]


def log_routes(service: Service) -> list[HTTPRouteHandler]:
    """The routes of questions about the log."""
    ask = _Ask(service, wait=False)

    @get("/events", responses=PROBLEMS, summary="The log, in log order")
    async def events(after: After = 0, limit: Limit = DEFAULT_LIMIT) -> answers.Events:
        return await ask(log_queries.events, after, limit)

    @get(
        "/events/{event_id:str}",
        responses=PROBLEMS,
        summary="One event, with its body exactly as received",
        opt={"admin": True},
    )
    async def event(event_id: FromPath[str]) -> answers.LogEventWithBody:
        return await ask(log_queries.event, event_id)

    @get("/rejected", responses=PROBLEMS, summary="The quarantine, newest first", opt={"admin": True})
    async def rejected(limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> answers.Quarantine:
        return await ask(log_queries.rejected, limit, cursor)

    return [events, event, rejected]


def operation_routes(service: Service, authentication: Authentication, head_check: HeadCheck) -> list[HTTPRouteHandler]:
    """The routes of those who operate the server."""
    ask = _Ask(service, wait=False)

    @get("/status", responses=PROBLEMS, summary="The log and its projections in short")
    async def status() -> answers.Status:
        return await ask(log_queries.status)

    @get(
        "/metrics",
        responses=PROBLEMS,
        summary="Metrics for Prometheus",
        media_type=MediaType.TEXT,
        opt={"admin": True},
    )
    async def metrics() -> Response[bytes]:
        skews_s = list(service.receiver.skews_s)
        text = await sync_to_thread(service.metrics.expose, service.settings.data, skews_s)
        return Response(text, media_type="text/plain; version=0.0.4")

    @get("/healthz", summary="Whether the process is alive", opt={"open": True})
    async def healthz() -> dict[str, str]:
        return {"status": "ok"}

    def look(status: answers.Status) -> answers.Health:
        # Some lag is the life of a busy receiver; not ready is what a reader would have to wait for.
        caught_up = service.projector.wait_for(status.head, 1.0)
        return service.health(status, caught_up=caught_up)

    @get(
        "/readyz",
        summary="Whether reads see everything received: 503 if not",
        opt={"open": True},
        responses={503: ResponseSpec(answers.Readiness, description="They do not.", generate_examples=False)},
    )
    async def readyz(request: Request[Any, Any, Any]) -> Response[answers.Readiness]:
        try:
            health = await sync_to_thread(look, await ask(log_queries.status))
        except Unavailable as error:
            health = await sync_to_thread(partial(service.health, None, unreadable=str(error)))
        # Errors may quote what is in the rooms: not for a web page that reaches this address by a name of its own.
        told = head_check.knows_host(request.scope) and authentication.role_of(request.scope) is not None
        readiness = health_queries.readiness(health, told=told)
        return Response(readiness, status_code=200 if readiness.ready else 503)

    return [status, metrics, healthz, readyz]


def _cut(as_of: str | None, known_at: str | None) -> Cut:
    return Cut(as_of_ms=_time(as_of), known_at_ms=_time(known_at))


def _time(text: str | None) -> int | None:
    return None if text is None else parse_time(text)
