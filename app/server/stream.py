"""Room updates as server-sent events, from the log as the projections read it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

import msgspec
from litestar import Request, get
from litestar.concurrency import sync_to_thread
from litestar.handlers import HTTPRouteHandler
from litestar.params import QueryParameter
from litestar.response import Stream

from app.infra.errors import BadQuestion, Unavailable
from app.queries.answers import RoomChange
from app.queries.history import changes_after
from app.server.authentication import Authentication
from app.server.node import Service
from app.server.problems import PROBLEMS

COMMENT_S = 15.0
_BATCH = 100
_MAX_STREAMS = 200  # each reads the log whenever it grows

Resume = Annotated[
    int | None, QueryParameter(name="after", ge=0, le=2**63 - 1, description="Only updates after this position.")
]


class Notifier:
    """Wakes the open event streams of one event loop, and tells them when the server stops."""

    def __init__(self) -> None:
        self.stopping = False
        self.streams = 0
        """How many streams are open."""
        self._next = asyncio.Event()

    def next_event(self) -> asyncio.Event:
        """The event to wait for. Take it before reading what is new, and none is missed."""
        return self._next

    def notify(self) -> None:
        """Wake all streams."""
        self._next.set()
        self._next = asyncio.Event()

    def stop(self) -> None:
        """End the streams: an open one would hold up the server's shutdown."""
        self.stopping = True
        self.notify()


def stream_route(service: Service, notifier: Notifier, authentication: Authentication) -> HTTPRouteHandler:
    """The route `GET /events/stream`."""

    @get(
        "/events/stream",
        responses=PROBLEMS,
        summary="Room updates as server-sent events",
        media_type="text/event-stream",
    )
    async def stream(request: Request[Any, Any, Any], after: Resume = None) -> Stream:
        resumed = request.headers.get("last-event-id", "")
        if resumed:
            if not (resumed.isascii() and resumed.isdigit() and len(resumed) < 19):
                raise BadQuestion("Last-Event-ID is not a position")
            after = int(resumed)
        if notifier.streams >= _MAX_STREAMS:
            raise Unavailable(f"{_MAX_STREAMS} event streams are open already")
        head = await sync_to_thread(lambda: service.readers.read(lambda it: it.log.head().position, wait=False))
        if after is None:
            after = head
        if after > head:  # nothing would come for long: the client knows another log, or one that was cut off
            raise BadQuestion(f"position {after} is behind the log's end, {head}: begin again without it")
        return Stream(
            _stream_changes(service, notifier, after, lambda: authentication.role_of(request.scope) is not None),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    return stream


async def _stream_changes(
    service: Service, notifier: Notifier, position: int, allowed: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """Room updates as they are projected, a comment every 15 s, until the client leaves, the server stops, or the
    client's session ends."""
    notifier.streams += 1
    try:
        yield b": room updates follow\n\n"
        while not notifier.stopping and allowed():
            grown = notifier.next_event()
            changes, read_up_to = await sync_to_thread(_read_changes, service, position)
            for change in changes:
                yield b"id: %d\nevent: room-updated\ndata: %s\n\n" % (change.position, msgspec.json.encode(change))
            if read_up_to > position:
                position = read_up_to
                continue
            try:
                async with asyncio.timeout(COMMENT_S):
                    await grown.wait()
            except TimeoutError:
                yield b": still here\n\n"
    finally:
        notifier.streams -= 1


def _read_changes(service: Service, position: int) -> tuple[list[RoomChange], int]:
    try:
        return service.readers.read(lambda it: changes_after(it, position, _BATCH), wait=False)
    except Unavailable:
        return [], position  # being rebuilt, or stopped: the stream goes on when the projection does
