"""The routes of the page: what a person asks in a browser, as links and forms that work without scripts."""

import hashlib
from pathlib import Path
from typing import Annotated, Any

from litestar import Request, Response, get, post
from litestar.concurrency import sync_to_thread
from litestar.exceptions import PermissionDeniedException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from app.event import Cut
from app.infra.asgi import Scope
from app.infra.errors import BadQuestion, NotFound
from app.infra.times import now_ms
from app.queries import log
from app.queries import visibility as visibility_queries
from app.queries.reader import Moment
from app.server import form_tokens
from app.server.authentication import Authentication, cookie_of
from app.server.forwarded import is_secure, root_of
from app.server.node import Service
from app.server.page.asked import WINDOWS_MS, RoomAsked, RoomsAsked, check_choice, read_moment, read_names
from app.server.page.forms import own_path, read_form, refuse_other_sites
from app.server.page.health_page import read_health
from app.server.page.render import FOLDER, Renderer
from app.server.page.room_page import read_room
from app.server.page.rooms_page import read_rooms, read_rows
from app.server.page.visibility_file import BOM, content_disposition, visibility_csv
from app.server.room_names import room_id_of
from app.server.sessions import end_cookie, set_cookie

_OLD_FORM = "This form was open for too long, or cookies are switched off: sign in once more."
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_STATIC = {path.name: path.read_bytes() for path in (FOLDER / "static").iterdir()}
_TAGS = {name: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for name, content in _STATIC.items()}

At = Annotated[str | None, QueryParameter(description="A time; without an offset it is UTC.")]


def page_routes(service: Service, renderer: Renderer, authentication: Authentication) -> list[HTTPRouteHandler]:
    """All routes of the page."""
    return [
        *_room_routes(service, renderer),
        *_other_routes(service, renderer, authentication),
        *_session_routes(renderer, authentication),
        static_file,
    ]


def _room_routes(service: Service, renderer: Renderer) -> list[HTTPRouteHandler]:
    @get("/", opt={"page": True}, include_in_schema=False)
    async def rooms_page(
        request: Request[Any, Any, Any],
        q: str | None = None,
        show: str = "all",
        sort: str = "activity",
        at: At = None,
        known_at: At = None,
        window: str = "6h",
        cursor: str | None = None,
        only: str | None = None,
    ) -> Response[str]:
        check_choice("show", show, ("all", "public", "hidden"))
        check_choice("sort", sort, ("activity", "name"))
        check_choice("window", window, tuple(WINDOWS_MS))
        asked = RoomsAsked(q or None, show, sort, read_moment(at), read_moment(known_at), window, cursor or None)
        if only is not None:
            room_ids = read_names(only)
            return await renderer.open(
                request, "rows.html", lambda moment: read_rows(moment, asked, room_ids), asked=asked
            )
        return await renderer.open(
            request,
            "rooms.html",
            lambda moment: read_rooms(moment, asked),
            asked=asked,
            windows=list(WINDOWS_MS),
            demo=service.settings.demo,
        )

    @get("/room/{room_id:str}", opt={"page": True}, include_in_schema=False)
    async def room_page(
        request: Request[Any, Any, Any],
        room_id: FromPath[str],
        at: At = None,
        known_at: At = None,
        field: str | None = None,
        operator: str | None = None,
        late: str = "",
        cursor: str | None = None,
        a: At = None,
        b: At = None,
        brief: bool = False,
    ) -> Response[str]:
        check_choice("late", late, ("", "yes", "no"))
        times = [read_moment(text) for text in (at, known_at, a, b)]
        asked = RoomAsked(times[0], times[1], field or None, operator or None, late, cursor or None, times[2], times[3])
        return await renderer.open(
            request,
            "room.html",
            lambda moment: read_room(moment, room_id_of(room_id), asked, brief=brief),
            asked=asked,
            brief=brief,
        )

    return [rooms_page, room_page]


def _other_routes(service: Service, renderer: Renderer, authentication: Authentication) -> list[HTTPRouteHandler]:
    @get("/room/{room_id:str}/visibility.csv", opt={"page": True}, include_in_schema=False)
    async def visibility_file(
        room_id: FromPath[str], at: At = None, as_of: At = None, known_at: At = None
    ) -> Response[str]:
        if at and as_of:
            raise BadQuestion("at and as_of are the same: give one of them")
        room_id, cut = room_id_of(room_id), Cut(as_of_ms=read_moment(at or as_of), known_at_ms=read_moment(known_at))

        end_ms = now_ms() if cut.known_at_ms is None else min(now_ms(), cut.known_at_ms)  # as on the room's page

        def write(moment: Moment) -> str:
            return visibility_csv(visibility_queries.visibility(moment, room_id, cut, now_ms=end_ms))

        text = await sync_to_thread(lambda: service.readers.read(write))
        headers = {"content-disposition": content_disposition(room_id)}
        return Response(BOM + text, media_type="text/csv", headers=headers)

    @get("/event/{event_id:str}", opt={"page": True, "admin": True}, include_in_schema=False)
    async def event_page(request: Request[Any, Any, Any], event_id: FromPath[str]) -> Response[str]:
        return await renderer.open(
            request, "event.html", lambda moment: {"event": log.event(moment, event_id)}, wait=False
        )

    @get("/health", opt={"page": True}, include_in_schema=False)
    async def health_page(request: Request[Any, Any, Any]) -> Response[str]:
        role = authentication.role_of(request.scope)
        return await renderer.open(
            request, "health.html", lambda moment: read_health(moment, service, role), wait=False
        )

    return [visibility_file, event_page, health_page]


def _session_routes(renderer: Renderer, authentication: Authentication) -> list[HTTPRouteHandler]:
    @get("/sign-in", opt={"page": True, "open": True}, include_in_schema=False)
    async def sign_in_page(
        request: Request[Any, Any, Any], next_: Annotated[str, QueryParameter(name="next")] = "/"
    ) -> Response[str]:
        return _sign_in_form(renderer, authentication, request.scope, own_path(next_, root_of(request.scope)))

    @post("/sign-in", opt={"page": True, "open": True}, include_in_schema=False, status_code=200)
    async def sign_in(request: Request[Any, Any, Any]) -> Response[str]:
        refuse_other_sites(request)
        scope, form = request.scope, await read_form(request)
        where = own_path(form.get("next", "/"), root_of(scope))
        cookie = cookie_of(scope, form_tokens.COOKIE)
        if not (cookie and authentication.forms.fits(form.get(form_tokens.FIELD, ""), "sign-in", cookie)):
            return _sign_in_form(renderer, authentication, scope, where, problem=_OLD_FORM, status_code=403)
        role = authentication.role_of_token(form.get("token", "").strip().encode())
        if role is None:
            return _sign_in_form(renderer, authentication, scope, where, problem="The token is wrong.", status_code=401)
        session = authentication.sessions.write_cookie(role, root_of(scope), secure=is_secure(scope))
        return Response("", status_code=303, headers={"location": where, "set-cookie": session})

    @post("/sign-out", opt={"page": True, "open": True}, include_in_schema=False, status_code=303)
    async def sign_out(request: Request[Any, Any, Any]) -> Response[str]:
        refuse_other_sites(request)
        scope, form = request.scope, await read_form(request)
        session = authentication.session_in(scope)
        if session and not authentication.forms.fits(form.get(form_tokens.FIELD, ""), "sign-out", session):
            raise PermissionDeniedException("this form is not of your session: go back, reload the page and try again")
        end = {"set-cookie": end_cookie(root_of(scope), secure=is_secure(scope))} if session else {}
        return Response("", status_code=303, headers={"location": f"{root_of(scope)}/", **end})

    return [sign_in_page, sign_in, sign_out]


def _sign_in_form(
    renderer: Renderer,
    authentication: Authentication,
    scope: Scope,
    where: str,
    *,
    problem: str | None = None,
    status_code: int = 200,
) -> Response[str]:
    """The form for signing in, and the cookie that binds it to the browser; `where`: what to go on to."""
    cookie = cookie_of(scope, form_tokens.COOKIE) or form_tokens.new_cookie_value()
    token = authentication.forms.write("sign-in", cookie)
    page = renderer.render(
        scope, "sign_in.html", status_code=status_code, next=where, problem=problem, form_token=token
    )
    if status_code != 401:  # at a wrong token the browser has it already
        lasts_s, secure = form_tokens.COOKIE_S, is_secure(scope)
        page.headers["set-cookie"] = set_cookie(form_tokens.COOKIE, cookie, lasts_s, root_of(scope), secure=secure)
    return page


@get("/static/{name:str}", opt={"page": True, "open": True}, include_in_schema=False)
async def static_file(request: Request[Any, Any, Any], name: FromPath[str]) -> Response[bytes]:
    """A style sheet, a script or an image of the page."""
    if name not in _STATIC:
        raise NotFound("no such file")
    # Asked for each time: scripts that import one another have to be of one version.
    headers = {"cache-control": "no-cache", "etag": _TAGS[name]}
    if request.headers.get("if-none-match", "").removeprefix("W/") == _TAGS[name]:
        return Response(b"", status_code=304, headers=headers)
    return Response(_STATIC[name], media_type=_TYPES[Path(name).suffix], headers=headers)
