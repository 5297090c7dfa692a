"""The routes: each turns a request into a question, and the answer into JSON."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar, cast
from urllib.parse import quote

import msgspec
from litestar import Litestar, MediaType, Request, Response, get
from litestar.concurrency import sync_to_thread
from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler
from litestar.openapi import OpenAPIConfig, ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType
from litestar.params import FromPath, QueryParameter
from litestar.response import Stream

from app.event import Cut
from app.infra.asgi import ASGIApp, Message, Receive, Scope, Send
from app.infra.errors import BadQuestion, BadTime, NotFound, Unavailable
from app.infra.settings import Secrets
from app.infra.times import parse_time
from app.queries import answers, counts
from app.queries import history as history_queries
from app.queries import log as log_queries
from app.queries import rooms as room_queries
from app.queries import visibility as visibility_queries
from app.queries.paging import DEFAULT_LIMIT, MAX_LIMIT
from app.queries.reader import Moment
from app.server import sessions
from app.server.guards import SECURITY_HEADERS, Gate
from app.server.node import Service
from app.server.page.routes import PARAMETERS, Pages, page_routes
from app.server.shortcut import Shortcut
from app.tencent.request import ANSWER_FIELDS, QUERY_FIELDS

STREAM_COMMENT_S = 15.0
_STREAM_BATCH = 100
_MAX_STREAMS = 200  # each has a look at the log whenever it grows
_MAX_FORM_BYTES = 4096  # signing in is all that sends one

_log = logging.getLogger(__name__)
T = TypeVar("T")

_TIME_HELP = "epoch milliseconds, or ISO 8601 with an offset: 2026-03-11T14:28:44Z"
AsOf = Annotated[str | None, QueryParameter(description=f"Only what had happened by this time counts: {_TIME_HELP}")]
KnownAt = Annotated[str | None, QueryParameter(description=f"Only what we had received by this time: {_TIME_HELP}")]
From = Annotated[str | None, QueryParameter(name="from", description=f"Start, included: {_TIME_HELP}")]
To = Annotated[str | None, QueryParameter(name="to", description=f"End, not included: {_TIME_HELP}")]
DiffFrom = Annotated[str, QueryParameter(name="from", description=f"The one time: {_TIME_HELP}")]
DiffTo = Annotated[str, QueryParameter(name="to", description=f"The other time: {_TIME_HELP}")]
Limit = Annotated[int, QueryParameter(ge=1, le=MAX_LIMIT, description="How many at the most.")]
Cursor = Annotated[str | None, QueryParameter(description="`next_cursor` of the page before.")]
After = Annotated[int, QueryParameter(ge=0, le=2**63 - 1, description="The position to go on behind.")]
Resume = Annotated[int | None, QueryParameter(name="after", ge=0, le=2**63 - 1, description="Go on behind it.")]
Public = Annotated[bool | None, QueryParameter(description="true: rooms that are (were) public; false: hidden ones.")]


class Problem(msgspec.Struct):
    """What every refused question gets."""

    status_code: int
    detail: str


_PROBLEMS = {
    status_code: ResponseSpec(Problem, description=meaning, generate_examples=False)
    for status_code, meaning in (
        (400, "The question makes no sense; detail says why."),
        (401, "The API token is missing or wrong."),
        (403, "The admin token is needed."),
        (404, "There is no such room or event, or was none at that time."),
        (414, "The path or the query is too long."),
        (421, "The server is not called by that name."),
        (429, "Too many requests came from this address."),
        (503, "The answer is not to be had now; detail says why."),
    )
}


_UNTOLD = "ask with the API token to be told why"


class Readiness(msgspec.Struct):
    """Whether callbacks are stored and reads see all of them.

    `lag`: events not read yet by each projection. `stopped`: those that stopped, each with the event and the error;
    `waiting`: why none of them goes on; `failure`: why callbacks are refused now; both null if it is not so. Who has no
    token is not told the words of these.
    """

    ready: bool
    lag: dict[str, int]
    stopped: dict[str, str]
    waiting: str | None
    failure: str | None


class Bell:
    """Wakes the open event streams of one event loop, and tells them when the server stops."""

    def __init__(self) -> None:
        self.stopping = False
        self.streams = 0
        """How many streams wait for it."""
        self._next = asyncio.Event()

    def next_ring(self) -> asyncio.Event:
        """The ring to wait for. Take it before looking whether there is something new, and none is missed."""
        return self._next

    def ring(self) -> None:
        """Wake everybody who waits."""
        self._next.set()
        self._next = asyncio.Event()

    def stop(self) -> None:
        """End the streams: an open one would hold up the server's shutdown."""
        self.stopping = True
        self.ring()


def create_app(service: Service, bell: Bell) -> ASGIApp:
    """Make the application: callbacks go straight to the receiver, nearly everything else through Litestar."""
    app = cast(ASGIApp, _create_routes(service, bell))  # its own types tell the kinds of messages apart
    shortcut = Shortcut(service)
    gate = Gate(service.settings, service.rate_limit)

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        if "path" not in scope:
            await app(scope, receive, send)  # the server's start and end
            return
        # Routing, guards and an exception handler cost more than checking and storing a callback does.
        callback = scope["path"] in ("/callbacks", "/callbacks/")  # a slash too many is not to cost a callback
        if (refusal := gate.check(scope, callback=callback)) is not None:
            await refusal.send(send)
        elif callback:
            await service.receiver(scope, receive, send)
        elif not await shortcut.take(scope, send):
            await app(scope, receive, _with_security_headers(send))

    return front


def _with_security_headers(send: Send) -> Send:
    """Add the headers that an answer has not set otherwise; the framework would leave them out of errors."""

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message["headers"])
            names = {name.lower() for name, _ in given}
            message["headers"] = [*given, *(header for header in SECURITY_HEADERS if header[0] not in names)]
        await send(message)

    return send_with


def _create_routes(service: Service, bell: Bell) -> Litestar:
    secrets = service.settings.secrets

    async def ask(question: Callable[[Moment], T], *, wait: bool = True) -> T:
        asked_s = time.monotonic()  # who has to queue for a thread waits no longer than the others
        return await sync_to_thread(lambda: service.readers.read(question, wait=wait, asked_s=asked_s))

    @get("/rooms", responses=_PROBLEMS, summary="Rooms, by room_id")
    async def rooms(
        as_of: AsOf = None,
        known_at: KnownAt = None,
        public: Public = None,
        q: Annotated[str | None, QueryParameter(description="Part of a room's id or name, in any case.")] = None,
        limit: Limit = DEFAULT_LIMIT,
        cursor: Cursor = None,
    ) -> answers.Rooms:
        cut = _cut(as_of, known_at)
        return await ask(lambda it: room_queries.rooms(it, cut, public=public, q=q, limit=limit, cursor=cursor))

    @get("/rooms/{room_id:str}", responses=_PROBLEMS, summary="A room, as of a time, as known at another")
    async def room(room_id: FromPath[str], as_of: AsOf = None, known_at: KnownAt = None) -> answers.Room:
        cut = _cut(as_of, known_at)
        return await ask(lambda it: room_queries.room(it, room_id, cut))

    @get("/rooms/{room_id:str}/history", responses=_PROBLEMS, summary="A room's changes, newest first")
    async def history(
        room_id: FromPath[str],
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
            lambda it: history_queries.history(
                it, room_id, cut, from_ms=from_ms, to_ms=to_ms, field=field, limit=limit, cursor=cursor
            )
        )

    @get("/rooms/{room_id:str}/diff", responses=_PROBLEMS, summary="What differs between two times of a room")
    async def diff(
        room_id: FromPath[str], from_: DiffFrom, to: DiffTo, as_of: AsOf = None, known_at: KnownAt = None
    ) -> answers.Diff:
        from_ms, to_ms, cut = parse_time(from_), parse_time(to), _cut(as_of, known_at)
        return await ask(lambda it: room_queries.diff(it, room_id, from_ms, to_ms, cut))

    @get("/rooms/{room_id:str}/change-counts", responses=_PROBLEMS, summary="How often each field of a room changed")
    async def change_counts(
        room_id: FromPath[str], as_of: AsOf = None, known_at: KnownAt = None
    ) -> answers.ChangeCounts:
        cut = _cut(as_of, known_at)
        return await ask(lambda it: counts.change_counts(it, room_id, cut))

    @get("/rooms/{room_id:str}/visibility", responses=_PROBLEMS, summary="When a room was public and when hidden")
    async def visibility(
        room_id: FromPath[str], as_of: AsOf = None, known_at: KnownAt = None, from_: From = None, to: To = None
    ) -> answers.Visibility:
        cut = _cut(as_of, known_at)
        from_ms, to_ms = _time(from_), _time(to)
        return await ask(lambda it: visibility_queries.visibility(it, room_id, cut, from_ms=from_ms, to_ms=to_ms))

    @get("/change-counts", responses=_PROBLEMS, summary="Changes per field over all rooms, and the rooms with the most")
    async def change_totals(limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> answers.ChangeTotals:
        return await ask(lambda it: counts.change_totals(it, limit, cursor))

    @get("/events", responses=_PROBLEMS, summary="The log, in log order")
    async def events(after: After = 0, limit: Limit = DEFAULT_LIMIT) -> answers.Events:
        return await ask(lambda it: log_queries.events(it, after, limit), wait=False)

    @get(
        "/events/{event_id:str}",
        responses=_PROBLEMS,
        summary="One event, with its body exactly as received",
        opt={"admin": True},
    )
    async def event(event_id: FromPath[str]) -> answers.LogEventWithBody:
        return await ask(lambda it: log_queries.event(it, event_id), wait=False)

    @get(
        "/events/stream",
        responses=_PROBLEMS,
        summary="Room updates as server-sent events",
        media_type="text/event-stream",
    )
    async def stream(request: Request[Any, Any, Any], after: Resume = None) -> Stream:
        resumed = request.headers.get("last-event-id", "")
        if resumed:
            if not (resumed.isascii() and resumed.isdigit() and len(resumed) < 19):
                raise BadQuestion("Last-Event-ID is not a position")
            after = int(resumed)
        if bell.streams >= _MAX_STREAMS:
            raise Unavailable(f"{_MAX_STREAMS} event streams are open already")
        head = await ask(lambda it: it.log.head().position, wait=False)
        if after is None:
            after = head
        if after > head:  # nothing would come for long: the client knows another log, or one that was cut off
            raise BadQuestion(f"position {after} is behind the log's end, {head}: begin again without it")
        return Stream(
            _stream_changes(service, bell, after, lambda: _scope_of(request, secrets) is not None),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    @get("/rejected", responses=_PROBLEMS, summary="The quarantine, newest first", opt={"admin": True})
    async def rejected(limit: Limit = DEFAULT_LIMIT, cursor: Cursor = None) -> answers.Quarantine:
        return await ask(lambda it: log_queries.rejected(it, limit, cursor), wait=False)

    @get("/status", responses=_PROBLEMS, summary="The log and its projections in short")
    async def status() -> answers.Status:
        return await ask(log_queries.status, wait=False)

    @get(
        "/metrics",
        responses=_PROBLEMS,
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

    @get(
        "/readyz",
        summary="Whether reads see everything received: 503 if not",
        opt={"open": True},
        responses={503: ResponseSpec(Readiness, description="They do not.", generate_examples=False)},
    )
    async def readyz(request: Request[Any, Any, Any]) -> Response[Readiness]:
        told = _scope_of(request, secrets) is not None  # errors may quote what is in the rooms
        try:
            found = await ask(log_queries.status, wait=False)
        except Unavailable as error:
            return Response(Readiness(False, {}, {}, None, str(error) if told else _UNTOLD), status_code=503)
        lag = {name: projection.lag for name, projection in found.projections.items()}
        stopped = {
            name: projection.error for name, projection in found.projections.items() if projection.error is not None
        }
        waiting, failure = service.projector.waiting, service.commits.trouble()
        # Some lag is the life of a busy receiver; not ready is what a reader would have to wait for.
        caught_up = await sync_to_thread(service.wait_for, found.head, 1.0)
        ready = caught_up and not stopped and waiting is None and failure is None
        if not told:
            stopped = dict.fromkeys(stopped, _UNTOLD)
            waiting, failure = waiting and _UNTOLD, failure and _UNTOLD
        return Response(Readiness(ready, lag, stopped, waiting, failure), status_code=200 if ready else 503)

    pages = Pages(service)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def ring() -> None:
            loop.call_soon_threadsafe(bell.ring)

        service.projector.on_progress = ring
        await sync_to_thread(service.start)
        try:
            yield
        finally:
            await sync_to_thread(service.stop)

    app = Litestar(
        [
            *(rooms, room, history, diff, change_counts, visibility, change_totals),
            *(events, stream, event, rejected, status, metrics, healthz, readyz),
            *page_routes(service, pages, lambda request: _scope_of(request, secrets)),
        ],
        lifespan=[lifespan],
        guards=[_bearer_guard(secrets), _refuse_unknown_parameters],
        exception_handlers=_Problems(pages, secrets).handlers(),
        logging_config=None,
        openapi_config=OpenAPIConfig(
            title="Roomlapse",
            version="1",
            description="A time machine for live rooms.",
            path="/schema",
            render_plugins=[JsonRenderPlugin(path="/")],
        ),
        request_max_body_size=_MAX_FORM_BYTES,
    )
    _describe_callbacks(app)
    return app


def _cut(as_of: str | None, known_at: str | None) -> Cut:
    return Cut(as_of_ms=_time(as_of), known_at_ms=_time(known_at))


def _time(text: str | None) -> int | None:
    return None if text is None else parse_time(text)


async def _stream_changes(
    service: Service, bell: Bell, position: int, allowed: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Send room updates as they are projected, a comment every 15 s, until the client or the server goes, or what
    the client signed in with has come to its end."""
    bell.streams += 1
    try:
        yield b": room updates follow\n\n"
        while not bell.stopping and allowed():
            ring = bell.next_ring()
            changes, read_up_to = await sync_to_thread(_read_changes, service, position)
            for change in changes:
                yield b"id: %d\nevent: room-updated\ndata: %s\n\n" % (change.position, msgspec.json.encode(change))
            if read_up_to > position:
                position = read_up_to
                continue
            try:
                async with asyncio.timeout(STREAM_COMMENT_S):
                    await ring.wait()
            except TimeoutError:
                yield b": still here\n\n"
    finally:
        bell.streams -= 1


def _read_changes(service: Service, position: int) -> tuple[list[answers.RoomChange], int]:
    try:
        return service.readers.read(lambda it: history_queries.changes_after(it, position, _STREAM_BATCH), wait=False)
    except Unavailable:
        return [], position  # being rebuilt, or stopped: the stream goes on when the projection does


# Guards are coroutines: Litestar takes each call of a plain function to a thread and back.
Guard = Callable[[ASGIConnection[Any, Any, Any, Any], BaseRouteHandler], Awaitable[None]]


def _bearer_guard(secrets: Secrets) -> Guard:
    async def guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
        """Let through who sends the API token; to what is for admins, who sends the admin token if there is one."""
        if handler.opt.get("open"):
            return
        scope = _scope_of(connection, secrets)
        if scope is None and handler.opt.get("page"):
            raise SignInNeeded
        if scope is None:
            raise NotAuthorizedException("this needs the header Authorization: Bearer <API token>")
        if handler.opt.get("admin") and scope != "admin":
            raise PermissionDeniedException("this needs the admin token: ROOMLAPSE_ADMIN_TOKEN")

    return guard


def _scope_of(connection: ASGIConnection[Any, Any, Any, Any], secrets: Secrets) -> str | None:
    """What a request may do: `admin`, `read`, or None for nothing. Programs send a bearer token, browsers a session."""
    if secrets.api_token is None:
        return sessions.ADMIN
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return sessions.scope_of_token(given.strip().encode("latin-1", "replace"), secrets)
    return sessions.scope_of_cookie(connection.headers.get("cookie", ""), secrets)


async def _refuse_unknown_parameters(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """Refuse `?asof=`: answering about now what was asked about then would mislead."""
    if not connection.query_params:
        return
    known = _PARAMETERS.get(handler.handler_name, set())
    repeated = [name for name, values in connection.query_params.dict().items() if len(values) > 1]
    if repeated:
        raise BadQuestion(f"parameter {repeated[0][:64]!r} is given more than once")
    unknown = sorted(set(connection.query_params) - known)
    if unknown:
        takes = ", ".join(sorted(known)) or "no parameters"
        raise BadQuestion(f"unknown parameter {unknown[0][:64]!r}: this route takes {takes}")


_CUT = {"as_of", "known_at"}
_PAGE = {"limit", "cursor"}
_PARAMETERS: dict[str, set[str]] = {
    **PARAMETERS,
    "rooms": {*_CUT, *_PAGE, "public", "q"},
    "room": _CUT,
    "history": {*_CUT, *_PAGE, "from", "to", "field"},
    "diff": {*_CUT, "from", "to"},
    "change_counts": _CUT,
    "visibility": {*_CUT, "from", "to"},
    "change_totals": _PAGE,
    "events": {"after", "limit"},
    "stream": {"after"},
    "rejected": _PAGE,
}


def _error(status_code: int, detail: str, headers: dict[str, str] | None = None) -> Response[dict[str, Any]]:
    return Response(
        {"status_code": status_code, "detail": detail},
        status_code=status_code,
        media_type=MediaType.JSON,
        headers=headers,
    )


class SignInNeeded(Exception):
    """A page that is for those who have signed in."""


class _Problems:
    """What is answered when a question has no answer: JSON to programs, a page to browsers."""

    def __init__(self, pages: Pages, secrets: Secrets) -> None:
        self._pages = pages
        self._secrets = secrets

    def handlers(self) -> dict[int | type[Exception], Callable[[Request[Any, Any, Any], Any], Response[Any]]]:
        """The handler of each kind of error."""
        return {
            BadTime: lambda request, error: self._answer(request, 400, str(error)),
            BadQuestion: lambda request, error: self._answer(request, 400, str(error)),
            NotFound: lambda request, error: self._answer(request, 404, str(error)),
            Unavailable: lambda request, error: self._answer(request, 503, str(error)),
            SignInNeeded: lambda request, error: _sign_in(request),
            HTTPException: self._answer_http_exception,
            Exception: self._answer_bug,
        }

    def _answer(
        self, request: Request[Any, Any, Any], status_code: int, detail: str, headers: dict[str, str] | None = None
    ) -> Response[Any]:
        handler = request.scope.get("route_handler")
        if handler is not None and handler.opt.get("page"):
            return self._pages.problem(status_code, detail, _scope_of(request, self._secrets))
        return _error(status_code, detail, headers)

    def _answer_http_exception(self, request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
        detail = error.detail
        extra = error.extra
        if isinstance(extra, list):
            detail = "; ".join(f"{problem.get('key')}: {problem.get('message')}" for problem in extra)
        return self._answer(request, error.status_code, detail, error.headers)

    def _answer_bug(self, request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        _log.error("a request failed", exc_info=error, extra={"path": request.scope["path"]})
        return self._answer(request, 500, "this is a bug in Roomlapse: the server's log has the details")


def _sign_in(request: Request[Any, Any, Any]) -> Response[str]:
    # As it was asked for: a ? or a # of a room's id stays escaped.
    path, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    where = quote(path + (f"?{query}" if query else ""), safe="/")
    return Response("", status_code=303, headers={"location": f"/sign-in?next={where}"})


def _describe_callbacks(app: Litestar) -> None:
    """Add the receiver, which Litestar sees as bare ASGI, to the schema."""
    types = {str: OpenAPIType.STRING, int: OpenAPIType.INTEGER}
    answer = Schema(
        type=OpenAPIType.OBJECT,
        required=list(ANSWER_FIELDS),
        properties={name: Schema(type=types[kind]) for name, kind in ANSWER_FIELDS.items()},
    )
    meanings = {
        200: "It is on disk.",
        400: "The body breaks a rule; it is in quarantine.",
        401: "Sign is wrong, missing, or too old.",
        403: "SdkAppid is not ours.",
        405: "Callbacks come with POST.",
        413: "The body is larger than 64 KiB.",
        414: "The query is longer than 8 KiB.",
        429: "Too many refused callbacks came from this address.",
        503: "It could not be stored: send it again.",
    }
    assert app.openapi_schema.paths is not None
    app.openapi_schema.paths["/callbacks"] = PathItem(
        post=Operation(
            summary="Take a callback from Tencent Cloud Live",
            operation_id="callbacks",
            parameters=[
                Parameter(
                    name=name,
                    param_in="query",
                    description=meaning,
                    required=number == 0,
                    schema=Schema(type=OpenAPIType.STRING),
                )
                for number, (name, meaning) in enumerate(QUERY_FIELDS.items())
            ],
            request_body=RequestBody(
                content={"application/json": OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))},
                required=True,
            ),
            responses={
                str(status_code): OpenAPIResponse(
                    description=meaning, content={"application/json": OpenAPIMediaType(schema=answer)}
                )
                for status_code, meaning in meanings.items()
            },
        )
    )
