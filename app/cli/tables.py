"""Prints answers: JSON, or text with tables on a terminal and aligned columns in a pipe, hidden characters escaped."""

import json
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from app.cli.progress import is_terminal
from app.event import canonical_json
from app.infra.data_dir import LOG_FILE
from app.infra.texts import visible
from app.infra.times import format_duration, format_time
from app.log.audit import Difference
from app.log.records import Head
from app.ops.backup import BackedUp
from app.ops.doctor import Diagnosis
from app.ops.simulator import Sent
from app.queries import answers

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")

T = TypeVar("T")


def print_json(answer: Any) -> None:
    """Print what HTTP would answer."""
    text = msgspec.json.encode(answer).decode()
    if not (getattr(sys.stdout, "encoding", None) or "").lower().replace("-", "").startswith("utf8"):
        text = _NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], text)  # they stand in strings only
    print(text)


def print_answer(as_json: bool, answer: T, write: Callable[[T], None]) -> None:
    """Print an answer as JSON, or as `write` does."""
    if as_json:
        print_json(answer)
    else:
        write(answer)


def print_room(room: answers.Room) -> None:
    """Print a room: a line a field, with who set it and when."""
    events = "1 event" if room.events == 1 else f"{room.events} events, the last"
    _say(f"{room.room_id}  after {events} at {format_time(room.event_time_ms)}")
    values, set_by = _values(room.room_info), _values(room.fields)
    _table(
        ["field", "value", "set at", "by", "event"],
        [
            [name, _json(value), format_time(set_by[name]["set_at_ms"]), _json(set_by[name]["operator"]), event_id[:12]]
            for name, value in values.items()
            for event_id in (set_by[name]["event_id"],)
        ],
    )


def print_rooms(page: answers.Rooms) -> None:
    """Print rooms, a line each."""
    lines = []
    for room in page.rooms:
        values = _values(room.room_info)
        name, public = values.get("RoomName"), values.get("IsPublicVisible")
        lines.append([room.room_id, _json(name), _json(public), str(room.events), format_time(room.event_time_ms)])
    _table(["room", "name", "public", "events", "last event"], lines)
    _more(page.next_cursor)


def print_diagnosis(diagnosis: Diagnosis) -> None:
    """Print findings, a line each, with what to do."""
    _table(
        ["check", "", "found", "what to do"],
        [[finding.check, finding.state, finding.found, finding.advice] for finding in diagnosis.findings],
    )


def print_history(page: answers.History) -> None:
    """Print changes, newest first, a line a field."""
    lines = []
    for change in page.changes:
        head = [
            format_time(change.event_time_ms) + (" late" if change.late else ""),
            _json(_values(change.operator)),
            change.platform or "",
        ]
        for name, field in _values(change.changed).items():
            before = _json(field["from"]) if "from" in field else "(first seen)"
            lines.append([*head, name, before, _json(field["to"])])
            head = ["", "", ""]
    _table(["at", "by", "platform", "field", "from", "to"], lines)
    _more(page.next_cursor)


def print_diff(diff: answers.Diff) -> None:
    """Print what differs, a line a field."""
    lines = [
        [name, _json(field["from"]) if "from" in field else "", _json(field["to"]) if "to" in field else ""]
        for name, field in _values(diff.changed).items()
    ]
    if lines:
        _table(["field", "from", "to"], lines)
    else:
        _say("no difference")


def print_counts(counts: dict[str, answers.Counts]) -> None:
    """Print counts, a line a field."""
    _table(
        ["field", "observations", "changes", "first seen", "last changed"],
        [
            [
                name,
                str(count.observations),
                str(count.changes),
                format_time(count.first_seen_ms),
                format_time(count.last_changed_ms) if count.last_changed_ms is not None else "never",
            ]
            for name, count in counts.items()
        ],
    )


def print_totals(totals: answers.ChangeTotals) -> None:
    """Print the counts over all rooms, and the rooms with the most changes."""
    print_counts(totals.counts)
    _table(["room", "changes"], [[total.room_id, str(total.changes)] for total in totals.rooms])
    _more(totals.next_cursor)


def print_visibility(visibility: answers.Visibility) -> None:
    """Print intervals, a line each, and the sums."""
    _table(
        ["", "from", "to", "for"],
        [
            [
                "public" if interval.public else "hidden",
                format_time(interval.from_ms),
                format_time(interval.to_ms) if interval.to_ms is not None else "open",
                format_duration(visibility.window.duration_ms(interval)),
            ]
            for interval in visibility.intervals
        ],
    )
    _say(
        f"public {format_duration(visibility.public_ms)}, hidden {format_duration(visibility.hidden_ms)},"
        f" up to {format_time(visibility.window.to_ms)}"
    )


def print_rejected(page: answers.Quarantine) -> None:
    """Print the quarantine, a line a body."""
    _table(
        ["id", "received", "reason", "body"],
        [[str(it.id), format_time(it.received_at_ms), it.reason, it.body[:60]] for it in page.rejected],
    )
    _more(page.next_cursor)


def print_status(status: answers.Status) -> None:
    """Print the log's end and the projections, a line each."""
    _say(
        f"head {status.head}, events {status.events}, duplicates {status.duplicates}, rejected {status.rejected}\n"
        f"chain {status.chain}"
    )
    _table(
        ["projection", "version", "position", "lag", "fingerprint", "error"],
        [
            [name, str(it.version), str(it.position), str(it.lag), it.fingerprint or "", it.error or ""]
            for name, it in status.projections.items()
        ],
    )


def print_verified(head: Head | None, difference: Difference | None) -> None:
    """Print the first difference, if there is one, and what the log comes to."""
    events = f"{head.position} events, chain {head.chain}" if head is not None else ""
    if difference is None:
        _say(f"everything agrees: {events}")
    else:
        _say(str(difference))
        if difference.file != LOG_FILE:
            _say(f"the log agrees: {events}; the read models can be made again from it")


def print_backed_up(backed_up: BackedUp) -> None:
    """Print what a backup holds."""
    _say(f"backed up {backed_up.events} events to {backed_up.file}, chain {backed_up.chain}")


def print_sent(sent: Sent) -> None:
    """Print what was sent, and how it was answered."""
    answers_given = ", ".join(f"{count} x {status or 'no answer'}" for status, count in sent.answers.items())
    _say(
        f"sent {sent.sent} in {sent.seconds:.1f} s: {answers_given}; p50 {sent.p50_ms:.1f} ms, p99 {sent.p99_ms:.1f} ms"
    )


def _say(text: str) -> None:
    print("\n".join(visible(line) for line in text.split("\n")))


def _more(next_cursor: str | None) -> None:
    if next_cursor is not None:
        _say(f"more with --cursor {next_cursor}")


def _table(titles: list[str], lines: list[list[str]]) -> None:
    cells = [[visible(cell) for cell in line] for line in lines]
    if is_terminal(sys.stdout):
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in titles:
            table.add_column(title, overflow="fold")
        for line in cells:
            table.add_row(*map(Text, line))
        Console().print(table)
        return
    rows = [titles, *cells]  # whole, whatever the width: another program reads them
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        print("  ".join(padded).rstrip())


def _values(answer: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(answer))


def _json(value: Any) -> str:
    """Write a JSON value; a string without quotes unless it would then read as another value."""
    if isinstance(value, str) and value and not _reads_as_json(value):
        return value
    return canonical_json(value)


def _reads_as_json(text: str) -> bool:
    try:
        msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True
