"""The edge of the command line: an error becomes one plain line on stderr and an exit code, never a traceback."""

import io
import logging
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, NoReturn

import rich_click as click

from app.cli.progress import is_terminal
from app.infra import sqlite
from app.infra.errors import BadInput, RoomlapseError
from app.infra.json_logs import set_up_logging
from app.infra.texts import visible

_log = logging.getLogger(__name__)
_PLAIN_HELP = {"force_terminal": False, "color_system": None, "width": 80, "max_width": 80}
"""How help goes into a pipe, whatever the environment says of colours and columns."""
_REPORTED = (click.ClickException, RoomlapseError, BrokenProcessPool, OSError, *sqlite.UNREADABLE)
"""Errors whose cause is outside the program's code. Any other one is a bug, and ends with its traceback."""


def exit_code_of(error: Exception) -> int:
    """2 for wrong usage, 1 for any other problem."""
    if isinstance(error, click.ClickException):
        return error.exit_code
    return 2 if isinstance(error, BadInput) else 1


def message_of(error: Exception) -> str:
    """What an error says, in one line that a terminal can show."""
    if isinstance(error, click.ClickException):
        text = error.format_message()
    elif isinstance(error, OSError) and error.strerror:  # str() would begin with the number of the error
        text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    else:
        text = sqlite.text_of(error)
    return visible(text)


class CommandLine(click.RichGroup):
    """The group of all commands."""

    def main(  # type: ignore[override]  # always standalone: it ends the process
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        """Run a command and exit. A reader of our output that closes the pipe ends it quietly."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # what its encoding has no character for is escaped
                stream.reconfigure(errors="backslashreplace")
        if not is_terminal(sys.stdout):
            extra["rich_help_config"] = _PLAIN_HELP
        try:
            code = super().main(args, prog_name, standalone_mode=False, **extra)
        except click.Abort:
            click.echo("Aborted.", err=True)
            code = 1
        except _REPORTED as error:
            _print_usage(error)
            click.echo(f"Error: {message_of(error)}", err=True)
            code = exit_code_of(error)
        sys.exit(code)


class LoggingCommand(click.RichCommand):
    """A command that logs in JSON lines: an error that ends it is also one of them."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Set up the log first, for errors of the arguments."""
        set_up_logging()
        with _logged():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _logged():
            return super().invoke(ctx)


@contextmanager
def _logged() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except _REPORTED as error:
        _log.error("%s", message_of(error))
        raise


def _print_usage(error: Exception) -> None:
    if isinstance(error, click.UsageError) and error.ctx is not None:
        command = error.ctx.command
        click.echo(f"Usage: {' '.join((error.ctx.command_path, *command.collect_usage_pieces(error.ctx)))}", err=True)
