"""A room's periods of visibility as a file for spreadsheets."""

import csv
import io
import unicodedata
from urllib.parse import quote

from app.infra.times import format_time
from app.queries.answers import Visibility

_FORMULA = set("=+-@\N{MINUS SIGN}")
_BLANK = set("\N{BRAILLE PATTERN BLANK}\N{HANGUL CHOSEONG FILLER}\N{HANGUL JUNGSEONG FILLER}\N{HANGUL FILLER}")
_UNSEEN = "CZM"  # categories: controls and formats, spaces, marks
_NOT_IN_FILES = set('\\/:*?"<>|')
BOM = "\ufeff"
"""What a file begins with: spreadsheets would read other scripts as Latin-1."""


def visibility_csv(visibility: Visibility) -> str:
    """A room's periods as CSV, oldest first. Spreadsheets run formulas, so no cell begins like one."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["room_id", "visibility", "from", "to", "from_ms", "to_ms", "duration_ms"])
    for period in visibility.intervals:
        writer.writerow(
            [
                safe_cell(visibility.room_id),
                "public" if period.public else "hidden",
                format_time(period.from_ms),
                "" if period.to_ms is None else format_time(period.to_ms),
                period.from_ms,
                "" if period.to_ms is None else period.to_ms,
                visibility.window.duration_ms(period),
            ]
        )
    return out.getvalue()


def safe_cell(text: str) -> str:
    """A text with a quote before it if a spreadsheet would take it for a formula, also one in wide letters."""
    seen = (char for char in unicodedata.normalize("NFKC", text) if not _is_unseen(char))
    return f"'{text}" if next(seen, "") in _FORMULA or text.startswith(("\t", "\r")) else text


def content_disposition(room_id: str) -> str:
    """The header that names the file after its room; old clients get the name without what is not ASCII (RFC 6266)."""
    name = "".join("_" if (_is_unseen(char) and char != " ") or char in _NOT_IN_FILES else char for char in room_id)
    plain = "".join(char if char.isascii() and (char.isalnum() or char in "-_.") else "_" for char in name).lstrip(".")
    encoded = quote(f"visibility-{name}.csv", safe="")
    return f"attachment; filename=\"visibility-{plain}.csv\"; filename*=UTF-8''{encoded}"


def _is_unseen(char: str) -> bool:
    return unicodedata.category(char)[0] in _UNSEEN or char in _BLANK
