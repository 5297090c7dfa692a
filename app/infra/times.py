"""Times in and out: epoch milliseconds, or ISO 8601 with an offset."""

import re
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from app.infra.errors import BadTime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_MS = re.compile(r"-?[0-9]{1,15}")
_SECONDS = re.compile(r"-?[0-9]{9,11}(\.[0-9]{1,9})?")
_LOOK_LIKE_SECONDS = range(10**8, 10**11)  # as seconds from 1973 to 5138, as milliseconds within three years of 1970
_ISO_8601 = re.compile(
    r"(\d{4}-\d\d-\d\d|\d{8})[T ](\d\d:\d\d(:\d\d([.,]\d{1,9})?)?|\d{4}(\d\d([.,]\d{1,9})?)?)(Z|[+-]\d\d(:?\d\d)?)?",
    re.ASCII,
)
_LOST_PLUS = re.compile(r" (\d\d:?\d\d)$")  # a + that was not escaped in a URL arrives as a space


def now_ms() -> int:
    """The clock, epoch milliseconds."""
    return time.time_ns() // 1_000_000


def refuse_seconds(text: str) -> None:
    """Raise BadTime for a number that is none of milliseconds: read as such, it would be a time before all events."""
    if _SECONDS.fullmatch(text) and int(abs(seconds := Decimal(text))) in _LOOK_LIKE_SECONDS:
        raise BadTime(f"{text} looks like seconds: epoch milliseconds are needed, {int(seconds * 1000)}")


def parse_time(text: str) -> int:
    """Read a time as epoch milliseconds. Raises BadTime, also for what looks like seconds."""
    refuse_seconds(text)
    if _EPOCH_MS.fullmatch(text):
        return int(text)
    moment = _read_iso_8601(_LOST_PLUS.sub(r"+\1", text))
    if moment is None:
        raise BadTime(
            f"{text[:64]!r} is not a time: give epoch milliseconds or ISO 8601 with an offset, 2026-03-11T14:28:44Z"
        )
    if moment.tzinfo is None:
        raise BadTime(f"{text!r} has no offset: add Z for UTC, or one like +08:00")
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def _read_iso_8601(text: str) -> datetime | None:
    if not _ISO_8601.fullmatch(text):
        return None  # fromisoformat takes more than it says: any separator, times without minutes
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def format_time(time_ms: int) -> str:
    """Write epoch milliseconds as ISO 8601 in UTC, or as the number where the calendar ends."""
    try:
        moment = _EPOCH + timedelta(milliseconds=time_ms)
    except OverflowError:
        return str(time_ms)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def format_duration(duration_ms: int) -> str:
    """Write a length of time for people, its three largest units: 1 h 2 min 3 s."""
    seconds, ms = divmod(duration_ms, 1000)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [f"{n} {unit}" for n, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")) if n]
    if ms or not parts:
        parts.append(f"{ms} ms")
    return " ".join(parts[:3])
