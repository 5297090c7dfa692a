"""Commands that care for the data: rebuild, verify, back up, import, export, the quarantine, and doctor."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgspec
import rich_click as click

from app.cli import options, tables
from app.cli.opening import ask, bring_up_read_models, checked
from app.cli.progress import show_progress
from app.infra.data_dir import DataDir
from app.infra.files import name_of
from app.infra.output import STDOUT, open_output, refuse_data_file
from app.infra.processes import settle_memory
from app.infra.settings import Settings, read_address, read_sdk_app_id, read_secrets, service_address_notice
from app.infra.texts import visible
from app.infra.times import now_ms
from app.log.files import create_log, open_log, open_log_reader
from app.ops.backup import back_up
from app.ops.doctor import diagnose
from app.ops.import_export import (
    IMPORT_CACHE_KIB,
    Imported,
    RejectedLine,
    export_lines,
    import_lines,
    release_rejected,
)
from app.ops.import_files import read_lines
from app.ops.verify import verify_data
from app.projector.rebuild import MAPPED_BYTES, rebuild
from app.projector.registry import known_projections
from app.projector.upkeep import open_read_models
from app.queries import log as log_queries

_REJECTED_LINES_IN_JSON = 1000
_NICENESS = 10  # of a rebuild: it can wait, a receiver on the same machine cannot


@click.command(name="rebuild", epilog="Example: `roomlapse rebuild --jobs 2 --projection visibility`")
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="How many processes fold the events."
)
@click.option("--projection", type=options.PROJECTION, help="Only this one, by its name.")
@options.data
def rebuild_command(jobs: int, projection: str | None, data: Path) -> None:
    """Make the read models from scratch, while a server runs or not.

    Readers see the old ones until the new ones are whole; a rebuild that ends early leaves the old ones.
    """
    data_dir = checked(data)
    os.nice(_NICENESS)
    with (
        data_dir.rebuild_lock(),
        open_log_reader(data_dir, MAPPED_BYTES) as log,
        open_read_models(data_dir) as models,
        show_progress("rebuilding") as progress,
    ):
        events = rebuild(log, models, [projection] if projection else None, jobs=jobs, progress=progress)
    click.echo(f"rebuilt {projection or ', '.join(models.projections)} from {events} events")


@click.command(epilog="Example: `roomlapse verify --data ./roomlapse-data`")
@options.data
@options.as_json
def verify(data: Path, as_json: bool) -> None:
    """Recompute ids, chain and read models; name the first difference, exit 1 if there is one."""
    data_dir = checked(data)
    if not data_dir.read_models_path.exists():
        bring_up_read_models(data_dir)  # only then: catching up could mend what is to be shown
    with show_progress("verifying") as progress:
        verified = verify_data(data_dir, progress)
    if as_json:
        head, difference = verified
        tables.print_json(
            {
                "ok": difference is None,
                "difference": difference,
                "head": head and head.position,
                "chain": head and head.chain,
            }
        )
    else:
        tables.print_verified(*verified)
    if verified[1] is not None:
        sys.exit(1)


@click.command(epilog="Example: `roomlapse backup ./events-copy.db`")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, readable=False))
@options.data
@options.as_json
def backup(file: Path, data: Path, as_json: bool) -> None:
    """Copy the log to a new FILE while callbacks come, synced and verified.

    To restore, stop the server and copy FILE to events.db in an empty data directory; the rest is made again from it.
    """
    if str(file) == "-":
        raise click.UsageError(
            "a backup is a database, which cannot be written to a pipe: name a FILE, or use `export -`"
        )
    data_dir = checked(data)
    with show_progress("checking the copy") as progress:
        backed_up = back_up(data_dir, file, progress)
    tables.print_answer(as_json, backed_up, tables.print_backed_up)


@click.command(epilog="Example: `roomlapse doctor --url http://127.0.0.1:8000`")
@click.option("--url", type=options.URL, help="The server, if it is not where ROOMLAPSE_HOST and ROOMLAPSE_PORT say.")
@options.data
@options.as_json
def doctor(url: str | None, data: Path, as_json: bool) -> None:
    """Check the clock, the signature, the disk, the chain and a running server, and say what to do; exit 1 if bad.

    Run it where the server runs and with the same environment.
    """
    if notice := service_address_notice():
        click.echo(notice, err=True)
    host, port = read_address()
    url = url or f"http://{f'[{host}]' if ':' in host else host}:{port}"
    settings = Settings(read_sdk_app_id() or "", data, host, secrets=read_secrets())
    diagnosis = diagnose(settings, url.rstrip("/"))
    tables.print_answer(as_json, diagnosis, tables.print_diagnosis)
    if not diagnosis.ok:
        sys.exit(1)


@click.command(name="import", epilog="Example: `roomlapse import ./callbacks.jsonl --sdk-app-id 1400000000`")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--sdk-app-id", type=options.APP_ID, envvar="ROOMLAPSE_SDK_APP_ID", help="The SDKAppID whose callbacks these are."
)
@options.data
@options.as_json
def import_command(file: Path, sdk_app_id: str | None, data: Path, as_json: bool) -> None:
    """Append callbacks from JSON lines (- for stdin): bare bodies, or lines as `export` writes them.

    A JSON array is read as well, its elements counted as lines; so are objects over several lines, and gzip.
    Rejected lines are listed with their numbers, and the exit code is 1. Interrupted and run again, it ends the same.
    """
    data_dir = DataDir(data)
    known_projections()  # what is wrong with the folder is said before anything is stored
    listed: list[RejectedLine] = []
    settle_memory()

    def on_rejected(rejected: RejectedLine) -> None:
        if not as_json:
            click.echo(visible(f"rejected line {rejected.line}: {rejected.reason}"))
        elif len(listed) < _REJECTED_LINES_IN_JSON:
            listed.append(rejected)

    with click.open_file(str(file), "rb") as stream, show_progress("importing") as progress:
        lines = read_lines(stream, "stdin" if str(file) == "-" else name_of(file))
        create_log(data_dir, sdk_app_id)  # only now: what is refused whole leaves nothing behind
        size = file.stat().st_size if file.is_file() else 0

        def on_batch(done: int, _bytes: int) -> None:  # the number of lines is estimated from the bytes of the file
            progress(done, done * size // max(1, stream.tell()) if size else 0)

        with open_log(data_dir, IMPORT_CACHE_KIB) as log:
            imported = import_lines(log, lines, now_ms, on_rejected, on_batch)
    _end_import(data_dir, imported, as_json, {"rejected_lines": listed})


@click.command(epilog="Example: `roomlapse export ./exported.jsonl`")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, readable=False, allow_dash=True))
@click.option("--force", is_flag=True, help="Replace FILE if it is there, once the export is whole.")
@options.data
def export(file: Path, force: bool, data: Path) -> None:
    """Write the log as JSON lines (- for stdout), each with its body exactly as received.

    A FILE gets its name when it is whole and synced. One that is there is replaced with --force only.
    """
    data_dir = checked(data)
    with (
        open_log_reader(data_dir) as log,
        _open_output(file, data, replace=force) as stream,
        show_progress("exporting") as progress,
    ):
        head = log.head().position
        for done, line in enumerate(export_lines(log), start=1):
            stream.write(line)
            if done % 1000 == 0:
                progress(done, head)
    click.echo(f"exported {head} events", err=True)


@contextmanager
def _open_output(file: Path, data: Path, *, replace: bool) -> Iterator[IO[bytes]]:
    if str(file) == "-":
        refuse_data_file(STDOUT, data)
        with click.open_file("-", "wb") as stream:
            yield stream
    else:
        with open_output(file, data, replace=replace) as stream:
            yield stream


@click.group(invoke_without_command=True, epilog="Example: `roomlapse rejected --limit 20`")
@options.page
@options.data
@options.as_json
@click.pass_context
def rejected(context: click.Context, limit: int, cursor: str | None, data: Path, as_json: bool) -> None:
    """List the quarantine, newest first; `retry` tries its bodies again."""
    if context.invoked_subcommand is None:
        options.say_which_data(data)
        answer = ask(data, lambda it: log_queries.rejected(it, limit, cursor))
        tables.print_answer(as_json, answer, tables.print_rejected)


@rejected.command(epilog="Example: `roomlapse rejected retry`")
@click.option("--data", type=options.DIRECTORY, help="The data directory.")
@options.as_json
@click.pass_context
def retry(context: click.Context, data: Path | None, as_json: bool) -> None:
    """Try every quarantined body again, after an upgrade; those that are valid now move into the log."""
    assert context.parent is not None
    given = context.parent.params  # `rejected --data DIR retry` means the same as `rejected retry --data DIR`
    as_json = as_json or given["as_json"]
    data = data or given["data"]
    options.say_which_data(data)
    data_dir = checked(data)
    known_projections()  # what is wrong with the folder is said before anything is stored
    with open_log(data_dir) as log:
        released = release_rejected(log, now_ms)
    _end_import(data_dir, released, as_json)


def _end_import(data_dir: DataDir, imported: Imported, as_json: bool, more: dict[str, Any] | None = None) -> None:
    if as_json:
        tables.print_json(msgspec.structs.asdict(imported) | (more or {}))
    else:
        click.echo(f"accepted {imported.accepted}, duplicates {imported.duplicates}, rejected {imported.rejected}")
    bring_up_read_models(data_dir)
    if imported.rejected:
        sys.exit(1)
