"""A room's periods of visibility as a file for spreadsheets."""

import csv
import io

from app.infra.times import format_time
from app.queries.answers import Visibility

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def visibility_csv(visibility: Visibility) -> str:
    """A room's periods as CSV, oldest first. Spreadsheets run formulas, so no cell begins like one."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["room_id", "visibility", "from", "to", "from_ms", "to_ms", "duration_ms"])
    for period in visibility.intervals:
        end_ms = visibility.window.to_ms if period.to_ms is None else period.to_ms
        writer.writerow(
            [
                safe_cell(visibility.room_id),
                "public" if period.public else "hidden",
                format_time(period.from_ms),
                "" if period.to_ms is None else format_time(period.to_ms),
                period.from_ms,
                "" if period.to_ms is None else period.to_ms,
                max(0, end_ms - period.from_ms),
            ]
        )
    return out.getvalue()


def safe_cell(text: str) -> str:
    """A text with a quote before it if a spreadsheet would take it for a formula."""
    return f"'{text}" if text.lstrip().startswith(_FORMULA) or text.startswith(_FORMULA) else text
