"""Writes pages: the templates, the headers, and the banners that every page has."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import MediaType, Request, Response
from litestar.concurrency import sync_to_thread

from app.infra.asgi import Scope
from app.infra.texts import visible
from app.infra.times import format_duration, format_time
from app.queries.answers import Health
from app.queries.health import warnings
from app.queries.reader import Moment
from app.server.authentication import Authentication
from app.server.forwarded import root_of
from app.server.node import Service
from app.server.page.values import text_of
from app.server.room_names import segment_of

FOLDER = Path(__file__).parent
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}


class Renderer:
    """Writes the pages of a node."""

    def __init__(self, service: Service, authentication: Authentication) -> None:
        self._service = service
        self._authentication = authentication
        self._environment = _environment()

    async def open(
        self,
        request: Request[Any, Any, Any],
        name: str,
        question: Callable[[Moment], dict[str, Any]],
        *,
        wait: bool = True,
        **values: Any,
    ) -> Response[str]:
        """Answer a page's question in one moment and write the page, in a thread: the event loop takes callbacks.

        Raises what the question raises.
        """
        return await sync_to_thread(
            lambda: self.render(request.scope, name, **values, **self._service.readers.read(question, wait=wait))
        )

    def render(
        self, scope: Scope, name: str, *, status_code: int = 200, health: Health | None = None, **values: Any
    ) -> Response[str]:
        """Write a page for who sent a request. Its banners tell of `health`, which is asked for if not given."""
        role = self._authentication.role_of(scope)
        guarded = self._service.settings.secrets.api_token is not None
        # Errors may quote what is in the rooms.
        banners = warnings(health or self._service.health(None)) if role is not None or not guarded else []
        token = self._authentication.forms.write("sign-out", self._authentication.session_in(scope)) if role else None
        html = self._environment.get_template(name).render(
            root=root_of(scope), role=role, guarded=guarded, banners=banners, sign_out_token=token, **values
        )
        return Response(html, status_code=status_code, media_type=MediaType.HTML, headers=PAGE_HEADERS)

    def problem(self, scope: Scope, status_code: int, detail: str) -> Response[str]:
        """Write a page that says what is wrong."""
        return self.render(scope, "problem.html", status_code=status_code, detail=detail, code=status_code)


def room_path(room_id: str) -> str:
    """The path of a room's page."""
    return f"/room/{segment_of(room_id)}"


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "time": format_time,
        "duration": format_duration,
        "visible": visible,
        "room_path": room_path,
        "number": lambda number: f"{number:,}",
        "text": text_of,
    }
    return environment
