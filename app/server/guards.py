"""What a request has to pass before its question is read: length, rate and host; then its role and its parameters."""

import re
from collections.abc import Awaitable, Callable
from functools import cache
from ipaddress import ip_address
from typing import Any

import msgspec
from litestar.connection import ASGIConnection
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException
from litestar.handlers import BaseRouteHandler

from app.infra.asgi import Message, Scope, Send
from app.infra.errors import BadQuestion
from app.infra.rate_limit import RateLimit
from app.infra.settings import Settings
from app.server.authentication import Authentication
from app.server.sessions import ADMIN
from app.tencent.request import MAX_QUERY_BYTES

MAX_PATH_BYTES = 4096
SECURITY_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cache-control", b"no-store"),
)
"""On every answer but those to callbacks, which no browser reads."""


class Refusal(msgspec.Struct, frozen=True):
    """An answer that says why a request goes no further."""

    status_code: int
    detail: str

    async def send(self, send: Send) -> None:
        """Send it."""
        body = msgspec.json.encode({"status_code": self.status_code, "detail": self.detail})
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            *([(b"retry-after", b"1")] if self.status_code == 429 else []),
            *SECURITY_HEADERS,
        ]
        await send({"type": "http.response.start", "status": self.status_code, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


_FOR_PROBES = ("/healthz", "/readyz")


class HeadCheck:
    """Checks the head of every question, before routing."""

    def __init__(self, settings: Settings, rate_limit: RateLimit) -> None:
        self._rate_limit = rate_limit
        self._hosts: set[str] | None = None
        if settings.allowed_hosts or settings.secrets.api_token is None:
            # Without a token, a name that an attacker's page resolves to this machine would let the page read rooms.
            self._hosts = {"localhost", *settings.allowed_hosts}

    def check(self, scope: Scope) -> Refusal | None:
        """The refusal of a question, None if it may go on. Probes are answered under any host, and without one."""
        if len(scope["query_string"]) > MAX_QUERY_BYTES:
            return Refusal(414, f"the query is longer than {MAX_QUERY_BYTES} bytes")
        if len(scope["raw_path"]) > MAX_PATH_BYTES:
            return Refusal(414, f"the path is longer than {MAX_PATH_BYTES} bytes")
        if not self._rate_limit.allows(scope):
            return Refusal(429, "too many requests from this address: wait a second")
        if not self.knows_host(scope) and scope["path"] not in _FOR_PROBES:
            host = _host_of(scope)
            return Refusal(
                421, f"this server is not called {host[:100]!r}: if it is, name it in ROOMLAPSE_ALLOWED_HOSTS"
            )
        return None

    def knows_host(self, scope: Scope) -> bool:
        """Whether a request calls the server by its address, or by one of its names."""
        return self._hosts is None or (host := _host_of(scope)) in self._hosts or _is_address(host)


def with_security_headers(send: Send) -> Send:
    """Add SECURITY_HEADERS where an answer has not set its own; the framework would leave them out of errors."""

    async def send_with(message: Message) -> None:
        if message["type"] == "http.response.start":
            given = list(message["headers"])
            names = {name.lower() for name, _ in given}
            message["headers"] = [*given, *(header for header in SECURITY_HEADERS if header[0] not in names)]
        await send(message)

    return send_with


def _is_address(host: str) -> bool:
    """Whether a host is an address: no name server can make it mean another machine."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


def _host_of(scope: Scope) -> str:
    """The name in the Host header, without its port; empty if there is none, or more than one."""
    given = [value for name, value in scope["headers"] if name == b"host"]
    if len(given) != 1:
        return ""
    host: str = given[0].decode("latin-1").lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


# ---- guards of the routes: coroutines, because the framework takes each call of a plain function to a thread ----

Connection = ASGIConnection[Any, Any, Any, Any]


class SignInNeeded(Exception):
    """A page that is for those who have signed in."""


def role_guard(authentication: Authentication) -> Callable[[Connection, BaseRouteHandler], Awaitable[None]]:
    """A guard that lets `open` routes through, `admin` routes to that role, all others to any role."""

    async def guard(connection: Connection, handler: BaseRouteHandler) -> None:
        if handler.opt.get("open"):
            return
        role = authentication.role_of(connection.scope)
        if role is None and handler.opt.get("page"):
            raise SignInNeeded
        if role is None:
            raise NotAuthorizedException("this needs the header Authorization: Bearer <API token>")
        if handler.opt.get("admin") and role != ADMIN:
            raise PermissionDeniedException("this needs the admin token: ROOMLAPSE_ADMIN_TOKEN")

    return guard


async def refuse_unknown_parameters(connection: Connection, handler: BaseRouteHandler) -> None:
    """Refuse `?asof=`: answering about now what was asked about then would mislead."""
    if not connection.query_params:
        return
    known = query_parameters(handler)
    repeated = [name for name, values in connection.query_params.dict().items() if len(values) > 1]
    if repeated:
        raise BadQuestion(f"parameter {repeated[0][:64]!r} is given more than once")
    unknown = sorted(set(connection.query_params) - known)
    if unknown:
        takes = ", ".join(sorted(known)) or "no parameters"
        raise BadQuestion(f"unknown parameter {unknown[0][:64]!r}: this route takes {takes}")


_FRAMEWORK = {"request", "body", "cookies", "data", "headers", "query", "scope", "socket", "state"}
"""Arguments that the framework fills by itself."""


@cache
def query_parameters(handler: BaseRouteHandler) -> frozenset[str]:
    """The names of the query parameters that a route takes: those arguments of its handler that nothing else fills."""
    path = {name for path in handler.paths for name in re.findall(r"{(\w+):", path)}
    arguments = handler.parsed_fn_signature.parameters.items()
    names = {getattr(field.kwarg_definition, "name", None) or name for name, field in arguments}
    return frozenset(names - path - _FRAMEWORK)
