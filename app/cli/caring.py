"""The command line: each command turns its arguments into a question or a job, and prints what comes of it.

Results go to stdout, progress and logs to stderr. Exit 0: done; 1: a problem, or nothing there; 2: wrong usage.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import msgspec
import rich_click as click

from app.cli import tables
from app.cli.demo import run_demo
from app.event import Cut
from app.infra import sqlite
from app.infra.data_dir import LOG_FILE, DataDir
from app.infra.errors import (
    BadBackup,
    BadQuestion,
    BadSettings,
    BadTime,
    NewerSchema,
    NoData,
    NotFound,
    OtherWriter,
    ProjectionFailed,
    RebuildRunning,
    Unavailable,
    WrongOwner,
)
from app.infra.json_logs import set_up_logging
from app.infra.processes import settle_memory
from app.infra.progress import show_progress
from app.infra.settings import (
    DEFAULT_DATA,
    DEFAULT_HOST,
    DEFAULT_PORT,
    FORMER_DATA,
    MIN_TOKEN,
    Settings,
    default_data,
    read_allowed_hosts,
    read_rate_limit,
    read_secrets,
)
from app.infra.texts import visible
from app.infra.times import now_ms, parse_time
from app.log.files import check_log, create_log, open_log, open_log_reader
from app.ops.backup import back_up
from app.ops.doctor import diagnose
from app.ops.import_export import (
    IMPORT_CACHE_KIB,
    Imported,
    RejectedLine,
    export_lines,
    import_lines,
    read_lines,
    release_rejected,
)
from app.ops.simulator import Callbacks, Sender
from app.ops.verify import verify_data
from app.projector.catch_up import MAPPED_BYTES, rebuild
from app.projector.upkeep import bring_up, create_read_models, open_read_models
from app.queries import counts as count_queries
from app.queries import history as history_queries
from app.queries import log as log_queries
from app.queries import rooms as room_queries
from app.queries import visibility as visibility_queries
from app.queries.paging import DEFAULT_LIMIT, MAX_LIMIT
from app.queries.reader import Moment, open_reader
from app.server.node import Service
from app.server.running import Running, warn_of_library
from projections import ALL

P = ParamSpec("P")
_log = logging.getLogger(__name__)
_REJECTED_LINES_IN_JSON = 1000
_GIVES_WAY = 10  # a rebuild can wait, a receiver on the same machine cannot


class _Time(click.ParamType[int]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_time(value)
        except BadTime as error:
            self.fail(str(error), param, ctx)


TIME = _Time()


class _AppId(click.ParamType[str]):
    """An SDKAppID: the number that the console shows for the application."""

    name = "number"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not (value.isascii() and value.isdigit()):
            self.fail(f"{value!r} is no SDKAppID: it is a number, as 1400000000, which the console shows", param, ctx)
        return value


_sdk_app_id = click.option(
    "--sdk-app-id", type=_AppId(), envvar="ROOMLAPSE_SDK_APP_ID", help="Whose callbacks these are."
)
_USES_FORMER_DATA = f"using {FORMER_DATA}/, the default of earlier versions: the default is now {DEFAULT_DATA}/, so set\
 ROOMLAPSE_DATA={FORMER_DATA} or move it"


def _say_which_data(data: Path) -> None:
    if data is FORMER_DATA:  # the object that default_data gives: `--data data` is equal, and nothing to speak of
        click.echo(_USES_FORMER_DATA, err=True)


def _choose_data(context: click.Context, _option: click.Parameter, given: Path | None) -> Path:
    data = given or default_data()
    if context.command.name not in {"serve", "rejected"}:  # one logs it; the other's subcommand may be given another
        _say_which_data(data)
    return data


_data = click.option(
    "--data",
    type=click.Path(path_type=Path, file_okay=False),
    callback=_choose_data,
    envvar="ROOMLAPSE_DATA",
    show_default=str(DEFAULT_DATA),
    show_envvar=True,
    help=f"The data directory. {FORMER_DATA}, the default of earlier versions, is used if only that holds data.",
)
_json = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; where HTTP has the same question, its answer."
)
_as_of = click.option("--as-of", type=TIME, help="Only what had happened by this time counts.")
_known_at = click.option("--known-at", type=TIME, help="Only what we had received by this time counts.")
_from = click.option("--from", "from_ms", type=TIME, help="Start of the window, included.")
_to = click.option("--to", "to_ms", type=TIME, help="End of the window, not included.")
_limit = click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True)
_cursor = click.option("--cursor", help="Where the page before ended.")


def _reports_errors(command: Callable[P, None]) -> Callable[P, None]:
    """End with a sentence and an exit code, never with a traceback, for whatever can go wrong outside this program."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (BadSettings, BadQuestion) as error:
            raise click.UsageError(str(error)) from None
        except (
            BadBackup,
            BrokenProcessPool,
            *sqlite.UNREADABLE,
            NewerSchema,
            NoData,
            OSError,
            OtherWriter,
            ProjectionFailed,
            NotFound,
            Unavailable,
            RebuildRunning,
            WrongOwner,
        ) as error:
            if isinstance(error, BrokenPipeError):
                raise  # the reader of our output has seen enough; click ends quietly
            raise click.ClickException(str(error)) from None

    return run


@contextmanager
def _reading(data: Path) -> Iterator[Moment]:
    """Open a data directory for reading, after bringing its read models up to the log's end."""
    data_dir = DataDir(data)
    check_log(data_dir, _env_app_id())
    _bring_up(data_dir)
    with open_reader(data_dir) as reader, reader.moment() as moment:
        yield moment


def _cut(as_of: int | None, known_at: int | None) -> Cut:
    return Cut(as_of_ms=as_of, known_at_ms=known_at)


def _bring_up(data_dir: DataDir) -> None:
    log, models = open_log_reader(data_dir, MAPPED_BYTES), open_read_models(data_dir)
    try:
        with show_progress("catching up") as progress:
            bring_up(data_dir, log, models, progress, jobs=min(2, os.cpu_count() or 1))
    finally:
        models.close()
        log.close()


def _env_app_id() -> str | None:
    return os.environ.get("ROOMLAPSE_SDK_APP_ID") or None


def _print(as_json: bool, answer: Any, write: Callable[[Any], None]) -> None:
    (tables.print_json if as_json else write)(answer)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="roomlapse")
def main() -> None:
    """Roomlapse, a time machine for live rooms.

    Times are epoch milliseconds, or ISO 8601 with an offset: 2026-03-11T14:28:44Z.
    """


@main.command()
@click.option(
    "--sdk-app-id",
    type=_AppId(),
    required=True,
    envvar="ROOMLAPSE_SDK_APP_ID",
    show_envvar=True,
    help="Your application's SDKAppID; callbacks of others are refused.",
)
@click.option("--host", default=DEFAULT_HOST, envvar="ROOMLAPSE_HOST", show_default=True, show_envvar=True)
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=DEFAULT_PORT,
    envvar="ROOMLAPSE_PORT",
    show_default=True,
    show_envvar=True,
    help="0 takes a free one.",
)
@_data
@click.option("--insecure", is_flag=True, help="Serve other machines without tokens.")
@_reports_errors
def serve(sdk_app_id: str, host: str, port: int, data: Path, insecure: bool) -> None:
    """Run the receiver and the queries, with the projector beside them.

    Secrets come from the environment: ROOMLAPSE_CALLBACK_TOKENS (comma-separated), ROOMLAPSE_API_TOKEN and
    ROOMLAPSE_ADMIN_TOKEN, or from files named by the same names with _FILE behind them.
    """
    secrets = read_secrets()
    set_up_logging(secrets.all())
    warn_of_library()
    if data is FORMER_DATA:
        _log.warning(_USES_FORMER_DATA)
    settings = Settings(sdk_app_id, data, host, port, secrets, insecure, read_allowed_hosts(), read_rate_limit())
    settings.check()
    if not settings.secrets.callback_tokens:
        _log.warning("no callback token is set: whoever reaches this address can send callbacks")
    if any(len(token) < MIN_TOKEN for token in settings.secrets.callback_tokens):
        _log.warning("a callback token has less than %d characters: whoever guesses it can send callbacks", MIN_TOKEN)
    if settings.secrets.api_token is None:
        _log.warning("no API token is set: whoever reaches this address can ask")
    service = Service(settings)
    create_log(service.data_dir, sdk_app_id)  # what is wrong with it is said before anything listens
    create_read_models(service.data_dir)
    running = Running(service)
    running.run()
    if running.failed:
        raise click.ClickException("the server did not start: the lines above say why")


@main.command()
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True, help="0: a free one.")
@click.option("--for", "for_s", type=click.FloatRange(min=0.1), help="End after so many seconds.")
@_reports_errors
def demo(port: int, for_s: float | None) -> None:
    """Load a sample evening, run the server on it, and let a simulated sender add to it."""
    set_up_logging()
    run_demo(port, for_s)


@main.command()
@click.argument("room")
@_as_of
@_known_at
@_data
@_json
@_reports_errors
def room(room: str, as_of: int | None, known_at: int | None, data: Path, as_json: bool) -> None:
    """Show what a room was like, with who set each field."""
    with _reading(data) as moment:
        _print(as_json, room_queries.room(moment, room, _cut(as_of, known_at)), tables.print_room)


@main.command()
@_as_of
@_known_at
@click.option("--public/--hidden", default=None, help="Only rooms that are (were) public, or hidden.")
@click.option("-q", "--q", help="Only rooms with this in their id or name, in any case.")
@_limit
@_cursor
@_data
@_json
@_reports_errors
def rooms(
    as_of: int | None,
    known_at: int | None,
    public: bool | None,
    q: str | None,
    limit: int,
    cursor: str | None,
    data: Path,
    as_json: bool,
) -> None:
    """List rooms by room_id."""
    with _reading(data) as moment:
        page = room_queries.rooms(moment, _cut(as_of, known_at), public=public, q=q, limit=limit, cursor=cursor)
        _print(as_json, page, tables.print_rooms)


@main.command()
@click.argument("room")
@_as_of
@_known_at
@_from
@_to
@click.option("--field", help="Only changes that touch this field; each is shown whole.")
@_limit
@_cursor
@_data
@_json
@_reports_errors
def history(
    room: str,
    as_of: int | None,
    known_at: int | None,
    from_ms: int | None,
    to_ms: int | None,
    field: str | None,
    limit: int,
    cursor: str | None,
    data: Path,
    as_json: bool,
) -> None:
    """List a room's changes, newest first: who changed what, from what, to what."""
    with _reading(data) as moment:
        page = history_queries.history(
            moment, room, _cut(as_of, known_at), from_ms=from_ms, to_ms=to_ms, field=field, limit=limit, cursor=cursor
        )
        _print(as_json, page, tables.print_history)


@main.command()
@click.argument("room")
@click.option(
    "--from", "from_ms", type=TIME, required=True, help="The earlier time; the answer says what became of it."
)
@click.option("--to", "to_ms", type=TIME, required=True, help="The later time.")
@_as_of
@_known_at
@_data
@_json
@_reports_errors
def diff(
    room: str, from_ms: int, to_ms: int, as_of: int | None, known_at: int | None, data: Path, as_json: bool
) -> None:
    """Compare two times of a room."""
    with _reading(data) as moment:
        _print(as_json, room_queries.diff(moment, room, from_ms, to_ms, _cut(as_of, known_at)), tables.print_diff)


@main.command()
@click.argument("room", required=False)
@_as_of
@_known_at
@_limit
@_cursor
@_data
@_json
@_reports_errors
def counts(
    room: str | None,
    as_of: int | None,
    known_at: int | None,
    limit: int,
    cursor: str | None,
    data: Path,
    as_json: bool,
) -> None:
    """Count how often each field changed: of one room, or over all rooms."""
    with _reading(data) as moment:
        if room is not None:
            counted = count_queries.change_counts(moment, room, _cut(as_of, known_at))
            _print(as_json, counted, lambda it: tables.print_counts(it.counts))
        elif as_of is not None or known_at is not None:
            raise click.UsageError("--as-of and --known-at need a ROOM")
        else:
            _print(as_json, count_queries.change_totals(moment, limit, cursor), tables.print_totals)


@main.command()
@click.argument("room")
@_as_of
@_known_at
@_from
@_to
@_data
@_json
@_reports_errors
def visibility(
    room: str,
    as_of: int | None,
    known_at: int | None,
    from_ms: int | None,
    to_ms: int | None,
    data: Path,
    as_json: bool,
) -> None:
    """Show when a room was public and when hidden."""
    with _reading(data) as moment:
        answer = visibility_queries.visibility(moment, room, _cut(as_of, known_at), from_ms=from_ms, to_ms=to_ms)
        _print(as_json, answer, tables.print_visibility)


@main.command()
@click.option("--fingerprint", is_flag=True, help="Add a hash of each read model: equal sets of events, equal hashes.")
@_data
@_json
@_reports_errors
def status(fingerprint: bool, data: Path, as_json: bool) -> None:
    """Show where the log ends and how far each projection has read."""
    with _reading(data) as moment:
        _print(as_json, log_queries.status(moment, fingerprint=fingerprint), tables.print_status)


@main.command(name="rebuild")
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that fold.")
@click.option("--projection", type=click.Choice(list(ALL)), help="Only this one.")
@_data
@_reports_errors
def rebuild_command(jobs: int, projection: str | None, data: Path) -> None:
    """Make the read models from scratch, while a server runs or not.

    Readers see the old ones until the new ones are whole; whatever ends it early leaves the old ones.
    """
    data_dir = DataDir(data)
    check_log(data_dir, _env_app_id())
    os.nice(_GIVES_WAY)
    with data_dir.rebuild_lock():
        log, models = open_log_reader(data_dir, MAPPED_BYTES), open_read_models(data_dir)
        try:
            with show_progress("rebuilding") as progress:
                events = rebuild(log, models, [projection] if projection else None, jobs=jobs, progress=progress)
        finally:
            models.close()
            log.close()
    click.echo(f"rebuilt {projection or ', '.join(ALL)} from {events} events")


@main.command()
@_data
@_json
@_reports_errors
def verify(data: Path, as_json: bool) -> None:
    """Recompute ids, chain and read models; name the first difference, exit 1 if there is one."""
    data_dir = DataDir(data)
    check_log(data_dir, _env_app_id())
    if not data_dir.read_models_path.exists():
        _bring_up(data_dir)  # what is there is checked as it is: catching up first could mend what should be shown
    with show_progress("verifying") as progress:
        head, difference = verify_data(data_dir, progress)
    if as_json:
        tables.print_json(
            {
                "ok": difference is None,
                "difference": difference,
                "head": head and head.position,
                "chain": head and head.chain,
            }
        )
    else:
        events = f"{head.position} events, chain {head.chain}" if head is not None else ""
        if difference is None:
            click.echo(f"everything agrees: {events}")
        else:
            click.echo(visible(str(difference)))
            if difference.file != LOG_FILE:
                click.echo(f"the log agrees: {events}; the read models can be made again from it")
    if difference is not None:
        sys.exit(1)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@_data
@_json
@_reports_errors
def backup(file: Path, data: Path, as_json: bool) -> None:
    """Copy the log to a new FILE while callbacks come, synced and verified.

    To restore, stop the server and copy FILE to events.db in an empty data directory; the rest is made again from it.
    """
    data_dir = DataDir(data)
    check_log(data_dir, _env_app_id())
    with show_progress("checking the copy") as progress:
        backed_up = back_up(data_dir, file, progress)
    if as_json:
        tables.print_json(backed_up)
    else:
        click.echo(f"backed up {backed_up.events} events to {visible(str(file))}, chain {backed_up.chain}")


@main.command()
@click.option("--url", help="The server, if it is not where ROOMLAPSE_HOST and ROOMLAPSE_PORT say.")
@_data
@_json
@_reports_errors
def doctor(url: str | None, data: Path, as_json: bool) -> None:
    """Check the clock, the signature, the disk, the chain and a running server, and say what to do; exit 1 if bad.

    Run it where the server runs and with the same environment.
    """
    host = os.environ.get("ROOMLAPSE_HOST") or DEFAULT_HOST
    port = os.environ.get("ROOMLAPSE_PORT") or str(DEFAULT_PORT)
    if not (port.isascii() and port.isdigit()):
        raise click.UsageError(f"ROOMLAPSE_PORT is {port!r}, which is no port")
    url = url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    if not url.startswith(("http://", "https://")):
        raise click.UsageError(f"--url {url} does not begin with http:// or https://")
    settings = Settings(_env_app_id() or "", data, host, secrets=read_secrets())
    diagnosis = diagnose(settings, url.rstrip("/"))
    _print(as_json, diagnosis, tables.print_diagnosis)
    if not diagnosis.ok:
        sys.exit(1)


@main.command(name="import")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@_sdk_app_id
@_data
@_json
@_reports_errors
def import_command(file: Path, sdk_app_id: str | None, data: Path, as_json: bool) -> None:
    """Append callbacks from JSON lines (- for stdin): bare bodies, or lines as `export` writes them.

    Lines that are not taken are listed with their numbers, and the exit code is 1.
    Interrupted and run again, it ends the same.
    """
    data_dir = DataDir(data)
    create_log(data_dir, sdk_app_id)
    lines: list[RejectedLine] = []
    settle_memory()

    def on_rejected(rejected: RejectedLine) -> None:
        if not as_json:
            click.echo(visible(f"rejected line {rejected.line}: {rejected.reason}"))
        elif len(lines) < _REJECTED_LINES_IN_JSON:
            lines.append(rejected)

    log = open_log(data_dir, IMPORT_CACHE_KIB)
    try:
        with click.open_file(str(file), "rb") as stream, show_progress("importing") as progress:
            size = file.stat().st_size if file.is_file() else 0

            def on_batch(lines: int, read: int) -> None:  # how many are left can only be guessed from their bytes
                progress(lines, lines * size // read if size else 0)

            imported = import_lines(log, read_lines(stream), now_ms, on_rejected, on_batch)
    finally:
        log.close()
    _print_imported(imported, as_json, {"rejected_lines": lines})
    _bring_up(data_dir)
    if imported.rejected:
        sys.exit(1)


@main.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@_data
@_reports_errors
def export(file: Path, data: Path) -> None:
    """Write the log as JSON lines (- for stdout), each with its body exactly as received."""
    data_dir = DataDir(data)
    check_log(data_dir, _env_app_id())
    log = open_log_reader(data_dir)
    try:
        head = log.head().position
        with click.open_file(str(file), "wb") as stream, show_progress("exporting") as progress:
            for done, line in enumerate(export_lines(log), start=1):
                stream.write(line)
                if done % 1000 == 0:
                    progress(done, head)
    finally:
        log.close()
    click.echo(f"exported {head} events", err=True)


@main.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=DEFAULT_LIMIT, show_default=True)
@_cursor
@_data
@_json
@click.pass_context
@_reports_errors
def rejected(context: click.Context, limit: int, cursor: str | None, data: Path, as_json: bool) -> None:
    """List the quarantine, newest first; `retry` tries its bodies again."""
    if context.invoked_subcommand is None:
        _say_which_data(data)
        with _reading(data) as moment:
            _print(as_json, log_queries.rejected(moment, limit, cursor), tables.print_rejected)


@rejected.command()
@click.option("--data", type=click.Path(path_type=Path, file_okay=False), help="The data directory.")
@_json
@click.pass_context
@_reports_errors
def retry(context: click.Context, data: Path | None, as_json: bool) -> None:
    """Try every quarantined body again, after an upgrade; those that are valid now move into the log."""
    assert context.parent is not None
    given = context.parent.params  # `rejected --data DIR retry` means the same as `rejected retry --data DIR`
    as_json = as_json or given["as_json"]
    data = data or given["data"]
    _say_which_data(data)
    data_dir = DataDir(data)
    check_log(data_dir, _env_app_id())
    log = open_log(data_dir)
    try:
        released = release_rejected(log, now_ms)
    finally:
        log.close()
    _print_imported(released, as_json, {})
    _bring_up(data_dir)
    if released.rejected:
        sys.exit(1)


def _print_imported(imported: Imported, as_json: bool, more: dict[str, Any]) -> None:
    if as_json:
        tables.print_json(msgspec.structs.asdict(imported) | more)
    else:
        click.echo(f"accepted {imported.accepted}, duplicates {imported.duplicates}, rejected {imported.rejected}")


@main.command()
@click.option("--url", required=True, help="The receiver: http://127.0.0.1:8000, or its full callback URL.")
@click.option("--sdk-app-id", type=_AppId(), required=True, envvar="ROOMLAPSE_SDK_APP_ID", show_envvar=True)
@click.option("--rate", type=click.FloatRange(min=0.01), default=10.0, show_default=True, help="Callbacks a second.")
@click.option("--count", type=click.IntRange(min=1), default=100, show_default=True, help="How many in all.")
@click.option("--rooms", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--duplicates", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Part sent twice.")
@click.option("--late", type=click.FloatRange(0, 1), default=0.0, show_default=True, help="Part with an older time.")
@_json
@_reports_errors
def simulate(
    url: str,
    sdk_app_id: str,
    rate: float,
    count: int,
    rooms: int,
    seed: int,
    duplicates: float,
    late: float,
    as_json: bool,
) -> None:
    """Send seeded callbacks to a receiver, signed with the first of ROOMLAPSE_CALLBACK_TOKENS if there is one.

    Like the real sender it waits 2 s for an answer and sends nothing twice on its own.
    """
    tokens = read_secrets().callback_tokens
    try:
        sender = Sender(url, sdk_app_id, tokens[0] if tokens else None, rate)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    signal.signal(signal.SIGTERM, lambda number, frame: sender.stop())
    with show_progress("sending") as progress:
        callbacks = Callbacks(seed, rooms, duplicates, late, now_ms)
        sent = sender.send(iter(callbacks), count, lambda answered: progress(answered, count))
    if as_json:
        tables.print_json(sent)
    else:
        answers = ", ".join(f"{n} x {status or 'no answer'}" for status, n in sent.answers.items())
        click.echo(
            f"sent {sent.sent} in {sent.seconds:.1f} s: {answers}; p50 {sent.p50_ms:.1f} ms, p99 {sent.p99_ms:.1f} ms"
        )
    if sent.ok != sent.sent:
        sys.exit(1)
