"""What a page was asked for: its parameters as values, and the links to the same page with something else about it."""

from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec

from app.event import Cut
from app.infra.errors import BadQuestion, BadTime
from app.infra.times import format_time, parse_time, refuse_seconds

WINDOWS_MS = {"1h": 3_600_000, "6h": 6 * 3_600_000, "24h": 24 * 3_600_000, "7d": 7 * 24 * 3_600_000}
"""How much of a room's visibility the list's strips show, by name."""

MAX_NAMES = 20


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
    def cut(self) -> Cut:
        """Which events count."""
        return Cut(as_of_ms=self.at_ms, known_at_ms=self.known_at_ms)

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

    @property
    def room_query(self) -> str:
        """The link from a room in the list to its page at the same times."""
        times = {"at": self.at_ms, "known_at": self.known_at_ms}
        return _query({name: None if ms is None else format_time(ms) for name, ms in times.items()}).removesuffix("?")


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

    @property
    def cut(self) -> Cut:
        """Which events count for the state that is shown."""
        return Cut(as_of_ms=self.at_ms, known_at_ms=self.known_at_ms)

    @property
    def known_cut(self) -> Cut:
        """Which events count for the timeline and the history: those of any time."""
        return Cut(known_at_ms=self.known_at_ms)

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


def read_names(text: str) -> list[str]:
    """Read the rooms of which rows are asked for: a JSON array of at most MAX_NAMES room ids. Raises BadQuestion."""
    try:
        names: list[str] = msgspec.json.decode(text, type=Annotated[list[str], msgspec.Meta(max_length=MAX_NAMES)])
    except msgspec.DecodeError:
        raise BadQuestion(f"only is a JSON array of at most {MAX_NAMES} room ids") from None
    return names


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise BadQuestion if a parameter has none of its values."""
    if value not in choices:
        raise BadQuestion(f"{name} is one of {', '.join(filter(None, choices))}")


def read_moment(text: str | None) -> int | None:
    """Read a time from a form; without an offset it is UTC, without a clock it is midnight. Raises BadTime."""
    text = (text or "").strip()
    if not text:
        return None
    refuse_seconds(text)
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
