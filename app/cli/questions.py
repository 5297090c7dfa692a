"""Commands that ask: each builds a question from its options, and prints the answer."""

from pathlib import Path

import rich_click as click

from app.cli import options, tables
from app.cli.opening import ask
from app.event import Cut
from app.queries import counts as count_queries
from app.queries import history as history_queries
from app.queries import log as log_queries
from app.queries import rooms as room_queries
from app.queries import visibility as visibility_queries


@click.command(epilog="Example: `roomlapse room late-show --as-of 2026-03-11T20:14:00Z`")
@click.argument("room")
@options.cut
@options.data
@options.as_json
def room(room: str, cut: Cut, data: Path, as_json: bool) -> None:
    """Show what a room was like, with who set each field."""
    tables.print_answer(as_json, ask(data, lambda it: room_queries.room(it, room, cut)), tables.print_room)


@click.command(epilog="Example: `roomlapse rooms --public -q late`")
@options.cut
@click.option("--public/--hidden", default=None, help="Only rooms that are (were) public, or hidden.")
@click.option("-q", "--q", help="Only rooms with this text in their id or name, in any case.")
@options.page
@options.data
@options.as_json
def rooms(
    cut: Cut, public: bool | None, q: str | None, limit: int, cursor: str | None, data: Path, as_json: bool
) -> None:
    """List rooms by room_id."""
    answer = ask(data, lambda it: room_queries.rooms(it, cut, public=public, q=q, limit=limit, cursor=cursor))
    tables.print_answer(as_json, answer, tables.print_rooms)


@click.command(epilog="Example: `roomlapse history late-show --field IsPublicVisible`")
@click.argument("room")
@options.cut
@options.window
@click.option("--field", help="Only changes that touch this field; each is shown whole.")
@options.page
@options.data
@options.as_json
def history(
    room: str,
    cut: Cut,
    from_ms: int | None,
    to_ms: int | None,
    field: str | None,
    limit: int,
    cursor: str | None,
    data: Path,
    as_json: bool,
) -> None:
    """List a room's changes, newest first: who changed what, from what, to what."""
    answer = ask(
        data,
        lambda it: history_queries.history(
            it, room, cut, from_ms=from_ms, to_ms=to_ms, field=field, limit=limit, cursor=cursor
        ),
    )
    tables.print_answer(as_json, answer, tables.print_history)


@click.command(epilog="Example: `roomlapse diff late-show --from 2026-03-11T20:00:00Z --to 2026-03-11T21:30:00Z`")
@click.argument("room")
@options.required_window
@options.cut
@options.data
@options.as_json
def diff(room: str, from_ms: int, to_ms: int, cut: Cut, data: Path, as_json: bool) -> None:
    """Compare two times of a room."""
    answer = ask(data, lambda it: room_queries.diff(it, room, from_ms, to_ms, cut))
    tables.print_answer(as_json, answer, tables.print_diff)


@click.command(epilog="Example: `roomlapse counts late-show`")
@click.argument("room", required=False)
@options.cut
@options.page
@options.data
@options.as_json
def counts(room: str | None, cut: Cut, limit: int, cursor: str | None, data: Path, as_json: bool) -> None:
    """Count how often each field changed: of one room, or over all rooms."""
    if room is not None:
        counted = ask(data, lambda it: count_queries.change_counts(it, room, cut))
        tables.print_answer(as_json, counted, lambda it: tables.print_counts(it.counts))
    elif cut != Cut():
        raise click.UsageError("--as-of and --known-at need a ROOM")
    else:
        totals = ask(data, lambda it: count_queries.change_totals(it, limit, cursor))
        tables.print_answer(as_json, totals, tables.print_totals)


@click.command(epilog="Example: `roomlapse visibility late-show --from 2026-03-11T20:00:00Z`")
@click.argument("room")
@options.cut
@options.window
@options.data
@options.as_json
def visibility(room: str, cut: Cut, from_ms: int | None, to_ms: int | None, data: Path, as_json: bool) -> None:
    """Show when a room was public and when hidden."""
    answer = ask(data, lambda it: visibility_queries.visibility(it, room, cut, from_ms=from_ms, to_ms=to_ms))
    tables.print_answer(as_json, answer, tables.print_visibility)


@click.command(epilog="Example: `roomlapse status --fingerprint`")
@click.option("--fingerprint", is_flag=True, help="Add a hash of each read model: equal sets of events, equal hashes.")
@options.data
@options.as_json
def status(fingerprint: bool, data: Path, as_json: bool) -> None:
    """Show where the log ends and how far each projection has read."""
    answer = ask(data, lambda it: log_queries.status(it, fingerprint=fingerprint))
    tables.print_answer(as_json, answer, tables.print_status)
