"""Options and arguments that several commands take, and their types."""

import logging
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import rich_click as click

from app.event import Cut
from app.infra.errors import BadTime
from app.infra.settings import (
    DEFAULT_DATA,
    DEFAULT_PORT,
    FORMER_DATA,
    default_data,
    is_service_address,
    service_address_notice,
)
from app.infra.times import parse_time
from app.projector.registry import known_projections
from app.queries.paging import DEFAULT_LIMIT, MAX_LIMIT

_log = logging.getLogger(__name__)
Command = Callable[..., None]


class _Text(click.ParamType[str]):
    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            # Where the locale is not that of the terminal (C, say), its bytes are kept in the string as they were.
            return os.fsencode(value).decode() if _holds_bytes(value) else str(value)
        except UnicodeError:
            self.fail("it is no UTF-8 text, as ids, names and cursors are", param, ctx)


def _holds_bytes(text: str) -> bool:
    return any("\ud800" <= char <= "\udfff" for char in text)


TEXT = _Text()


def take_text_only(command: click.Command) -> None:
    """Let a command, and those below it, refuse arguments that are no UTF-8; paths may be any bytes."""
    for parameter in command.params:
        if parameter.type is click.STRING:
            parameter.type = TEXT
    for inner in command.commands.values() if isinstance(command, click.Group) else ():
        take_text_only(inner)


class _Time(click.ParamType[int]):
    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        try:
            return parse_time(value)
        except BadTime as error:
            self.fail(str(error), param, ctx)


class _AppId(click.ParamType[str]):
    name = "number"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not (value.isascii() and value.isdigit()):
            self.fail(f"{value!r} is no SDKAppID: it is a number, as 1400000000, which the console shows", param, ctx)
        return value

    def get_missing_message(self, param: click.Parameter, ctx: click.Context | None) -> str:  # noqa: ARG002  as click has it
        return "Give the number that the console shows for your application, as 1400000000."


class _Url(click.ParamType[str]):
    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        TEXT.convert(value, param, ctx)
        try:
            parts = urlsplit(value)
            is_url = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # of the port too, which is looked at only when it is asked for
            is_url = False
        if not is_url:
            self.fail(f"{value!r} is not an http:// or https:// address", param, ctx)
        return value


class _ProjectionName(click.ParamType[str]):
    name = "name"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        known = known_projections()
        if value not in known:
            self.fail(f"{value!r} is not one of {', '.join(known)}", param, ctx)
        return value


TIME, APP_ID, URL, PROJECTION = _Time(), _AppId(), _Url(), _ProjectionName()
PORT = click.IntRange(0, 65535)
_FORMATS = "epoch milliseconds, or ISO 8601 with an offset (2026-03-11T14:28:44Z)"


class _PortOption(click.RichOption):
    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        value = super().resolve_envvar_value(ctx)
        if value is None or not is_service_address(value):
            return value
        _log.warning("%s", service_address_notice({str(self.envvar): value}))
        return None


def port(**more: Any) -> Callable[[Command], Command]:
    """`--port`."""
    return click.option(
        "--port",
        cls=_PortOption,
        type=PORT,
        default=DEFAULT_PORT,
        show_default=True,
        help="The TCP port; 0 takes a free one.",
        **more,
    )


def window(command: Command) -> Command:
    """`--from` and `--to`, as `from_ms` and `to_ms`."""
    from_ = click.option("--from", "from_ms", type=TIME, help=f"Start of the window, included: {_FORMATS}.")
    to = click.option("--to", "to_ms", type=TIME, help=f"End of the window, not included: {_FORMATS}.")
    return from_(to(command))


def required_window(command: Command) -> Command:
    """`--from` and `--to`, both needed."""
    from_ = click.option("--from", "from_ms", type=TIME, required=True, help=f"The earlier time: {_FORMATS}.")
    to = click.option("--to", "to_ms", type=TIME, required=True, help=f"The later time: {_FORMATS}.")
    return from_(to(command))


def cut(command: Command) -> Command:
    """`--as-of` and `--known-at`, given to the command as one argument `cut`."""

    @click.option("--as-of", type=TIME, help=f"Count only what had happened by this time: {_FORMATS}.")
    @click.option("--known-at", type=TIME, help=f"Count only what we had received by this time: {_FORMATS}.")
    @wraps(command)
    def run(*args: Any, as_of: int | None, known_at: int | None, **kwargs: Any) -> None:
        command(*args, cut=Cut(as_of_ms=as_of, known_at_ms=known_at), **kwargs)

    return run


def page(command: Command) -> Command:
    """`--limit` and `--cursor`."""
    limit = click.option(
        "--limit",
        type=click.IntRange(1, MAX_LIMIT),
        default=DEFAULT_LIMIT,
        show_default=True,
        help="List so many entries at most.",
    )
    cursor = click.option("--cursor", help="Go on where the page before ended: the next_cursor that it gave.")
    return limit(cursor(command))


_USES_FORMER_DATA = f"using {FORMER_DATA}/, the default of earlier versions: the default is now {DEFAULT_DATA}/, so set\
 ROOMLAPSE_DATA={FORMER_DATA} or move it"


def former_data_notice(data: Path) -> str | None:
    """What to say about a data directory that was found only because earlier versions left it there."""
    # The object that default_data gives: a directory that was named is equal to it at most.
    return _USES_FORMER_DATA if data is FORMER_DATA else None


def say_which_data(data: Path) -> None:
    """Say on stderr that the former default is used, if it is."""
    if notice := former_data_notice(data):
        click.echo(notice, err=True)


def _choose_data(context: click.Context, _option: click.Parameter, given: Path | None) -> Path:
    data = given or default_data()
    if context.command.name not in {"serve", "rejected"}:  # one logs it; the other's subcommand may be given another
        say_which_data(data)
    return data


# Not `readable`: whose it is, and what to do, is said when it is opened.
class _Directory(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":  # an unset variable of a shell, say; it would mean the working directory
            self.fail("it is empty: name a directory", param, ctx)
        return super().convert(value, param, ctx)


DIRECTORY = _Directory(path_type=Path, file_okay=False, readable=False)
data = click.option(
    "--data",
    type=DIRECTORY,
    callback=_choose_data,
    envvar="ROOMLAPSE_DATA",
    show_default=str(DEFAULT_DATA),
    show_envvar=True,
    help=f"The data directory. {FORMER_DATA}, the default of earlier versions, is used if only that holds data.",
)
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; where HTTP has the same question, its answer."
)
