"""The application: callbacks go straight to the receiver, everything else through the guards to its route."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from litestar import Litestar
from litestar.concurrency import sync_to_thread

from app.infra.asgi import ASGIApp, Message, Receive, Scope, Send
from app.receiver.misdirected import OTHER_PATH, is_callback_path, is_misdirected
from app.server.api import log_routes, operation_routes, room_routes
from app.server.authentication import Authentication
from app.server.compression import compressed
from app.server.forwarded import Forwarded
from app.server.guards import HeadCheck, refuse_unknown_parameters, role_guard, with_security_headers
from app.server.node import Service
from app.server.openapi import CONFIG, describe_callbacks
from app.server.page.render import Renderer
from app.server.page.routes import page_routes
from app.server.problems import exception_handlers
from app.server.shortcut import Shortcut
from app.server.stream import Notifier, stream_route

_MAX_FORM_BYTES = 4096  # the form of signing in is the only body


def create_app(service: Service, notifier: Notifier) -> ASGIApp:
    """Make the ASGI application of a node."""
    authentication = Authentication(service.settings.secrets)
    head_check = HeadCheck(service.settings, service.rate_limit)
    litestar = _create_routes(service, notifier, authentication, head_check)
    routes = cast(ASGIApp, litestar)  # its own types tell the kinds of messages apart
    forwarded = Forwarded(service.settings, {"callbacks", *(route.path.split("/")[1] for route in litestar.routes)})
    form_paths = {route.path for route in litestar.routes if "POST" in getattr(route, "methods", ())}
    shortcut = Shortcut(service, authentication)
    receiver = service.receiver

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if (refusal := head_check.check(scope)) is not None:
            await refusal.send(send)
            return
        send = compressed(scope, send)
        if not await shortcut.take(scope, send):
            await routes(scope, receive, with_security_headers(send))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if "path" not in scope:
            await routes(scope, receive, send)  # the server's start and end
            return
        scope = forwarded.read(scope)
        # Routing, guards and an exception handler cost more than checking and storing a callback does.
        if is_callback_path(scope["path"]):
            await receiver(scope, receive, send)
        elif await is_misdirected(scope, receive, form_paths):
            await receiver.refuse(OTHER_PATH, scope, send)
        elif scope["method"] == "HEAD":
            await answer_head(answer, scope, send)
        else:
            await answer(scope, receive, send)

    return app


async def answer_head(app: ASGIApp, scope: Scope, send: Send) -> None:
    """Answer HEAD like GET, without the body: the server leaves it out, and a stream ends where it would begin."""
    ended = asyncio.Event()

    async def receive_until_ended() -> Message:
        await ended.wait()
        return {"type": "http.disconnect"}

    async def send_head(message: Message) -> None:
        if ended.is_set():
            return
        if message["type"] == "http.response.body":
            ended.set()
            message = {"type": "http.response.body", "body": b"", "more_body": False}
        await send(message)

    await app({**scope, "method": "GET"}, receive_until_ended, send_head)


def _create_routes(
    service: Service, notifier: Notifier, authentication: Authentication, head_check: HeadCheck
) -> Litestar:
    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()

        def on_progress() -> None:
            loop.call_soon_threadsafe(notifier.notify)

        service.projector.on_progress = on_progress
        await sync_to_thread(service.start)
        try:
            yield
        finally:
            service.receiver.refusals.close()
            await sync_to_thread(service.stop)

    renderer = Renderer(service, authentication)
    app = Litestar(
        [
            *room_routes(service),
            *log_routes(service),
            stream_route(service, notifier, authentication),
            *operation_routes(service, authentication, head_check),
            *page_routes(service, renderer, authentication),
        ],
        lifespan=[lifespan],
        guards=[role_guard(authentication), refuse_unknown_parameters],
        exception_handlers=exception_handlers(renderer),
        logging_config=None,
        openapi_config=CONFIG,
        request_max_body_size=_MAX_FORM_BYTES,
    )
    describe_callbacks(app)
    return app
