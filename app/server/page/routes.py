"""The page: what a person asks in a browser, as links and forms that work without scripts."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, quote, urlencode

import msgspec
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from litestar import MediaType, Request, Response, get, post
from litestar.concurrency import sync_to_thread
from litestar.exceptions import PermissionDeniedException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from app.event import Cut
from app.infra.errors import BadQuestion, BadTime, NotFound
from app.infra.texts import visible
from app.infra.times import format_duration, format_time, now_ms, parse_time
from app.queries import counts, history, log, rooms
from app.queries import visibility as visibility_queries
from app.queries.answers import Change, Room
from app.queries.health import warnings
from app.queries.reader import Moment
from app.server.authentication import Authentication
from app.server.node import Service
from app.server.page import views
from app.server.sessions import ADMIN, END_COOKIE, Role
from projections import ALL

FOLDER = Path(__file__).parent
PAGE_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
}
ROOMS_A_PAGE = 50
_CHANGES_A_PAGE = 25
_TICKS = 500
_SPELLS = 500
_REJECTED = 20
_RECENT = 1000
_MAX_FORM_BYTES = 4096
_AFTERWARDS_MS = 60_000
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
WINDOWS_MS = {"1h": 3_600_000, "6h": 6 * 3_600_000, "24h": 24 * 3_600_000, "7d": 7 * 24 * 3_600_000}

At = Annotated[str | None, QueryParameter(description="A time; without an offset it is UTC.")]


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
        "text": views.text_of,
    }
    return environment


def room_path(room_id: str) -> str:
    """The path of a room's page. Browsers take `.` and `..` for folders, escaped or not: ~ helps."""
    plain = room_id not in (".", "..") and not room_id.startswith("~")
    return f"/room/{quote(room_id if plain else f'~{room_id}', safe='')}"


class Pages:
    """Builds the pages from the answers of the queries."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._environment = _environment()

    def render(self, name: str, *, status_code: int = 200, role: Role | None = None, **values: Any) -> Response[str]:
        """Write a page; `role` is that of the reader."""
        guarded = self._service.settings.secrets.api_token is not None
        # Errors may quote what is in the rooms.
        banners = warnings(self._service.health(None)) if role is not None or not guarded else []
        html = self._environment.get_template(name).render(
            role=role, guarded=guarded, banners=banners, now_ms=now_ms(), **values
        )
        return Response(html, status_code=status_code, media_type=MediaType.HTML, headers=PAGE_HEADERS)

    def problem(self, status_code: int, detail: str, role: Role | None) -> Response[str]:
        """Write a page that says what is wrong."""
        return self.render("problem.html", status_code=status_code, role=role, detail=detail, code=status_code)

    # ---- rooms ----

    def rooms(self, it: Moment, asked: "RoomsAsked") -> dict[str, Any]:
        """What the list of rooms shows."""
        cut = Cut(as_of_ms=asked.at_ms, known_at_ms=asked.known_at_ms)
        more: dict[str, Any] = {"public": asked.public, "q": asked.q, "limit": ROOMS_A_PAGE, "cursor": asked.cursor}
        page = (rooms.rooms if asked.sort == "name" else rooms.latest_rooms)(it, cut, **more)
        end_ms = now_ms() if asked.at_ms is None else asked.at_ms
        window = (end_ms - WINDOWS_MS[asked.window], end_ms)
        counts_of = {room.room_id: counts.change_counts(it, room.room_id, cut) for room in page.rooms}
        most = max((sum(it.changes for it in each.counts.values()) for each in counts_of.values()), default=0)
        lines = [
            views.line_of(
                room,
                counts_of[room.room_id],
                most,
                visibility_queries.visibility(it, room.room_id, cut, from_ms=window[0], now_ms=end_ms),
                window,
            )
            for room in page.rooms
        ]
        return {"lines": lines, "next_cursor": page.next_cursor, "window": window, "head": it.log.head().position}

    # ---- one room ----

    def room(self, it: Moment, room_id: str, asked: "RoomAsked") -> dict[str, Any]:
        """What a room's page shows."""
        at_ms = asked.at_ms
        cut = Cut(as_of_ms=at_ms, known_at_ms=asked.known_at_ms)
        known = Cut(known_at_ms=asked.known_at_ms)
        life = history.time_span(it, room_id)
        end_ms = _end_of_scale(life.first_ms, life.last_ms, now_ms())
        try:
            state: Room | None = rooms.room(it, room_id, cut)
        except NotFound:
            state = None
        platforms = {}
        if state is not None:
            for event_id in {by.event_id for by in views.blame_of(state).values()}:
                record = it.log.get(event_id)
                platforms[event_id] = record.platform if record is not None else None
        return {
            "room_id": room_id,
            "life": life,
            "end_ms": end_ms,
            "known_end_ms": _end_of_scale(life.first_received_ms, life.last_received_ms, now_ms()),
            "quiet": end_ms < now_ms() - 1000,
            "state": state,
            "room_name": views.name_of(state) if state is not None else None,
            "fields": views.fields_of(state, platforms) if state is not None else [],
            **self._steps(it, room_id, at_ms, known),
            **self._timeline(it, room_id, known, life.first_ms, end_ms),
            **self._history(it, room_id, asked),
            "cursor_x": views.place(end_ms if at_ms is None else at_ms, life.first_ms, end_ms),
            "compared": self._compared(it, room_id, asked),
            "head": it.log.head().position,
        }

    def _steps(self, it: Moment, room_id: str, at_ms: int | None, known: Cut) -> dict[str, Any]:
        """The change that led to the state, and the ones before and behind it."""

        def last_before(to_ms: int | None) -> Change | None:
            try:
                changes = history.history(it, room_id, known, to_ms=to_ms, limit=1).changes
            except NotFound:
                return None
            return changes[0] if changes else None

        last = last_before(None if at_ms is None else at_ms + 1)
        before = last_before(last.event_time_ms) if last is not None else None
        return {
            "last": last,
            "last_steps": views.steps_of(last.changed) if last is not None else [],
            "previous_ms": before.event_time_ms if before is not None else None,
            "next_ms": None if at_ms is None else history.next_change(it, room_id, at_ms, known),
        }

    def _timeline(self, it: Moment, room_id: str, known: Cut, first_ms: int, end_ms: int) -> dict[str, Any]:
        try:
            changes = history.history(it, room_id, known, limit=_TICKS)
            visibility = visibility_queries.visibility(it, room_id, known)
        except NotFound:
            return {"ticks": [], "more_ticks": False, "spells": [], "visibility": None}
        return {
            "ticks": views.ticks_of(changes.changes, first_ms, end_ms),
            "more_ticks": changes.next_cursor is not None,
            "spells": views.spells_of(visibility.intervals[-_SPELLS:], first_ms, end_ms, visibility.window.to_ms),
            "visibility": visibility,
        }

    def _history(self, it: Moment, room_id: str, asked: "RoomAsked") -> dict[str, Any]:
        late = {"yes": True, "no": False}.get(asked.late)
        try:
            page = history.history(
                it,
                room_id,
                Cut(known_at_ms=asked.known_at_ms),
                field=asked.field or None,
                operator=asked.operator or None,
                late=late,
                limit=_CHANGES_A_PAGE,
                cursor=asked.cursor,
            )
        except NotFound:
            return {"changes": [], "next_cursor": None}
        return {
            "changes": [(change, views.steps_of(change.changed)) for change in page.changes],
            "next_cursor": page.next_cursor,
        }

    def _compared(self, it: Moment, room_id: str, asked: "RoomAsked") -> list[views.Compared] | None:
        if asked.a_ms is None or asked.b_ms is None:
            return None
        states: list[Room | None] = []
        for at_ms in (asked.a_ms, asked.b_ms):
            try:
                states.append(rooms.room(it, room_id, Cut(as_of_ms=at_ms, known_at_ms=asked.known_at_ms)))
            except NotFound:
                states.append(None)
        return views.compare(*states)

    # ---- health ----

    def health(self, it: Moment, role: Role | None) -> dict[str, Any]:
        """What the page about the receiver shows; what was quarantined only to who may see it."""
        status = log.status(it)
        health = self._service.health(status)
        now = now_ms()
        head = it.log.head()
        minute = head.position - it.log.position_at(now - 60_000)
        records = it.log.tail(max(0, head.position - _RECENT), _RECENT)
        delays_ms = [record.received_at_ms - record.event_time_ms for record in records]
        value = self._service.metrics.registry.get_sample_value
        counters = {
            "late": value("roomlapse_late_events_total") or 0,
            "answered": sum(value("roomlapse_callbacks_total", {"outcome": name}) or 0 for name in _TAKEN),
            "refused": sum(value("roomlapse_callbacks_total", {"outcome": name}) or 0 for name in _REFUSED),
        }
        return {
            "status": status,
            "projections": {name: status.projections[name] for name in ALL},
            "per_second": minute / 60,
            "received_at_ms": head.received_at_ms,
            "delays": views.delays_of(delays_ms),
            "recent": len(delays_ms),
            "counters": counters,
            "free_bytes": health.free_bytes,
            "total_bytes": health.total_bytes,
            "quarantine": log.rejected(it, _REJECTED).rejected if role == ADMIN else None,
            "head": head.position,
        }


_TAKEN = ("accepted", "duplicate", "blocking")
_REFUSED = ("quarantined", "too_large", "forbidden", "unsigned", "too_many", "unavailable")


class RoomsAsked(msgspec.Struct, frozen=True):
    """What the list of rooms was asked for."""

    q: str | None
    show: str
    sort: str
    at_ms: int | None
    known_at_ms: int | None
    window: str
    cursor: str | None

    @property
    def public(self) -> bool | None:
        """Which rooms: those public, those hidden, or all."""
        return {"public": True, "hidden": False}.get(self.show)

    def query(self, **changed: Any) -> str:
        """The link to the same list with something else about it; from its first page."""
        return _query(
            {
                "q": self.q,
                "show": self.show if self.show != "all" else None,
                "sort": self.sort if self.sort != "activity" else None,
                "at": None if self.at_ms is None else format_time(self.at_ms),
                "known_at": None if self.known_at_ms is None else format_time(self.known_at_ms),
                "window": self.window if self.window != "6h" else None,
            }
            | changed
        )


class RoomAsked(msgspec.Struct, frozen=True):
    """What a room's page was asked for."""

    at_ms: int | None
    known_at_ms: int | None
    field: str | None
    operator: str | None
    late: str
    cursor: str | None
    a_ms: int | None
    b_ms: int | None

    def query(self, **changed: Any) -> str:
        """The link to the same page with something else about it."""
        times = {"at": self.at_ms, "known_at": self.known_at_ms, "a": self.a_ms, "b": self.b_ms}
        given = {name: None if at is None else format_time(at) for name, at in times.items()}
        for name in ("at", "known_at"):
            if isinstance(changed.get(name), int):
                changed[name] = format_time(changed[name])
        return _query(given | {"field": self.field, "operator": self.operator, "late": self.late or None} | changed)


def _query(values: Mapping[str, Any]) -> str:
    given = {name: value for name, value in values.items() if value not in (None, "")}
    return f"?{urlencode(given)}" if given else "?"


def _end_of_scale(first_ms: int, last_ms: int, now: int) -> int:
    """Where a room's timeline ends: now, but soon after its last event, lest a show of months ago shrink to a hair."""
    return max(last_ms, min(now, last_ms + max(_AFTERWARDS_MS, (last_ms - first_ms) // 6)))


def read_moment(text: str | None) -> int | None:
    """Read a time from a form; without an offset it is UTC, without a clock it is midnight. Raises BadTime."""
    text = (text or "").strip()
    if not text:
        return None
    try:
        return parse_time(text)
    except BadTime:
        day = f"{text}T00:00Z" if len(text) == len("2026-03-11") else f"{text}Z"
        try:
            return parse_time(day)
        except BadTime:
            raise BadTime(
                f"{text[:64]!r} is not a time: write it like 2026-03-11 20:14, or 2026-03-11T20:14:00Z"
            ) from None


def page_routes(service: Service, pages: Pages, authentication: Authentication) -> list[HTTPRouteHandler]:
    """The routes of the page."""

    async def open_page(
        request: Request[Any, Any, Any],
        name: str,
        question: Callable[[Moment], dict[str, Any]],
        *,
        wait: bool = True,
        **values: Any,
    ) -> Response[str]:
        role = authentication.role_of(request.scope)
        # Writing a page takes longer than the event loop has: callbacks come in on it.
        return await sync_to_thread(
            lambda: pages.render(name, role=role, **values, **service.readers.read(question, wait=wait))
        )

    def named(room_id: str) -> str:
        return room_id.removeprefix("~")

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
    ) -> Response[str]:
        _check_choice("show", show, ("all", "public", "hidden"))
        _check_choice("sort", sort, ("activity", "name"))
        _check_choice("window", window, tuple(WINDOWS_MS))
        asked = RoomsAsked(q or None, show, sort, read_moment(at), read_moment(known_at), window, cursor or None)
        return await open_page(
            request,
            "rooms.html",
            lambda it: pages.rooms(it, asked),
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
    ) -> Response[str]:
        _check_choice("late", late, ("", "yes", "no"))
        times = [read_moment(text) for text in (at, known_at, a, b)]
        asked = RoomAsked(times[0], times[1], field or None, operator or None, late, cursor or None, times[2], times[3])
        return await open_page(request, "room.html", lambda it: pages.room(it, named(room_id), asked), asked=asked)

    @get("/room/{room_id:str}/visibility.csv", opt={"page": True}, include_in_schema=False)
    async def visibility_file(room_id: FromPath[str]) -> Response[str]:
        def write(it: Moment) -> str:
            return views.visibility_csv(visibility_queries.visibility(it, named(room_id), Cut()))

        text = await sync_to_thread(lambda: service.readers.read(write))
        name = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in named(room_id))
        return Response(
            text,
            media_type="text/csv",
            headers={"content-disposition": f'attachment; filename="visibility-{name.lstrip(".")}.csv"'},
        )

    @get("/event/{event_id:str}", opt={"page": True, "admin": True}, include_in_schema=False)
    async def event_page(request: Request[Any, Any, Any], event_id: FromPath[str]) -> Response[str]:
        return await open_page(request, "event.html", lambda it: {"event": log.event(it, event_id)}, wait=False)

    @get("/health", opt={"page": True}, include_in_schema=False)
    async def health_page(request: Request[Any, Any, Any]) -> Response[str]:
        role = authentication.role_of(request.scope)
        return await open_page(request, "health.html", lambda it: pages.health(it, role), wait=False)

    @get("/sign-in", opt={"page": True, "open": True}, include_in_schema=False)
    async def sign_in_page(next_: Annotated[str, QueryParameter(name="next")] = "/") -> Response[str]:
        return pages.render("sign_in.html", next=_own_path(next_), wrong=False)

    @post("/sign-in", opt={"page": True, "open": True}, include_in_schema=False, status_code=200)
    async def sign_in(request: Request[Any, Any, Any]) -> Response[str]:
        _refuse_other_sites(request)
        form = await _read_form(request)
        where = _own_path(form.get("next", "/"))
        role = authentication.role_of_token(form.get("token", "").strip().encode())
        if role is None:
            return pages.render("sign_in.html", status_code=401, next=where, wrong=True)
        cookie = authentication.sessions.write_cookie(role)
        return Response("", status_code=303, headers={"location": where, "set-cookie": cookie})

    @post("/sign-out", opt={"page": True, "open": True}, include_in_schema=False, status_code=303)
    async def sign_out(request: Request[Any, Any, Any]) -> Response[str]:
        _refuse_other_sites(request)
        return Response("", status_code=303, headers={"location": "/", "set-cookie": END_COOKIE})

    static = {path.name: path.read_bytes() for path in (FOLDER / "static").iterdir()}

    @get("/static/{name:str}", opt={"page": True, "open": True}, include_in_schema=False)
    async def static_file(name: FromPath[str]) -> Response[bytes]:
        if name not in static:
            raise NotFound("no such file")
        return Response(static[name], media_type=_TYPES[Path(name).suffix], headers={"cache-control": "max-age=300"})

    return [
        rooms_page,
        room_page,
        visibility_file,
        event_page,
        health_page,
        sign_in_page,
        sign_in,
        sign_out,
        static_file,
    ]


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise BadQuestion(f"{name} is one of {', '.join(filter(None, choices))}")


def _own_path(path: str) -> str:
    """A path on this server to go on to; the list of rooms if it is anything else."""
    own = path.startswith("/") and path[1:2] not in ("/", "\\")
    return path if own and path.isascii() and path.isprintable() else "/"


def _refuse_other_sites(request: Request[Any, Any, Any]) -> None:
    """Nobody is signed in or out by a form on somebody else's page."""
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin", "null")
    # Our own pages send no referrer, and with that no origin; browsers say where a form stood in another header.
    others = origin not in ("null", "") and origin.partition("://")[2] != request.headers.get("host", "")
    if site not in ("same-origin", "none") if site is not None else others:
        raise PermissionDeniedException("this form was sent from another site")


async def _read_form(request: Request[Any, Any, Any]) -> dict[str, str]:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MAX_FORM_BYTES:
            raise BadQuestion("the form is too large")
    return {name: values[0] for name, values in parse_qs(body.decode("utf-8", "replace")).items()}
