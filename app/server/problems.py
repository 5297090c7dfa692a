"""The answers to requests that fail: JSON to programs, a page to browsers."""

import logging
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import msgspec
from litestar import MediaType, Request, Response
from litestar.exceptions import HTTPException
from litestar.openapi import ResponseSpec

from app.infra import sqlite
from app.infra.errors import BadInput, Broken, NotNow, NotThere
from app.server.forwarded import root_of
from app.server.guards import SignInNeeded
from app.server.page.render import Renderer

STATUS_CODES: dict[type[Exception], int] = {
    BadInput: 400,
    NotThere: 404,
    NotNow: 503,
    Broken: 503,
    sqlite.Error: 503,
    OSError: 503,
}
"""The one mapping of errors to HTTP. What is none of these, and no HTTPException of the framework, is a bug: 500."""
_IN_LOG = (Broken, sqlite.Error, OSError)
_BUG = "this is a bug in Roomlapse: the server's log has the details"

_log = logging.getLogger(__name__)
Handler = Callable[[Request[Any, Any, Any], Any], Response[Any]]


class Problem(msgspec.Struct):
    """What every refused question gets."""

    status_code: int
    detail: str


PROBLEMS = {
    status_code: ResponseSpec(Problem, description=meaning, generate_examples=False)
    for status_code, meaning in (
        (400, "The question makes no sense; detail says why."),
        (401, "The API token is missing or wrong."),
        (403, "The admin token is needed."),
        (404, "There is no such room or event, or was none at that time."),
        (414, "The path or the query is too long."),
        (421, "The server is not called by that name."),
        (429, "Too many requests came from this address."),
        (503, "The answer is unavailable now; detail says why."),
    )
}
"""The refusals that a route of questions documents."""


def exception_handlers(renderer: Renderer) -> dict[int | type[Exception], Handler]:
    """The handlers of everything that can be raised while a question is answered."""

    def answer(
        request: Request[Any, Any, Any], problem: Problem, headers: dict[str, str] | None = None
    ) -> Response[Any]:
        handler = request.scope.get("route_handler")
        if handler is not None and handler.opt.get("page"):
            return renderer.problem(request.scope, problem.status_code, problem.detail)
        return Response(problem, status_code=problem.status_code, media_type=MediaType.JSON, headers=headers)

    def answer_error(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
        status_code = next((code for kind, code in STATUS_CODES.items() if isinstance(error, kind)), 500)
        if status_code == 500 or isinstance(error, _IN_LOG):
            _log.error("a request failed", exc_info=error, extra={"path": request.scope["path"]})
        return answer(request, Problem(status_code, _BUG if status_code == 500 else str(error)))

    def answer_http_exception(request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
        detail = error.detail
        if isinstance(error.extra, list):  # a parameter that is none, or not of its type
            detail = "; ".join(f"{problem.get('key')}: {problem.get('message')}" for problem in error.extra)
        return answer(request, Problem(error.status_code, detail), error.headers)

    return {Exception: answer_error, HTTPException: answer_http_exception, SignInNeeded: _sign_in}


def _sign_in(request: Request[Any, Any, Any], _error: SignInNeeded) -> Response[str]:
    # As it was asked for: a ? or a # of a room's id stays escaped.
    root = root_of(request.scope)
    path, query = request.scope["raw_path"].decode("latin-1"), request.scope["query_string"].decode("latin-1")
    where = quote(root + path + (f"?{query}" if query else ""), safe="/")
    return Response("", status_code=303, headers={"location": f"{root}/sign-in?next={where}"})
